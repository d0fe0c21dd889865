//! What only Python handlers do: several events at a time on one loop, cancelling that reaches coroutines, streams that
//! browsers read, deadlines that show where a handler hangs.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::json;

use crate::harness::{Client, Processor, Setup, wait_until};
use crate::servers::program;

/// A trigger whose workers have so many events at once.
fn several(source: &str, events: usize) -> Setup {
    let mode = json!({"mode": "async", "async": {"maxConnectionsNumber": events}});
    Setup::python(source).trigger(mode)
}

/// Handlers that answer when a second event has come.
const MEETS: &str = "import asyncio
waiting = []
async def handler(context, event):
    future = asyncio.get_running_loop().create_future()
    waiting.append(future)
    if len(waiting) == 2:
        for one in waiting: one.set_result('met')
        waiting.clear()
    return await future
";

#[test]
fn mode_async_puts_a_hundred_waiting_events_on_one_python_worker() {
    let source = "import asyncio\nasync def handler(context, event):\n    await asyncio.sleep(0.1)\n    return event.path\n";
    let processor = several(source, 0).start();
    let mut clients: Vec<Client> = (0..100).map(|_| Client::connect(processor.http())).collect();
    let begun = Instant::now();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(format!("GET /{number} HTTP/1.1\r\nHost: t\r\n\r\n").as_bytes());
    }
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.read_answer(false).unwrap().text(), format!("/{number}"));
    }
    let taken = begun.elapsed();
    println!("100 events of 0.1 s took {taken:?}");
    assert!(taken < Duration::from_secs(5), "{taken:?}: one after the other they would take 10 s");
    assert_eq!(processor.children().len(), 1);
}

#[test]
fn without_mode_async_a_python_handler_has_one_event_at_a_time() {
    let source = "import asyncio\nrunning = 0\nasync def handler(context, event):
    global running
    running += 1
    seen = running
    await asyncio.sleep(0.03)
    running -= 1
    return str(seen)\n";
    for (setup, most) in [(Setup::python(source), 1), (several(source, 2), 2)] {
        let processor = setup.start();
        let answers: Vec<_> = (0..6).map(|_| processor.send("/", "")).collect();
        let seen = answers.into_iter().map(|answer| answer.join().unwrap().text().parse().unwrap());
        assert_eq!(seen.max(), Some(most));
    }
}

#[test]
fn a_plain_python_function_in_mode_async_is_served_one_by_one_with_a_warning() {
    let source = "import time\ndef handler(context, event):\n    time.sleep(0.02)\n    return event.path\n";
    let processor = several(source, 10).start();
    let answers: Vec<_> = (0..4).map(|_| processor.send("/plain", "")).collect();
    for answer in answers {
        assert_eq!(answer.join().unwrap().text(), "/plain");
    }
    processor.stdout.wait_for("the remedy", |line| line.contains("make it async def"));
}

