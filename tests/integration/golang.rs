//! Go functions, in both forms: what functions in the wild do, what goes wrong, and what the builder says.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use serde_json::json;

use crate::golang_build::{FORMS, Form, available, build, build_command, go_function};
use crate::harness::{Client, Processor, Setup, wait_until};

/// Runs a test with the handler that has all the habits, in both forms.
fn each(test: impl Fn(Form, Setup)) {
    for form in FORMS {
        if let Some(setup) = Setup::go_fixture("habits", form) {
            println!("{form:?}");
            test(form, setup);
        }
    }
}

fn get_with(processor: &Processor, path: &str, header: &str) -> String {
    processor.request(&format!("GET {path} HTTP/1.1\r\n{header}\r\n\r\n"), b"").text()
}

#[test]
fn headers_and_fields_are_texts_whoever_asserts_that() {
    each(|_, setup| {
        let processor = setup.start();
        let text = get_with(&processor, "/assert-strings?a=1&b=2", "X-Abc: v\r\nX-Number: 7");
        assert!(text.ends_with(" true"), "{text}");
    });
}

#[test]
fn an_absent_header_is_an_empty_slice() {
    each(|_, setup| assert_eq!(setup.start().get("/absent-header").text(), "true 0"));
}

#[test]
fn an_error_beside_a_response_wins_and_an_empty_response_is_200() {
    each(|_, setup| {
        let processor = setup.start();
        let answer = processor.get("/both");
        assert_eq!((answer.status, answer.text().as_str()), (500, "the error wins"));
        let answer = processor.get("/zero");
        assert_eq!((answer.status, answer.body.len()), (200, 0));
    });
}

#[test]
fn a_main_of_the_functions_own_is_never_run() {
    each(|_, setup| {
        let processor = setup.start();
        assert_eq!(processor.get("/").text(), "[]uint8");
        assert!(!processor.stdout.text().contains("never run"));
    });
}

#[test]
fn printf_and_structured_logging_mixed_up_lose_nothing() {
    each(|_, setup| {
        let processor = setup.start();
        assert_eq!(processor.get("/mixed-log").text(), "logged");
        processor.stdout.wait_for_record("x%!(EXTRA string=key, int=1)");
        assert!(processor.stdout.wait_for_record("odd")["more"]["key"].is_null());
        let child = processor.stdout.wait_for_record("child");
        let fields = json!({"err": "file does not exist", "after": "1s", "list": [1, 2], "logger": "part"});
        for (name, value) in fields.as_object().unwrap() {
            assert_eq!(&child["more"][name], value, "{child}");
        }
    });
}

#[test]
fn pictures_and_files_are_answers() {
    each(|_, setup| {
        setup.write("page.txt", "from a file");
        let processor = setup.start();
        let answer = processor.get("/png");
        assert_eq!(
            (answer.values("Content-Type"), &answer.body[1..4]),
            (vec!["image/png"], b"PNG".as_slice())
        );
        let file = processor.directory.path().join("page.txt").display().to_string();
        assert_eq!(processor.post("/file", &file).text(), "from a file");
        let answer = processor.post("/reader", &file);
        assert_eq!((answer.status, answer.text().as_str()), (200, "from a file"));
        assert_eq!(processor.post("/reader", "/nonexistent").status, 500);
    });
}

#[test]
fn a_call_to_a_function_that_is_not_there_is_an_error() {
    each(|_, setup| assert_eq!(setup.start().get("/call").status, 500));
}

#[test]
fn a_nil_dereference_fails_one_event_with_its_stack_in_the_log() {
    each(|_, setup| {
        let processor = setup.start();
        for _ in 0..3 {
            let answer = processor.get("/nil-dereference");
            assert_eq!(answer.status, 500);
            assert!(answer.text().starts_with("Caught panic: runtime error: invalid memory address"));
        }
        let record = processor.stdout.wait_for_record("Panic caught in event handler");
        assert!(record["more"]["stack"].as_str().unwrap().contains("habits_main.go"), "{record}");
        assert_eq!(processor.get("/zero").status, 200);
        assert_eq!(processor.all_restarts(), 0);
    });
}

