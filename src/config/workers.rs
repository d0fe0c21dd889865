//! `spec.runtimeAttributes`, as far as it is about workers: whether they are forked from one process (`preload`), and
//! when each is replaced by a fresh one (`recycle`). What other runtimes want to know there is theirs to read.

use std::time::Duration;

use serde::Deserialize;

use super::error::Problem;
#[cfg(test)]
use super::schema::generate;
use super::source::{Place, Source};
use super::yaml::{Node, Value};
use super::{RuntimeKind, decode::Fractions};

/// Where they stand.
const PATH: &str = "spec.runtimeAttributes";
/// How much sooner than its limit a worker is replaced, at most, unless the file says otherwise.
const JITTER: f64 = 0.1;
/// Suffixes of quantities as Kubernetes writes them, the longer ones first.
const UNITS: [(&str, u64); 11] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("", 1),
];

/// When a worker is replaced by a fresh one; at least one of them is set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recycle {
    /// After so many events.
    pub events: Option<u64>,
    /// Once it and the processes it has started have so many bytes of memory.
    pub memory: Option<u64>,
    /// So long after it was ready.
    pub age: Option<Duration>,
    /// Each of them is up to this share smaller, anew for each worker, so that workers do not go together.
    pub jitter: f64,
}

/// `recycle` of `runtimeAttributes`: when a worker is replaced by a fresh one, which is ready before the old one goes.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Recycle"))]
#[serde(default, rename_all = "camelCase")]
pub(super) struct RecycleFile {
    /// After so many events.
    #[cfg_attr(test, schemars(range(min = 1)))]
    events: Option<i64>,
    /// Once the worker and the processes it has started have more resident memory than this: bytes as Kubernetes writes them (`512Mi`, `2Gi`).
    #[cfg_attr(test, schemars(schema_with = "generate::quantity"))]
    memory: Option<String>,
    /// So long after the worker was ready, as Go duration (`1h`, `30m`).
    #[cfg_attr(test, schemars(schema_with = "generate::duration"))]
    age: Option<String>,
    /// Each limit is up to this share smaller, anew for each worker, so that workers do not go together. 0: exactly the limits.
    #[cfg_attr(test, schemars(range(min = 0.0, max = 0.9), extend("default" = 0.1)))]
    jitter: Option<f64>,
}

/// `runtimeAttributes`; what else stands there is read by its runtime.
#[cfg(test)]
#[derive(Default, schemars::JsonSchema)]
#[schemars(default, rename = "RuntimeAttributes", rename_all = "camelCase", extend("additionalProperties" = true))]
pub(super) struct AttributesFile {
    /// Web applications in Python: where clients see it, for example `/shop`.
    root_path: Option<String>,
    /// Python: the handler's module is imported once, and workers are forked from the process that has it.
    #[schemars(extend("default" = false))]
    preload: Option<bool>,
    /// When a worker is replaced by a fresh one; for handlers that are processes.
    recycle: RecycleFile,
}

/// What a runtime can do.
fn forks(runtime: RuntimeKind) -> bool {
    runtime == RuntimeKind::Python
}

/// Golang is seen to later: a compiled handler may be a process or a library.
fn has_processes(runtime: RuntimeKind) -> bool {
    !matches!(runtime, RuntimeKind::Builtin | RuntimeKind::Shell)
}

/// Reads `preload`.
pub(super) fn preload(
    attributes: Option<&Node>,
    runtime: RuntimeKind,
    source: &mut Source,
) -> Result<bool, Box<Problem>> {
    let Some(entry) = attributes.and_then(|node| node.entry("preload")) else { return Ok(false) };
    let path = format!("{PATH}.preload");
    let place = source.place(entry.line, &*path);
    let wanted = source.decode::<bool>(&entry.value, &path, Fractions::Refuse);
    let wanted = wanted.map_err(|_| place.problem("expected true or false").remedy("write preload: true"))?;
    if wanted && !forks(runtime) {
        let text = format!(
            "no effect with spec.runtime {}: only workers of python can be forked from a process that has loaded \
             the handler; remove it",
            runtime.name()
        );
        source.warn(&place, &text);
        return Ok(false);
    }
    Ok(wanted)
}

