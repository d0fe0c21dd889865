//! What handlers of every language have in common, behind a shim, in process or as commands: the same tiny handlers, one folder per language and
//! case under `tests/handlers`, the same requests, the same answers. A further language is a row.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::json;

use crate::dotnet_build::fixtures;
use crate::golang_build::{Form, fixture};
use crate::harness::{Client, Processor, Setup, python, wait_until};
use crate::java_build;

/// One language.
struct Language {
    /// The folder of its handlers, and after a comma in which form they run.
    name: &'static str,
    runtime: &'static str,
    handler: &'static str,
    /// Gives the processor interpreter and folder of the handler. `None`: the language is not on this machine.
    prepare: fn(Setup, &Path) -> Option<Setup>,
    /// What the log shows of an error that a handler throws, beside its text.
    trace: &'static str,
}

const LANGUAGES: &[Language] = &[
    Language {
        name: "python",
        runtime: "python",
        handler: "main:handler",
        prepare: |setup, folder| {
            let setup = setup.env("NUCLIO_PYTHON_PATH", &folder.display().to_string());
            Some(setup.env("NUCLIO_PYTHON_EXE_PATH", python()))
        },
        trace: "main.py",
    },
    Language {
        name: "nodejs",
        runtime: "nodejs",
        handler: "handler.js:handler",
        prepare: |setup, folder| {
            let setup = setup.env("NUCLIO_HANDLER_DIR", &folder.display().to_string());
            Some(setup.env("NUCLIO_NODEJS_EXE", nodejs()?))
        },
        trace: "handler.js",
    },
    Language {
        name: "ruby",
        runtime: "ruby",
        handler: "handler:handler",
        prepare: |setup, folder| {
            let setup = setup.env("NUCLIO_HANDLER_DIR", &folder.display().to_string());
            Some(setup.env("NUCLIO_RUBY_EXE", ruby()?))
        },
        trace: "handler.rb",
    },
    Language {
        name: "dotnetcore",
        runtime: "dotnetcore",
        handler: "",
        prepare: dotnet_setup,
        trace: ".cs:line ",
    },
    Language {
        name: "java",
        runtime: "java",
        handler: "",
        prepare: |mut setup, folder| {
            setup.function["spec"]["handler"] = format!("{}.Handler", folder.file_name()?.to_str()?).into();
            setup.java_environment(java_build::fixtures()?)
        },
        trace: "Handler.java",
    },
    Language {
        name: "golang",
        runtime: "golang",
        handler: "",
        prepare: |setup, folder| go_setup(setup, folder, Form::Executable),
        trace: "main.go",
    },
    Language {
        name: "golang, in process",
        runtime: "golang",
        handler: "",
        prepare: |setup, folder| go_setup(setup, folder, Form::Library),
        trace: "main.go",
    },
    Language { name: "c", prepare: |setup, folder| compiled(setup, folder, Form::Executable), ..COMPILED },
    Language {
        name: "c, in process",
        prepare: |setup, folder| compiled(setup, folder, Form::Library),
        ..COMPILED
    },
    Language { name: "cpp", prepare: |setup, folder| compiled(setup, folder, Form::Executable), ..COMPILED },
    Language {
        name: "cpp, in process",
        prepare: |setup, folder| compiled(setup, folder, Form::Library),
        ..COMPILED
    },
    Language {
        name: "shell",
        runtime: "shell",
        handler: "handler.sh",
        prepare: |setup, folder| {
            let setup = crate::shell::in_folder(setup, folder);
            let more = json!({
                "stream": true, "stderr": "log",
                "responseHeaders": {"X-Kind": "pieces", "Content-Type": "text/csv"},
            });
            Some(if folder.ends_with("stream") { crate::shell::attributes(setup, more) } else { setup })
        },
        trace: "",
    },
    Language { name: "rust", prepare: |setup, folder| compiled(setup, folder, Form::Executable), ..COMPILED },
    Language {
        name: "rust, in process",
        prepare: |setup, folder| compiled(setup, folder, Form::Library),
        ..COMPILED
    },
];

/// What handlers in C, C++ and Rust have in common.
const COMPILED: Language = Language {
    name: "",
    runtime: "golang",
    handler: "main:Handler",
    prepare: |_, _| None,
    trace: "Caught panic",
};