#[test]
fn what_is_kept_of_an_event_and_goroutines_left_behind_harm_nobody() {
    each(|_, setup| {
        let processor = setup.start();
        let body = "b".repeat(300_000);
        assert_eq!(processor.post("/leak", &body).text(), "leaked");
        for _ in 0..20 {
            assert_eq!(processor.get("/zero").status, 200);
        }
        assert_eq!(processor.get("/kept").text(), format!("\"\" \"{body}\" \"\""));
        processor.stdout.wait_for_record("late");
        assert_eq!(processor.all_restarts(), 0);
    });
}

#[test]
fn workers_of_a_library_share_its_variables_and_programs_have_their_own() {
    each(|form, setup| {
        let processor = setup.trigger(json!({"numWorkers": 2})).start();
        let counts: Vec<String> = (0..4).map(|_| processor.get("/count").text()).collect();
        match form {
            Form::Library => assert_eq!(counts, ["1", "2", "3", "4"]),
            Form::Executable => assert_eq!(counts.iter().filter(|count| *count == "1").count(), 2),
        }
    });
}

#[test]
fn the_monitor_of_a_library_sleeps_longer_than_it_asks_for_and_no_other_thread_does() {
    let Some(setup) = Setup::go_fixture("habits", Form::Library) else { return };
    let processor = setup.start();
    let threads = || {
        let threads = fs::read_dir(format!("/proc/{}/task", processor.child.id())).unwrap();
        threads.map(|thread| thread.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    let before = threads().len();
    // The monitor starts some of these itself.
    assert_eq!(processor.get("/threads").text(), "started");
    wait_until("there are more threads", || threads().len() >= before + 15);
    // Only a thread's own, or the privileged, may look.
    let slack = |thread: &String| fs::read_to_string(format!("/proc/{thread}/timerslack_ns"));
    let slacks: Result<Vec<_>, _> = threads().iter().map(slack).collect();
    let Ok(slacks) = slacks else {
        return println!("skipped: the timer slack of threads may not be read here");
    };
    let longer = slacks.iter().filter(|slack| slack.trim() == "1000000").count();
    assert_eq!(longer, 1, "{slacks:?}");
}

#[test]
fn a_library_has_processors_for_threads_between_two_calls_unless_it_is_told_how_many() {
    let Some(setup) = Setup::go_fixture("habits", Form::Library) else { return };
    let own = setup.env("GOMAXPROCS", "3").start();
    assert!(own.get("/processors").text().starts_with("3 of "));
    let Some(setup) = Setup::go_fixture("habits", Form::Library) else { return };
    let text = setup.start().get("/processors").text();
    let (processors, cores) = text.split_once(" of ").unwrap();
    let (processors, cores): (u32, u32) = (processors.parse().unwrap(), cores.parse().unwrap());
    // A limit of the container's may be lower than the cores.
    assert!(processors >= 2 && processors <= (3 * cores).div_ceil(2), "{text}");
}

#[test]
fn a_fatal_error_or_an_exit_ends_the_process_that_it_happens_in() {
    each(|form, setup| {
        let mut processor = setup.start();
        let mut client = Client::connect(processor.http());
        client.send_post("/fatal", b"");
        if form == Form::Executable {
            let answer = client.read_answer(false).unwrap();
            assert_eq!(answer.status, 500);
            processor.stderr.wait_for("why", |line| line.contains("concurrent map writes"));
            processor.wait_ready();
            assert_eq!(processor.get("/exit").status, 500);
            processor.wait_ready();
            assert_eq!((processor.get("/zero").status, processor.restarts("exit")), (200, 2));
            return;
        }
        assert!(client.read_answer(false).is_err());
        // Go aborts where the process is not its own.
        assert_eq!(processor.end().signal(), Some(libc::SIGABRT));
        assert!(processor.stderr.text().contains("concurrent map writes"), "{}", processor.stderr.text());
    });
    let Some(setup) = Setup::go_fixture("habits", Form::Library) else { return };
    let mut processor = setup.start();
    Client::connect(processor.http()).send_post("/exit", b"");
    assert_eq!(processor.end().code(), Some(3));
}

#[test]
fn a_sigterm_under_load_drains_and_signals_of_the_language_disturb_nobody() {
    each(|_, setup| {
        let mut processor = setup.trigger(json!({"numWorkers": 4})).start();
        let address = processor.http();
        let clients: Vec<_> = (0..8)
            .map(|_| {
                std::thread::spawn(move || {
                    let (mut client, mut answers) = (Client::connect(address), 0);
                    loop {
                        client.send_post("/absent-header", b"x");
                        let Ok(answer) = client.read_answer(false) else { return answers };
                        assert_eq!((answer.status, answer.text().as_str()), (200, "true 0"));
                        answers += 1;
                        if answer.header("Connection").is_some_and(|value| value == "close") {
                            return answers;
                        }
                    }
                })
            })
            .collect();
        let served = || processor.metric("nuclio_processor_handled_events_total", &["success"]);
        wait_until("there is load", || served() > 200.0);
        // What Go uses to interrupt its threads, and what profilers send.
        for _ in 0..200 {
            processor.signal(libc::SIGURG);
            processor.signal(libc::SIGWINCH);
        }
        processor.signal(libc::SIGTERM);
        let status = processor.wait();
        assert_eq!((status.code(), status.signal()), (Some(0), None));
        assert!(clients.into_iter().map(|client| client.join().unwrap()).sum::<usize>() >= 200);
    });
}

#[test]
fn bodies_that_are_no_text_and_empty_ones_come_as_they_are() {
    for form in FORMS {
        let Some(setup) = Setup::go_fixture("echo", form) else { return };
        let processor = setup.start();
        let bytes = [0xff, 0, 0xfe, b'a'];
        let head = "POST /%ff?%ff=%00 HTTP/1.1\r\nX-Odd: \u{ff}\r\nContent-Length: 4\r\n\r\n";
        assert_eq!(processor.request(head, &bytes).body, bytes);
        let answer = processor.get("/");
        assert_eq!((answer.status, answer.body.len()), (200, 0));
    }
}

/// How a start with this handler setting ends.
fn refusal(file: &Path, handler: &str) -> String {
    let mut setup = Setup::new("golang", handler).go(file).no_wait();
    setup.function["spec"]["handler"] = handler.into();
    let mut processor = setup.start();
    assert_eq!(processor.end().code(), Some(1));
    processor.stderr.text() + &processor.stdout.text()
}

#[test]
fn what_is_wrong_with_a_handler_setting_is_said_at_the_start() {
    for form in FORMS {
        let Some((file, _)) = crate::golang_build::fixture("habits", form) else { return };
        for (handler, words) in [
            ("main:Nope", "Can't find handler \"Nope\""),
            ("main:handlerHidden", "not exported; rename it to HandlerHidden"),
            ("main:HandlerWrong", "is of wrong type - func(*nuclio.Context, nuclio.Event) (string, error)"),
            ("a:b:c", "Invalid handler name a:b:c"),
        ] {
            let text = refusal(&file, handler).replace("\\\"", "\"");
            assert!(text.contains(words), "{form:?} {handler}: {text}");
        }
    }
}

#[test]
fn panics_while_a_function_starts_end_the_start_with_their_text() {
    let source = |body: &str| {
        let text = format!(
            "package main\n\nimport \"github.com/nuclio/nuclio-sdk-go\"\n\n{body}\n\nfunc Handler(context \
             *nuclio.Context, event nuclio.Event) (interface{{}}, error) {{ return nil, nil }}\n"
        );
        [("main.go".to_owned(), text)]
    };
    let init = source("func init() { panic(\"no luck\") }");
    let context = source("func InitContext(context *nuclio.Context) error { panic(\"no context\") }");
    for form in FORMS {
        let Some(file) = go_function("panic-context", &context, form) else { return };
        let text = refusal(&file, "main:Handler");
        assert!(text.contains("Failed to initialize context: Caught panic: no context"), "{form:?}: {text}");
        let Some(file) = go_function("panic-init", &init, form) else { return };
        let mut processor = Setup::new("golang", "main:Handler").go(&file).no_wait().start();
        assert!(!processor.end().success());
        let text = processor.stderr.text();
        assert!(text.contains("panic: no luck"), "{form:?}: {text}");
    }
}

#[test]
fn a_program_that_is_no_handler_or_may_not_run_is_refused_by_name() {
    let Some((file, _)) = crate::golang_build::fixture("echo", Form::Executable) else { return };
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("handler");
    std::fs::copy(&file, &copy).unwrap();
    let mut permissions = std::fs::metadata(&copy).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
    std::fs::set_permissions(&copy, permissions).unwrap();
    let text = refusal(&copy, "");
    assert!(text.contains("may not be executed") && text.contains("chmod +x"), "{text}");
    let text = refusal(Path::new("/bin/true"), "");
    assert!(text.contains("before it was ready") && text.contains("exited with code 0"), "{text}");
}

#[test]
fn a_form_that_the_file_has_not_is_refused_and_its_own_is_taken() {
    for (form, own, other) in
        [(Form::Library, "library", "executable"), (Form::Executable, "executable", "library")]
    {
        let Some((file, handler)) = crate::golang_build::fixture("echo", form) else { return };
        let setup = |asked: &str| {
            Setup::new("golang", &handler)
                .go(&file)
                .spec(json!({"runtimeAttributes": {"handlerForm": asked}}))
        };
        assert_eq!(setup(own).start().post("/", "there").text(), "there");
        let mut refused = setup(other).no_wait().start();
        assert_eq!(refused.end().code(), Some(1));
        let text = refused.stderr.text();
        assert!(text.contains("handlerForm asks for a"), "{text}");
    }
}

const FUNCTION: &str = "package main\n\nimport \"github.com/nuclio/nuclio-sdk-go\"\n\nfunc Greet(context \
                        *nuclio.Context, event nuclio.Event) (interface{}, error) {\n\treturn \"hello\", nil\n}\n";

/// What the builder says of a folder with these files; it must fail and leave nothing behind.
fn build_fails(files: &[(&str, &str)], more: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let out = folder.path().join("handler.so");
    let output = build(folder.path(), &out, more);
    assert!(!output.status.success());
    let left = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, files.len(), "something was left behind");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn mistakes_are_told_in_the_compilers_words_with_the_functions_own_names() {
    if !available() {
        return;
    }
    let broken = FUNCTION.replace("\"hello\"", "undefinedName");
    let text = build_fails(&[("greet.go", &broken)], &["--form", "executable"]);
    let last = text.trim_end().lines().last().unwrap();
    assert!(last.starts_with("./greet.go:6:9: undefined: undefinedName"), "{text}");
    // In a file that has a main, which is built from a copy.
    let text = build_fails(&[("greet.go", &format!("{broken}\nfunc main() {{}}\n"))], &[]);
    assert!(text.contains("greet.go:6:9: undefined: undefinedName"), "{text}");
    for (files, more, words) in [
        (&[][..], &[][..], "there are no Go files in"),
        (&[("a.go", "package other\n")][..], &[][..], "is of package other; a function is of package main"),
        (&[("greet.go", FUNCTION)][..], &["--handler", "main:greet"][..], "the package has Greet"),
        (&[("greet.go", FUNCTION)][..], &["--form", "plugin"][..], "use library or executable"),
    ] {
        let text = build_fails(files, more);
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[test]
fn builds_need_no_network_and_respect_go_mod_vendor_folders_and_the_only_handlers_name() {
    if !available() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    std::fs::write(path.join("greet.go"), FUNCTION).unwrap();
    let out = tempfile::tempdir().unwrap();
    let out = out.path().join("handler");
    let offline = |what: &str| {
        let mut command = build_command(path, &out, &["--form", "executable"]);
        let output = command.env("NUCLIO_BUILD_OFFLINE", "true").env("GOPROXY", "off").output().unwrap();
        assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
        let mut setup = Setup::new("golang", "").go(&out);
        setup.function["spec"]["handler"] = "".into();
        assert_eq!(setup.start().get("/").text(), "hello", "{what}");
    };
    offline("without go.mod");
    let module = "module example.org/greet\n\ngo 1.21\n\nrequire github.com/nuclio/nuclio-sdk-go v0.5.3\n";
    std::fs::write(path.join("go.mod"), module).unwrap();
    offline("with a go.mod of its own");
    assert_eq!(std::fs::read_to_string(path.join("go.mod")).unwrap(), module, "it is not written to");
    let vendor = |arguments: &[&str]| {
        let output = crate::golang_build::go("go")
            .args(arguments)
            .current_dir(path)
            .env("GOFLAGS", "-mod=mod")
            .env("GOPROXY", "off")
            .env("GOSUMDB", "off")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    vendor(&["mod", "tidy"]);
    vendor(&["mod", "vendor"]);
    offline("with a vendor folder");
}