#[test]
fn a_python_crash_with_many_events_in_work_answers_each_once() {
    let source = "import asyncio, os\ncount = 0\nasync def handler(context, event):
    global count
    if event.path == '/': return 'fine'
    count += 1
    if count == 20: os._exit(3)
    await asyncio.sleep(30)\n";
    let processor = several(source, 100).start();
    let mut clients: Vec<Client> = (0..20).map(|_| Client::connect(processor.http())).collect();
    for client in &mut clients {
        client.send_post("/wait", b"");
    }
    for client in &mut clients {
        let answer = client.read_answer(false).unwrap();
        assert!(answer.status == 500 && answer.text().contains("exited with code 3"), "{}", answer.text());
    }
    processor.wait_ready();
    for client in &mut clients {
        // The same connections: whatever else had been said would be read here.
        client.send(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n");
        assert_eq!(client.read_answer(false).unwrap().text(), "fine");
    }
    processor.wait_in_flight(0);
    assert_eq!(processor.restarts("exit"), 1);
}

#[test]
fn a_client_that_leaves_cancels_its_coroutine_and_no_other() {
    let source = "import asyncio\nasync def handler(context, event):
    if event.path == '/other':
        await asyncio.sleep(0.3)
        return 'undisturbed'
    context.logger.warn('begun')
    try: await asyncio.sleep(30)
    except asyncio.CancelledError:
        context.logger.warn('cancelled')
        raise\n";
    let processor = several(source, 10).start();
    let mut client = Client::connect(processor.http());
    client.send_post("/", b"");
    processor.stdout.wait_for_record("begun");
    // Sooner it may only have closed its sending half.
    std::thread::sleep(Duration::from_millis(2100));
    let other = processor.send("/other", "");
    drop(client);
    processor.stdout.wait_for_record("cancelled");
    assert_eq!(other.join().unwrap().text(), "undisturbed");
    processor.wait_in_flight(0);
    assert_eq!(processor.all_restarts(), 0);
}

#[test]
fn in_mode_sync_a_client_that_leaves_does_not_disturb_the_handler() {
    let source = "import asyncio\nasync def handler(context, event):
    context.logger.warn('begun')
    await asyncio.sleep(2.5)
    context.logger.warn('finished')\n";
    let processor = Setup::python(source).start();
    let mut client = Client::connect(processor.http());
    client.send_post("/", b"");
    processor.stdout.wait_for_record("begun");
    std::thread::sleep(Duration::from_millis(2100));
    drop(client);
    processor.stdout.wait_for_record("finished");
    assert_eq!(processor.all_restarts(), 0);
}

#[test]
fn a_coroutine_past_its_deadline_is_cancelled_shows_where_it_waits_and_costs_nobody_else() {
    let source = "import asyncio\nasync def far_away():
    await asyncio.sleep(30)
async def handler(context, event):
    if event.path == '/hang': await far_away()
    if event.path == '/stubborn':
        try: await asyncio.sleep(30)
        except asyncio.CancelledError: await asyncio.sleep(3)
    await asyncio.sleep(0.7)
    return event.path\n";
    let processor = several(source, 10).spec(json!({"eventTimeout": "1s"})).start();
    let (hung, stubborn) = (processor.send("/hang", ""), processor.send("/stubborn", ""));
    processor.wait_in_flight(2);
    std::thread::sleep(Duration::from_millis(600));
    let sibling = processor.send("/sibling", "");
    assert_eq!((hung.join().unwrap().status, stubborn.join().unwrap().status), (408, 408));
    assert_eq!(sibling.join().unwrap().text(), "/sibling");
    processor.stdout.wait_for("the stack", |line| {
        line.contains("in far_away") && line.contains("main.py") && line.contains("await asyncio.sleep(30)")
    });
    processor.stdout.wait_for("the reason", |line| line.contains("must not keep CancelledError to itself"));
    processor.wait_in_flight(0);
    assert_eq!(processor.all_restarts(), 0);
    assert_eq!(processor.metric("nuclio_processor_event_timeouts_total", &[]), 2.0);
}

#[test]
fn a_coroutine_that_blocks_the_loop_past_its_deadline_costs_the_worker() {
    let source = "import asyncio, time\nasync def handler(context, event):
    if event.path == '/block': time.sleep(30)
    if event.path == '/wait': await asyncio.sleep(30)
    return 'fine'\n";
    let processor = several(source, 10).spec(json!({"eventTimeout": "500ms"})).start();
    let wait = processor.send("/wait", "");
    processor.wait_in_flight(1);
    let block = processor.send("/block", "");
    let answers = [wait.join().unwrap(), block.join().unwrap()];
    assert!(answers.iter().any(|answer| answer.status == 408), "{answers:?}");
    for answer in answers {
        assert!(answer.status == 408 || answer.text().contains("worker restarted"), "{}", answer.text());
    }
    processor.stderr.wait_for("the stack", |line| line.contains("main.py\", line 3 in handler"));
    processor.wait_ready();
    wait_until("it is counted", || processor.restarts("timeout") == 1);
    assert_eq!(processor.get("/").text(), "fine");
}

#[test]
fn a_plain_handler_past_its_deadline_shows_its_stack_and_its_siblings_do_not_notice() {
    let source = "import time\ndef deep():\n    while True: time.sleep(0.01)
def handler(context, event):
    if event.path == '/hang': deep()
    time.sleep(0.01)
    return context.worker_id\n";
    let setup = Setup::python(source).spec(json!({"eventTimeout": "600ms"}));
    let processor = setup.trigger(json!({"numWorkers": 2})).start();
    let hung = processor.send("/hang", "");
    processor.wait_in_flight(1);
    let until = Instant::now() + Duration::from_millis(1500);
    while Instant::now() < until {
        assert_eq!(processor.get("/").status, 200);
    }
    assert_eq!(hung.join().unwrap().status, 408);
    processor.stderr.wait_for("the stack", |line| line.contains("main.py\", line 3 in deep"));
    wait_until("it is counted", || processor.restarts("timeout") == 1);
    processor.wait_ready();
    assert_eq!(processor.all_restarts(), 1);
}

#[test]
fn streamed_request_bodies_arrive_side_by_side_on_one_loop() {
    let source = "async def handler(context, event):
    total = 0
    async for piece in event.body:
        if not total: context.logger.warn('first of ' + event.path)
        total += len(piece)
    return '%s %d' % (event.path, total)
handler.stream_body = True\n";
    let processor = several(source, 10).start();
    let mut clients: Vec<Client> = (0..3).map(|_| Client::connect(processor.http())).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        let head = format!("POST /{number} HTTP/1.1\r\nHost: t\r\nContent-Length: 600000\r\n\r\n");
        client.send(head.as_bytes());
        client.send(&vec![b'x'; 100_000]);
    }
    // None has ended when all have begun.
    for number in 0..3 {
        processor.stdout.wait_for_record(&format!("first of /{number}"));
    }
    for (number, client) in clients.iter_mut().enumerate().rev() {
        client.send(&vec![b'x'; 500_000]);
        assert_eq!(client.read_answer(false).unwrap().text(), format!("/{number} 600000"));
    }
}

