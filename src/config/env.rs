//! Every environment variable the processor reads, read once.
//!
//! The only place that touches the process's environment; everything else gets an [`Env`].

use std::path::PathBuf;
use std::time::Duration;

use super::duration::GoDuration;
use super::error::{ConfigError, Problem};
use super::{Env, ShimSource, tracing};

/// Bytes of request bodies held at once when nothing is said.
const BODY_BYTES_IN_FLIGHT_MAX: usize = 1 << 30;
/// Events that may wait for a worker when nothing is said.
const WAITING_EVENTS_MAX: usize = 1024;
/// Bytes of a wrapper's answer when nothing is said.
const ANSWER_BYTES_MAX: usize = 1 << 30;
/// Stuck handler threads tolerated when nothing is said.
const STUCK_THREADS_MAX: usize = 4;

/// The name of the time zone, where the environment says it.
#[expect(clippy::disallowed_methods, reason = "as in `Env::from_process`")]
pub(super) fn zone_name() -> Option<String> {
    std::env::var_os("TZ").map(|name| name.to_string_lossy().into_owned())
}

impl Default for Env {
    /// What an empty environment means.
    fn default() -> Self {
        Self {
            kubernetes: false,
            restore_secrets: false,
            secrets_directory: PathBuf::from("/etc/nuclio/secrets"),
            path: None,
            python_path_inherited: None,
            python_exe: None,
            python_wrapper: None,
            python_path: None,
            python_decode_strings: true,
            python_uvloop: None,
            handler_directory: None,
            nodejs_exe: None,
            nodejs_wrapper: None,
            java_wrapper: None,
            ruby_exe: None,
            ruby_wrapper: None,
            dotnetcore_wrapper: None,
            shell_handler_directory: None,
            golang_plugin: None,
            go_build: None,
            temporary_directory: PathBuf::from("/tmp"),
            function_instance: None,
            shim_source: ShimSource::Auto,
            shim_protocol: None,
            shim_prefetch: None,
            worker_start_timeout: None,
            stuck_threads_max: STUCK_THREADS_MAX,
            drain_linger: None,
            waiting_events_max: WAITING_EVENTS_MAX,
            body_bytes_in_flight_max: BODY_BYTES_IN_FLIGHT_MAX,
            answer_bytes_max: ANSWER_BYTES_MAX,
            no_color: false,
            color: None,
            source_list: None,
            tracing: None,
            tracing_warnings: Vec::new(),
        }
    }
}

