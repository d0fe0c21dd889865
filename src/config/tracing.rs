//! Tracing as the standard `OTEL_*` variables have it. They may be meant for the handler's own library, so a value
//! that we cannot use never ends the start: it is named in a warning and counts as not set.

use std::fmt;
use std::time::Duration;

use super::address::{self, has_sound_port};
use super::percent;

/// Where collectors take spans when only their host is known.
const DEFAULT_ENDPOINT: &str = "http://localhost:4318";
/// Path of traces below a collector's base address.
const TRACES_PATH: &str = "/v1/traces";
/// Spans that may wait, and spans of one export, at most.
const QUEUE_MAX: usize = 1 << 17;
/// Shortest time that a span waits for more, milliseconds: the thread that sends looks this often.
const DELAY_MIN: usize = 10;

/// How traces are made and where they go.
#[derive(Debug, Clone, PartialEq)]
pub struct Tracing {
    /// Which new traces are recorded.
    pub sampler: Sampler,
    /// `None`: contexts are made and passed on, nothing is recorded.
    pub export: Option<Export>,
    /// `OTEL_SERVICE_NAME`, else `service.name` of the resource; `None`: the function's name.
    pub service_name: Option<String>,
    /// `OTEL_RESOURCE_ATTRIBUTES`, without `service.name`.
    pub resource: Vec<(String, String)>,
}

/// `OTEL_TRACES_SAMPLER`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampler {
    /// For traces that begin here.
    pub root: Root,
    /// Traces of others are recorded if their sender records them.
    pub follows_parent: bool,
}

/// Which traces are recorded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Root {
    /// All.
    Always,
    /// None.
    Never,
    /// This part of them, 0 to 1, chosen by the trace's id.
    Ratio(f64),
}

/// Where spans are sent. Shows no header's value: those are passwords.
#[derive(Clone, PartialEq)]
pub struct Export {
    /// The whole address, `http://…/v1/traces`.
    pub url: String,
    /// Further headers.
    pub headers: Vec<(String, String)>,
    /// Longest time of one request.
    pub timeout: Duration,
    /// Spans that may wait.
    pub queue_max: usize,
    /// Spans of one request.
    pub batch_max: usize,
    /// Longest time that a span waits for more.
    pub delay: Duration,
}

impl Export {
    /// Its address for messages: a query may hold a token.
    pub fn shown_url(&self) -> String {
        address::shown(&self.url)
    }
}

impl fmt::Debug for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&String> = self.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("Export")
            .field("url", &self.shown_url())
            .field("headers", &names)
            .finish_non_exhaustive()
    }
}

/// Reads the variables. Nothing that turns tracing on: `None`. Second: what cannot be used, a line each.
pub(super) fn from_lookup(lookup: &impl Fn(&str) -> Option<String>) -> (Option<Tracing>, Vec<String>) {
    let mut reader = Reader { lookup, warnings: Vec::new() };
    let tracing = reader.read();
    (tracing, reader.warnings)
}

struct Reader<'a, L> {
    lookup: &'a L,
    warnings: Vec<String>,
}