#[test]
fn events_of_one_loop_keep_their_logs_apart() {
    let source = format!(
        "{}    ",
        MEETS.replace("future = ", "context.logger.info_with('mine', path=event.path)\n    future = ")
    );
    let processor = several(source.trim_end(), 10).start();
    let ask = |path: &str| {
        let mut client = Client::connect(processor.http());
        let head = format!("GET {path} HTTP/1.1\r\nHost: t\r\nX-Nuclio-Log-Level: info\r\n\r\n");
        client.send(head.as_bytes());
        client
    };
    let mut clients = ["/a", "/b"].map(|path| (path, ask(path)));
    for (path, client) in &mut clients {
        let answer = client.read_answer(false).unwrap();
        let logs: serde_json::Value = serde_json::from_str(answer.header("X-Nuclio-Logs").unwrap()).unwrap();
        assert_eq!((answer.text().as_str(), logs.as_array().unwrap().len()), ("met", 1));
        assert_eq!(logs[0]["path"], **path);
    }
}

#[test]
fn a_stop_lets_all_events_of_the_loop_end() {
    let source = "import asyncio\nasync def end(): print('callback ran')
def init_context(context): context.platform.set_termination_callback(end)
async def handler(context, event):
    await asyncio.sleep(0.4)
    return event.path\n";
    let mut processor = several(source, 10).start();
    let answers: Vec<_> =
        ["/a", "/b", "/c"].into_iter().map(|path| (path, processor.send(path, ""))).collect();
    processor.wait_in_flight(3);
    processor.signal(15);
    for (path, answer) in answers {
        assert_eq!(answer.join().unwrap().text(), path);
    }
    assert_eq!(processor.end().code(), Some(0));
    processor.stdout.wait_for("the callback", |line| line == "callback ran");
}

#[test]
fn an_event_loop_that_is_not_known_ends_the_start() {
    let setup =
        Setup::python("def handler(c, e): pass\n").env("NUCLIO_PYTHON_EVENT_LOOP", "gevent").no_wait();
    let mut processor = setup.start();
    assert_eq!(processor.end().code(), Some(1));
    let said = processor.stderr.text();
    assert!(said.contains("NUCLIO_PYTHON_EVENT_LOOP") && said.contains("asyncio or uvloop"), "{said}");
}

#[test]
fn uvloop_that_is_not_installed_is_warned_about() {
    let source = "import asyncio\nasync def handler(context, event):
    await asyncio.sleep(0)
    return type(asyncio.get_running_loop()).__module__.split('.')[0]\n";
    let processor = several(source, 10).env("NUCLIO_PYTHON_EVENT_LOOP", "uvloop").start();
    let found = processor.get("/").text();
    if found == "asyncio" {
        processor
            .stdout
            .wait_for("a warning", |line| line.contains("asks for uvloop, which cannot be imported"));
    } else {
        assert_eq!(found, "uvloop");
    }
}

/// Events every 50 ms for ever, in mode `sync` and `async`, from plain and async generators.
const EVENTS: &str = "import asyncio, os, time
PAGE = '''<!DOCTYPE html><script>
const seen = [], source = new EventSource('/events')
source.onmessage = (message) => {
    seen.push(message.data)
    if (seen.length == 3) { source.close(); fetch('/seen/' + seen.join()) }
}
</script>'''
async def pieces(context):
    number = 0
    try:
        while True:
            number += 1
            yield 'data: %d\\n\\n' % number
            await asyncio.sleep(0.05)
    finally:
        context.logger.warn('closed')
def plain(context):
    number = 0
    try:
        while True:
            number += 1
            yield 'data: %d\\n\\n' % number
            time.sleep(0.05)
    finally:
        context.logger.warn('closed')
