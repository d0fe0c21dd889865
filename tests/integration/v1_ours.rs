//! Our own Python shim in the place of a wrapper of the Go processor: what `handlers.json` does not show.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Setup, wait_until};

/// Our shim under the names of newer wrappers, which also have an async form.
fn as_newer_wrapper(setup: Setup) -> Setup {
    let shim = include_str!("../../runtimes/python/_nuclio_wrapper.py");
    for (name, text) in [
        ("_nuclio_wrapper.py", shim),
        ("_nuclio_async_wrapper.py", shim),
        ("_nuclio_v1.py", include_str!("../../runtimes/python/_nuclio_v1.py")),
        ("_nuclio_more.py", include_str!("../../runtimes/python/_nuclio_more.py")),
        ("_nuclio_several.py", include_str!("../../runtimes/python/_nuclio_several.py")),
        ("_nuclio_streams.py", include_str!("../../runtimes/python/_nuclio_streams.py")),
        ("wrapper_common.py", ""),
    ] {
        setup.write(name, text);
    }
    let path = setup.directory.path().join("_nuclio_wrapper.py").display().to_string();
    setup.env("NUCLIO_PYTHON_WRAPPER_PATH", &path).env("NUCLIO_SHIM_PROTOCOL", "1")
}

const CALLBACK: &str = "
import asyncio, os

def init_context(context):
    context.platform.set_termination_callback(lambda: open(os.path.dirname(__file__) + '/ended', 'x').close())

async def handler(context, event):
    context.logger.info_with('called', path=event.path)
    await asyncio.sleep(float(event.fields.get('wait', 0)))
    return event.body or 'nothing'
";

#[test]
fn many_events_are_in_work_at_once_in_the_async_form() {
    let asynchronous = json!({"mode": "async", "async": {"maxConnectionsNumber": 40}});
    let setup = as_newer_wrapper(Setup::python(CALLBACK)).trigger(asynchronous);
    let mut processor = setup.start();
    let begun = Instant::now();
    thread::scope(|scope| {
        for number in 0..40_usize {
            let processor = &processor;
            scope.spawn(move || {
                let body = format!("{number}").repeat(if number % 8 == 0 { 100_000 } else { 1 });
                assert_eq!(processor.post("/?wait=0.5", &body).text(), body);
            });
        }
    });
    assert!(begun.elapsed() < Duration::from_secs(15), "one after the other takes 20 s");
    assert_eq!(processor.children().len(), 1);
    let ended = processor.directory.path().join("ended");
    assert!(!ended.exists());
    processor.signal(libc::SIGTERM);
    assert_eq!(processor.wait().code(), Some(0));
    assert!(ended.exists(), "the termination callback has run");
    assert!(!processor.stdout.text().contains("took too long"), "{}", processor.stdout.text());
}

#[test]
fn the_termination_callback_runs_once_the_last_event_is_answered() {
    let setup = Setup::python(CALLBACK).over_protocol_1("python");
    let mut processor = setup.start();
    let late = processor.send("/?wait=0.7", "late");
    wait_until("it is in work", || processor.stdout.text().contains("called"));
    let ended = processor.directory.path().join("ended");
    processor.signal(libc::SIGTERM);
    assert_eq!(processor.wait().code(), Some(0));
    assert_eq!(late.join().unwrap().text(), "late");
    assert!(ended.exists());
    assert!(!processor.stdout.text().contains("took too long"), "{}", processor.stdout.text());
}

#[test]
fn an_event_that_times_out_shows_where_it_is_and_costs_the_worker() {
    let source = "import time\ndef handler(context, event):\n    time.sleep(60 if event.path == '/hang' else 0)\n    return 'ok'\n";
    let setup = Setup::python(source).over_protocol_1("python").spec(json!({"eventTimeout": "1s"}));
    let processor = setup.start();
    assert_eq!(processor.post("/hang", "").status, 408);
    assert_eq!(processor.post("/", "").text(), "ok");
    processor.stderr.wait_for("the stack", |line| line.contains("main.py"));
}
