//! Traces: the headers of W3C Trace Context by the vectors, and spans at a collector that decodes them with the
//! published messages of OTLP.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Client, PATIENCE, Processor, Setup, wait_until};
use crate::packages::python_with;
use crate::support::plain_c_library;

/// Shows what a handler is given; behaves as its path says.
const HANDLER: &str = "
import json, time

def handler(context, event):
    if event.path == '/log':
        context.logger.info_with('from the handler', a=1)
    if event.path == '/own':
        context.logger.info_with('has its own', trace_id='mine')
    if event.path == '/raise':
        raise RuntimeError('no')
    if event.path == '/sleep':
        time.sleep(30)
    if event.path == '/stream':
        return (piece for piece in ('a', 'b'))
    if event.path == '/teapot':
        return context.Response(body='', status_code=503)
    names = ('Traceparent', 'Tracestate')
    return json.dumps({name: event.headers[name] for name in names if name in event.headers})
";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01";
/// What the collector decodes with.
const MESSAGES: &str = "opentelemetry-proto==1.45.2";

fn ask(processor: &Processor, path: &str, headers: &[(&str, &str)]) -> crate::harness::Answer {
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    processor.request(&format!("GET {path} HTTP/1.1\r\nHost: test:80\r\n{lines}\r\n"), b"")
}

