//! The metrics as a scrape sees them: the reference's names and labels, ours, and `docs/metrics.md` in step with both.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::harness::{Processor, Setup, get, wait_until};
use crate::servers::program;

const PAGE: &str = include_str!("../../docs/metrics.md");
/// Type and labels of a metric.
type Shape = (String, BTreeSet<String>);

const BASE: [&str; 6] = ["instance", "trigger_kind", "trigger_id", "namespace", "function", "project"];
const PROCESS: [&str; 4] = ["instance", "namespace", "function", "project"];

fn scrape(processor: &Processor) -> String {
    let answer = get(processor.ports.metrics, "/metrics").unwrap();
    assert_eq!(answer.header("Content-Type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    answer.text()
}

/// The metrics of a scrape. All series of one must have the same labels.
fn shapes(text: &str) -> BTreeMap<String, Shape> {
    let mut shapes: BTreeMap<String, Shape> = BTreeMap::new();
    let mut current = (String::new(), String::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            current = (name.to_owned(), kind.to_owned());
        } else if !line.starts_with('#') {
            let (name, rest) = line.split_once('{').unwrap_or((line, ""));
            assert!(name.starts_with(&current.0), "{line} stands under {}", current.0);
            let labels = rest.rsplit_once('}').map_or("", |(labels, _)| labels);
            let names = labels.split(',').filter_map(|pair| Some(pair.split_once('=')?.0.to_owned()));
            let labels: BTreeSet<String> = names.filter(|name| name != "le").collect();
            let shape = (current.1.clone(), labels);
            let known = shapes.entry(current.0.clone()).or_insert_with(|| shape.clone());
            assert_eq!(*known, shape, "{line}");
        }
    }
    shapes
}

/// The metrics that the page describes.
fn described() -> BTreeMap<String, Shape> {
    let rows = PAGE.lines().filter(|line| line.starts_with("| `nuclio_") || line.starts_with("| `process_"));
    let rows = rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        assert_eq!(cells.len(), 5, "{row}");
        let labels = cells[2].split(", ").flat_map(|label| match label {
            "base" => BASE.map(str::to_owned).to_vec(),
            "process" => PROCESS.map(str::to_owned).to_vec(),
            other => vec![other.trim_matches('`').to_owned()],
        });
        (cells[0].trim_matches('`').to_owned(), (cells[1].to_owned(), labels.collect()))
    });
    rows.collect()
}

#[test]
fn the_page_of_metrics_and_a_scrape_agree() {
    // A timer, for what only timers have.
    let cron = json!({"kind": "cron", "attributes": {"interval": "1h"}});
    let processor = Setup::builtin().spec(json!({"triggers": {"timer": cron}})).start();
    assert_eq!(shapes(&scrape(&processor)), described());
    assert_eq!(processor.get("/").status, 200);
    assert_eq!(shapes(&scrape(&processor)), described());
}

#[test]
fn names_types_and_labels_of_the_reference_are_kept() {
    let processor = Setup::builtin().trigger(json!({"numWorkers": 2})).start();
    let text = scrape(&processor);
    let shapes = shapes(&text);
    for (name, more) in [
        ("handled_events_total", Some("result")),
        ("worker_allocation_count", None),
        ("worker_allocation_total", Some("result")),
        ("worker_allocation_wait_duration_milliseconds_sum", None),
        ("worker_allocation_workers_available_percentage", None),
        ("handled_events_duration_milliseconds_sum", Some("worker_index")),
        ("handled_events_duration_milliseconds_count", Some("worker_index")),
    ] {
        let labels: BTreeSet<String> = BASE.into_iter().chain(more).map(str::to_owned).collect();
        assert_eq!(shapes[&format!("nuclio_processor_{name}")], ("counter".to_owned(), labels), "{name}");
    }
    for (name, part) in [
        ("handled_events_total", "result=\"success\""),
        ("handled_events_total", "result=\"failure\""),
        ("worker_allocation_total", "result=\"success_immediate\""),
        ("worker_allocation_total", "result=\"success_after_wait\""),
        ("worker_allocation_total", "result=\"error_timeout\""),
        ("handled_events_duration_milliseconds_sum", "worker_index=\"0\""),
        ("handled_events_duration_milliseconds_count", "worker_index=\"1\""),
    ] {
        let base = "function=\"conformance\",instance=\"default-conformance\",namespace=\"default\",\
                    project=\"default\"";
        let line = text.lines().find(|line| {
            line.starts_with(&format!("nuclio_processor_{name}{{{base}")) && line.contains(part)
        });
        let line = line.unwrap_or_else(|| panic!("no {name} with {part} in\n{text}"));
        assert!(line.contains("trigger_id=\"default-http\",trigger_kind=\"http\""), "{line}");
    }
}