def answer(context, event):
    if event.path == '/': return context.Response(body=PAGE, content_type='text/html')
    if event.path.startswith('/seen'): context.logger.warn('the page has seen ' + event.path)
    if event.path.startswith('/seen') or event.path == '/favicon.ico': return ''
    if event.path == '/broken': return context.Response(body=broken())
    body = plain(context) if event.path == '/plain' else pieces(context)
    return context.Response(body=body, content_type='text/event-stream', headers={'Cache-Control': 'no-cache'})
def broken():
    yield 'begun'
    while not os.path.exists(os.path.dirname(__file__) + '/go'): time.sleep(0.01)
    raise ValueError('broken on purpose')
";

fn events(mode: &str) -> Processor {
    let source = match mode {
        "async" => format!("{EVENTS}async def handler(context, event): return answer(context, event)\n"),
        _ => format!("{EVENTS}def handler(context, event): return answer(context, event)\n"),
    };
    Setup::python(&source).trigger(json!({"mode": mode})).start()
}

#[test]
fn curl_sees_server_sent_events_as_they_are_written_and_its_leaving_closes_the_generator() {
    let Some(curl) = program("curl") else { return };
    for (mode, path) in [("sync", "/events"), ("sync", "/plain"), ("async", "/events"), ("async", "/plain")] {
        let processor = events(mode);
        let output = Command::new(&curl)
            .args([
                "-sN",
                "-i",
                "--max-time",
                "1",
                &format!("http://127.0.0.1:{}{path}", processor.ports.http),
            ])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("text/event-stream") && text.contains("data: 3\n\n"), "{mode} {path}: {text}");
        // It was ended by its own clock: 28.
        assert_eq!(output.status.code(), Some(28), "{mode} {path}");
        processor.stdout.wait_for_record("closed");
        processor.wait_in_flight(0);
        assert_eq!(processor.all_restarts(), 0);
    }
}

#[test]
fn a_generator_that_fails_midway_cuts_the_connection_and_logs_its_traceback() {
    for mode in ["sync", "async"] {
        let processor = events(mode);
        let mut client = Client::connect(processor.http());
        client.send(b"GET /broken HTTP/1.1\r\nHost: t\r\n\r\n");
        assert_eq!(client.read_head().unwrap().status, 200);
        assert_eq!(client.read_chunk().unwrap().unwrap(), b"begun");
        processor.touch("go");
        let mut text = String::new();
        std::io::Read::read_to_string(client.reader(), &mut text).unwrap_or_default();
        assert!(!text.contains("\r\n0\r\n\r\n"), "{text:?}");
        processor.stdout.wait_for("the traceback", |line| {
            line.contains("broken on purpose") && line.contains("main.py") && line.contains("in broken")
        });
        processor.wait_in_flight(0);
        assert_eq!(processor.all_restarts(), 0);
    }
}

