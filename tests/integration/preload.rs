//! Python's `preload`: workers that are forked from one process which has loaded the handler, and behave in everything
//! else as those that are started by themselves.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::harness::{Client, Processor, Setup, alive, children_of, wait_until};
use crate::support::kill;

/// Answers with what its process is.
const TELLS: &str = "
import json, os, random, sys
IMPORTED_BY = os.getpid()
COUNT = [0]
SEED = random.random()

def init_context(context):
    context.user_data.init = os.getpid()

def handler(context, event):
    COUNT[0] += 1
    if event.path == '/exit': os._exit(3)
    if event.path == '/stderr': sys.stderr.write('words of %d\\n' % os.getpid())
    with open('/proc/self/stat') as file: session = file.read().rpartition(')')[2].split()
    return json.dumps({'pid': os.getpid(), 'imported': IMPORTED_BY, 'init': context.user_data.init,
        'worker': context.worker_id, 'parent': os.getppid(), 'group': os.getpgid(0), 'count': COUNT[0],
        'random': random.random(), 'argv': len(sys.argv), 'shim': 'NUCLIO_SHIM_FD' in os.environ,
        'name': os.environ.get('NUCLIO_FUNCTION_NAME')})
";

fn preload(source: &str, workers: usize) -> Setup {
    Setup::python(source)
        .trigger(json!({"numWorkers": workers}))
        .spec(json!({"runtimeAttributes": {"preload": true}}))
}

/// What each worker says of itself, once all have answered.
fn each(processor: &Processor, workers: usize) -> Vec<Value> {
    let mut said: Vec<Value> = Vec::new();
    wait_until("every worker has answered", || {
        let answer = processor.get("/").json();
        if said.iter().all(|other| other["pid"] != answer["pid"]) {
            said.push(answer);
        }
        said.len() == workers
    });
    said
}

fn pid(said: &Value) -> i32 {
    said["pid"].as_i64().unwrap() as i32
}

/// What some worker says of itself; `None`: the event came to one that was just killed.
fn said(processor: &Processor) -> Option<Value> {
    let answer = processor.get("/");
    (answer.status == 200).then(|| answer.json())
}

/// The process that workers are forked from.
fn server(processor: &Processor, said: &Value) -> i32 {
    let imported = said["imported"].as_i64().unwrap() as i32;
    assert!(processor.children().contains(&imported));
    imported
}

#[test]
fn preloaded_workers_share_one_import_and_are_workers_like_others() {
    let processor = preload(TELLS, 4).start();
    let said = each(&processor, 4);
    let distinct = |name: &str| said.iter().map(|one| one[name].to_string()).collect::<HashSet<_>>().len();
    assert_eq!((distinct("imported"), distinct("pid"), distinct("worker"), distinct("random")), (1, 4, 4, 4));
    for one in &said {
        assert_ne!(one["imported"], one["pid"], "it was imported elsewhere");
        assert_eq!(one["init"], one["pid"], "init_context runs in each worker");
        assert_eq!(one["parent"], json!(processor.child.id()), "it is the processor's own child");
        assert_eq!(one["group"], one["pid"], "it leads a group");
        assert_eq!(
            (&one["argv"], &one["shim"], &one["name"]),
            (&json!(1), &json!(false), &json!("conformance"))
        );
    }
    // The workers, and what they are forked from.
    assert_eq!(processor.children().len(), 5);
}

#[test]
fn a_preloaded_worker_that_ends_is_explained_and_forked_again() {
    let processor = preload(TELLS, 1).start();
    let first = processor.get("/").json();
    let answer = processor.get("/exit");
    assert!(answer.status == 500 && answer.text().contains("exited with code 3"), "{}", answer.text());
    processor.wait_ready();
    let second = processor.get("/").json();
    assert_ne!(first["pid"], second["pid"]);
    assert_eq!(first["imported"], second["imported"], "it was not imported again");
    assert_eq!(second["count"], 1, "nothing of its predecessor is left");
    kill(pid(&second));
    wait_until("a third one", || said(&processor).is_some_and(|third| third["pid"] != second["pid"]));
    let record =
        processor.stdout.wait_for("the signal", |line| line.contains("killed by signal 9 (SIGKILL)"));
    assert!(record.contains(&second["pid"].to_string()), "{record}");
    assert_eq!((processor.restarts("exit"), processor.restarts("signal")), (1, 1));
    wait_until("nothing is left of them", || ![&first, &second].iter().any(|one| alive(pid(one))));
}

#[test]
fn a_preloaded_worker_writes_to_its_own_standard_error_and_its_last_words_are_passed_on() {
    let processor = preload(TELLS, 2).start();
    let answer = processor.get("/stderr").json();
    let words = format!("words of {}", answer["pid"]);
    processor.stderr.wait_for(&words, |line| line == words);
}

#[test]
fn a_preloaded_worker_past_its_deadline_shows_where_it_hangs() {
    let source = "import time\ndef far_away():\n    time.sleep(60)\ndef handler(context, event):
    if event.path == '/hang': far_away()
    return 'fine'\n";
    let processor = preload(source, 1).spec(json!({"eventTimeout": "500ms"})).start();
    assert_eq!(processor.get("/hang").status, 408);
    processor.stderr.wait_for("its stack", |line| line.contains("far_away"));
    processor.wait_ready();
    assert_eq!(processor.get("/").text(), "fine");
    assert_eq!(processor.restarts("timeout"), 1);
}