impl<L: Fn(&str) -> Option<String>> Reader<'_, L> {
    fn read(&mut self) -> Option<Tracing> {
        if self.text("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return None;
        }
        let base = self.text("OTEL_EXPORTER_OTLP_ENDPOINT");
        let traces = self.text("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
        let exporter = self.text("OTEL_TRACES_EXPORTER");
        let address = match exporter.as_deref() {
            Some("none") => None,
            Some("otlp") => Some(address(base, traces)),
            Some(other) => {
                self.warn("OTEL_TRACES_EXPORTER", other, "use otlp or none; tracing is off");
                return None;
            }
            None if base.is_none() && traces.is_none() => return None,
            None => Some(address(base, traces)),
        };
        let export = match address {
            None => None,
            Some((name, url)) => Some(self.export(name, url)?),
        };
        let mut resource = self.pairs("OTEL_RESOURCE_ATTRIBUTES");
        let named = resource.iter().rposition(|(name, _)| name == "service.name");
        let named = named.map(|at| resource.remove(at).1);
        resource.retain(|(name, _)| name != "service.name");
        let service_name = self.text("OTEL_SERVICE_NAME").or(named).filter(|name| !name.is_empty());
        Some(Tracing { sampler: self.sampler(), export, service_name, resource })
    }

    fn text(&self, name: &str) -> Option<String> {
        (self.lookup)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    /// The variable for traces, else the one for all signals: its name and value.
    fn either(&self, part: &str) -> Option<(String, String)> {
        [format!("OTEL_EXPORTER_OTLP_TRACES_{part}"), format!("OTEL_EXPORTER_OTLP_{part}")]
            .into_iter()
            .find_map(|name| self.text(&name).map(|value| (name, value)))
    }

    fn warn(&mut self, name: &str, value: &str, remedy: &str) {
        self.warnings.push(format!("{name}: cannot use the value {value:?}; {remedy}"));
    }

    /// `None`: nothing can be sent that way, so tracing is off.
    fn export(&mut self, name: &str, url: String) -> Option<Export> {
        if let Some((name, value)) = self.either("PROTOCOL")
            && value != "http/protobuf"
        {
            let remedy = "spans are sent by http/protobuf only; tracing is off. Set OTEL_EXPORTER_OTLP_TRACES_PROTOCOL \
                          to http/protobuf, with an endpoint that takes it (port 4318 as a rule)";
            self.warn(&name, &value, remedy);
            return None;
        }
        if let Some((name, value)) = self.either("COMPRESSION")
            && value != "none"
        {
            self.warn(&name, &value, "spans are sent uncompressed");
        }
        let parsed = url.parse::<http::Uri>().ok().filter(|uri| uri.host().is_some() && has_sound_port(uri));
        if parsed.is_none_or(|uri| uri.scheme_str() != Some("http") || url.contains('@')) {
            // Not shown: it may hold a password.
            self.warnings.push(format!(
                "{name}: cannot use the value; use an address such as http://collector:4318, without user: this build \
                 sends without TLS, to a collector beside the function. Tracing is off"
            ));
            return None;
        }
        let timeout = self.either("TIMEOUT").map_or(Duration::from_secs(10), |(name, value)| {
            let timeout = value.parse().ok().filter(|millis| *millis > 0).map(Duration::from_millis);
            timeout.unwrap_or_else(|| {
                self.warn(&name, &value, "use milliseconds, for example 10000");
                Duration::from_secs(10)
            })
        });
        let queue_max = self.number("OTEL_BSP_MAX_QUEUE_SIZE", 2048).clamp(1, QUEUE_MAX);
        let batch_max = self.number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512).clamp(1, queue_max);
        let delay = self.number("OTEL_BSP_SCHEDULE_DELAY", 5000).max(DELAY_MIN);
        let delay = Duration::from_millis(delay as u64);
        let headers = self.either("HEADERS").map(|(name, _)| self.pairs(&name)).unwrap_or_default();
        Some(Export { url, headers, timeout, queue_max, batch_max, delay })
    }

    fn number(&mut self, name: &str, default: usize) -> usize {
        let Some(value) = self.text(name) else { return default };
        value.parse().unwrap_or_else(|_| {
            self.warn(name, &value, &format!("use a whole number, for example {default}"));
            default
        })
    }

    /// `a=1,b=2`, both sides with escapes as in an address. A pair that is none is left out; its text is not shown.
    fn pairs(&mut self, name: &str) -> Vec<(String, String)> {
        let Some(text) = self.text(name) else { return Vec::new() };
        let mut pairs = Vec::new();
        for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some((key, value)) if !key.trim().is_empty() => {
                    pairs.push((unescape(key.trim()), unescape(value.trim())));
                }
                _ => {
                    self.warnings.push(format!("{name}: left out a part that is not of the form name=value"))
                }
            }
        }
        pairs
    }

    fn sampler(&mut self) -> Sampler {
        let usual = Sampler { root: Root::Always, follows_parent: true };
        let Some(name) = self.text("OTEL_TRACES_SAMPLER") else { return usual };
        let (follows_parent, root) = match name.strip_prefix("parentbased_") {
            Some(root) => (true, root),
            None => (false, name.as_str()),
        };
        let root = match root {
            "always_on" => Root::Always,
            "always_off" => Root::Never,
            "traceidratio" => Root::Ratio(self.ratio()),
            _ => {
                let remedy = "use always_on, always_off, traceidratio, or one of them after parentbased_";
                self.warn("OTEL_TRACES_SAMPLER", &name, remedy);
                return usual;
            }
        };
        Sampler { root, follows_parent }
    }

    fn ratio(&mut self) -> f64 {
        let name = "OTEL_TRACES_SAMPLER_ARG";
        let Some(value) = self.text(name) else { return 1.0 };
        value.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio)).unwrap_or_else(|| {
            self.warn(name, &value, "use a number from 0 to 1, for example 0.1");
            1.0
        })
    }
}

