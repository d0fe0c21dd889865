//! Which log sinks a processor writes to: `spec.loggerSinks` resolved against `logger` of the platform file.

use std::path::Path;

use serde::Deserialize;

use super::decode::Fractions;
use super::error::{ConfigError, Problem};
use super::ignored::Ignored;
use super::platform::PlatformFile;
use super::sinks::{Binding, SinkDefinition, list};
use super::source::{Place, Source, setting};
use super::{Level, LogEncoding, LogSink};

/// Name and kind of the sink that exists when the platform defines none.
const STDOUT: &str = "stdout";

impl Level {
    /// Reads a level in any case; everything unknown is debug.
    pub fn parse(text: &str) -> Level {
        match text.to_ascii_lowercase().as_str() {
            "info" => Level::Info,
            "warn" | "warning" => Level::Warn,
            "error" => Level::Error,
            _ => Level::Debug,
        }
    }

    /// The level as word: `debug`, `info`, `warn`, `error`.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        }
    }
}

/// The sink of a processor about which nobody says anything.
pub(super) fn console() -> LogSink {
    LogSink { name: STDOUT.into(), level: Level::Debug, encoding: LogEncoding::Console }
}

/// Resolves the function's wishes; the result is never empty.
pub(super) fn resolve(
    wishes: &[Binding],
    platform: &PlatformFile,
    source: &mut Source,
) -> Result<Vec<LogSink>, ConfigError> {
    let result = bindings(wishes, platform, source).and_then(|bindings| {
        let default = [default_definition()];
        let definitions = platform.log_sinks.as_deref().unwrap_or(&default);
        open_all(&bindings, definitions, source)
    });
    result.map_err(|problem| {
        setting(problem.cause("Failed to get system logger sinks").cause("Failed to create logger"))
    })
}

fn bindings(
    wishes: &[Binding],
    platform: &PlatformFile,
    source: &mut Source,
) -> Result<Vec<Binding>, Box<Problem>> {
    match wishes {
        [] => platform_bindings(platform, source),
        [only] if only.sink.is_empty() => {
            let mut bindings = platform_bindings(platform, source)?;
            bindings.iter_mut().for_each(|binding| binding.level.clone_from(&only.level));
            Ok(bindings)
        }
        several => Ok(several.to_vec()),
    }
}

/// `logger.functions`, or what stands in for it.
fn platform_bindings(platform: &PlatformFile, source: &mut Source) -> Result<Vec<Binding>, Box<Problem>> {
    if let Some(bindings) = &platform.log_bindings {
        return Ok(bindings.clone());
    }
    let stdout = Binding { sink: STDOUT.into(), ..Binding::default() };
    match platform.log_sinks.as_deref() {
        None | Some([]) => Ok(vec![stdout]),
        Some(sinks) if sinks.iter().any(|sink| sink.name == STDOUT) => Ok(vec![stdout]),
        Some([only]) => {
            let text = "logger.functions is missing; this only sink gets all records (level debug)";
            source.warn(&only.place, text);
            Ok(vec![Binding { sink: only.name.clone(), place: only.place.clone(), ..Binding::default() }])
        }
        Some([first, ..]) => {
            let problem = Problem::new("Failed to find logger sink stdout").key("logger.functions");
            let problem = problem.file(&first.place.file).line(first.place.line);
            Err(problem
                .remedy("add the key logger.functions with the sinks to use, `[{level: debug, sink: …}]`"))
        }
    }
}

fn default_definition() -> SinkDefinition {
    SinkDefinition {
        name: STDOUT.into(),
        kind: STDOUT.into(),
        url: String::new(),
        enabled: true,
        attributes: None,
        place: Place::default(),
    }
}

