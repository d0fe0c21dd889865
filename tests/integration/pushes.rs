//! Metrics pushed to a real push gateway.

use std::io::Write;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Client, Processor, Setup, free_port, get, wait_until};
use crate::servers::{Server, program};

const HANDLED: &str = "nuclio_processor_handled_events_total";

fn gateway(prefix: &str) -> Option<Server> {
    let program = program("prometheus-pushgateway")?;
    let route = format!("--web.route-prefix={prefix}");
    Some(Server::start(&program, &[&route], &format!("{prefix}/-/ready")))
}

/// A processor that pushes to these sinks, besides the pull sink of the harness.
fn pushing(sinks: Value) -> Processor {
    let mut setup = Setup::builtin();
    let mut names: Vec<&String> = sinks.as_object().unwrap().keys().collect();
    let pull = "pull".to_owned();
    names.push(&pull);
    setup.platform = json!({"metrics": {"sinks": sinks, "functions": names}});
    setup.start()
}

fn sink(url: &str, job: &str, interval: &str) -> Value {
    let attributes = json!({"jobName": job, "instanceName": "one", "interval": interval});
    json!({"kind": "prometheusPush", "url": url, "attributes": attributes})
}

/// Value of the first line of the gateway that begins with the name and holds all parts.
fn pushed(port: u16, path: &str, name: &str, parts: &[&str]) -> Option<f64> {
    let text = get(port, path).unwrap().text();
    let line = text.lines().find(|line| {
        line.starts_with(&format!("{name}{{")) && parts.iter().all(|part| line.contains(part))
    })?;
    line.rsplit(' ').next().unwrap().parse().ok()
}

fn send(port: u16, method: &str, path: &str, body: &str) -> u16 {
    let mut client = Client::connect(([127, 0, 0, 1], port).into());
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: gateway\r\nContent-Length: {length}\r\n\r\n{body}");
    client.send(head.as_bytes());
    client.read_answer(false).unwrap().status
}

#[test]
fn metrics_arrive_under_the_job_at_each_interval_and_once_more_at_the_end() {
    let Some(gateway) = gateway("") else { return };
    let url = format!("127.0.0.1:{}", gateway.port);
    let mut processor = pushing(json!({
        "often": sink(&url, "jobs", "100ms"),
        "late": sink(&format!("http://{url}/"), "team/late", "1h"),
    }));
    (0..3).for_each(|_| assert_eq!(processor.get("/").status, 200));
    let success = ["job=\"jobs\"", "instance=\"one\"", "result=\"success\"", "trigger_id=\"default-http\""];
    wait_until("three events are seen", || pushed(gateway.port, "/metrics", HANDLED, &success) == Some(3.0));
    // compat: the group is that of the job alone; the instance is only a label.
    let groups = get(gateway.port, "/api/v1/metrics").unwrap().json();
    let labels: Vec<&Value> =
        groups["data"].as_array().unwrap().iter().map(|group| &group["labels"]).collect();
    assert_eq!(labels, [&json!({"job": "jobs"})]);
    for (name, labels) in [
        ("process_cpu_seconds_total", &["instance=\"one\""][..]),
        ("nuclio_processor_handler_duration_seconds_bucket", &["le=\"+Inf\""]),
    ] {
        assert!(pushed(gateway.port, "/metrics", name, labels).is_some(), "{name} was not pushed");
    }
    assert_eq!(processor.metric(HANDLED, &["result=\"success\""]), 3.0, "pulling works beside it");
    let late = ["job=\"team/late\"", "result=\"success\""];
    assert_eq!(pushed(gateway.port, "/metrics", HANDLED, &late), None);
    (0..2).for_each(|_| assert_eq!(processor.get("/").status, 200));
    processor.signal(15);
    assert_eq!(processor.wait().code(), Some(0));
    assert_eq!(pushed(gateway.port, "/metrics", HANDLED, &late), Some(5.0));
    assert_eq!(pushed(gateway.port, "/metrics", HANDLED, &success), Some(5.0));
}

#[test]
fn a_gateway_below_a_prefix_is_reached() {
    let Some(gateway) = gateway("/gw") else { return };
    let url = format!("http://localhost:{}/gw/", gateway.port);
    let processor = pushing(json!({"push": sink(&url, "a b", "100ms")}));
    assert_eq!(processor.get("/").status, 200);
    let parts = ["job=\"a b\"", "result=\"success\""];
    wait_until("the event is seen", || pushed(gateway.port, "/gw/metrics", HANDLED, &parts) == Some(1.0));
}

#[test]
fn a_refused_push_is_told_with_the_gateways_words_and_tried_again() {
    let Some(gateway) = gateway("") else { return };
    let other = format!("# TYPE {HANDLED} gauge\n{HANDLED} 1\n");
    assert_eq!(send(gateway.port, "POST", "/metrics/job/other", &other), 200);
    let url = format!("http://127.0.0.1:{}", gateway.port);
    let processor = pushing(json!({"push": sink(&url, "jobs", "100ms")}));
    let record = processor.stdout.wait_for_record("Failed to push metrics");
    assert_eq!((&record["level"], &record["more"]["sink"]), (&json!("warn"), &json!("push")));
    assert_eq!(record["more"]["gateway"], json!(url));
    let error = record["more"]["err"].as_str().unwrap();
    assert!(error.contains("400 Bad Request") && error.contains("inconsistent"), "{error}");
    assert_eq!(send(gateway.port, "DELETE", "/metrics/job/other", ""), 202);
    let parts = ["job=\"jobs\"", "result=\"success\""];
    wait_until("pushes arrive", || pushed(gateway.port, "/metrics", HANDLED, &parts) == Some(0.0));
}

#[test]
fn a_gateway_that_is_down_delays_neither_events_nor_the_end() {
    let address = format!("127.0.0.1:{}", free_port());
    let mut processor = pushing(json!({"push": sink(&format!("me:secret@{address}"), "jobs", "50ms")}));
    let record = processor.stdout.wait_for_record("Failed to push metrics");
    assert_eq!(record["more"]["gateway"], json!(format!("http://{address}")));
    let error = record["more"]["err"].as_str().unwrap();
    assert!(error.contains("is the gateway up") && error.contains("refused"), "{error}");
    assert!(!processor.stdout.text().contains("secret"));
    let failures = |processor: &Processor| processor.stdout.text().matches("Failed to push metrics").count();
    wait_until("it is tried again", || failures(&processor) >= 3);
    assert_eq!(processor.get("/").status, 200);
    assert_eq!(processor.health("/ready"), 200);
    processor.signal(15);
    assert_eq!(processor.wait().code(), Some(0));
}

#[test]
fn a_gateway_that_never_answers_delays_the_end_by_a_bounded_time() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = silent.local_addr().unwrap().to_string();
    let mut processor = pushing(json!({"push": sink(&url, "jobs", "1h")}));
    assert_eq!(processor.get("/").status, 200);
    let begun = Instant::now();
    processor.signal(15);
    assert_eq!(processor.wait().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    // It did try.
    let (mut stream, _) = silent.accept().unwrap();
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap_or_default();
    let mut text = [0; 4096];
    let read = std::io::Read::read(&mut stream, &mut text).unwrap();
    let head = String::from_utf8_lossy(&text[..read]).into_owned();
    assert!(head.starts_with("POST /metrics/job/jobs HTTP/1.1\r\n"), "{head}");
    assert!(head.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{head}");
}