/// What a handler in our own process cannot do without ending us, or keeps its thread for ever.
const OUT_OF_PROCESS: &[&str] = &["crash", "hang"];

/// What scripts have no words for: headers of their own, a status beside 0, levels of records. `shell` tests what they
/// have instead, with handlers of the same names.
const NOT_OF_COMMANDS: &[&str] = &["garbage", "headers", "log", "status"];

/// The cases, each a folder of every language.
const CASES: &[&str] =
    &["big_body", "crash", "echo", "garbage", "hang", "headers", "log", "slow_start", "status", "stream"];

fn compiled(setup: Setup, folder: &Path, form: Form) -> Option<Setup> {
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let file = crate::compiled::fixture(&name(folder.parent()?), &name(folder), form)?;
    Some(setup.go(&file))
}

fn go_setup(mut setup: Setup, folder: &Path, form: Form) -> Option<Setup> {
    let (file, handler) = fixture(folder.file_name()?.to_str()?, form)?;
    setup.function["spec"]["handler"] = handler.into();
    Some(setup.go(&file))
}

/// The class is called like the case.
fn dotnet_setup(mut setup: Setup, folder: &Path) -> Option<Setup> {
    let words = folder.file_name()?.to_str()?.split('_');
    let class: String = words.map(|word| word[..1].to_uppercase() + &word[1..]).collect();
    setup.function["spec"]["handler"] = format!("{class}:Handle").into();
    Some(setup.dotnet_environment(&fixtures()?))
}

/// The Node.js that tests run handlers with; says why if there is none.
pub fn nodejs() -> Option<&'static str> {
    static FOUND: OnceLock<Option<String>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let node = std::env::var("TEST_NODE").unwrap_or_else(|_| "node".to_owned());
        let output = Command::new(&node).arg("--version").output().ok()?;
        let version = String::from_utf8(output.stdout).ok()?;
        let major: u32 = version.trim().strip_prefix('v')?.split('.').next()?.parse().ok()?;
        (major >= 18).then_some(node)
    });
    if found.is_none() {
        println!("skipped: no Node.js 18 or newer");
    }
    found.as_deref()
}

/// The Ruby that tests run handlers with; says so if there is none.
pub fn ruby() -> Option<&'static str> {
    static FOUND: OnceLock<bool> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        Command::new("ruby").arg("--version").output().is_ok_and(|said| said.status.success())
    });
    if !found {
        println!("skipped: Ruby is not installed");
    }
    found.then_some("ruby")
}

impl Setup {
    /// A Ruby handler `main:handler` with this source.
    pub fn ruby(source: &str) -> Option<Self> {
        let setup = Self::new("ruby", "main:handler");
        setup.write("main.rb", source);
        Some(setup.ruby_environment(ruby()?))
    }

    /// The interpreter and the folder of the test.
    pub fn ruby_environment(self, interpreter: &str) -> Self {
        let folder = self.directory.path().display().to_string();
        self.env("NUCLIO_HANDLER_DIR", &folder).env("NUCLIO_RUBY_EXE", interpreter)
    }

    /// A Node.js handler `handler.js:handler` with this source.
    pub fn nodejs(source: &str) -> Option<Self> {
        let setup = Self::new("nodejs", "handler.js:handler");
        setup.write("handler.js", source);
        Some(setup.nodejs_environment(nodejs()?))
    }

    /// The interpreter and the folder of the test.
    pub fn nodejs_environment(self, interpreter: &str) -> Self {
        let folder = self.directory.path().display().to_string();
        self.env("NUCLIO_HANDLER_DIR", &folder).env("NUCLIO_NODEJS_EXE", interpreter)
    }
}

impl Language {
    fn folder(&self) -> PathBuf {
        let (folder, _) = self.name.split_once(',').unwrap_or((self.name, ""));
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/handlers").join(folder)
    }

    fn in_process(&self) -> bool {
        self.name.ends_with("in process")
    }

    /// Every event is a process of its own: there is no worker to lose.
    fn is_command(&self) -> bool {
        self.runtime == "shell"
    }

    /// What the answers of `stream` have.
    fn stream_status(&self) -> u16 {
        if self.is_command() { 200 } else { 201 }
    }