#[test]
fn when_the_process_that_workers_are_forked_from_dies_they_go_on_and_the_next_one_needed_starts_it_anew() {
    let processor = preload(TELLS, 2).start();
    let before = each(&processor, 2);
    let server = server(&processor, &before[0]);
    kill(server);
    let message = "The process that workers are forked from has ended; they go on, and the next one that is needed \
                   starts it anew";
    let record = processor.stdout.wait_for_record(message);
    assert!(record.to_string().contains("SIGKILL"), "{record}");
    let after = each(&processor, 2);
    let pids = |said: &[Value]| said.iter().map(pid).collect::<HashSet<_>>();
    assert_eq!(pids(&before), pids(&after), "nobody else ended");
    kill(pid(&before[0]));
    wait_until("a worker of another import", || {
        said(&processor).is_some_and(|after| after["imported"] != before[0]["imported"])
    });
    processor.wait_ready();
    let said = processor.stdout.records();
    assert_eq!(said.iter().filter(|record| record["message"] == message).count(), 1);
}

#[test]
fn a_preloaded_handler_that_cannot_be_loaded_is_named_as_without_preload() {
    for source in [
        "import nothing_of_that_name\ndef handler(context, event): pass\n",
        "def other(context, event): pass\n",
    ] {
        let texts = [true, false].map(|preload| {
            let mut setup = Setup::python(source).no_wait();
            setup.function["spec"]["runtimeAttributes"] = json!({"preload": preload});
            let mut processor = setup.start();
            assert_eq!(processor.end().code(), Some(1));
            let text = processor.stderr.text().replace(&processor.directory.path().display().to_string(), "");
            assert!(text.contains("python worker 0"), "{text}");
            text
        });
        assert_eq!(texts[0], texts[1]);
    }
}

#[test]
fn nothing_is_left_of_preloaded_workers_when_the_processor_stops_or_is_killed() {
    for signal in [15, 9] {
        let mut processor = preload(TELLS, 3).start();
        let all = processor.children();
        assert_eq!(all.len(), 4);
        processor.signal(signal);
        let status = processor.wait();
        assert_eq!(status.code(), (signal == 15).then_some(0));
        wait_until("all are gone", || !all.iter().any(|pid| alive(*pid)));
    }
}

#[test]
fn threads_and_loops_that_a_preloaded_import_leaves_are_named() {
    let source = "import asyncio, threading, time
loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
threading.Thread(target=time.sleep, args=(600,), name='poller', daemon=True).start()
async def handler(context, event):
    await asyncio.sleep(0.001)
    return 'fine'\n";
    let processor = preload(source, 2).start();
    processor
        .stdout
        .wait_for("the thread", |line| line.contains("has started threads") && line.contains("poller"));
    processor.stdout.wait_for("the loop", |line| line.contains("has made 1 event loop(s)"));
    let answers: Vec<_> = (0..20).map(|_| processor.send("/", "")).collect();
    for answer in answers {
        assert_eq!(answer.join().unwrap().text(), "fine");
    }
}

#[test]
fn preload_serves_async_handlers_applications_and_batches() {
    let asynchronous = "import asyncio, os\nIMPORTED = os.getpid()\nasync def handler(context, event):
    await asyncio.sleep(0.01)\n    return str(IMPORTED != os.getpid())\n";
    let application = "import os\nIMPORTED = os.getpid()\nasync def handler(scope, receive, send):
    if scope['type'] != 'http': raise RuntimeError
    await send({'type': 'http.response.start', 'status': 200, 'headers': []})
    await send({'type': 'http.response.body', 'body': str(IMPORTED != os.getpid()).encode()})\n";
    let batches = "import os, nuclio_sdk\nIMPORTED = os.getpid()\ndef handler(context, events):
    return [nuclio_sdk.Response(body=str(IMPORTED != os.getpid()), event_id=event.id) for event in events]\n";
    let cases = [
        (asynchronous, json!({"mode": "async"})),
        (application, json!({})),
        (batches, json!({"batch": {"mode": "enable", "batchSize": 4, "timeout": "20ms"}})),
    ];
    for (source, trigger) in cases {
        let processor = preload(source, 2).trigger(trigger).start();
        let answers: Vec<_> = (0..10).map(|_| processor.send("/", "")).collect();
        for answer in answers {
            let answer = answer.join().unwrap();
            assert_eq!((answer.status, answer.text().as_str()), (200, "True"), "{source}");
        }
    }
}

#[test]
fn preload_warns_where_it_cannot_be_had() {
    let nodejs = Setup::new("nodejs", "main:handler").spec(json!({"runtimeAttributes": {"preload": true}}));
    nodejs.write("main.js", "exports.handler = (context) => context.callback('fine')\n");
    let mut processor = nodejs.no_wait().start();
    let line =
        processor.stdout.wait_for("the runtime", |line| line.contains("spec.runtimeAttributes.preload"));
    assert!(line.contains("no effect with spec.runtime nodejs"), "{line}");
    drop(processor.child.kill());
    // A shim that does not know it.
    let old = "hello()\nready()\nserve(echo)\n";
    let processor = Setup::fake_shim(old).spec(json!({"runtimeAttributes": {"preload": true}})).start();
    processor.stdout.wait_for("the shim", |line| line.contains("the shim in the image is too old for it"));
    assert_eq!(processor.post("/", "still served").text(), "still served");
    assert_eq!(processor.children().len(), 1);
}

#[test]
fn orphans_of_preloaded_workers_are_reaped() {
    let source = "import os, subprocess
def handler(context, event):
    # Its child ends at once, and leaves one that ends a little later.
    subprocess.run(['sh', '-c', 'sleep 0.05 & exit 0'])
    return 'fine'\n";
    let processor = preload(source, 1).start();
    let mut client = Client::connect(processor.http());
    for _ in 0..5 {
        client.send(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n");
        assert_eq!(client.read_answer(false).unwrap().text(), "fine");
    }
    wait_until("no zombie is left", || {
        let children = children_of(processor.child.id());
        children.len() == 2 && children.into_iter().all(alive)
    });
}