#[test]
fn headers_are_taken_and_passed_on_as_the_vectors_say() {
    let processor = Setup::python(HANDLER).env("OTEL_TRACES_EXPORTER", "none").start();
    let text = include_str!("../vectors/traceparent.json");
    let vectors: Vec<Value> = serde_json::from_str(text).unwrap();
    let mut wrong = Vec::new();
    for vector in &vectors {
        let pairs = vector["headers"].as_array().unwrap();
        let headers: Vec<(&str, &str)> =
            pairs.iter().map(|pair| (pair[0].as_str().unwrap(), pair[1].as_str().unwrap())).collect();
        let shown = ask(&processor, "/", &headers).json();
        let parts: Vec<&str> = shown["Traceparent"].as_str().unwrap().split('-').collect();
        let [version, trace, span, flags] = parts[..] else { panic!("{shown}") };
        let sent_span = "00f067aa0ba902b7";
        let whole = (version.len(), trace.len(), span.len(), flags.len()) == (2, 32, 16, 2);
        let continues = match vector["trace"].as_str() {
            Some(expected) => trace == expected && flags == vector["flags"],
            // A new one is recorded and says that its id is random.
            None => trace != TRACE && !trace.bytes().all(|digit| digit == b'0') && flags == "03",
        };
        if version != "00"
            || !whole
            || span == sent_span
            || !continues
            || shown["Tracestate"] != vector["state"]
        {
            wrong.push(format!("{}: {shown}", vector["name"]));
        }
    }
    assert!(vectors.len() > 70 && wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn without_tracing_headers_pass_as_they_are_and_none_is_made() {
    let processor = Setup::python(HANDLER).env("OTEL_SERVICE_NAME", "not enough").start();
    assert_eq!(ask(&processor, "/", &[]).json(), json!({}));
    let shown = ask(&processor, "/", &[("traceparent", "nonsense"), ("tracestate", "a=1")]).json();
    assert_eq!(shown, json!({"Traceparent": "nonsense", "Tracestate": "a=1"}));
    assert_eq!(ask(&processor, "/log", &[("traceparent", PARENT)]).status, 200);
    let record = processor.stdout.wait_for_record("from the handler");
    assert_eq!((&record["more"]["a"], record["more"].get("trace_id")), (&json!(1), None));
}

#[test]
fn a_trailer_cannot_change_the_trace() {
    let processor = Setup::python(HANDLER).env("OTEL_TRACES_EXPORTER", "none").start();
    let mut client = Client::connect(processor.http());
    client.send(
        format!(
            "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\ntraceparent: {PARENT}\r\n\r\n\
             1\r\nx\r\n0\r\ntraceparent: 00-11111111111111111111111111111111-2222222222222222-00\r\n\r\n"
        )
        .as_bytes(),
    );
    let answer = client.read_answer(false).unwrap();
    assert_eq!(answer.status, 200);
    let shown = answer.json();
    assert!(shown["Traceparent"].as_str().unwrap().contains(TRACE), "{shown}");
}

#[test]
fn records_carry_the_ids_of_the_handlers_span_in_both_kinds_of_runtime() {
    let mut processors = vec![(Setup::python(HANDLER), "from the handler", true)];
    if let Some(library) = plain_c_library() {
        processors.push((Setup::library(&library), "hello from C", false));
    }
    for (setup, message, python) in processors {
        let processor = setup.env("OTEL_TRACES_EXPORTER", "none").start();
        let answer = ask(&processor, "/log", &[("traceparent", PARENT), ("X-Nuclio-Log-Level", "info")]);
        let record = processor.stdout.wait_for_record(message);
        assert_eq!(record["more"]["trace_id"], TRACE);
        let span = record["more"]["span_id"].as_str().unwrap();
        assert!(span.len() == 16 && span != "00f067aa0ba902b7");
        if python {
            assert!(answer.json()["Traceparent"].as_str().unwrap().contains(span));
            ask(&processor, "/own", &[]);
            assert_eq!(processor.stdout.wait_for_record("has its own")["more"]["trace_id"], "mine");
        }
        // The caller knows its trace, and the header is short.
        let logs: Value = serde_json::from_str(answer.header("X-Nuclio-Logs").unwrap()).unwrap();
        assert_eq!((&logs[0]["message"], logs[0].get("trace_id")), (&json!(message), None));
    }
}

/// A running collector; what it was sent, request by request.
struct Collector {
    child: Child,
    port: u16,
    requests: Receiver<Value>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Collector {
    /// `answers`: see `collector.py`. `None`: what it needs is not installed.
    fn start(answers: &[&str]) -> Option<Self> {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        static MADE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
        let python = match MADE.get_or_init(|| python_with("collector", &[MESSAGES])) {
            Ok(python) => python,
            Err(reason) => {
                println!("skipped: {reason}");
                return None;
            }
        };
        let mut command = Command::new(python);
        command.arg(folder.join("tests/collector/collector.py")).args(answers);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = lines.next().unwrap().unwrap().parse().unwrap();
        let (sender, requests) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                drop(sender.send(serde_json::from_str(&line).unwrap()));
            }
        });
        Some(Self { child, port, requests })
    }

    fn request(&self) -> Value {
        self.requests.recv_timeout(PATIENCE).unwrap()
    }

    /// That many spans, whatever requests they come in.
    fn spans(&self, count: usize) -> Vec<Value> {
        let mut spans: Vec<Value> = Vec::new();
        while spans.len() < count {
            let request = self.request();
            assert_eq!((&request["path"], &request["unknown"]), (&json!("/v1/traces"), &json!(0)));
            spans.extend(request["spans"].as_array().unwrap().iter().cloned());
        }
        spans
    }
}

/// Traces that go to the collector soon.
fn traced(setup: Setup, port: u16) -> Setup {
    setup
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://127.0.0.1:{port}"))
        .env("OTEL_BSP_SCHEDULE_DELAY", "50")
}

fn spans_metric(processor: &Processor, result: &str) -> usize {
    processor.metric("nuclio_processor_spans_total", &[&format!("result=\"{result}\"")]) as usize
}

fn find<'a>(spans: &'a [Value], name: &str) -> &'a Value {
    spans.iter().find(|span| span["name"] == name).unwrap_or_else(|| panic!("no {name} in {spans:#?}"))
}