    fn runs(&self, case: &str) -> bool {
        !(self.in_process() && OUT_OF_PROCESS.contains(&case)
            || self.is_command() && NOT_OF_COMMANDS.contains(&case))
    }
}

#[test]
fn every_language_has_a_handler_for_every_case() {
    for language in LANGUAGES {
        for case in CASES {
            let folder = language.folder().join(case);
            assert!(folder.is_dir(), "{} is missing", folder.display());
        }
    }
}

/// The cells of a language's row in the table of what shims offer.
fn row_of_capabilities(language: &str) -> Vec<(&'static str, &'static str)> {
    let page = include_str!("../../runtimes/README.md");
    let mut lines = page.lines().skip_while(|line| !line.starts_with("| shim |"));
    let cells = |line: &'static str| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>();
    let names = cells(lines.next().expect("the table of capabilities"));
    let mut rows = lines.skip(1).take_while(|line| line.starts_with('|')).map(cells);
    let row = rows.find(|row| row[0].split(", ").any(|name| name == language));
    let row = row.unwrap_or_else(|| panic!("{language} has no row in the table of runtimes/README.md"));
    names.into_iter().zip(row).skip(1).collect()
}

#[test]
fn shims_offer_what_the_table_in_runtimes_readme_says() {
    each("echo", |language, setup| {
        if language.in_process() || language.is_command() {
            return;
        }
        let processor = setup.start();
        let record = processor.stdout.wait_for_record("Worker is ready");
        let offered = record["more"]["capabilities"].as_str().unwrap().to_owned();
        for (capability, cell) in row_of_capabilities(language.name) {
            let offers = offered.split(',').any(|name| name == capability);
            let right = match cell {
                "yes" => offers,
                "no" => !offers,
                // `echo` has none of it.
                depends => depends.starts_with("where the handler") && !offers,
            };
            assert!(right, "{}: {capability} is {cell:?} in the table, offered is {offered}", language.name);
        }
    });
}

/// Runs a test with the handler of that name in every language.
fn each(case: &str, test: impl Fn(&Language, Setup)) {
    assert!(CASES.contains(&case), "{case} is not in the list of cases");
    for language in LANGUAGES {
        if !language.runs(case) {
            continue;
        }
        let folder = language.folder().join(case);
        if let Some(setup) = (language.prepare)(Setup::new(language.runtime, language.handler), &folder) {
            println!("{} {case}", language.name);
            test(language, setup);
        }
    }
}

fn request(processor: &Processor, head: &str, body: &[u8]) -> crate::harness::Answer {
    let head = format!("{head}\r\nContent-Length: {}\r\n\r\n", body.len());
    processor.request(&head, body)
}

#[test]
fn bodies_come_back_byte_for_byte() {
    each("echo", |_, setup| {
        let processor = setup.start();
        let all: Vec<u8> = (0..=255).collect();
        for body in [b"hello".as_slice(), &all, &[0xff, 0xfe, 0xc3], "grüß".as_bytes()] {
            let answer = request(&processor, "POST / HTTP/1.1", body);
            assert_eq!((answer.status, answer.body.as_slice()), (200, body));
        }
    });
}

#[test]
fn headers_are_seen_and_sent_with_numbers_and_lists() {
    each("headers", |_, setup| {
        let processor = setup.start();
        let answer = request(&processor, "POST / HTTP/1.1\r\nx-ask: me", b"");
        assert_eq!((answer.status, answer.text().as_str()), (200, "<p>"));
        assert_eq!(answer.values("X-Seen"), ["me"]);
        assert_eq!(answer.values("X-Number"), ["7"]);
        assert_eq!(answer.values("X-Twice"), ["a", "b"]);
        assert_eq!(answer.values("Content-Type"), ["text/html"]);
    });
}

#[test]
fn the_handler_chooses_the_status() {
    each("status", |_, setup| {
        let processor = setup.start();
        for status in [200, 201, 404, 418, 503, 999] {
            assert_eq!(processor.get(&format!("/{status}")).status, status);
        }
        for impossible in ["/101", "/1000", "/42", "/-1"] {
            assert_eq!(processor.get(impossible).status, 500, "{impossible}");
        }
        assert_eq!(processor.all_restarts(), 0);
    });
}

