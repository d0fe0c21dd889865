//! Another generator, to check our own against: `wrk`, closed loop. It looks at the status of answers, not at bodies.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::generator::{Outcome, Question, latencies};
use crate::tools;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/load/report.lua");

/// Whether wrk can ask this: one question, without a body.
pub(crate) fn can_ask(questions: &[Question]) -> bool {
    matches!(questions, [one] if one.bytes.starts_with(b"GET "))
}

pub(crate) fn run(
    address: SocketAddr,
    questions: &[Question],
    connections: u32,
    seconds: f64,
) -> Result<Outcome> {
    tools::found("wrk", "wrk (apt-get install wrk)")?;
    let head = String::from_utf8_lossy(&questions[0].bytes);
    let path = head.split(' ').nth(1).context("a request has a path")?;
    let mut wrk = Command::new("wrk");
    wrk.args(["--threads", "1", "--connections", &connections.to_string()])
        .args(["--duration", &format!("{}s", seconds.ceil()), "--timeout", "10s"])
        .args(["--script", SCRIPT, &format!("http://{address}{path}")]);
    let text = tools::output(&mut wrk)?;
    parse(&text).with_context(|| format!("wrk printed no line of ours: {text}"))
}

/// A line of `report.lua`: requests, duration, failures, then 1000 latencies from the shortest to the longest.
fn parse(output: &str) -> Result<Outcome> {
    let line = output.lines().find_map(|line| line.strip_prefix("load: ")).context("no line")?;
    let figures: Vec<f64> =
        line.split(' ').map(str::parse).collect::<Result<_, _>>().context("no figures")?;
    let [requests, duration_micros, failures, ref quantiles @ ..] = figures[..] else {
        bail!("too few figures")
    };
    let mut histogram = latencies()?;
    for micros in quantiles {
        histogram.saturating_record((micros * 1e3) as u64);
    }
    Ok(Outcome {
        answered: (requests - failures) as u64,
        completed: (requests - failures) as u64,
        unasked: 0,
        seconds: duration_micros / 1e6,
        latencies: histogram,
        failures: failures as u64,
        first_failure: (failures > 0.0).then(|| "wrk does not say".to_owned()),
        busy: f64::NAN,
        late_p99_micros: 0.0,
    })
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "run by `unit_tests.rs`; the bench has no harness")]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_the_script_is_read() {
        let outcome = parse("Running\nload: 100 2000000 1 10 20 30 40\n").unwrap();
        assert_eq!((outcome.answered, outcome.failures, outcome.seconds), (99, 1, 2.0));
        assert_eq!(outcome.micros(0.5).round(), 20.0);
        assert!(parse("Running\n").is_err() && parse("load: x\n").is_err());
    }

    #[test]
    fn wrk_sends_no_bodies() {
        let question = |text: &str| Question { bytes: text.into(), answer: None };
        assert!(can_ask(&[question("GET / HTTP/1.1\r\n\r\n")]));
        assert!(!can_ask(&[question("POST / HTTP/1.1\r\n\r\n")]));
    }
}