#[test]
fn a_request_is_two_spans_with_the_attributes_of_the_conventions() {
    let Some(collector) = Collector::start(&[]) else { return };
    let processor = traced(Setup::python(HANDLER), collector.port)
        .env("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20s3cret-token")
        .env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
        .start();
    let headers = [("traceparent", PARENT), ("tracestate", "v=1"), ("User-Agent", "ua")];
    let shown = ask(&processor, "/log?token=s3cret-query", &headers).json();
    let request = collector.request();
    assert_eq!(request["headers"]["authorization"], "Bearer s3cret-token");
    assert_eq!(request["headers"]["content-type"], "application/x-protobuf");
    let mut spans = request["spans"].as_array().unwrap().clone();
    if spans.len() < 2 {
        spans.extend(collector.spans(1));
    }
    let (server, call) = (find(&spans, "GET"), find(&spans, "main:handler"));
    assert_eq!((&server["kind"], &call["kind"]), (&json!(2), &json!(1)));
    assert_eq!((&server["trace"], &call["trace"]), (&json!(TRACE), &json!(TRACE)));
    assert_eq!((&server["parent"], &call["parent"]), (&json!("00f067aa0ba902b7"), &server["id"]));
    assert_eq!((&server["flags"], &call["flags"]), (&json!(0x301), &json!(0x101)));
    assert_eq!(server["state"], "v=1");
    assert!(shown["Traceparent"].as_str().unwrap().contains(call["id"].as_str().unwrap()));
    assert_eq!(processor.stdout.wait_for_record("from the handler")["more"]["span_id"], call["id"]);
    let times = |span: &Value, part: &str| span[part].as_u64().unwrap();
    assert!(times(server, "start") <= times(call, "start") && times(call, "end") <= times(server, "end"));
    for (name, expected) in [
        ("http.request.method", json!("GET")),
        ("http.response.status_code", json!(200)),
        ("url.path", json!("/log")),
        ("url.scheme", json!("http")),
        ("server.address", json!("test")),
        ("server.port", json!(80)),
        ("user_agent.original", json!("ua")),
        ("network.protocol.version", json!("1.1")),
        ("faas.trigger", json!("http")),
    ] {
        assert_eq!(server["attributes"][name], expected, "{name}");
    }
    assert_eq!(server["attributes"]["faas.invocation_id"].as_str().unwrap().len(), 36);
    assert_eq!(call["attributes"]["nuclio.worker.index"], 0);
    assert!(call["attributes"]["nuclio.queue.wait"].as_f64().unwrap() < 10.0);
    let resource = &server["resource"];
    assert_eq!(
        (&resource["service.name"], &resource["faas.name"]),
        (&json!("conformance"), &json!("conformance"))
    );
    assert_eq!(resource["deployment.environment.name"], "test");
    // What may be secret goes nowhere.
    assert!(!request["spans"].to_string().contains("s3cret"));
    assert!(!processor.stdout.text().contains("s3cret"), "{}", processor.stdout.text());
    wait_until("both are counted", || spans_metric(&processor, "exported") == 2);
}

#[test]
fn failures_timeouts_streams_and_clients_that_leave_are_told_apart() {
    let Some(collector) = Collector::start(&[]) else { return };
    let setup = traced(Setup::python(HANDLER), collector.port).spec(json!({"eventTimeout": "1s"}));
    let processor = setup.start();
    let check = |path: &str, status: u16, server_error: Value, call_error: Value| {
        assert_eq!(ask(&processor, path, &[]).status, status);
        let spans = collector.spans(2);
        let (server, call) = (find(&spans, "GET"), find(&spans, "main:handler"));
        assert_eq!(server["attributes"]["http.response.status_code"], status, "{path}");
        assert_eq!(server["attributes"]["error.type"], server_error, "{path}");
        assert_eq!(call["attributes"]["error.type"], call_error, "{path}");
        let status_of = |error: &Value| if error.is_null() { 0 } else { 2 };
        assert_eq!(
            (&server["status"], &call["status"]),
            (&json!(status_of(&server_error)), &json!(status_of(&call_error)))
        );
    };
    check("/raise", 500, json!("500"), json!("handler_failed"));
    check("/teapot", 503, json!("503"), json!("handler_failed"));
    check("/stream", 200, Value::Null, Value::Null);
    check("/sleep", 408, Value::Null, json!("timeout"));
    let mut client = Client::connect(processor.http());
    client.send(b"GET /sleep HTTP/1.1\r\nHost: test\r\n\r\n");
    processor.wait_in_flight(1);
    // With a reset: a client that only closes may still wait for its answer.
    rustix::net::sockopt::set_socket_linger(client.stream(), Some(Duration::ZERO)).unwrap();
    drop(client);
    let spans = collector.spans(2);
    let left = &find(&spans, "GET")["attributes"];
    assert_eq!(
        (&left["error.type"], &left["http.response.status_code"]),
        (&json!("client_left"), &Value::Null)
    );
    // What never reaches a handler has one span.
    let answer = processor.request("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 99999999\r\n\r\n", b"");
    assert_eq!(answer.status, 413);
    assert_eq!(find(&collector.spans(1), "POST")["attributes"]["http.response.status_code"], 413);
}