#[test]
fn records_have_levels_and_fields_and_come_back_to_who_asks() {
    each("log", |_, setup| {
        let processor = setup.start();
        let answer = request(&processor, "POST / HTTP/1.1\r\nX-Nuclio-Log-Level: warn", b"");
        assert_eq!(answer.text(), "logged");
        let records: serde_json::Value =
            serde_json::from_str(answer.header("X-Nuclio-Logs").unwrap()).unwrap();
        let shown: Vec<_> = records.as_array().unwrap().iter().map(|record| &record["message"]).collect();
        assert_eq!(shown, ["w", "e"]);
        processor.get("/");
        let record = processor.stdout.wait_for_record("i");
        assert_eq!(record["level"], "info");
        assert_eq!((&record["more"]["number"], &record["more"]["text"]), (&json!(1), &json!("grüß")));
        assert_eq!(processor.stdout.wait_for_record("d")["level"], "debug");
    });
}

#[test]
fn a_crash_fails_its_own_event_and_the_worker_is_replaced() {
    each("crash", |language, setup| {
        let processor = setup.start();
        let (exit, signal, ends) = if language.is_command() {
            ("exit status 7", "signal: killed", 0)
        } else {
            ("exited with code 7", "SIGKILL", 1)
        };
        let answer = processor.get("/exit");
        assert_eq!(answer.status, 500);
        assert!(answer.text().contains(exit), "{}", answer.text());
        processor.wait_ready();
        assert_eq!(processor.get("/").text(), "alive");
        let answer = processor.get("/signal");
        assert!(answer.status == 500 && answer.text().contains(signal), "{}", answer.text());
        processor.wait_ready();
        assert_eq!(processor.get("/").text(), "alive");
        assert_eq!((processor.restarts("exit"), processor.restarts("signal")), (ends, ends));
    });
}

#[test]
fn a_memory_fault_in_a_program_fails_its_own_event() {
    for language in ["c", "cpp", "rust"] {
        let setup = Setup::new("golang", "main:Handler");
        let folder = Path::new("tests/handlers").join(language).join("crash");
        let Some(setup) = compiled(setup, &folder, Form::Executable) else { return };
        let processor = setup.trigger(json!({"numWorkers": 2})).start();
        let answer = processor.get("/fault");
        assert!(answer.status == 500 && answer.text().contains("SIGSEGV"), "{language}: {}", answer.text());
        assert_eq!(processor.get("/").text(), "alive");
        processor.wait_ready();
        assert_eq!((processor.restarts("signal"), processor.all_restarts()), (1, 1));
    }
}

#[test]
fn a_handler_that_hangs_is_answered_for_and_replaced() {
    each("hang", |language, setup| {
        let processor = setup.spec(json!({"eventTimeout": "300ms"})).start();
        assert_eq!(processor.get("/hang").status, 408);
        assert_eq!(processor.metric("nuclio_processor_event_timeouts_total", &[]), 1.0);
        let replaced = usize::from(!language.is_command());
        wait_until("it is counted", || processor.restarts("timeout") == replaced);
        processor.wait_ready();
        assert_eq!(processor.get("/").text(), "back");
    });
}

#[test]
fn a_timer_that_replaces_its_event_ends_a_handler_that_hangs() {
    each("hang", |language, setup| {
        let attributes =
            json!({"interval": "1s", "concurrencyPolicy": "Replace", "event": {"path": "/hang"}});
        let tick = json!({"kind": "cron", "attributes": attributes});
        let processor = setup.spec(json!({"triggers": {"tick": tick}})).start();
        let of_tick =
            |metric: &str, part: &str| processor.metric(metric, &["trigger_id=\"tick\"", part]) as usize;
        let replaced = || of_tick("nuclio_processor_event_failures_total", "cause=\"replaced\"");
        let recycled = || of_tick("nuclio_processor_worker_restarts_total", "reason=\"recycle\"");
        wait_until("it is in work", || {
            processor.metric("nuclio_processor_events_in_flight", &["trigger_id=\"tick\""]) == 1.0
        });
        let first = processor.children();
        // The second one shows that what came after the first has begun, too.
        wait_until("it is replaced", || replaced() >= 2 && (recycled() >= 2 || language.is_command()));
        assert_eq!(processor.get("/").text(), "back");
        // That of HTTP stays where there is one.
        let kept = usize::from(!language.is_command());
        assert_eq!(first.iter().filter(|pid| crate::harness::alive(**pid)).count(), kept, "{first:?}");
        let others = processor.all_restarts() - processor.restarts("recycle");
        assert_eq!(
            (others, processor.stdout.records().iter().filter(|record| record["level"] == "error").count()),
            (0, 0)
        );
    });
}