fn open_all(
    bindings: &[Binding],
    definitions: &[SinkDefinition],
    source: &mut Source,
) -> Result<Vec<LogSink>, Box<Problem>> {
    if bindings.is_empty() {
        let problem = Problem::new("Must configure at least one logger").file(&source.file);
        let problem = problem.key("logger.functions");
        return Err(problem.remedy("remove the empty list, or name a sink: `[{level: debug, sink: stdout}]`"));
    }
    let mut sinks: Vec<LogSink> = Vec::new();
    for binding in bindings {
        let level = Level::parse(&binding.level);
        let Some(sink) = open(binding, level, definitions, source)? else { continue };
        // compat: of two entries for one sink the last one's level counts.
        match sinks.iter_mut().find(|other| other.name == sink.name) {
            Some(other) => other.level = level,
            None => sinks.push(sink),
        }
    }
    if sinks.is_empty() {
        source.warnings.push("no log sink is left: writing to stdout for people".into());
        sinks.push(console());
    }
    Ok(sinks)
}

/// One sink; `None` when it is of a kind this build leaves out.
fn open(
    binding: &Binding,
    level: Level,
    definitions: &[SinkDefinition],
    source: &mut Source,
) -> Result<Option<LogSink>, Box<Problem>> {
    let Some(definition) = definitions.iter().find(|definition| definition.name == binding.sink) else {
        let known = list(definitions.iter().map(|definition| definition.name.as_str()));
        let problem = binding.place.problem(format!("Failed to find logger sink {}", binding.sink));
        return Err(problem.remedy(format!(
            "define it under logger.sinks of {}, or use one of: {known}",
            name_of(&source.file)
        )));
    };
    match definition.kind.as_str() {
        STDOUT => Ok(Some(LogSink {
            name: definition.name.clone(),
            level,
            encoding: encoding(definition, source)?,
        })),
        "appinsights" => {
            source.warn(&definition.place, "log sinks of kind appinsights are not supported; left out");
            Ok(None)
        }
        other => {
            let problem =
                definition.place.problem(format!("Registry for loggersink failed to find: {other}"));
            Err(problem.remedy("use the kind stdout"))
        }
    }
}

fn name_of(file: &Path) -> String {
    file.display().to_string()
}

/// `attributes` of a log sink of kind `stdout`.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub(super) struct StdoutAttributes {
    /// `console`: lines for people. `json`: one object a line.
    #[cfg_attr(test, schemars(extend("enum" = ["console", "json"], "default" = "console")))]
    encoding: String,
    /// Key of the time in a JSON line.
    #[cfg_attr(test, schemars(extend("default" = "time")))]
    time_field_name: String,
    /// How the time is written in a JSON line: milliseconds since 1970, or text.
    #[cfg_attr(test, schemars(extend("enum" = ["epoch-millis", "iso8601"], "default" = "epoch-millis")))]
    time_field_encoding: String,
    /// Key that a record's variables stand under in a JSON line; empty: at the top.
    var_group_name: String,
    /// `flattened`: a record's variables become one text.
    #[cfg_attr(test, schemars(extend("enum" = ["structured", "flattened"], "default" = "structured")))]
    var_group_mode: String,
    /// Never had an effect.
    _format: Ignored,
}

fn encoding(definition: &SinkDefinition, source: &mut Source) -> Result<LogEncoding, Box<Problem>> {
    let Some(node) = &definition.attributes else { return Ok(LogEncoding::Console) };
    let key = format!("{}.attributes", definition.place.key);
    let attributes: StdoutAttributes = source
        .decode(node, &key, Fractions::Drop)
        .map_err(|error| source.decode_problem(error).remedy("write the attributes as text"))?;
    match attributes.encoding.as_str() {
        "" | "console" => Ok(LogEncoding::Console),
        "json" => Ok(attributes.into_json()),
        other => {
            let place = source.place(node.line_of("encoding"), format!("{key}.encoding"));
            Err(place.problem(format!("unknown encoding: {other}")).remedy("use console or json"))
        }
    }
}

impl StdoutAttributes {
    fn into_json(self) -> LogEncoding {
        LogEncoding::Json {
            time_field: if self.time_field_name.is_empty() { "time".into() } else { self.time_field_name },
            time_iso8601: self.time_field_encoding == "iso8601",
            group: self.var_group_name,
            flattened: !matches!(self.var_group_mode.as_str(), "" | "structured"),
        }
    }
}