#[test]
fn a_compiled_handlers_call_is_a_span_too() {
    let (Some(library), Some(collector)) = (plain_c_library(), Collector::start(&[])) else { return };
    let processor = traced(Setup::library(&library), collector.port).start();
    for (path, error) in
        [("/empty", Value::Null), ("/error", json!("handler_failed")), ("/stream", Value::Null)]
    {
        ask(&processor, path, &[("traceparent", PARENT)]);
        let spans = collector.spans(2);
        let call = find(&spans, "main:Handler");
        assert_eq!((&call["parent"], &call["trace"]), (&find(&spans, "GET")["id"], &json!(TRACE)));
        assert_eq!(call["attributes"]["error.type"], error, "{path}");
    }
}

#[test]
fn what_is_not_sampled_is_passed_on_and_not_sent() {
    let Some(collector) = Collector::start(&[]) else { return };
    let setup = traced(Setup::python(HANDLER), collector.port);
    let processor = setup.env("OTEL_TRACES_SAMPLER", "parentbased_always_off").start();
    assert!(ask(&processor, "/", &[]).json()["Traceparent"].as_str().unwrap().ends_with("-02"));
    ask(&processor, "/", &[("traceparent", PARENT)]);
    let spans = collector.spans(2);
    assert!(spans.iter().all(|span| span["trace"] == TRACE), "{spans:#?}");
    assert_eq!(spans_metric(&processor, "dropped"), 0);
}

#[test]
fn a_collector_in_trouble_gets_spans_again_and_what_it_refuses_is_counted() {
    let Some(collector) = Collector::start(&["503", "429", "200", "400", "r1"]) else { return };
    // Every event is a batch.
    let setup = traced(Setup::python(HANDLER), collector.port)
        .env("OTEL_BSP_SCHEDULE_DELAY", "600000")
        .env("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2");
    let processor = setup.start();
    ask(&processor, "/", &[]);
    let answers: Vec<String> =
        (0..3).map(|_| collector.request()["answer"].as_str().unwrap().to_owned()).collect();
    assert_eq!(answers, ["503", "429", "200"]);
    processor.stdout.wait_for_record("Spans are exported again");
    wait_until("they are counted", || spans_metric(&processor, "exported") >= 1);
    let before = spans_metric(&processor, "exported");
    let refused = ask_until(&processor, &collector, "400");
    wait_until("a refusal is final", || spans_metric(&processor, "failed") == refused);
    let partly = ask_until(&processor, &collector, "r1");
    wait_until("one of them was rejected", || spans_metric(&processor, "failed") == refused + 1);
    wait_until("the others were not", || spans_metric(&processor, "exported") == before + partly - 1);
    let warnings = processor.stdout.records();
    let warnings = warnings.iter().filter(|record| {
        record["message"].as_str().is_some_and(|message| message.starts_with("Failed to export spans"))
    });
    assert_eq!(warnings.count(), 1, "one line, then rarely");
}

/// One request; the spans in the collector's next request, which it answered in that way.
fn ask_until(processor: &Processor, collector: &Collector, answer: &str) -> usize {
    ask(processor, "/", &[]);
    let request = collector.request();
    assert_eq!(request["answer"], answer);
    request["spans"].as_array().unwrap().len()
}

