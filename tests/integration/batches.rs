//! Batches end to end: how events are gathered, which answer goes to whom, and what becomes of the others when one of
//! them, its client, its worker or the processor ends.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::compiled::program;
use crate::harness::{Answer, Client, Processor, Setup, wait_until};
use crate::support::{c_library, plain_c_library};

/// Answers each event with its body and the size of its batch, in another order than they came. A word as a body asks
/// for something else.
const HANDLER: &str = r#"
import os, time
HERE = os.path.dirname(os.path.abspath(__file__))


def handler(context, events):
    words = [event.body.decode() for event in events]
    with open(HERE + "/batches", "a") as file:
        file.write(" ".join(words) + "\n")
    for word in words:
        if word == "crash":
            os._exit(3)
        if word == "hang":
            time.sleep(1000)
        if word == "wait":
            while not os.path.exists(HERE + "/go"):
                time.sleep(0.001)
        if word == "raise":
            raise ValueError("all of you")
        if word == "bare":
            return "for all"
        if word == "log":
            context.logger.info("told")
    answers = [context.Response(body="%s of %d by %d" % (word, len(events), os.getpid()), event_id=event.id,
                                status_code=201, headers={"X-Word": word})
               for word, event in zip(words, events) if word != "silent"]
    return answers[::-1]
"#;

/// A handler that takes batches of `size`, which are complete after `timeout`.
fn batching(size: usize, timeout: &str) -> Setup {
    Setup::python(HANDLER)
        .trigger(json!({"batch": {"mode": "enable", "batchSize": size, "timeout": timeout}}))
}

/// A client that has sent a request with this body.
fn client(processor: &Processor, body: &str) -> Client {
    let mut client = Client::connect(processor.http());
    client.send_post("/", body.as_bytes());
    client
}

/// The next answer, which is of the handler: body, and number of events in its batch.
fn handled(client: &mut Client) -> (String, usize) {
    of_handler(&client.read_answer(false).unwrap())
}

fn of_handler(answer: &Answer) -> (String, usize) {
    let text = answer.text();
    assert_eq!(answer.status, 201, "{text}");
    let words: Vec<&str> = text.split(' ').collect();
    assert_eq!(answer.header("X-Word"), Some(words[0]), "{text}");
    (words[0].to_owned(), words[2].parse().unwrap())
}

fn counted(processor: &Processor, result: &str) -> usize {
    let parts = [&*format!("result=\"{result}\"")];
    processor.metric("nuclio_processor_handled_events_total", &parts) as usize
}