/// Reads `recycle`.
pub(super) fn recycle(
    attributes: Option<&Node>,
    runtime: RuntimeKind,
    source: &mut Source,
) -> Result<Option<Recycle>, Box<Problem>> {
    let Some(entry) = attributes.and_then(|node| node.entry("recycle")) else { return Ok(None) };
    let path = format!("{PATH}.recycle");
    let place = source.place(entry.line, &*path);
    if !matches!(entry.value.value, Value::Mapping(_)) {
        let remedy = "write limits below it, for example recycle: {events: 10000, memory: 512Mi, age: 1h}";
        return Err(place.problem("expected a map").remedy(remedy));
    }
    let file: RecycleFile = source
        .decode(&entry.value, &path, Fractions::Refuse)
        .map_err(|error| source.decode_problem(error).remedy("mend the value, or remove the key"))?;
    let at = |key: &str| source.place(entry.value.line_of(key), format!("{path}.{key}"));
    let recycle = Recycle {
        events: file.events.map(|events| positive(events, &at("events"))).transpose()?,
        memory: file.memory.map(|text| bytes(&text, &at("memory"))).transpose()?,
        age: file.age.map(|text| age(&text, &at("age"))).transpose()?,
        jitter: file.jitter.map_or(Ok(JITTER), |jitter| share(jitter, &at("jitter")))?,
    };
    let some = recycle.events.is_some() || recycle.memory.is_some() || recycle.age.is_some();
    let without_effect = match (some, has_processes(runtime)) {
        (true, true) => return Ok(Some(recycle)),
        (false, _) => "names none of events, memory and age, so no worker is ever recycled".to_owned(),
        (true, false) => format!(
            "no effect with spec.runtime {}: its workers are no processes that last; remove it",
            if runtime == RuntimeKind::Builtin { "golang (nuclio:builtin)" } else { runtime.name() }
        ),
    };
    source.warn(&place, &without_effect);
    Ok(None)
}

fn positive(number: i64, place: &Place) -> Result<u64, Box<Problem>> {
    u64::try_from(number).ok().filter(|number| *number > 0).ok_or_else(|| {
        place.problem(format!("{number} is no number of events")).remedy("write 1 or more, or remove the key")
    })
}

fn bytes(text: &str, place: &Place) -> Result<u64, Box<Problem>> {
    quantity(text).filter(|bytes| *bytes > 0).ok_or_else(|| {
        let problem = place.problem(format!("{text:?} is no quantity of memory"));
        problem.remedy("write it as Kubernetes does, for example 512Mi, 2Gi or 500M")
    })
}

fn age(text: &str, place: &Place) -> Result<Duration, Box<Problem>> {
    let age = place.duration(text)?;
    age.to_std().filter(|age| !age.is_zero()).ok_or_else(|| {
        place
            .problem(format!("{text:?} is no age"))
            .remedy("write a positive duration such as 1h, or remove the key")
    })
}

fn share(jitter: f64, place: &Place) -> Result<f64, Box<Problem>> {
    if (0.0..=0.9).contains(&jitter) {
        return Ok(jitter);
    }
    Err(place
        .problem(format!("{jitter} is no share"))
        .remedy("write a number from 0 to 0.9, for example 0.1"))
}