#[test]
fn the_last_spans_are_sent_before_the_end() {
    let Some(collector) = Collector::start(&[]) else { return };
    let setup = traced(Setup::python(HANDLER), collector.port).env("OTEL_BSP_SCHEDULE_DELAY", "600000");
    let mut processor = setup.start();
    ask(&processor, "/", &[]);
    processor.signal(15);
    assert_eq!(processor.wait().code(), Some(0));
    assert_eq!(collector.spans(2).len(), 2);
}

#[test]
fn a_full_batch_does_not_wait_and_a_full_queue_drops_and_counts() {
    let Some(collector) = Collector::start(&["200", "-"]) else { return };
    let setup = traced(Setup::python(HANDLER), collector.port)
        .env("OTEL_BSP_SCHEDULE_DELAY", "600000")
        .env("OTEL_BSP_MAX_QUEUE_SIZE", "4")
        .env("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4");
    let mut processor = setup.start();
    for _ in 0..2 {
        ask(&processor, "/", &[]);
    }
    assert_eq!(collector.spans(4).len(), 4);
    wait_until("they are counted", || spans_metric(&processor, "exported") == 4);
    for _ in 0..20 {
        assert_eq!(ask(&processor, "/", &[]).status, 200);
    }
    // One batch is with the collector, which says nothing; one waits.
    wait_until("the rest is dropped", || spans_metric(&processor, "dropped") >= 40 - 8);
    let begun = Instant::now();
    processor.signal(15);
    assert_eq!(processor.wait().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(15), "the end does not wait for the collector");
}

#[test]
fn an_unreachable_collector_costs_a_warning() {
    let mut processor = traced(Setup::python(HANDLER), 1).start();
    for _ in 0..20 {
        assert_eq!(ask(&processor, "/", &[]).status, 200);
    }
    let message = "Failed to export spans; check OTEL_EXPORTER_OTLP_ENDPOINT";
    let record = processor.stdout.wait_for_record(message);
    assert_eq!(
        (&record["level"], &record["more"]["url"]),
        (&json!("warn"), &json!("http://127.0.0.1:1/v1/traces"))
    );
    processor.signal(15);
    assert_eq!(processor.end().code(), Some(0));
    let warnings = processor.stdout.records();
    assert_eq!(warnings.iter().filter(|record| record["message"] == message).count(), 1);
}

#[test]
fn settings_that_cannot_be_used_turn_tracing_off_with_a_warning() {
    let processor = Setup::python(HANDLER)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317")
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        .start();
    processor.stdout.wait_for("a warning", |line| line.contains("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"));
    assert_eq!(ask(&processor, "/", &[]).json(), json!({}));
}

#[test]
fn a_tick_begins_a_trace_that_its_handler_finds_beside_its_own_headers() {
    let Some(collector) = Collector::start(&[]) else { return };
    let handler = "
def handler(context, event):
    context.logger.info_with('tick', headers={k: str(v) for k, v in event.headers.items()})
";
    let tick =
        json!({"kind": "cron", "attributes": {"interval": "1h", "event": {"headers": {"X-One": "1"}}}});
    let now =
        json!({"kind": "cron", "attributes": {"interval": "100ms", "event": {"headers": {"X-One": "1"}}}});
    let mut setup = traced(Setup::python(handler), collector.port);
    setup.function["spec"]["triggers"] = json!({"now": now, "later": tick});
    setup.function["spec"]["disableDefaultHTTPTrigger"] = json!(false);
    let processor = setup.start();
    let spans = collector.spans(2);
    let event = find(&spans, "cron now");
    assert_eq!((&event["kind"], &event["parent"]), (&json!(1), &json!("")));
    assert_eq!(event["attributes"]["faas.trigger"], "timer");
    let call = spans.iter().find(|span| span["parent"] == event["id"]).unwrap();
    let record = processor.stdout.wait_for_record("tick");
    assert_eq!(record["more"]["headers"]["X-One"], "1");
    let shown = record["more"]["headers"]["Traceparent"].as_str().unwrap().to_owned();
    assert!(shown.contains(record["more"]["span_id"].as_str().unwrap()));
    assert!(call["trace"] != TRACE && call["attributes"]["error.type"].is_null());
}