/// Which variable said it, and the whole address.
fn address(base: Option<String>, traces: Option<String>) -> (&'static str, String) {
    if let Some(traces) = traces {
        return ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", traces);
    }
    let base = base.unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
    let (base, query) = base.find('?').map_or((&*base, ""), |at| base.split_at(at));
    ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("{}{TRACES_PATH}{query}", base.trim_end_matches('/')))
}

fn unescape(text: &str) -> String {
    String::from_utf8_lossy(&percent::decode(text.as_bytes(), false)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> (Option<Tracing>, Vec<String>) {
        let find = |name: &str| variables.iter().find(|(other, _)| *other == name);
        from_lookup(&|name: &str| find(name).map(|(_, value)| (*value).to_owned()))
    }

    fn url(variables: &[(&str, &str)]) -> Option<String> {
        Some(read(variables).0?.export?.url)
    }

    #[test]
    fn nothing_said_is_off_and_an_endpoint_or_exporter_turns_it_on() {
        let base = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/");
        assert_eq!(read(&[]), (None, vec![]));
        assert_eq!(read(&[("OTEL_SERVICE_NAME", "x")]).0, None);
        assert_eq!(url(&[base]).as_deref(), Some("http://c:4318/v1/traces"));
        let token = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c/?token=secret");
        assert_eq!(url(&[token]).as_deref(), Some("http://c/v1/traces?token=secret"));
        let export = read(&[token]).0.unwrap().export.unwrap();
        assert!(!format!("{export:?}").contains("secret"), "{export:?}");
        let traces = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://d/spans");
        assert_eq!(url(&[base, traces]).as_deref(), Some("http://d/spans"));
        let exporter = |value| ("OTEL_TRACES_EXPORTER", value);
        assert_eq!(url(&[exporter("otlp")]).as_deref(), Some("http://localhost:4318/v1/traces"));
        let propagates = read(&[base, exporter("none")]).0.unwrap();
        assert_eq!(propagates.export, None);
        assert_eq!(read(&[base, ("OTEL_SDK_DISABLED", "TRUE")]).0, None);
    }

    #[test]
    fn what_cannot_be_served_turns_it_off_with_a_warning_that_shows_no_password() {
        let base = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318");
        for (variables, word) in [
            (vec![base, ("OTEL_TRACES_EXPORTER", "zipkin")], "OTEL_TRACES_EXPORTER"),
            (vec![base, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")], "http/protobuf"),
            (vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c")], "without TLS"),
            (vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "http://u:secret@c")], "without user"),
            (vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "c:4318")], "http://collector:4318"),
            (vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:99999")], "http://collector:4318"),
        ] {
            let (tracing, warnings) = read(&variables);
            assert_eq!(tracing, None, "{variables:?}");
            assert_eq!(warnings.len(), 1);
            assert!(warnings[0].contains(word) && !warnings[0].contains("secret"), "{warnings:?}");
        }
    }

    #[test]
    fn samplers_headers_and_resource_are_read_by_the_standards_rules() {
        let (tracing, warnings) = read(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b, x=1=2"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "250"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=r,deployment.environment.name=test,broken"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.5"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "many"),
        ]);
        let tracing = tracing.unwrap();
        let export = tracing.export.unwrap();
        assert_eq!(
            export.headers,
            [("api-key".to_owned(), "a b".to_owned()), ("x".to_owned(), "1=2".to_owned())]
        );
        assert!(!format!("{export:?}").contains("a b"));
        assert_eq!((export.timeout, export.queue_max), (Duration::from_millis(250), 2048));
        assert_eq!(tracing.service_name.as_deref(), Some("r"));
        assert_eq!(tracing.resource, [("deployment.environment.name".to_owned(), "test".to_owned())]);
        assert_eq!(tracing.sampler, Sampler { root: Root::Ratio(0.5), follows_parent: true });
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        // Nothing could be sent in no time, and a thread that never rests helps nobody.
        let (base, zero) = (("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c"), |name| (name, "0"));
        let (tracing, warnings) =
            read(&[base, zero("OTEL_EXPORTER_OTLP_TIMEOUT"), zero("OTEL_BSP_SCHEDULE_DELAY")]);
        let export = tracing.unwrap().export.unwrap();
        assert_eq!((export.timeout, export.delay), (Duration::from_secs(10), Duration::from_millis(10)));
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        let odd = [("OTEL_TRACES_EXPORTER", "none"), ("OTEL_TRACES_SAMPLER", "jaeger_remote")];
        assert_eq!(read(&odd).1.len(), 1);
    }
}
