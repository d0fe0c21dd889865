//! Commands and scripts as handlers: arguments, environment, input and output of any size, and what becomes of the
//! processes when an event ends before they do.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::dev::serves;
use crate::harness::{Client, Processor, Setup, alive, wait_until};

/// The script of a case in `tests/handlers/shell`; `FOLDER` is the folder of the test.
fn case(name: &str) -> Setup {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/handlers/shell").join(name);
    assert!(folder.join("handler.sh").is_file(), "{} has no handler.sh", folder.display());
    in_folder(Setup::new("shell", "handler.sh"), &folder)
}

/// A script with this text.
pub fn script(text: &str) -> Setup {
    let setup = Setup::new("shell", "handler.sh");
    setup.write("handler.sh", text);
    let folder = setup.directory.path().to_owned();
    in_folder(setup, &folder)
}

pub fn in_folder(setup: Setup, folder: &Path) -> Setup {
    let own = setup.directory.path().display().to_string();
    let setup = setup.env("NUCLIO_SHELL_HANDLER_DIR", &folder.display().to_string());
    setup.spec(json!({"env": [{"name": "FOLDER", "value": own}]}))
}

pub fn attributes(setup: Setup, attributes: serde_json::Value) -> Setup {
    setup.spec(json!({ "runtimeAttributes": attributes }))
}

