//! Which metric sinks a processor has: `metrics` of the platform file.

use std::time::Duration;

use serde::Deserialize;

use super::address::has_sound_port;
use super::decode::Fractions;
use super::error::{ConfigError, Problem};
#[cfg(test)]
use super::schema::generate;
use super::sinks::{Binding, SinkDefinition, list};
use super::source::{Source, setting};
use super::template;
use super::{Env, Function, MetricSink, MetricSinkKind};

const PULL_LISTEN: &str = ":8090";
const PUSH_INTERVAL: Duration = Duration::from_secs(10);

/// `attributes` of a metric sink for Prometheus.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "PrometheusAttributes"))]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Attributes {
    /// Job that metrics are pushed for; `prometheusPush` only, and needed there.
    job_name: String,
    /// Label `instance` of all metrics. `prometheusPull`: `{{ .Namespace }}` and `{{ .Name }}` stand for the function's;
    /// `prometheusPush` needs it.
    instance_name: String,
    /// Time between pushes, as Go duration; `prometheusPush` only.
    #[cfg_attr(test, schemars(schema_with = "generate::duration", extend("default" = "10s")))]
    interval: String,
}

/// Resolves the named sinks; disabled ones are checked and left out, one that is named twice counts once.
pub(super) fn resolve(
    names: &[Binding],
    definitions: &[SinkDefinition],
    function: &Function,
    source: &mut Source,
    env: &Env,
) -> Result<Vec<MetricSink>, ConfigError> {
    let mut sinks = Vec::new();
    for name in names {
        let sink = find(name, definitions)
            .and_then(|definition| Ok((build(definition, function, source, env)?, definition.enabled)))
            .map_err(|problem| setting(problem.cause("Failed to create metric sinks")))?;
        if let (Some(sink), true) = sink
            && !sinks.contains(&sink)
        {
            sinks.push(sink);
        }
    }
    Ok(sinks)
}

fn find<'a>(name: &Binding, definitions: &'a [SinkDefinition]) -> Result<&'a SinkDefinition, Box<Problem>> {
    definitions.iter().find(|definition| definition.name == name.sink).ok_or_else(|| {
        let known = list(definitions.iter().map(|definition| definition.name.as_str()));
        let problem = name.place.problem(format!("Failed to find metric sink {}", name.sink));
        problem.remedy(format!("define it under metrics.sinks, or use one of: {known}"))
    })
}

/// One sink; `None` when it is of a kind this build leaves out.
fn build(
    definition: &SinkDefinition,
    function: &Function,
    source: &mut Source,
    env: &Env,
) -> Result<Option<MetricSink>, Box<Problem>> {
    match definition.kind.as_str() {
        "prometheusPull" => pull(definition, function, source, env).map(Some),
        "prometheusPush" => push(definition, source),
        "appinsights" => {
            let wrong = "metric sinks of kind appinsights are not supported; left out. A sink of kind \
                         prometheusPull or prometheusPush publishes the same figures";
            source.warn(&definition.place, wrong);
            Ok(None)
        }
        other => {
            let problem =
                definition.place.problem(format!("Registry for metricsink failed to find: {other}"));
            Err(problem.remedy("use the kind prometheusPull or prometheusPush"))
        }
    }
}

fn attributes(definition: &SinkDefinition, source: &mut Source) -> Result<Attributes, Box<Problem>> {
    let Some(node) = &definition.attributes else { return Ok(Attributes::default()) };
    let key = format!("{}.attributes", definition.place.key);
    source
        .decode(node, &key, Fractions::Drop)
        .map_err(|error| source.decode_problem(error).remedy("write the attributes as text"))
}

fn pull(
    definition: &SinkDefinition,
    function: &Function,
    source: &mut Source,
    env: &Env,
) -> Result<MetricSink, Box<Problem>> {
    let attributes = attributes(definition, source)?;
    let template = match (attributes.instance_name.as_str(), &env.function_instance) {
        ("", Some(instance)) => return Ok(pull_sink(definition, instance.clone())),
        ("", None) => "{{ .Namespace }}-{{ .Name }}",
        (template, _) => template,
    };
    let values = [("Name", function.name.as_str()), ("Namespace", function.namespace.as_str())];
    let instance = template::render(template, &values).map_err(|wrong| {
        let problem = definition.place.problem(wrong);
        problem.remedy("in attributes.instanceName use plain text, {{ .Name }} and {{ .Namespace }}")
    })?;
    Ok(pull_sink(definition, instance))
}

fn pull_sink(definition: &SinkDefinition, instance: String) -> MetricSink {
    let listen = if definition.url.is_empty() { PULL_LISTEN } else { &definition.url };
    let kind = MetricSinkKind::PrometheusPull { listen: listen.into() };
    MetricSink { name: definition.name.clone(), instance, kind }
}

/// `None` when its gateway cannot be spoken to: metrics are not worth a function that does not start.
fn push(definition: &SinkDefinition, source: &mut Source) -> Result<Option<MetricSink>, Box<Problem>> {
    let attributes = attributes(definition, source)?;
    let name = &definition.name;
    let required = |value: String, what: &str, key: &str| {
        let wrong = format!("{what} is required for metric sink {name}");
        if value.is_empty() {
            Err(definition.place.problem(wrong).remedy(format!("add {key}")))
        } else {
            Ok(value)
        }
    };
    let url = required(definition.url.clone(), "URL", "url, the address of the push gateway")?;
    let url = gateway(&url, definition)?;
    let kind = MetricSinkKind::PrometheusPush {
        url: url.clone(),
        job: required(attributes.job_name, "Job name", "attributes.jobName")?,
        interval: interval(&attributes.interval, definition)?,
    };
    let instance = required(attributes.instance_name, "Instance name", "attributes.instanceName")?;
    if url.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("https://")) {
        let mut place = definition.place.clone();
        place.key.push_str(".url");
        source.warn(&place, "metrics cannot be pushed over TLS; left out. Give an http:// address");
        return Ok(None);
    }
    Ok(Some(MetricSink { name: name.clone(), instance, kind }))
}

/// The address with a scheme and without a slash at its end.
fn gateway(url: &str, definition: &SinkDefinition) -> Result<String, Box<Problem>> {
    let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let url = url.trim_end_matches('/');
    let sound = url.parse().is_ok_and(|uri: http::Uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.query().is_none()
            && uri.host().is_some_and(|host| !host.is_empty())
            && has_sound_port(&uri)
    });
    if sound {
        return Ok(url.to_owned());
    }
    let mut place = definition.place.clone();
    place.key.push_str(".url");
    let problem = place.problem("not the address of a push gateway");
    Err(problem.remedy(
        "write host:port or http://host:port/path, without a query; in user and password a slash is %2F",
    ))
}

fn interval(text: &str, definition: &SinkDefinition) -> Result<Duration, Box<Problem>> {
    if text.is_empty() {
        return Ok(PUSH_INTERVAL);
    }
    let mut place = definition.place.clone();
    place.key.push_str(".attributes.interval");
    let interval = place.duration(text).map_err(|problem| problem.cause("Failed to parse interval"))?;
    interval.to_std().filter(|interval| !interval.is_zero()).ok_or_else(|| {
        place
            .problem(format!("interval <= 0 ({interval})"))
            .remedy("write a positive duration, for example 10s")
    })
}