#[test]
fn promtool_objects_to_nothing_but_the_names_of_the_reference() {
    let Some(promtool) = program("promtool") else { return };
    let processor = Setup::builtin().start();
    assert_eq!(processor.get("/").status, 200);
    let mut command = Command::new(promtool);
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(scrape(&processor).as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let objections = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    // 3: it could read everything and dislikes something.
    assert_eq!(output.status.code(), Some(3), "{objections}");
    let names = |text: &str| -> BTreeSet<String> {
        text.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
    };
    let kept = "\
        nuclio_processor_handled_events_duration_milliseconds_count\n\
        nuclio_processor_handled_events_duration_milliseconds_sum\n\
        nuclio_processor_worker_allocation_count\n\
        nuclio_processor_worker_allocation_wait_duration_milliseconds_sum\n\
        nuclio_processor_worker_allocation_wait_duration_ms_sum\n\
        nuclio_processor_worker_allocation_workers_available_percentage";
    assert_eq!(names(&objections), names(kept), "{objections}");
}

#[test]
fn failures_are_counted_by_their_cause() {
    let script = "
def each(id, path, body):
    if path == '/exit':
        os._exit(6)
    if path == '/slow':
        time.sleep(60)
    echo(id, path, body)
hello()
ready()
serve(each)
";
    let processor = Setup::fake_shim(script).spec(json!({"eventTimeout": "300ms"})).start();
    assert_eq!(processor.get("/").status, 200);
    assert_eq!(processor.get("/exit").status, 500);
    assert_eq!(processor.get("/slow").status, 408);
    let event = "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/cloudevents+json\r\nContent-Length: 1\r\n\r\n";
    assert_eq!(processor.request(event, b"{").status, 400);
    let name = "nuclio_processor_event_failures_total";
    for cause in ["worker_lost", "timeout", "refused"] {
        assert_eq!(processor.metric(name, &[&format!("cause=\"{cause}\"")]), 1.0, "{cause}");
    }
    assert_eq!(processor.metric("nuclio_processor_handled_events_total", &["result=\"failure\""]), 3.0);
    assert_eq!(processor.metric("nuclio_processor_handled_events_total", &["result=\"success\""]), 1.0);
}

#[test]
fn figures_of_the_process_and_of_its_shims_are_those_of_the_kernel() {
    let source = "
def handler(context, event):
    if event.path == '/burn':
        sum(range(20_000_000))
";
    let processor = Setup::python(source).trigger(json!({"numWorkers": 2})).start();
    let value = |name: &str| processor.metric(name, &[]);
    assert_eq!(value("nuclio_processor_children"), 2.0);
    let pages = |pid: i32| -> f64 {
        let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
        text.split(' ').nth(1).unwrap().parse::<f64>().unwrap() * rustix::param::page_size() as f64
    };
    let close = |left: f64, right: f64| (left - right).abs() < 0.3 * right;
    let (own, shown) = (pages(processor.child.id() as i32), value("process_resident_memory_bytes"));
    assert!(close(shown, own), "{shown} is not {own}");
    let all: f64 = processor.children().into_iter().map(pages).sum();
    let shown = value("nuclio_processor_children_resident_memory_bytes");
    assert!(close(shown, all), "{shown} is not {all}");
    let open = std::fs::read_dir(format!("/proc/{}/fd", processor.child.id())).unwrap().count() as f64;
    // The scrape's own connection comes and goes.
    assert!((value("process_open_fds") - open).abs() <= 3.0, "{open}");
    assert!(value("process_max_fds") >= open);
    let age = now() - value("process_start_time_seconds");
    assert!((-1.0..600.0).contains(&age), "{age}");
    let cpu = "nuclio_processor_children_cpu_seconds_total";
    let before = value(cpu);
    wait_until("the time of a shim is counted", || {
        assert_eq!(processor.get("/burn").status, 200);
        value(cpu) >= before + 0.1
    });
    // It stays when the shims go.
    let burnt = value(cpu);
    processor.children().into_iter().for_each(crate::support::kill);
    wait_until("they are replaced", || processor.restarts("signal") == 2);
    assert!(value(cpu) >= burnt);
}

fn now() -> f64 {
    let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    since.unwrap().as_secs_f64()
}