fn pid_in(processor: &Processor, file: &str) -> i32 {
    let path = processor.directory.path().join(file);
    wait_until(file, || std::fs::read_to_string(&path).is_ok_and(|text| text.ends_with('\n')));
    std::fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

#[test]
fn a_script_gets_bodies_and_answers_byte_for_byte() {
    let processor = case("echo").start();
    let all: Vec<u8> = (0..=255).collect();
    for body in [b"hello".as_slice(), &all, &[0xff, 0xfe, 0xc3], b""] {
        let head = format!("POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len());
        let answer = processor.request(&head, body);
        assert_eq!((answer.status, answer.body.as_slice()), (200, body));
    }
    assert!(processor.children().is_empty(), "no process is there between events");
}

#[test]
fn a_script_sees_its_event_and_headers_of_answers_are_configured() {
    let headers = json!({"responseHeaders": {"X-Kind": "shell", "X-Number": 7, "Content-Type": "text/csv"}});
    let processor = attributes(case("headers"), headers).start();
    let answer = processor.request("PUT /a%20b?x=1 HTTP/1.1\r\nContent-Type: a/b\r\n\r\n", b"");
    assert_eq!(answer.text(), "PUT /a b a/b\n");
    for (name, value) in [("X-Kind", "shell"), ("X-Number", "7"), ("Content-Type", "text/csv")] {
        assert_eq!(answer.values(name), [value]);
    }
}

#[test]
fn the_exit_status_decides_between_200_and_500() {
    let processor = case("status").start();
    assert_eq!((processor.get("/0").status, processor.get("/0").text().as_str()), (200, "as asked\n"));
    for code in [1, 2, 127, 255] {
        let answer = processor.get(&format!("/{code}"));
        let text = format!("Failed to run shell command.\nError: exit status {code}\nOutput:as asked\n");
        assert_eq!((answer.status, answer.text()), (500, text));
    }
    let record = processor.stdout.wait_for_record("Failed to run shell command");
    assert_eq!(
        (&record["level"], &record["more"]["err"], &record["more"]["output"]),
        (&json!("error"), &json!("exit status 1"), &json!("as asked\n"))
    );
}

#[test]
fn standard_error_goes_to_the_log_if_that_is_wanted_and_back_to_who_asks() {
    let processor = attributes(case("log"), json!({"stderr": "log"})).start();
    let answer = processor.request("GET / HTTP/1.1\r\nX-Nuclio-Log-Level: debug\r\n\r\n", b"");
    assert_eq!((answer.status, answer.text().as_str()), (200, "logged\n"));
    let records: serde_json::Value = serde_json::from_str(answer.header("X-Nuclio-Logs").unwrap()).unwrap();
    let shown: Vec<_> = records.as_array().unwrap().iter().map(|record| record["message"].clone()).collect();
    assert_eq!((&shown[..2], shown.len()), (&[json!("first line"), json!("second line")][..], 3));
    assert_eq!(processor.stdout.wait_for_record("grüß without an end")["level"], "info");
    // Else it is part of the answer.
    let processor = case("log").start();
    assert_eq!(processor.get("/").text(), "first line\nsecond line\ngrüß without an endlogged\n");
}

#[test]
fn a_script_that_ends_badly_fails_its_own_event_only() {
    let processor = case("crash").start();
    for (path, text) in [("/exit", "exit status 7"), ("/signal", "signal: killed")] {
        let answer = processor.get(path);
        assert!(answer.status == 500 && answer.text().contains(text), "{path}: {}", answer.text());
        assert_eq!(processor.get("/").text(), "alive");
    }
    assert_eq!((processor.all_restarts(), processor.health("/ready")), (0, 200));
}

#[test]
fn a_timeout_kills_the_whole_process_group() {
    let processor = case("hang").spec(json!({"eventTimeout": "400ms"})).start();
    let begun = Instant::now();
    let answer = processor.get("/hang");
    assert_eq!((answer.status, answer.text().as_str()), (408, r#"{"error": "handler timed out"}"#));
    assert!(begun.elapsed() >= Duration::from_millis(400));
    let child = pid_in(&processor, "child");
    wait_until("the script's own child is gone", || !alive(child));
    assert_eq!(processor.get("/").text(), "back");
    assert_eq!(processor.metric("nuclio_processor_event_timeouts_total", &[]), 1.0);
}

#[test]
fn a_script_that_ignores_the_polite_signal_is_killed_and_one_that_listens_may_clean_up() {
    let text = "case $NUCLIO_EVENT_PATH in
        /deaf) trap '' TERM; echo $$ >\"$FOLDER/deaf\"; while :; do sleep 0.05; done ;;
        /tidy) trap 'echo done >\"$FOLDER/tidied\"; exit' TERM; while :; do sleep 0.05; done ;;
        esac";
    let processor = script(text).spec(json!({"eventTimeout": "300ms"})).start();
    assert_eq!((processor.get("/deaf").status, processor.get("/tidy").status), (408, 408));
    let deaf = pid_in(&processor, "deaf");
    wait_until("it is gone", || !alive(deaf));
    let tidied = processor.directory.path().join("tidied");
    wait_until("it has cleaned up", || tidied.is_file());
}

#[test]
fn a_script_that_waits_for_room_for_its_output_may_clean_up_too() {
    let text = "trap 'echo done >\"$FOLDER/tidied\"; exit' TERM
        line=$(head -c 60000 /dev/zero | tr '\\0' x)
        while :; do echo $line; done";
    let timed = script(text).spec(json!({"eventTimeout": "1s"}));
    let processor = attributes(timed, json!({"stream": true})).start();
    let mut client = Client::connect(processor.http());
    client.send_post("/", b"");
    assert_eq!(client.read_head().unwrap().status, 200);
    let tidied = processor.directory.path().join("tidied");
    wait_until("it has cleaned up, and its client has not read on", || tidied.is_file());
}

#[test]
fn a_client_that_leaves_ends_its_processes_unless_they_are_to_go_on() {
    let text = "echo $$ >\"$FOLDER/pid\"\nwhile [ ! -e \"$FOLDER/go\" ]; do sleep 0.02; done\necho >\"$FOLDER/through\"";
    for (gone, goes_on) in [("kill", false), ("continue", true)] {
        let processor = attributes(script(text), json!({"clientGone": gone})).start();
        let mut client = Client::connect(processor.http());
        client.send_post("/", b"");
        let pid = pid_in(&processor, "pid");
        client.reset();
        if goes_on {
            let left = "nuclio_processor_event_failures_total";
            wait_until("its leaving is seen", || processor.metric(left, &["cause=\"client_left\""]) == 1.0);
            assert!(alive(pid));
            processor.touch("go");
        }
        wait_until("it is gone", || !alive(pid));
        assert_eq!(processor.directory.path().join("through").exists(), goes_on, "{gone}");
        processor.wait_in_flight(0);
        processor.touch("go");
        assert_eq!(processor.get("/").status, 200);
    }
}

#[test]
fn large_bodies_go_both_ways_at_the_same_time() {
    let limit = json!({"attributes": {"maxRequestBodySize": 20 << 20}});
    let processor = case("big_body").trigger(limit).start();
    let body: Vec<u8> = (0..16 << 20).map(|at: u32| (at % 251) as u8).collect();
    let send = |method: &str| {
        let head = format!("{method} / HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len());
        processor.request(&head, &body)
    };
    assert_eq!(send("PUT").text().trim(), (16 << 20).to_string());
    let answer = send("POST");
    assert!(answer.status == 200 && answer.body == body, "{} bytes came back", answer.body.len());
}

#[test]
fn a_body_that_nobody_reads_harms_nobody() {
    let limit = json!({"attributes": {"maxRequestBodySize": 8 << 20}});
    let processor = script("exec 0</dev/null; echo unread").trigger(limit).start();
    let body = vec![b'x'; 4 << 20];
    let head = format!("POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len());
    let answer = processor.request(&head, &body);
    assert_eq!((answer.status, answer.text().as_str()), (200, "unread\n"));
}

#[test]
fn an_answer_above_the_limit_is_refused_and_its_writer_ended() {
    let text = "echo $$ >\"$FOLDER/pid\"\nwhile :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done";
    let processor = script(text).env("NUCLIO_MAX_ANSWER_BYTES", "1000000").start();
    let answer = processor.get("/");
    assert!(answer.status == 500 && answer.text().contains("NUCLIO_MAX_ANSWER_BYTES"), "{}", answer.text());
    let pid = pid_in(&processor, "pid");
    wait_until("it is gone", || !alive(pid));
}

#[test]
fn garbage_fails_its_own_event_with_the_shells_own_words() {
    let processor = case("garbage").start();
    for (path, texts) in
        [("/throw", ["no-such-program-on-purpose", "not found"]), ("/syntax", ["yntax", "then"])]
    {
        let answer = processor.get(path);
        assert_eq!(answer.status, 500);
        for text in texts {
            assert!(answer.text().contains(text), "{path}: {}", answer.text());
            processor.stdout.wait_for("the record", |line| line.contains("\"error\"") && line.contains(text));
        }
    }
    assert_eq!(processor.get("/text").body, [0xff, 0xfe, b'!']);
    let quiet = processor.get("/quiet");
    assert_eq!((quiet.status, quiet.body.len()), (200, 0));
    assert_eq!(processor.get("/").text(), "well\n");
}

#[test]
fn a_path_with_a_nul_byte_is_refused_by_name() {
    let processor = case("echo").start();
    let answer = processor.get("/a%00b");
    assert_eq!(answer.status, 400);
    assert!(
        answer.text().contains("NUL byte") && answer.text().contains("NUCLIO_EVENT_PATH"),
        "{}",
        answer.text()
    );
}

#[test]
fn output_is_streamed_if_that_is_wanted() {
    let processor = attributes(case("stream"), json!({"stream": true})).start();
    assert_eq!(processor.get("/five").header("Content-Length"), None);
    assert_eq!(processor.get("/fails").status, 500, "nothing had been sent");
    // One that fails before it has written anything can still say so.
    assert!(processor.get("/fails").text().contains("exit status 3"));
}

/// What was held for the client must not count any more, or the script waits for ever for somebody to read.
#[test]
fn a_streaming_command_that_may_go_on_is_read_to_its_end_when_its_client_has_left() {
    let text = "head -c 2000000 /dev/zero; echo >\"$FOLDER/begun\"; head -c 9000000 /dev/zero; echo >\"$FOLDER/through\"";
    let processor = attributes(script(text), json!({"stream": true, "clientGone": "continue"})).start();
    let mut client = Client::connect(processor.http());
    client.send(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n");
    assert_eq!(client.read_head().unwrap().status, 200);
    while !processor.directory.path().join("begun").is_file() {
        client.read_chunk().unwrap().unwrap();
    }
    client.reset();
    let through = processor.directory.path().join("through");
    wait_until("it has written everything", || through.is_file());
    processor.wait_in_flight(0);
    assert_eq!(processor.get("/").body.len(), 11_000_000);
}

#[test]
fn a_stop_lets_a_script_finish_and_kills_what_takes_too_long() {
    let text = "echo $$ >\"$FOLDER/pid\"\nwhile [ ! -e \"$FOLDER/go\" ]; do sleep 0.02; done\necho finished";
    let mut processor = script(text).start();
    let answer = processor.send("/", "");
    pid_in(&processor, "pid");
    processor.signal(15);
    processor.stdout.wait_for("the signal", |line| line.contains("Got system signal"));
    processor.touch("go");
    assert_eq!(answer.join().unwrap().text(), "finished\n");
    assert_eq!(processor.end().code(), Some(0));
    let mut processor = script(text).trigger(json!({"workerTerminationTimeout": "300ms"})).start();
    let mut client = Client::connect(processor.http());
    client.send_post("/", b"");
    let pid = pid_in(&processor, "pid");
    processor.signal(15);
    assert_eq!(processor.end().code(), Some(0));
    assert!(!alive(pid));
}

#[test]
fn as_many_run_at_once_as_there_are_workers() {
    let text = "echo >\"$FOLDER/$NUCLIO_EVENT_ID\"\nwhile [ ! -e \"$FOLDER/go\" ]; do sleep 0.02; done\necho through";
    let processor = script(text).trigger(json!({"numWorkers": 3})).start();
    let answers: Vec<_> = (0..5).map(|_| processor.send("/", "")).collect();
    processor.wait_in_flight(3);
    processor.wait_waiting(2);
    wait_until("three processes run", || processor.children().len() == 3);
    processor.touch("go");
    for answer in answers {
        assert_eq!(answer.join().unwrap().text(), "through\n");
    }
}

/// A program as the handler, which is found in `PATH`; that of its process comes from `spec.env` alone.
#[test]
fn a_program_has_default_arguments_and_takes_others_from_a_header() {
    let setup = Setup::new("shell", "convert");
    let tools = setup.directory.path().join("tools");
    setup.write("tools/convert", "#!/bin/sh\nfor argument in \"$@\"; do echo \"[$argument]\"; done\ncat\n");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(tools.join("convert"), mode).unwrap();
    let path = format!("{}:/usr/bin:/bin", tools.display());
    let setup = setup.env("PATH", &path).env("NUCLIO_SHELL_HANDLER_DIR", "/nowhere");
    let setup = setup.spec(json!({"env": [{"name": "PATH", "value": path}]}));
    let processor = attributes(setup, json!({"arguments": "- -resize 50% $(echo evaluated)"})).start();
    assert_eq!(processor.post("/", "image").text(), "[-]\n[-resize]\n[50%]\n[evaluated]\nimage");
    let ask = |arguments: &str| {
        let head = format!("POST / HTTP/1.1\r\nX-nuclio-arguments: {arguments}\r\nContent-Length: 1\r\n\r\n");
        processor.request(&head, b"x").text()
    };
    assert_eq!(ask("- -flip"), "[-]\n[-flip]\nx");
    // What a shell would make something of arrives as it is.
    for text in ["$(id)", "`id`", "a;id", "a|id", "a&id", ">/tmp/x", "*", "'\"", "$HOME", "-c", "\\"] {
        assert_eq!(ask(text), format!("[{text}]\nx"));
    }
    assert_eq!(ask("a  b"), "[a]\n[]\n[b]\nx");
}

#[test]
fn arguments_of_a_script_are_never_evaluated() {
    let processor = script("printf '[%s]' \"$@\"").start();
    for text in ["$(id)", "a;id", "-c", "--", "`id`"] {
        let head = format!("GET / HTTP/1.1\r\nX-Nuclio-Arguments: {text}\r\n\r\n");
        assert_eq!(processor.request(&head, b"").text(), format!("[{text}]"));
    }
}

#[test]
fn the_environment_is_inherited_only_if_that_is_wanted() {
    let text = "echo \"${SECRET-unset} $NUCLIO_EVENT_METHOD ${NUCLIO_HANDLER-unset}\"";
    let processor = script(text).env("SECRET", "of the container").start();
    assert_eq!(processor.get("/").text(), "unset GET unset\n");
    let setup = script(text).env("SECRET", "of the container").env("NUCLIO_EVENT_METHOD", "not this one");
    let processor = attributes(setup, json!({"inheritEnvironment": true})).start();
    assert_eq!(processor.get("/").text(), "of the container GET unset\n");
}

#[test]
fn batches_are_off_for_commands_and_said_to_be() {
    let batch = json!({"batch": {"mode": "enable", "batchSize": 2, "timeout": "5m"}});
    let processor = case("echo").trigger(batch).start();
    processor.stdout.wait_for("the warning", |line| line.contains("only python functions answer batches"));
    assert_eq!(processor.post("/", "alone").text(), "alone");
}

#[test]
fn what_is_wrong_with_a_shell_handler_is_said_at_the_start() {
    let attribute = |key: &str, value: serde_json::Value| json!({ "runtimeAttributes": { key: value } });
    let cases: Vec<(&str, serde_json::Value, &[&str])> = vec![
        (
            "no-such-program",
            json!({}),
            &["File doesn't exist neither in working dir nor in PATH", "no-such-program"],
        ),
        ("absent.sh:main", json!({}), &["absent.sh"]),
        (":main", json!({}), &["has no name"]),
        (
            "handler.sh",
            attribute("arguments", json!(7)),
            &["spec.runtimeAttributes.arguments", "write a text"],
        ),
        ("handler.sh", attribute("responseHeaders", json!({"bad name": "x"})), &["responseHeaders.bad name"]),
        ("handler.sh", attribute("responseHeaders", json!(["x"])), &["responseHeaders"]),
        (
            "handler.sh",
            attribute("stderr", json!("file")),
            &["runtimeAttributes.stderr", "use answer or log"],
        ),
        (
            "handler.sh",
            attribute("stream", json!("yes please")),
            &["runtimeAttributes.stream", "use true or false"],
        ),
        ("handler.sh", attribute("clientGone", json!("stay")), &["clientGone", "use kill or continue"]),
        ("handler.sh", json!({"env": [{"name": "A=B", "value": "x"}]}), &["spec.env", "A=B"]),
    ];
    for (handler, spec, texts) in cases {
        let mut setup = script("cat").spec(spec).no_wait();
        setup.function["spec"]["handler"] = json!(handler);
        let mut processor = setup.start();
        assert_eq!(processor.end().code(), Some(1), "{handler}");
        let said = processor.stderr.text();
        for text in texts {
            assert!(said.contains(text), "{text:?} is not in:\n{said}");
        }
    }
}

#[test]
fn without_a_shell_the_start_says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let mut processor = script("cat").env("PATH", &folder.path().display().to_string()).no_wait().start();
    assert_eq!(processor.end().code(), Some(1));
    assert!(processor.stderr.text().contains("Can't find sh executable"), "{}", processor.stderr.text());
}

#[test]
fn a_slow_script_holds_nobody_elses_probes_up() {
    let processor = case("slow_start").start();
    let answer = processor.send("/", "");
    processor.wait_in_flight(1);
    assert_eq!(processor.health("/ready"), 200);
    assert_eq!(answer.join().unwrap().text(), "ready");
}

#[test]
fn the_shell_examples_do_what_they_say() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/shell");
    let run = |folder: &str, file: &str| in_folder(Setup::new("shell", file), &examples.join(folder));
    let hello = run("hello", "hello.sh").start();
    assert_eq!(
        (hello.get("/").text().as_str(), hello.post("/", "you").text().as_str()),
        ("Hello, world\n", "Hello, you\n")
    );
    let count = attributes(run("stream", "count.sh"), json!({"stream": true})).start();
    assert_eq!(count.get("/").text(), "1\n2\n3\n4\n5\n");
    let mut words = run("program", "wc");
    let file: serde_json::Value =
        serde_yaml::from_str(&std::fs::read_to_string(examples.join("program/processor.yaml")).unwrap())
            .unwrap();
    words.function = file;
    let words = words.start();
    let answer = words.post("/", "some words");
    assert_eq!((answer.text().trim(), answer.values("X-Counted-By")), ("2", vec!["wc"]));
    let head = "POST / HTTP/1.1\r\nX-Nuclio-Arguments: -c\r\nContent-Length: 4\r\n\r\n";
    assert_eq!(words.request(head, b"four").text().trim(), "4");
}

#[test]
fn dev_serves_a_script() {
    let directory = tempfile::tempdir().unwrap();
    let file: PathBuf = directory.path().join("hello.sh");
    std::fs::write(&file, "echo \"hello $(cat)\"\n").unwrap();
    serves(&file, None, "hello \n");
}