/// A quantity as Kubernetes writes it.
fn quantity(text: &str) -> Option<u64> {
    let text = text.trim();
    let (number, unit) = UNITS.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)))?;
    if !number.starts_with(|first: char| first.is_ascii_digit()) {
        return None; // Neither a sign nor a word such as inf.
    }
    let bytes = number.parse::<f64>().ok()? * unit as f64;
    (bytes.is_finite() && bytes <= (1_u64 << 60) as f64).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::yaml;
    use super::*;

    /// What the limits say, with the warnings.
    fn read(text: &str, runtime: RuntimeKind) -> (Result<Option<Recycle>, String>, Vec<String>) {
        let root = yaml::parse(text).unwrap().unwrap();
        let mut source = Source::new(Path::new("f.yaml"));
        let recycle = recycle(Some(&root), runtime, &mut source).map_err(|problem| problem.to_string());
        (recycle, source.warnings)
    }

    #[test]
    fn limits_are_read_and_mistakes_named_with_line_and_remedy() {
        let text = "recycle:\n  Events: 500\n  memory: 512Mi\n  age: 1h\n";
        let expected = Recycle {
            events: Some(500),
            memory: Some(512 << 20),
            age: Some(Duration::from_secs(3600)),
            jitter: JITTER,
        };
        assert_eq!(read(text, RuntimeKind::Ruby), (Ok(Some(expected)), Vec::new()));
        for (wrong, words) in [
            ("events: 0", "f.yaml:2: spec.runtimeAttributes.recycle.events: 0 is no number"),
            ("memory: lots", "f.yaml:2: spec.runtimeAttributes.recycle.memory: \"lots\" is no quantity"),
            ("age: 0s", "f.yaml:2: spec.runtimeAttributes.recycle.age: \"0s\" is no age"),
            ("jitter: 2", "f.yaml:2: spec.runtimeAttributes.recycle.jitter: 2 is no share"),
            ("events: many", "expected an integer"),
        ] {
            let (recycle, _) = read(&format!("recycle:\n  {wrong}\n"), RuntimeKind::Python);
            let error = recycle.unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn limits_without_effect_are_warned_of() {
        for (text, runtime, words) in [
            ("recycle: {jitter: 0.2}", RuntimeKind::Python, "names none of"),
            ("recycle: {events: 5}", RuntimeKind::Shell, "no effect with spec.runtime shell"),
            ("recycle: {events: 5}", RuntimeKind::Builtin, "nuclio:builtin"),
        ] {
            let (recycle, warnings) = read(text, runtime);
            assert_eq!(recycle, Ok(None));
            assert!(warnings.len() == 1 && warnings[0].contains(words), "{warnings:?}");
        }
        let (recycle, warnings) = read("recycle: {event: 5, age: 1s}", RuntimeKind::Java);
        assert!(recycle.unwrap().is_some() && warnings[0].contains("did you mean events?"), "{warnings:?}");
    }

    #[test]
    fn preload_is_for_python_alone() {
        let root = yaml::parse("preload: true").unwrap().unwrap();
        for (runtime, wanted, warned) in [(RuntimeKind::Python, true, 0), (RuntimeKind::NodeJs, false, 1)] {
            let mut source = Source::new(Path::new("f.yaml"));
            assert_eq!(preload(Some(&root), runtime, &mut source).unwrap(), wanted);
            assert_eq!(source.warnings.len(), warned);
        }
        let root = yaml::parse("preload: maybe").unwrap().unwrap();
        let problem =
            preload(Some(&root), RuntimeKind::Python, &mut Source::new(Path::new("f.yaml"))).unwrap_err();
        assert!(problem.to_string().contains("f.yaml:1: spec.runtimeAttributes.preload"), "{problem}");
    }

    #[test]
    fn quantities_are_read_as_kubernetes_writes_them() {
        let cases = [
            ("512Mi", Some(512 << 20)),
            ("1.5Gi", Some(3 << 29)),
            ("500M", Some(500_000_000)),
            ("64k", Some(64_000)),
            ("1048576", Some(1 << 20)),
            ("1e6", Some(1_000_000)),
            ("0", Some(0)),
        ];
        for (text, bytes) in cases {
            assert_eq!(quantity(text), bytes, "{text}");
        }
        for text in ["", "Mi", "-1Mi", "+1", "inf", "nan", "1 Mi", "1mi", "1MiB", "12X", "1e300"] {
            assert_eq!(quantity(text), None, "{text}");
        }
    }
}