/// What the handler saw, a line per batch.
fn seen(processor: &Processor) -> Vec<String> {
    let text = std::fs::read_to_string(processor.directory.path().join("batches")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_batch_goes_off_when_it_is_full_and_not_before() {
    let processor = batching(3, "5m").start();
    let mut clients: Vec<Client> = ["a", "b"].iter().map(|body| client(&processor, body)).collect();
    clients[0].stream().set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(clients[0].read_answer(false).is_err(), "two of three are answered");
    clients[0].stream().set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    clients.push(client(&processor, "c"));
    for (client, body) in clients.iter_mut().zip(["a", "b", "c"]) {
        assert_eq!(handled(client), (body.to_owned(), 3));
    }
    // The next one begins with nothing.
    let bodies = ["d", "e", "f", "g", "h", "i"];
    let mut clients: Vec<Client> = bodies.iter().map(|body| client(&processor, body)).collect();
    for (client, body) in clients.iter_mut().zip(bodies) {
        assert_eq!(handled(client), (body.to_owned(), 3));
    }
    assert_eq!(seen(&processor).len(), 3);
    assert_eq!((counted(&processor, "success"), counted(&processor, "failure")), (9, 0));
}

#[test]
fn a_batch_that_is_not_full_goes_off_after_its_timeout() {
    let processor = batching(100, "1s").start();
    let begun = Instant::now();
    let mut clients: Vec<Client> = (0..3).map(|n| client(&processor, &n.to_string())).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(handled(client), (n.to_string(), 3));
    }
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    // Counted from the first event, and again for every batch.
    let begun = Instant::now();
    assert_eq!(handled(&mut client(&processor, "later")), ("later".to_owned(), 1));
    let taken = begun.elapsed();
    assert!(taken >= Duration::from_secs(1) && taken < Duration::from_secs(10), "{taken:?}");
}

#[test]
fn no_timeout_gathers_what_is_there() {
    let processor = batching(100, "0s").start();
    (0..5).for_each(|n| assert_eq!(handled(&mut client(&processor, &n.to_string())).0, n.to_string()));
}

#[test]
fn many_clients_each_get_the_answer_to_their_own_event() {
    let processor = batching(8, "20ms").trigger(json!({"numWorkers": 3})).start();
    std::thread::scope(|scope| {
        for number in 0..50 {
            let address = processor.http();
            scope.spawn(move || {
                let mut client = Client::connect(address);
                for turn in 0..10 {
                    let body = format!("{number}-{turn}");
                    client.send_post("/", body.as_bytes());
                    let (word, size) = handled(&mut client);
                    assert_eq!(word, body);
                    assert!((1..=8).contains(&size), "{size}");
                }
            });
        }
    });
    assert_eq!((counted(&processor, "success"), counted(&processor, "failure")), (500, 0));
    let batches = seen(&processor);
    assert_eq!(batches.iter().map(|line| line.split(' ').count()).sum::<usize>(), 500);
    assert!(batches.len() < 500, "nothing was gathered");
    processor.wait_in_flight(0);
}

#[test]
fn batches_run_side_by_side_on_as_many_workers() {
    let processor = batching(2, "5m").trigger(json!({"numWorkers": 2})).start();
    let mut clients: Vec<Client> = (0..4).map(|_| client(&processor, "wait")).collect();
    processor.wait_in_flight(4);
    processor.touch("go");
    let answers: Vec<String> =
        clients.iter_mut().map(|client| client.read_answer(false).unwrap().text()).collect();
    let pids: std::collections::HashSet<&str> =
        answers.iter().map(|text| text.rsplit(' ').next().unwrap()).collect();
    assert_eq!(pids.len(), 2, "{answers:?}");
    let sum = |name: &str| processor.metric(name, &[]) as usize;
    assert_eq!(sum("nuclio_processor_handler_duration_seconds_count"), 4, "statistics are per event");
}

#[test]
fn events_that_the_handler_leaves_out_fail_alone() {
    let processor = batching(3, "5m").start();
    let mut clients: Vec<Client> = ["a", "silent", "c"].iter().map(|body| client(&processor, body)).collect();
    let answer = clients[1].read_answer(false).unwrap();
    let text = "processor hasn't received corresponding response for the event";
    assert_eq!((answer.status, answer.text().as_str()), (500, text));
    assert_eq!(handled(&mut clients[0]), ("a".to_owned(), 3));
    assert_eq!(handled(&mut clients[2]), ("c".to_owned(), 3));
    assert_eq!((counted(&processor, "success"), counted(&processor, "failure")), (2, 1));
}

#[test]
fn one_bare_answer_and_one_exception_are_for_all() {
    let processor = batching(2, "5m").start();
    for (word, status, start) in
        [("bare", 200, "for all"), ("raise", 500, "Exception caught in handler - \"all of you\"")]
    {
        let mut clients = [client(&processor, "other"), client(&processor, word)];
        for client in &mut clients {
            let answer = client.read_answer(false).unwrap();
            assert_eq!(answer.status, status);
            assert!(answer.text().starts_with(start), "{}", answer.text());
        }
    }
    assert_eq!(processor.all_restarts(), 0);
}

#[test]
fn a_crash_fails_its_batch_and_no_other() {
    let processor = batching(3, "5m").start();
    let mut crashing: Vec<Client> =
        ["a", "wait", "crash"].iter().map(|body| client(&processor, body)).collect();
    processor.wait_in_flight(3);
    let mut waiting: Vec<Client> = ["d", "e", "f"].iter().map(|body| client(&processor, body)).collect();
    processor.wait_waiting(3);
    processor.touch("go");
    for client in &mut crashing {
        let answer = client.read_answer(false).unwrap();
        assert_eq!(answer.status, 500);
        assert!(answer.text().contains("exited with code 3"), "{}", answer.text());
    }
    for (client, body) in waiting.iter_mut().zip(["d", "e", "f"]) {
        assert_eq!(handled(client), (body.to_owned(), 3));
    }
    assert_eq!((processor.restarts("exit"), processor.all_restarts()), (1, 1));
    assert_eq!((counted(&processor, "success"), counted(&processor, "failure")), (3, 3));
    processor.wait_in_flight(0);
    processor.wait_waiting(0);
}

#[test]
fn a_batch_that_takes_too_long_ends_with_408_for_all() {
    let processor = batching(3, "5m").spec(json!({"eventTimeout": "400ms"})).start();
    let begun = Instant::now();
    let mut clients: Vec<Client> = ["a", "hang", "c"].iter().map(|body| client(&processor, body)).collect();
    for client in &mut clients {
        let answer = client.read_answer(false).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (408, r#"{"error": "handler timed out"}"#));
    }
    assert!(begun.elapsed() >= Duration::from_millis(395), "{:?}", begun.elapsed());
    wait_until("it is counted", || processor.restarts("timeout") == 1);
    assert_eq!(processor.metric("nuclio_processor_event_timeouts_total", &[]), 3.0);
    let mut clients: Vec<Client> = ["d", "e", "f"].iter().map(|body| client(&processor, body)).collect();
    for (client, body) in clients.iter_mut().zip(["d", "e", "f"]) {
        assert_eq!(handled(client), (body.to_owned(), 3));
    }
    assert_eq!(processor.all_restarts(), 1);
    processor.wait_in_flight(0);
}

#[test]
fn batches_written_ahead_of_one_that_times_out_stay_batches() {
    let processor = batching(1, "5m").spec(json!({"eventTimeout": "400ms"})).start();
    // Fast: batches are written ahead from now on.
    (0..50).for_each(|n| assert_eq!(handled(&mut client(&processor, &n.to_string())).1, 1));
    let mut hanging = client(&processor, "hang");
    processor.wait_in_flight(1);
    let mut behind: Vec<Client> = (0..6).map(|n| client(&processor, &format!("behind{n}"))).collect();
    assert_eq!(hanging.read_answer(false).unwrap().status, 408);
    for (n, client) in behind.iter_mut().enumerate() {
        assert_eq!(handled(client), (format!("behind{n}"), 1));
    }
    let mut after: Vec<String> =
        seen(&processor).into_iter().filter(|line| line.contains("behind")).collect();
    after.sort();
    assert_eq!(after, (0..6).map(|n| format!("behind{n}")).collect::<Vec<_>>(), "each of them once");
    processor.wait_in_flight(0);
}

#[test]
fn a_client_that_leaves_before_its_batch_is_complete_takes_no_place_in_it() {
    let processor = batching(2, "5m").start();
    // One that leaves before its request has been read is never seen, so it may take several.
    wait_until("one that left is noticed", || {
        let gone = client(&processor, "gone");
        std::thread::sleep(Duration::from_millis(100));
        gone.reset();
        std::thread::sleep(Duration::from_millis(100));
        counted(&processor, "failure") >= 1
    });
    let mut clients = [client(&processor, "a"), client(&processor, "b")];
    for (client, body) in clients.iter_mut().zip(["a", "b"]) {
        assert_eq!(handled(client), (body.to_owned(), 2));
    }
    assert_eq!(seen(&processor).len(), 1);
    assert!(!seen(&processor)[0].contains("gone"));
}

#[test]
fn a_client_that_leaves_a_waiting_batch_is_withdrawn_and_one_that_leaves_it_in_work_is_not_missed() {
    let processor = batching(2, "5m").start();
    let mut working = [client(&processor, "wait"), client(&processor, "left")];
    processor.wait_in_flight(2);
    let waiting = [client(&processor, "gone"), client(&processor, "here")];
    processor.wait_waiting(2);
    let [gone, mut here] = waiting;
    gone.reset();
    wait_until("its leaving is noticed", || counted(&processor, "failure") == 1);
    std::mem::replace(&mut working[1], Client::connect(processor.http())).reset();
    wait_until("the other's, too", || counted(&processor, "failure") == 2);
    processor.touch("go");
    assert_eq!(handled(&mut working[0]), ("wait".to_owned(), 2));
    assert_eq!(handled(&mut here), ("here".to_owned(), 1));
    assert_eq!(seen(&processor), ["wait left", "here"].map(str::to_owned));
    processor.wait_in_flight(0);
    processor.wait_waiting(0);
}

#[test]
fn a_stop_sends_what_has_been_gathered() {
    let mut processor = batching(10, "5m").start();
    let mut clients = [client(&processor, "a"), client(&processor, "b")];
    processor.signal(libc::SIGTERM);
    for (client, body) in clients.iter_mut().zip(["a", "b"]) {
        let answer = client.read_answer(false).unwrap();
        assert_eq!(answer.header("Connection"), Some("close"));
        assert_eq!(of_handler(&answer).0, body);
    }
    assert_eq!(processor.wait().code(), Some(0));
}

#[test]
fn events_beyond_those_that_may_wait_are_refused() {
    let processor = batching(2, "5m").env("NUCLIO_WAITING_EVENTS_MAX", "2").start();
    let mut working = [client(&processor, "wait"), client(&processor, "b")];
    processor.wait_in_flight(2);
    let mut waiting = [client(&processor, "c"), client(&processor, "d")];
    processor.wait_waiting(2);
    let mut refused = [client(&processor, "e"), client(&processor, "f")];
    for client in &mut refused {
        let answer = client.read_answer(false).unwrap();
        assert_eq!((answer.status, answer.header("Retry-After")), (503, Some("1")));
    }
    processor.touch("go");
    for client in working.iter_mut().chain(&mut waiting) {
        assert_eq!(handled(client).1, 2);
    }
    assert_eq!((counted(&processor, "success"), counted(&processor, "failure")), (4, 2));
}

#[test]
fn a_batch_that_waits_too_long_for_a_worker_is_refused() {
    let processor = batching(1, "0s").trigger(json!({"workerAvailabilityTimeoutMilliseconds": 300})).start();
    let mut working = client(&processor, "wait");
    processor.wait_in_flight(1);
    let mut late = client(&processor, "late");
    assert_eq!(late.read_answer(false).unwrap().status, 503);
    // compat: that time is for the whole request.
    assert_eq!(working.read_answer(false).unwrap().status, 503);
    processor.touch("go");
    processor.wait_in_flight(0);
    assert_eq!(seen(&processor), ["wait".to_owned()], "the late one is withdrawn");
}

#[test]
fn not_to_wait_for_a_worker_is_no_limit_for_the_answer() {
    let processor = batching(1, "0s").trigger(json!({"workerAvailabilityTimeoutMilliseconds": 0})).start();
    let mut working = client(&processor, "wait");
    processor.wait_in_flight(1);
    assert_eq!(client(&processor, "late").read_answer(false).unwrap().status, 503);
    processor.touch("go");
    assert_eq!(handled(&mut working), ("wait".to_owned(), 1));
}

#[test]
fn logs_go_to_a_caller_who_is_alone_in_its_batch() {
    let processor = batching(2, "1s").start();
    let send = |body: &str| {
        let mut client = Client::connect(processor.http());
        let head = "POST / HTTP/1.1\r\nHost: test\r\nX-Nuclio-Log-Level: debug\r\n";
        client.send(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
        client
    };
    let logs = |client: &mut Client| -> Value {
        let answer = client.read_answer(false).unwrap();
        serde_json::from_str(answer.header("X-Nuclio-Logs").unwrap()).unwrap()
    };
    assert_eq!(logs(&mut send("log"))[0]["message"], "told");
    let mut two = [send("log"), send("other")];
    two.iter_mut().for_each(|client| assert_eq!(logs(client), json!([])));
}

#[test]
fn large_bodies_go_through_in_batches() {
    let processor = batching(3, "5m").start();
    let bodies: Vec<String> = ["x", "y", "z"].iter().map(|letter| letter.repeat(20_000)).collect();
    let mut clients: Vec<Client> = bodies.iter().map(|body| client(&processor, body)).collect();
    for (client, body) in clients.iter_mut().zip(&bodies) {
        assert_eq!(&handled(client).0, body);
    }
}

#[test]
fn a_shim_that_takes_no_batches_answers_501() {
    let script = "hello()\nready()\nserve(echo)\n";
    let batch = json!({"batch": {"mode": "enable", "batchSize": 2, "timeout": "5m"}});
    let processor = Setup::fake_shim(script).trigger(batch).start();
    let mut clients = [client(&processor, "a"), client(&processor, "b")];
    for client in &mut clients {
        let answer = client.read_answer(false).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (501, "Not Implemented"));
    }
    assert_eq!(counted(&processor, "failure"), 2);
    processor.wait_in_flight(0);
}

#[test]
fn mistakes_about_batches_are_named() {
    for (batch, texts) in [
        (json!({"mode": "enable", "batchSize": -1}), ["batch.batchSize", "Batch size should be 1 or higher"]),
        (
            json!({"mode": "enable", "timeout": "soon"}),
            ["batch.timeout", "Could not parse batch timeout: soon"],
        ),
        (
            json!({"mode": "enable", "timeout": "-1s"}),
            ["batch.timeout", "Could not parse batch timeout: -1s"],
        ),
    ] {
        let mut processor = Setup::python(HANDLER).trigger(json!({"batch": batch})).no_wait().start();
        assert_eq!(processor.end().code(), Some(1), "{batch}");
        let said = processor.stderr.text();
        texts.iter().for_each(|text| assert!(said.contains(text), "{text} in {said}"));
    }
}

#[test]
fn the_example_answers_each_client() {
    let setup = Setup::new("python", "sums:handler").python_environment();
    setup.write("sums.py", include_str!("../../examples/python/batch/sums.py"));
    let batch = json!({"batch": {"mode": "enable", "batchSize": 3, "timeout": "5m"}});
    let processor = setup.trigger(batch).start();
    let mut clients: Vec<Client> = ["1 2", "x", ""].iter().map(|body| client(&processor, body)).collect();
    let expected = [(200, "3"), (400, "numbers only, please"), (200, "0")];
    assert_eq!(answers(&mut clients), expected.map(|(status, text)| (status, text.to_owned())));
}

#[test]
fn other_modes_are_off() {
    let handler = "def handler(context, event): return type(event).__name__\n";
    let processor = Setup::python(handler).trigger(json!({"batch": {"mode": "disable"}})).start();
    assert_eq!(processor.post("/", "").text(), "Event");
}

/// A library in C that takes batches; `None`: no compiler.
fn library(size: usize) -> Option<Setup> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let path = BUILT.get_or_init(|| c_library("batches", &["-DTEST_BATCHES"])).as_deref()?;
    let batch = json!({"batch": {"mode": "enable", "batchSize": size, "timeout": "5m"}});
    Some(Setup::library(path).trigger(batch))
}

/// The same handler as a library and as a program.
fn both_forms(size: usize) -> Vec<Setup> {
    let program = program("tests/handlers/c/handler.c", &["-DTEST_BATCHES"]);
    let program = program.zip(library(size)).map(|(program, setup)| setup.go(&program));
    library(size).into_iter().chain(program).collect()
}

/// Clients that have sent requests to these paths, with a number as body.
fn clients_to(processor: &Processor, paths: &[&str]) -> Vec<Client> {
    let send = |(n, path): (usize, &&str)| {
        let mut client = Client::connect(processor.http());
        client.send_post(path, n.to_string().as_bytes());
        // The order in the batch is that of arrival, of which nothing outside tells.
        std::thread::sleep(Duration::from_millis(100));
        client
    };
    paths.iter().enumerate().map(send).collect()
}

fn answers(clients: &mut [Client]) -> Vec<(u16, String)> {
    let answer = |client: &mut Client| {
        let answer = client.read_answer(false).unwrap();
        (answer.status, answer.text())
    };
    clients.iter_mut().map(answer).collect()
}

#[test]
fn a_compiled_handler_gets_batches_in_one_call() {
    both_forms(3).into_iter().for_each(gets_batches);
}

fn gets_batches(setup: Setup) {
    let processor = setup.start();
    for _ in 0..2 {
        let mut clients = clients_to(&processor, &["/", "/", "/"]);
        let expected: Vec<(u16, String)> = (0..3).map(|n| (201, format!("{n} of 3"))).collect();
        assert_eq!(answers(&mut clients), expected);
    }
    let stream = "the handler answered an event of a batch with a stream";
    let found = answers(&mut clients_to(&processor, &["/", "/stream", "/"]));
    assert_eq!(found[1], (500, stream.to_owned()));
    assert_eq!((found[0].0, found[2].0), (201, 201));
    assert_eq!((counted(&processor, "success"), counted(&processor, "failure")), (8, 1));
    assert_eq!(processor.metric("nuclio_processor_handler_duration_seconds_count", &[]), 9.0);
    processor.wait_in_flight(0);
}

#[test]
fn a_call_that_fails_fails_its_whole_batch() {
    both_forms(2).into_iter().for_each(fails_as_one);
}

fn fails_as_one(setup: Setup) {
    let processor = setup.start();
    for (path, status, text) in [
        ("/error", 422, "none of you"),
        ("/panic", 500, "Caught panic: all of you"),
        ("/broken/body", 500, "the handler answered with a body at address 0"),
        ("/broken/code", 500, "the handler returned -77, which is no result of the ABI"),
    ] {
        let found = answers(&mut clients_to(&processor, &[path, "/"]));
        assert_eq!(found, [(status, text.to_owned()), (status, text.to_owned())], "{path}");
    }
    let found = answers(&mut clients_to(&processor, &["/broken/status", "/"]));
    assert_eq!(found[1], (200, String::new()), "the other answer of that batch is sound");
    wait_until("broken workers are counted", || processor.all_restarts() == 2);
    assert_eq!(answers(&mut clients_to(&processor, &["/", "/"]))[1], (201, "1 of 2".to_owned()));
    processor.wait_in_flight(0);
}

#[test]
fn a_batch_in_a_library_ends_at_its_deadline() {
    let Some(setup) = library(3) else { return };
    let processor = setup.spec(json!({"eventTimeout": "300ms"})).start();
    let late = (408, r#"{"error": "handler timed out"}"#.to_owned());
    let mut timeouts = 0.0;
    for path in ["/slow", "/stuck"] {
        let found = answers(&mut clients_to(&processor, &[path, "/", "/"]));
        assert_eq!(found, vec![late.clone(); 3], "{path}");
        timeouts += 3.0;
        wait_until("each event is counted", || {
            processor.metric("nuclio_processor_event_timeouts_total", &[]) == timeouts
        });
        assert_eq!(answers(&mut clients_to(&processor, &["/", "/", "/"]))[2], (201, "2 of 3".to_owned()));
    }
    assert_eq!(
        (processor.restarts("timeout"), processor.all_restarts()),
        (1, 1),
        "only what does not return"
    );
    processor.wait_in_flight(0);
}

#[test]
fn a_compiled_handler_without_batches_is_warned_of_and_answers_501() {
    let program = program("tests/handlers/c/handler.c", &[]);
    let warned = [(plain_c_library(), "has no handle_batch"), (program, "takes no batches")];
    for (path, warning) in warned {
        let Some(path) = path else { return };
        let batch = json!({"batch": {"mode": "enable", "batchSize": 1, "timeout": "1s"}});
        let processor = Setup::library(&path).trigger(batch).start();
        processor.stdout.wait_for("the warning", |line| line.contains(warning));
        let answer = processor.get("/");
        assert_eq!((answer.status, answer.text().as_str()), (501, "Not Implemented"));
        processor.wait_in_flight(0);
    }
}