/// A browser on a page; it and all of its processes end with the test.
struct Browser {
    child: Child,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// `None`, and a line that says so: there is none.
    fn open(url: &str) -> Option<Self> {
        let chromium = program("chromium")?;
        let profile = tempfile::tempdir().unwrap();
        let child = Command::new(&chromium)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .args(["--remote-debugging-port=0", "--remote-debugging-address=127.0.0.1"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        Some(Self { child, _profile: profile })
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let group = Pid::from_raw(self.child.id() as i32).unwrap();
        kill_process_group(group, Signal::KILL).unwrap_or_default(); // Gone already is as good.
        drop(self.child.wait());
    }
}

#[test]
fn a_browser_reads_server_sent_events() {
    for mode in ["sync", "async"] {
        let processor = events(mode);
        let Some(_browser) = Browser::open(&format!("http://127.0.0.1:{}/", processor.ports.http)) else {
            return;
        };
        processor.stdout.wait_for_record("the page has seen /seen/1,2,3");
        processor.stdout.wait_for_record("closed");
        assert_eq!(processor.all_restarts(), 0);
    }
}

/// Prints a request's body: a dark image of 3 MB with a bright rectangle, as base64 in JSON.
const IMAGE: &str = "import base64, json, os, struct, zlib
size = 1800
def chunk(kind, data): return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
dark = bytes(range(128)) * 2
rows = [b'\\0' + os.urandom(size).translate(dark) for _ in range(size)]
for y in range(100, 200): rows[y] = rows[y][:301] + b'\\xff' * 50 + rows[y][351:]
head = struct.pack('>IIBBBBB', size, size, 8, 0, 0, 0, 0)
png = b'\\x89PNG\\r\\n\\x1a\\n' + chunk(b'IHDR', head) + chunk(b'IDAT', zlib.compress(b''.join(rows), 1)) + chunk(b'IEND', b'')
print(json.dumps({'image': base64.b64encode(png).decode(), 'threshold': 0.6}), end='')
";

#[test]
fn the_example_of_a_detector_takes_images_of_several_megabytes_by_two_workers() {
    let setup = Setup::new("python", "detector:handler");
    setup.write("detector.py", include_str!("../../examples/python/detector/detector.py"));
    let limit = json!({"numWorkers": 2, "attributes": {"maxRequestBodySize": 33_554_432}});
    let processor = setup.python_environment().trigger(limit).start();
    let image = Command::new(crate::harness::python()).args(["-c", IMAGE]).output().unwrap().stdout;
    assert!(image.len() > 3_000_000, "{} bytes", image.len());
    let detect = |content_type: &str, body: &[u8]| {
        let head = format!(
            "POST / HTTP/1.1\r\nHost: t\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        processor.request(&head, body)
    };
    let found = json!([{"confidence": "0.99", "label": "bright", "type": "rectangle", "points": [300, 100, 350, 200]}]);
    std::thread::scope(|scope| {
        for content_type in
            ["application/json", "application/json; charset=utf-8", "text/plain", "application/json"]
        {
            let (detect, image, found) = (&detect, &image, &found);
            scope.spawn(move || assert_eq!(detect(content_type, image).json(), *found));
        }
    });
    assert_eq!(detect("application/json", b"{}").status, 400);
    let head = "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 33554433\r\n\r\n";
    assert_eq!(processor.request(head, b"").status, 413);
    assert_eq!(processor.all_restarts(), 0);
}

#[test]
fn an_mlrun_serving_graph_answers() {
    let mlrun = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/python-mlrun");
    if !mlrun.join("complete").exists() {
        return println!("skipped: MLRun is not installed (scripts/test --full installs it)");
    }
    let setup = Setup::new("python", "graph:handler");
    setup.write("graph.py", include_str!("../../examples/python/mlrun/graph.py"));
    let interpreter = mlrun.join("bin/python3").display().to_string();
    let setup = setup.python_environment().env("NUCLIO_PYTHON_EXE_PATH", &interpreter);
    let processor = setup.trigger(json!({"mode": "async"})).start();
    let ask = || {
        let body = r#"{"texts": ["one", "three"]}"#;
        let head = format!(
            "POST / HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        processor.request(&head, body.as_bytes())
    };
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(ask().json()["outputs"], json!([6, 10])));
        }
    });
    assert_eq!(processor.all_restarts(), 0);
}

#[test]
fn a_python_function_calls_another_by_the_platform() {
    // Functions listen on port 8080 of a host of their own; every address of 127.0.0.0/8 is such a host here.
    let id = std::process::id();
    let host = format!("127.{}.{}.7", 1 + (id >> 8) % 250, id % 256);
    let other = "def handler(context, event):
    return {'path': event.path, 'body': event.body, 'target': event.get_header('x-nuclio-target')}\n";
    let _other = Setup::python(other).trigger(json!({"url": format!("{host}:8080")})).start();
    let source = format!(
        "def handler(context, event):
    event.body, event.path = {{'n': 1}}, '/changed'
    answer = context.platform.call_function('other', event, service_name_override='{host}')
    return [(answer.status_code, answer.body)]\n"
    );
    let processor = Setup::python(&source).start();
    let answer = processor.post("/", "hi");
    let expected = json!({"path": "/changed", "body": {"n": 1}, "target": "other"});
    assert_eq!((answer.status, answer.json()), (200, expected));
}

/// The name of an interpreter's file tells whether this binary has the shim's code for it.
#[test]
fn an_interpreter_of_unknown_version_gets_the_shim_compiled_once_for_its_workers() {
    let setup = Setup::python("def handler(context, event):\n    return 'hello'\n");
    let interpreter = setup.directory.path().join("python");
    let script = format!("#!/bin/sh\nexec {} \"$@\"\n", crate::harness::python());
    std::fs::write(&interpreter, &script).unwrap();
    std::fs::set_permissions(&interpreter, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let setup =
        setup.env("NUCLIO_PYTHON_EXE_PATH", interpreter.to_str().unwrap()).trigger(json!({"numWorkers": 2}));
    let processor = setup.start();
    let record = processor.stdout.wait_for_record("Using the shim embedded in the processor");
    assert_eq!(record["more"]["compiled"], json!(false));
    assert_eq!(processor.get("/").text(), "hello");
    assert_eq!(processor.children().len(), 2);
}