#[test]
fn every_event_of_a_batch_has_its_own_trace() {
    let handler = "
def handler(context, events):
    return [context.Response(body=event.headers['Traceparent'], event_id=event.id) for event in events]
";
    let batch = json!({"batch": {"mode": "enable", "batchSize": 2, "timeout": "5m"}});
    let Some(collector) = Collector::start(&[]) else { return };
    let processor = traced(Setup::python(handler), collector.port).trigger(batch).start();
    let traces = ["1".repeat(32), "2".repeat(32)];
    let mut clients = Vec::new();
    for trace in &traces {
        let mut client = Client::connect(processor.http());
        let parent = format!("00-{trace}-00f067aa0ba902b7-01");
        client.send(format!("GET / HTTP/1.1\r\nHost: t\r\ntraceparent: {parent}\r\n\r\n").as_bytes());
        clients.push(client);
    }
    let answers: Vec<String> =
        clients.iter_mut().map(|client| client.read_answer(false).unwrap().text()).collect();
    let spans = collector.spans(4);
    for (trace, answer) in traces.iter().zip(&answers) {
        let call =
            spans.iter().find(|span| span["trace"] == **trace && span["name"] == "main:handler").unwrap();
        let server = spans.iter().find(|span| span["trace"] == **trace && span["name"] == "GET").unwrap();
        assert_eq!(call["parent"], server["id"]);
        assert_eq!(*answer, format!("00-{trace}-{}-01", call["id"].as_str().unwrap()));
    }
}

#[test]
fn cloud_events_of_one_request_have_a_call_each_below_it() {
    let Some(collector) = Collector::start(&[]) else { return };
    let processor = traced(Setup::python(HANDLER), collector.port).start();
    let event = |id: &str| json!({"specversion": "1.0", "id": id, "source": "s", "type": "t", "data": "x"});
    let body = json!([event("a"), event("b")]).to_string();
    let head = format!(
        "POST / HTTP/1.1\r\nHost: t\r\nContent-Type: application/cloudevents-batch+json\r\ntraceparent: {PARENT}\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    assert_eq!(processor.request(&head, body.as_bytes()).status, 200);
    let spans = collector.spans(3);
    let request = find(&spans, "POST");
    let calls: Vec<&Value> = spans.iter().filter(|span| span["name"] == "main:handler").collect();
    assert!(calls.len() == 2 && calls[0]["id"] != calls[1]["id"]);
    assert!(calls.iter().all(|call| call["parent"] == request["id"] && call["trace"] == TRACE));
}

#[test]
fn a_wrapper_of_the_go_processor_is_traced_as_our_own_shim() {
    let Some(collector) = Collector::start(&[]) else { return };
    let setup = traced(Setup::python(""), collector.port);
    setup.write("wrapper.py", include_str!("../handlers/python/wrapper_v1/wrapper.py"));
    setup.write("wrapper_common.py", "");
    let path = setup.directory.path().join("wrapper.py").display().to_string();
    let batch = json!({"batch": {"mode": "enable", "batchSize": 1, "timeout": "5s"}});
    let processor = setup.env("NUCLIO_PYTHON_WRAPPER_PATH", &path).trigger(batch).start();
    for (path, status, error) in [("/", 200, Value::Null), ("/raises", 500, json!("handler_failed"))] {
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: t\r\ntraceparent: {PARENT}\r\nContent-Length: 1\r\n\r\n");
        assert_eq!(processor.request(&head, b"x").status, status);
        let spans = collector.spans(2);
        let call = find(&spans, "main:handler");
        assert_eq!((&call["parent"], &call["trace"]), (&find(&spans, "POST")["id"], &json!(TRACE)));
        assert_eq!(call["attributes"]["error.type"], error, "{path}");
    }
}