impl Env {
    /// Reads the environment of this process.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
    pub fn from_process() -> Result<Env, ConfigError> {
        // A value that is not UTF-8 can name a file at most; none of ours needs that, so it counts as its readable part.
        Env::from_lookup(|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
    }

    /// Whether the environment of this process has a variable, be it empty.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
    pub fn has(name: &str) -> bool {
        std::env::var_os(name).is_some()
    }

    /// A variable of the environment of this process that is not ours, for whoever asks for it by name.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
    pub fn named(name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    /// Reads an environment given as a function from name to value.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Env, ConfigError> {
        // An empty variable is how a pod specification says "unset".
        let text = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let path = |name: &str| text(name).map(PathBuf::from);
        let on_kubernetes = |name: &str| text(name).is_some();
        let defaults = Env::default();
        let (tracing, tracing_warnings) = tracing::from_lookup(&lookup);
        Ok(Env {
            kubernetes: on_kubernetes("KUBERNETES_SERVICE_HOST") && on_kubernetes("KUBERNETES_SERVICE_PORT"),
            restore_secrets: text("NUCLIO_RESTORE_FUNCTION_CONFIG_FROM_SECRET")
                .is_some_and(|value| value.eq_ignore_ascii_case("true")),
            secrets_directory: path("NUCLIO_FUNCTION_SECRET_VOLUME_PATH")
                .unwrap_or(defaults.secrets_directory),
            path: lookup("PATH"),
            python_path_inherited: text("PYTHONPATH"),
            python_exe: text("NUCLIO_PYTHON_EXE_PATH"),
            python_wrapper: path("NUCLIO_PYTHON_WRAPPER_PATH"),
            python_path: text("NUCLIO_PYTHON_PATH").map(nil_is_empty),
            python_decode_strings: !text("NUCLIO_PYTHON_DECODE_EVENT_STRINGS")
                .is_some_and(|value| turns_off(&value)),
            python_uvloop: wants_uvloop(text("NUCLIO_PYTHON_EVENT_LOOP"))?,
            handler_directory: path("NUCLIO_HANDLER_DIR"),
            nodejs_exe: text("NUCLIO_NODEJS_EXE"),
            nodejs_wrapper: path("NUCLIO_NODEJS_WRAPPER_PATH"),
            java_wrapper: path("NUCLIO_WRAPPER_JAR"),
            ruby_exe: text("NUCLIO_RUBY_EXE"),
            ruby_wrapper: text("NUCLIO_WRAPPER_PATH").map(nil_is_empty).map(PathBuf::from),
            dotnetcore_wrapper: path("NUCLIO_DOTNETCORE_WRAPPER_PATH"),
            shell_handler_directory: path("NUCLIO_SHELL_HANDLER_DIR"),
            golang_plugin: path("NUCLIO_GOLANG_HANDLER_PLUGIN_PATH"),
            go_build: path("NUCLIO_GO_BUILD"),
            temporary_directory: path("TMPDIR").unwrap_or(defaults.temporary_directory),
            function_instance: text("NUCLIO_FUNCTION_INSTANCE"),
            shim_source: shim_source(text("NUCLIO_SHIM_SOURCE"))?,
            shim_protocol: shim_protocol(text("NUCLIO_SHIM_PROTOCOL"))?,
            shim_prefetch: count("NUCLIO_SHIM_PREFETCH", text("NUCLIO_SHIM_PREFETCH"))?,
            worker_start_timeout: duration(
                "NUCLIO_WORKER_START_TIMEOUT",
                text("NUCLIO_WORKER_START_TIMEOUT"),
            )?,
            stuck_threads_max: count("NUCLIO_STUCK_THREADS_MAX", text("NUCLIO_STUCK_THREADS_MAX"))?
                .unwrap_or(defaults.stuck_threads_max),
            drain_linger: duration("NUCLIO_DRAIN_LINGER", text("NUCLIO_DRAIN_LINGER"))?,
            waiting_events_max: count("NUCLIO_WAITING_EVENTS_MAX", text("NUCLIO_WAITING_EVENTS_MAX"))?
                .unwrap_or(defaults.waiting_events_max),
            body_bytes_in_flight_max: bytes("NUCLIO_BODY_BYTES_IN_FLIGHT_MAX", text)?
                .unwrap_or(defaults.body_bytes_in_flight_max),
            answer_bytes_max: bytes("NUCLIO_MAX_ANSWER_BYTES", text)?.unwrap_or(defaults.answer_bytes_max),
            no_color: text("NO_COLOR").is_some(),
            color: color(text),
            source_list: None,
            tracing,
            tracing_warnings,
        })
    }
}

/// As https://no-color.org and https://bixense.com/clicolors have it; who wants none wins.
fn color(text: impl Fn(&str) -> Option<String>) -> Option<bool> {
    let forced = |name: &str| text(name).is_some_and(|value| value != "0" && value != "false");
    if text("NO_COLOR").is_some() {
        return Some(false);
    }
    if forced("FORCE_COLOR") || forced("CLICOLOR_FORCE") {
        return Some(true);
    }
    let unwanted = text("CLICOLOR").is_some_and(|value| value == "0");
    (unwanted || text("TERM").is_some_and(|value| value == "dumb")).then_some(false)
}

/// compat: the Go processor takes the words `nil` and `none` for an empty path.
fn nil_is_empty(value: String) -> String {
    if ["nil", "none"].iter().any(|word| value.eq_ignore_ascii_case(word)) { String::new() } else { value }
}

fn turns_off(value: &str) -> bool {
    ["no", "false", "disable", "disabled"].iter().any(|word| value.eq_ignore_ascii_case(word))
}

fn wants_uvloop(value: Option<String>) -> Result<Option<bool>, ConfigError> {
    match value.as_deref() {
        None => Ok(None),
        Some("asyncio") => Ok(Some(false)),
        Some("uvloop") => Ok(Some(true)),
        Some(other) => Err(refuse("NUCLIO_PYTHON_EVENT_LOOP", other, "use asyncio or uvloop")),
    }
}

fn shim_source(value: Option<String>) -> Result<ShimSource, ConfigError> {
    match value.as_deref() {
        None | Some("auto") => Ok(ShimSource::Auto),
        Some("image") => Ok(ShimSource::Image),
        Some("embedded") => Ok(ShimSource::Embedded),
        Some(other) => Err(refuse("NUCLIO_SHIM_SOURCE", other, "use auto, image or embedded")),
    }
}

fn shim_protocol(value: Option<String>) -> Result<Option<u8>, ConfigError> {
    match value.as_deref() {
        None | Some("auto") => Ok(None),
        Some("1") => Ok(Some(1)),
        Some("2") => Ok(Some(2)),
        Some(other) => Err(refuse("NUCLIO_SHIM_PROTOCOL", other, "use 1, 2 or auto")),
    }
}

fn count(name: &str, value: Option<String>) -> Result<Option<usize>, ConfigError> {
    let parse = |value: String| {
        value
            .trim()
            .parse()
            .map_err(|_| refuse(name, &value, "use a whole number, 0 or more, for example 16"))
    };
    value.map(parse).transpose()
}

fn bytes(name: &str, text: impl Fn(&str) -> Option<String>) -> Result<Option<usize>, ConfigError> {
    match count(name, text(name))? {
        Some(0) => Err(refuse(name, "0", "use a number of bytes, at least 1, for example 1073741824")),
        bytes => Ok(bytes),
    }
}

fn duration(name: &str, value: Option<String>) -> Result<Option<Duration>, ConfigError> {
    let parse = |value: String| {
        let parsed = GoDuration::parse(&value).ok().and_then(GoDuration::to_std);
        parsed.ok_or_else(|| refuse(name, &value, "use a duration such as 500ms, 5s or 2m"))
    };
    value.map(parse).transpose()
}

fn refuse(name: &str, value: &str, remedy: &str) -> ConfigError {
    let problem = Problem::new(format!("cannot use the value {value:?}")).key(name).remedy(remedy);
    ConfigError::Environment(problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(variables: &[(&str, &str)]) -> Result<Env, ConfigError> {
        let find = |name: &str| variables.iter().find(|(other, _)| *other == name);
        Env::from_lookup(|name| find(name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn an_empty_environment_gives_the_defaults() {
        let env = env(&[]).unwrap();
        assert!(env.python_decode_strings && !env.kubernetes && !env.restore_secrets && !env.no_color);
        assert_eq!(env.secrets_directory, PathBuf::from("/etc/nuclio/secrets"));
        assert_eq!((env.stuck_threads_max, env.waiting_events_max), (4, 1024));
        assert_eq!(env.body_bytes_in_flight_max, 1 << 30);
        assert_eq!((env.drain_linger, env.shim_protocol, env.shim_prefetch), (None, None, None));
    }

    #[test]
    fn kubernetes_needs_both_variables_not_empty() {
        let both = [("KUBERNETES_SERVICE_HOST", "10.0.0.1"), ("KUBERNETES_SERVICE_PORT", "443")];
        assert!(env(&both).unwrap().kubernetes);
        assert!(!env(&both[..1]).unwrap().kubernetes);
        assert!(!env(&[both[0], ("KUBERNETES_SERVICE_PORT", "")]).unwrap().kubernetes);
    }

    #[test]
    fn colours_are_refused_or_forced_by_the_usual_variables() {
        for (variables, expected) in [
            (&[][..], None),
            (&[("NO_COLOR", "1"), ("FORCE_COLOR", "1")], Some(false)),
            (&[("NO_COLOR", ""), ("FORCE_COLOR", "1")], Some(true)),
            (&[("FORCE_COLOR", "0")], None),
            (&[("CLICOLOR_FORCE", "1"), ("TERM", "dumb")], Some(true)),
            (&[("CLICOLOR", "0")], Some(false)),
            (&[("TERM", "dumb")], Some(false)),
            (&[("TERM", "xterm"), ("CLICOLOR", "1")], None),
        ] {
            assert_eq!(env(variables).unwrap().color, expected, "{variables:?}");
        }
    }

    #[test]
    fn values_are_read_by_their_rules() {
        let env = env(&[
            ("NUCLIO_RESTORE_FUNCTION_CONFIG_FROM_SECRET", "TRUE"),
            ("NUCLIO_PYTHON_PATH", "nil"),
            ("NUCLIO_PYTHON_DECODE_EVENT_STRINGS", "Disabled"),
            ("NUCLIO_SHIM_SOURCE", "embedded"),
            ("NUCLIO_SHIM_PROTOCOL", "2"),
            ("NUCLIO_DRAIN_LINGER", "1m"),
            ("NUCLIO_STUCK_THREADS_MAX", "0"),
            ("NO_COLOR", "1"),
        ])
        .unwrap();
        assert!(env.restore_secrets && env.no_color && !env.python_decode_strings);
        assert_eq!(env.python_path.as_deref(), Some(""));
        assert_eq!((env.shim_source, env.shim_protocol), (ShimSource::Embedded, Some(2)));
        assert_eq!((env.drain_linger, env.stuck_threads_max), (Some(Duration::from_secs(60)), 0));
    }

    #[test]
    fn bad_values_of_our_variables_are_named_with_a_remedy() {
        let cases = [
            ("NUCLIO_PYTHON_EVENT_LOOP", "gevent"),
            ("NUCLIO_SHIM_SOURCE", "disk"),
            ("NUCLIO_SHIM_PROTOCOL", "3"),
            ("NUCLIO_SHIM_PREFETCH", "-1"),
            ("NUCLIO_WORKER_START_TIMEOUT", "10"),
            ("NUCLIO_STUCK_THREADS_MAX", "many"),
            ("NUCLIO_DRAIN_LINGER", "-1s"),
            ("NUCLIO_WAITING_EVENTS_MAX", "1.5"),
            ("NUCLIO_BODY_BYTES_IN_FLIGHT_MAX", "0"),
            ("NUCLIO_MAX_ANSWER_BYTES", "0"),
        ];
        for (name, value) in cases {
            let message = env(&[(name, value)]).expect_err(name).to_string();
            assert!(
                message.starts_with(&format!("{name}: cannot use the value {value:?}; use ")),
                "{message}"
            );
        }
    }
}
