//! `processor check`: loads the files exactly as a start would and says what came of it, then what else is odd in them.
//!
//! Starts nothing and binds nothing; everything shown comes from the resolved configuration.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;

use crate::config::duration::format;
use crate::config::lint::{Finding, Severity, lint};
use crate::config::schema::Schema;
use crate::config::{
    ConcurrencyPolicy, Config, CronTrigger, Env, EventTemplate, HttpTrigger, Level, LogEncoding, LogSink,
    Recycle, SeveralFor, Timetable, Trigger, TriggerKind,
};
use crate::trigger;

/// Checks both files and writes errors, warnings and effective limits; answers whether a start would get past them.
pub fn check(function: &Path, platform: &Path, env: Env, out: &mut dyn Write) -> io::Result<bool> {
    // First: a file that is late is waited for.
    let loaded = Config::load(function, platform, env);
    let mut findings = lint(platform, Schema::Platform);
    findings.append(&mut lint(function, Schema::Processor));
    match loaded {
        Ok(config) => write_config(&config, &findings, out),
        Err(error) => {
            writeln!(out, "error: {error}")?;
            write_findings(&findings, &[error.to_string()], out)?;
            Ok(false)
        }
    }
}

/// What loading did not say already.
fn write_findings(findings: &[Finding], said: &[String], out: &mut dyn Write) -> io::Result<()> {
    // In one case: loading names some keys as they should be written. In order: there may be thousands.
    let mut said: Vec<String> = said.iter().map(|line| line.to_ascii_lowercase()).collect();
    said.sort_unstable();
    for finding in findings {
        let place = format!("{}: ", finding.place);
        let begin = place.to_ascii_lowercase();
        let first = said.partition_point(|line| *line < begin);
        let is_said = said.get(first).is_some_and(|line| line.starts_with(&begin));
        if is_said && finding.severity != Severity::Hint && !finding.beside {
            continue;
        }
        let severity = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Hint => "hint",
        };
        writeln!(out, "{severity}: {place}{}", finding.text)?;
    }
    Ok(())
}

fn write_config(config: &Config, findings: &[Finding], out: &mut dyn Write) -> io::Result<bool> {
    for warning in &config.warnings {
        writeln!(out, "warning: {warning}")?;
    }
    write_findings(findings, &config.warnings, out)?;
    let refusals = refusals(config);
    for refusal in &refusals {
        writeln!(out, "error: {refusal}")?;
    }
    write_function(config, out)?;
    for trigger in &config.function.triggers {
        write_trigger(trigger, out)?;
    }
    write_platform(config, out)?;
    Ok(refusals.is_empty())
}

/// What this build cannot serve, as a start says it.
fn refusals(config: &Config) -> Vec<String> {
    let triggers = &config.function.triggers;
    let kinds = triggers.iter().filter_map(|trigger| trigger::check(trigger).err());
    kinds.chain(trigger::check_addresses(triggers, &config.platform)).map(|error| error.to_string()).collect()
}

fn write_function(config: &Config, out: &mut dyn Write) -> io::Result<()> {
    let function = &config.function;
    writeln!(out, "function {}", or_none(&function.name))?;
    line(out, "runtime", function.runtime.name())?;
    line(out, "handler", or_none(&function.handler))?;
    line(out, "event timeout", &function.event_timeout.map_or("none".into(), format))?;
    if function.preload {
        line(out, "preload", "workers are forked from a process that has loaded the handler")?;
    }
    if let Some(recycle) = &function.recycle {
        line(out, "recycled", &recycled(recycle))?;
    }
    for sink in &function.log_sinks {
        line(out, "log sink", &log_sink(sink))?;
    }
    if function.triggers.is_empty() {
        line(out, "triggers", "none")?;
    }
    if function.default_http_trigger_disabled {
        line(out, "port 8080", "answers /__internal/health only")?;
    }
    Ok(())
}

/// When workers are replaced.
fn recycled(recycle: &Recycle) -> String {
    let limits = [
        recycle.events.map(|events| format!("after {events} events")),
        recycle.memory.map(|bytes| format!("above {bytes} bytes of memory")),
        recycle.age.map(|age| format!("after {}", format(age))),
    ];
    let limits: Vec<String> = limits.into_iter().flatten().collect();
    let sooner = match recycle.jitter {
        0.0 => String::new(),
        jitter => format!(", up to {}% sooner", (jitter * 100.0).round()),
    };
    format!("{}{sooner}", limits.join(", "))
}