#[test]
fn a_slow_start_is_waited_for() {
    each("slow_start", |language, setup| {
        let begun = std::time::Instant::now();
        let processor = setup.start();
        if language.is_command() {
            assert_eq!(processor.get("/").text(), "ready");
            return; // It starts with its event.
        }
        assert!(begun.elapsed() >= Duration::from_millis(950), "ready before it was loaded");
        assert_eq!(processor.get("/").text(), "ready");
    });
}

#[test]
fn garbage_fails_its_own_event_with_a_reason() {
    each("garbage", |language, setup| {
        let processor = setup.start();
        let answer = processor.get("/throw");
        assert_eq!(answer.status, 500);
        assert!(answer.text().contains("thrown on purpose"), "{}", answer.text());
        processor.stdout.wait_for("the trace", |line| {
            line.contains("\"error\"") && line.contains("thrown on purpose") && line.contains(language.trace)
        });
        let answer = processor.get("/status");
        assert!(answer.status == 500 && answer.text().contains("status"), "{}", answer.text());
        let answer = processor.get("/header");
        assert_eq!((answer.status, answer.header("bad name")), (200, None));
        assert!(answer.header("b").is_none(), "a header was split");
        assert_eq!(processor.get("/text").body, "\u{fffd}!".as_bytes());
        assert_eq!(processor.get("/").text(), "well");
        assert_eq!(processor.all_restarts(), 0);
    });
}

#[test]
fn bodies_of_16_mib_go_both_ways() {
    each("big_body", |_, setup| {
        let limit = json!({"attributes": {"maxRequestBodySize": 20 << 20}});
        let processor = setup.trigger(limit).start();
        let body: Vec<u8> = (0..16 << 20).map(|at: u32| (at % 251) as u8).collect();
        assert_eq!(request(&processor, "PUT / HTTP/1.1", &body).text(), (16 << 20).to_string());
        let answer = request(&processor, "POST / HTTP/1.1", &body);
        assert!(answer.status == 200 && answer.body == body, "{} bytes came back", answer.body.len());
    });
}

#[test]
fn streams_have_a_head_pieces_and_an_end() {
    each("stream", |language, setup| {
        let processor = setup.start();
        let status = language.stream_status();
        let answer = processor.get("/five");
        assert_eq!((answer.status, answer.text().as_str()), (status, "0\n1\n2\n3\n4\n"));
        assert_eq!(
            (answer.values("X-Kind"), answer.values("Content-Type")),
            (vec!["pieces"], vec!["text/csv"])
        );
        // One that fails in the middle is cut, so that nobody takes it for whole.
        let mut client = Client::connect(processor.http());
        let go = processor.directory.path().join("go").display().to_string();
        client.send_post("/broken", go.as_bytes());
        assert_eq!(client.read_head().unwrap().status, status);
        assert!(client.read_chunk().unwrap().is_some());
        processor.touch("go");
        let mut text = String::new();
        std::io::Read::read_to_string(client.reader(), &mut text).unwrap_or_default();
        assert!(!text.contains("\r\n0\r\n\r\n"), "{text:?}");
        processor.stdout.wait_for("the reason", |line| line.contains("broken on purpose"));
        assert_eq!(processor.all_restarts(), 0);
    });
}

#[test]
fn a_stream_waits_for_its_client_and_ends_when_it_leaves() {
    each("stream", |language, setup| {
        let processor = setup.start();
        let status = language.stream_status();
        let mut client = Client::connect(processor.http());
        client.send(b"GET /flood HTTP/1.1\r\nHost: t\r\n\r\n");
        assert_eq!(client.read_head().unwrap().status, status);
        for _ in 0..20 {
            client.read_chunk().unwrap().unwrap();
        }
        drop(client);
        processor.stdout.wait_for("its end", |line| line.contains("stream closed"));
        processor.wait_in_flight(0);
        assert_eq!(processor.get("/five").status, status);
        assert_eq!(processor.all_restarts(), 0);
    });
}
