//! The closed-loop generator: `wrk`, an outside program, so that it cannot flatter the code under test.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context, Result, bail};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/load/report.lua");

/// One run of wrk.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Run {
    pub(crate) requests: f64,
    pub(crate) seconds: f64,
    pub(crate) p50_micros: f64,
    pub(crate) p99_micros: f64,
    pub(crate) p999_micros: f64,
    /// Connections, reads, writes and time-outs that failed, and answers past 399.
    pub(crate) failures: f64,
}

/// Says how to get wrk where it is missing.
pub(crate) fn find() -> Result<()> {
    let found = Command::new("wrk").arg("--version").output();
    found.map(drop).context("wrk is needed and was not found: apt-get install wrk (Debian, Ubuntu)")
}

pub(crate) fn run(address: SocketAddr, connections: u32, seconds: u32) -> Result<Run> {
    // One thread feeds every server here; a second would only take the server's core away.
    let output = Command::new("wrk")
        .args(["--threads", "1", "--connections", &connections.to_string()])
        .args(["--duration", &format!("{seconds}s"), "--timeout", "10s"])
        .args(["--script", SCRIPT, &format!("http://{address}/")])
        .output()
        .context("failed to run wrk")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("wrk failed ({}): {text}{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    parse(&text).with_context(|| format!("wrk printed no line of ours: {text}"))
}

fn parse(output: &str) -> Option<Run> {
    let line = output.lines().find_map(|line| line.strip_prefix("load: "))?;
    let figures: Vec<f64> = line.split(' ').map(str::parse).collect::<Result<_, _>>().ok()?;
    let [requests, duration_micros, p50_micros, p99_micros, p999_micros, failures] = figures[..] else {
        return None;
    };
    Some(Run { requests, seconds: duration_micros / 1e6, p50_micros, p99_micros, p999_micros, failures })
}