fn write_trigger(trigger: &Trigger, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "trigger {} ({})", trigger.name, trigger.kind.name())?;
    let shared = trigger.allocator.as_ref().map(|name| format!(", shared as {name}"));
    line(out, "workers", &format!("{}{}", trigger.workers, shared.unwrap_or_default()))?;
    line(out, "wait for a worker", &wait(trigger.availability_timeout))?;
    line(out, "worker's end", &format!("at most {}", format(trigger.termination_timeout)))?;
    match &trigger.kind {
        TriggerKind::Http(http) => write_http(http, out),
        TriggerKind::Cron(cron) => write_cron(cron, out),
        TriggerKind::Kickstart(event) => {
            line(out, "fires", "once, at the start")?;
            write_event(event, out)
        }
        TriggerKind::Unsupported { .. } => Ok(()),
    }
}

fn write_http(http: &HttpTrigger, out: &mut dyn Write) -> io::Result<()> {
    line(out, "address", &http.listen)?;
    line(out, "head limit", &format!("{} bytes", http.head_bytes_max))?;
    line(out, "body limit", &format!("{} bytes", http.body_bytes_max))?;
    if http.in_flight_per_worker > 1 {
        let when = match http.several_for {
            SeveralFor::Any => "",
            SeveralFor::Async => ", if the handler is async",
            SeveralFor::Applications => ", if the handler is an ASGI application; else 1",
        };
        line(out, "events per worker", &format!("{}{when}", http.in_flight_per_worker))?;
    }
    if let Some(batch) = &http.batch {
        line(out, "batches", &format!("at most {} events, {}", batch.size, format(batch.timeout)))?;
    }
    if let Some(cors) = &http.cors {
        line(out, "cors origins", &cors.allow_origins.join(", "))?;
    }
    Ok(())
}

fn write_cron(cron: &CronTrigger, out: &mut dyn Write) -> io::Result<()> {
    line(out, "fires", &cron.timetable.describe())?;
    if let Timetable::Schedule(schedule) = &cron.timetable
        && let Some(next) = schedule.next_after(Timestamp::now())
    {
        line(out, "next", &next.to_string())?;
    }
    line(
        out,
        "while one is busy",
        match cron.concurrency {
            ConcurrencyPolicy::Forbid => "the next is dropped (Forbid)",
            ConcurrencyPolicy::Allow => "as many as there are workers (Allow)",
            ConcurrencyPolicy::Replace => "the next ends it (Replace), where handlers are processes",
        },
    )?;
    line(out, "missed runs", cron.missed.name())?;
    write_event(&cron.event, out)
}

/// What may be secret is not shown.
fn write_event(event: &EventTemplate, out: &mut dyn Write) -> io::Result<()> {
    let headers = if event.headers.is_empty() {
        "no headers".to_owned()
    } else {
        format!("headers {}", event.headers.keys().map(String::as_str).collect::<Vec<_>>().join(", "))
    };
    line(out, "event", &format!("body of {} bytes, {headers}", event.body.len()))
}

fn write_platform(config: &Config, out: &mut dyn Write) -> io::Result<()> {
    let platform = &config.platform;
    writeln!(out, "platform")?;
    line(out, "health", platform.health.as_deref().unwrap_or("off"))?;
    line(out, "web admin", platform.web_admin.as_deref().unwrap_or("off"))?;
    if platform.metric_sinks.is_empty() {
        line(out, "metric sinks", "none")?;
    }
    for sink in &platform.metric_sinks {
        let (kind, address) = sink.kind.kind_and_address();
        line(out, "metric sink", &format!("{} ({kind}, {address}, instance {})", sink.name, sink.instance))?;
    }
    Ok(())
}

fn line(out: &mut dyn Write, name: &str, value: &str) -> io::Result<()> {
    writeln!(out, "  {name:<18} {value}")
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "(none)" } else { text }
}

fn wait(timeout: Duration) -> String {
    if timeout.is_zero() { "not at all".to_owned() } else { format!("at most {}", format(timeout)) }
}

fn log_sink(sink: &LogSink) -> String {
    let encoding = match sink.encoding {
        LogEncoding::Console | LogEncoding::Text => "for people",
        LogEncoding::Json { .. } => "JSON",
    };
    let up = if sink.level == Level::Error { "" } else { " and above" };
    format!("{} ({encoding}, {}{up})", sink.name, sink.level.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(function: &str, platform: &str) -> (bool, String) {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/config");
        let mut out = Vec::new();
        let good =
            check(&directory.join(function), &directory.join(platform), Env::default(), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        (good, text.replace(&format!("{}/", directory.display()), ""))
    }

    #[test]
    fn a_good_file_shows_its_effective_limits() {
        let (good, text) = run("03-go-plugin.yaml", "platform-02-ports-and-push.yaml");
        assert!(good);
        let expected = "\
function resize
  runtime            golang
  handler            main:Resize
  event timeout      30s
  log sink           stdout (for people, debug and above)
trigger web (http)
  workers            2
  wait for a worker  at most 10s
  worker's end       at most 10s
  address            127.0.0.1:9090
  head limit         32768 bytes
  body limit         33554432 bytes
platform
  health             :18082
  web admin          off
  metric sink        push (prometheusPush, http://gateway.example:9091, instance one)
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_bad_file_shows_where_and_what_to_do() {
        let (good, text) = run("bad-09-termination-timeout.yaml", "absent");
        assert!(!good);
        let expected = "error: bad-09-termination-timeout.yaml:9: \
            spec.triggers.default-http.workerTerminationTimeout: time: missing unit in duration \"10\"; write a \
            number with a unit, for example 30s, 1m30s or 500ms\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_trigger_on_an_address_of_the_platform_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let (function, platform) =
            (directory.path().join("processor.yaml"), directory.path().join("platform.yaml"));
        let trigger = |port: u16| {
            format!(
                "spec: {{runtime: python, handler: m:h, triggers: {{web: {{kind: http, url: ':{port}'}}}}}}"
            )
        };
        std::fs::write(&platform, "healthCheck: {enabled: true, listenAddress: '127.0.0.1:7001'}").unwrap();
        for (port, good) in [(7001, false), (7002, true)] {
            std::fs::write(&function, trigger(port)).unwrap();
            let mut out = Vec::new();
            assert_eq!(check(&function, &platform, Env::default(), &mut out).unwrap(), good, "{port}");
            let text = String::from_utf8(out).unwrap();
            let error = "error: trigger web cannot listen on :7001: healthCheck.listenAddress of platform.yaml has \
                         127.0.0.1:7001; change spec.triggers.web.url or healthCheck.listenAddress\n";
            assert_eq!(text.starts_with(error), !good, "{text}");
        }
    }

    #[test]
    fn warnings_stand_with_their_lines() {
        let (good, text) = run("12-key-case-and-unknown-keys.yaml", "absent");
        assert!(good);
        let first = text.lines().next().unwrap();
        assert_eq!(
            first,
            "warning: 12-key-case-and-unknown-keys.yaml:6: metadata.owner: unknown key, ignored"
        );
    }

    #[test]
    fn what_this_build_cannot_serve_is_an_error() {
        let (good, text) = run("11-secret-references.yaml", "absent");
        assert!(!good);
        assert!(
            text.starts_with("error: 11-secret-references.yaml:")
                && text.contains(
                    ": spec.triggers.queue.kind: trigger queue is of kind mqtt, which this build cannot serve yet; remove",
                ),
            "{text}"
        );
    }

    #[test]
    fn timers_are_shown_without_what_may_be_secret() {
        let (good, text) = run("10-no-http-trigger.yaml", "absent");
        assert!(good, "{text}");
        assert!(text.contains("answers /__internal/health only"), "{text}");
        let (_, text) = run("04-several-triggers.yaml", "absent");
        for line in [
            "trigger heartbeat (cron)",
            "  fires              every 10s",
            "  event              body of 4 bytes, headers X-Source",
            "  fires              schedule 0 30 2 * * *",
            "  while one is busy  the next is dropped (Forbid)",
            "  missed runs        once",
            "  fires              once, at the start",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} in {text}");
        }
        assert!(text.contains("  next               2"), "{text}");
        assert!(!text.contains("warm up"), "{text}");
    }

    #[test]
    fn triggers_that_cannot_be_served_are_errors_too() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("kafka.yaml");
        std::fs::write(&file, "spec: {runtime: python, triggers: {k: {kind: kafka-cluster}}}\n").unwrap();
        let (good, text) = run(file.to_str().unwrap(), "absent");
        assert!(!good);
        assert!(text.contains("kafka-cluster") && text.contains("error: "), "{text}");
        let (good, text) = run("07-batching.yaml", "absent");
        assert!(good);
        assert!(text.contains("at most 16 events, 250ms"), "{text}");
    }
}
