//! `processor dev`: what makes it start again, what clients see meanwhile, and what they get while a handler is broken.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::dev::{answers, change, count, dev, dev_with};
use crate::harness::{Ports, Processor, free_port, get, processor_bin, python, wait_until};

const WAITS: &str = "waiting for its source to change";

fn returns(text: &str) -> String {
    format!("def handler(context, event):\n    return '{text}'\n")
}

fn path(processor: &Processor, name: &str) -> std::path::PathBuf {
    processor.directory.path().join(name)
}

fn ends(mut processor: Processor) {
    processor.signal(2);
    assert_eq!(processor.end().code(), Some(0));
}

/// One request with what it accepts; whole answer, head included.
fn asks(port: u16, accept: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let head = format!("GET / HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn modules_from_elsewhere_count_once_they_are_imported_also_late_ones() {
    let elsewhere = tempfile::tempdir().unwrap();
    let library = elsewhere.path().display();
    for name in ["early", "late"] {
        std::fs::write(elsewhere.path().join(format!("{name}.py")), format!("VALUE = '{name} 1'\n")).unwrap();
    }
    std::fs::write(elsewhere.path().join("unused.py"), "").unwrap();
    let source = format!(
        "import sys\nsys.path.insert(0, '{library}')\nimport early\ndef handler(context, event):\n    \
         if event.path == '/late':\n        import late\n        return late.VALUE\n    return early.VALUE\n"
    );
    let processor = dev(&source);
    answers(&processor, "early 1");
    std::fs::write(elsewhere.path().join("early.py"), "VALUE = 'early 2'\n").unwrap();
    answers(&processor, "early 2");
    assert_eq!(processor.get("/late").text(), "late 1");
    // What has been imported is listed before the next event is waited for.
    let list = std::env::temp_dir().join(format!("processor-dev-{}/sources", processor.child.id()));
    wait_until("the late one is listed", || {
        std::fs::read_to_string(&list).is_ok_and(|text| text.contains("late.py"))
    });
    std::fs::write(elsewhere.path().join("late.py"), "VALUE = 'late 2'\n").unwrap();
    wait_until("late 2", || get(processor.ports.http, "/late").is_ok_and(|answer| answer.text() == "late 2"));
    assert_eq!(count(&processor, "unused.py has changed"), 0);
    ends(processor);
    assert!(!list.exists(), "the folder for what is made meanwhile is removed");
}

#[test]
fn a_web_application_and_its_package_are_loaded_again() {
    let app = |text: &str| {
        format!(
            "from shop.pages import name\ndef app(environ, start_response):\n    start_response('200 OK', [])\n    \
             return [('{text} ' + name).encode()]\n"
        )
    };
    let processor = dev_with("app.py", ":app", &app("first"), |command| {
        let file = command.get_args().last().unwrap().to_string_lossy().into_owned();
        let folder = Path::new(&file).parent().unwrap().join("shop");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("__init__.py"), "").unwrap();
        std::fs::write(folder.join("pages.py"), "name = 'a'\n").unwrap();
    });
    answers(&processor, "first a");
    change(&processor, "shop/pages.py", "name = 'b'\n");
    answers(&processor, "first b");
    change(&processor, "app.py", &app("second"));
    answers(&processor, "second b");
    ends(processor);
}

#[test]
fn no_request_is_refused_while_it_starts_again_and_again() {
    let processor = dev(&returns("text 0"));
    answers(&processor, "text 0");
    let (port, over) = (processor.ports.http, Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let over = over.clone();
            std::thread::spawn(move || {
                let mut asked = 0;
                while !over.load(Ordering::Relaxed) {
                    let answer = asks(port, "*/*");
                    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("text "), "{answer:?}");
                    asked += 1;
                }
                asked
            })
        })
        .collect();
    for round in 1..5 {
        change(&processor, "hello.py", &returns(&format!("text {round}")));
        answers(&processor, &format!("text {round}"));
    }
    over.store(true, Ordering::Relaxed);
    let asked: Vec<i32> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    assert!(asked.iter().all(|asked| *asked > 0), "{asked:?}");
    wait_until("no process is left of the starts before", || processor.children().len() == 1);
    ends(processor);
}

#[test]
fn a_burst_of_saves_is_one_change() {
    let processor = dev(&returns("first"));
    answers(&processor, "first");
    for round in 0..20 {
        std::fs::write(path(&processor, "hello.py"), returns(&format!("burst {round}"))).unwrap();
    }
    answers(&processor, "burst 19");
    assert!(count(&processor, "has changed") <= 3, "{}", processor.stderr.text());
    ends(processor);
}

#[test]
fn why_a_handler_does_not_start_is_said_and_served_until_it_does() {
    let mut processor = dev("# <b>&\ndef handler(context, event):\n    return '<b>' + )\n");
    processor.stderr.wait_for("what to do", |line| line.contains(WAITS));
    let shown = processor.stderr.text();
    let text = asks(processor.ports.http, "*/*");
    assert!(text.starts_with("HTTP/1.1 500 ") && text.contains("text/plain; charset=utf-8"), "{text}");
    for part in ["hello.py\", line 3", "return '<b>' + )", "SyntaxError: "] {
        assert!(text.contains(part) && shown.contains(part), "{part}: {text}{shown}");
    }
    let page = asks(processor.ports.http, "text/html,application/xhtml+xml,*/*;q=0.8");
    assert!(page.contains("text/html") && page.contains("return &#39;&lt;b&gt;&#39; + )"), "{page}");
    assert!(!page.contains("'<b>'"), "{page}");
    // A body that nobody reads must not hide the answer.
    let answer = processor
        .request("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n", &vec![b'x'; 3_000_000]);
    assert_eq!(answer.status, 500);
    change(&processor, "hello.py", &returns("mended"));
    answers(&processor, "mended");
    change(&processor, "hello.py", "import absent_module\n");
    wait_until("it waits again", || count(&processor, WAITS) == 2);
    let text = asks(processor.ports.http, "*/*");
    assert!(text.contains("No module named 'absent_module'") && text.contains("line 1"), "{text}");
    processor.signal(2);
    assert_eq!(processor.end().code(), Some(0));
}

#[test]
fn a_fault_in_an_imported_module_from_elsewhere_can_be_mended_there() {
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("shared.py");
    std::fs::write(&file, "VALUE = (\n").unwrap();
    let library = elsewhere.path().display();
    let processor = dev(&format!(
        "import sys\nsys.path.insert(0, '{library}')\nfrom shared import VALUE\ndef handler(context, event):\n    return VALUE\n"
    ));
    processor.stderr.wait_for("what to do", |line| line.contains(WAITS));
    assert!(asks(processor.ports.http, "*/*").contains("shared.py\", line 1"));
    std::fs::write(&file, "VALUE = 'mended'\n").unwrap();
    answers(&processor, "mended");
    ends(processor);
}

/// Serves a broken handler, what it says of it, and then the mended one.
fn mends(name: &str, broken: &str, says: &[&str], mended: &str, environment: (&str, &str)) {
    let processor = dev_with(name, "", broken, |command| {
        command.env(environment.0, environment.1);
    });
    processor.stderr.wait_for("what to do", |line| line.contains(WAITS));
    let text = asks(processor.ports.http, "*/*");
    for part in says {
        assert!(text.contains(part) && processor.stderr.text().contains(part), "{part}: {text}");
    }
    change(&processor, name, mended);
    answers(&processor, "mended");
    ends(processor);
}

#[test]
fn faults_in_nodejs_are_named_with_file_line_and_words() {
    let Some(node) = crate::languages::nodejs() else { return };
    let environment = ("NUCLIO_NODEJS_EXE", node);
    let mended = "exports.handler = (context, event) => context.callback('mended')\n";
    let broken = "// a\nexports.handler = (context, event) => ]\n";
    mends("hello.js", broken, &["hello.js:2", "=> ]", "SyntaxError"], mended, environment);
    let broken = "const absent = require('./absent')\n";
    mends("hello.js", broken, &["Cannot find module './absent'", "hello.js:1"], mended, environment);
}

#[test]
fn faults_in_ruby_are_named_with_file_line_and_words() {
    let Some(ruby) = crate::languages::ruby() else { return };
    let mended = "def handler(context, event)\n  'mended'\nend\n";
    let broken = "def handler(context, event)\n  ]\nend\n";
    mends("hello.rb", broken, &["hello.rb:2"], mended, ("NUCLIO_RUBY_EXE", ruby));
}

#[test]
fn a_handler_that_is_deleted_is_waited_for_also_with_its_folder() {
    let processor = dev(&returns("first"));
    answers(&processor, "first");
    std::fs::remove_file(path(&processor, "hello.py")).unwrap();
    processor.stderr.wait_for("the fault", |line| line.contains("no such file"));
    assert!(asks(processor.ports.http, "*/*").contains("no such file"));
    std::fs::write(path(&processor, "hello.py"), returns("second")).unwrap();
    answers(&processor, "second");
    std::fs::remove_dir_all(processor.directory.path()).unwrap();
    wait_until("it is missed", || count(&processor, "no such file") == 2);
    std::fs::create_dir(processor.directory.path()).unwrap();
    std::fs::write(path(&processor, "hello.py"), returns("third")).unwrap();
    answers(&processor, "third");
    ends(processor);
}

#[test]
fn a_tree_of_ten_thousand_files_is_watched_and_what_is_none_of_it_is_not() {
    let processor = dev_with("hello.py", "", &returns("first"), |command| {
        let file = command.get_args().last().unwrap().to_string_lossy().into_owned();
        let root = Path::new(&file).parent().unwrap();
        for folder in (0..100)
            .map(|n| root.join(format!("data/{n}")))
            .chain([root.join(".venv"), root.join("node_modules/a")])
        {
            std::fs::create_dir_all(&folder).unwrap();
            for n in 0..100 {
                std::fs::write(folder.join(format!("{n}.txt")), "").unwrap();
            }
        }
    });
    answers(&processor, "first");
    for other in [".venv/x.py", "node_modules/a/x.py", "data/1/1.txt", ".hello.py.swp"] {
        std::fs::write(path(&processor, other), "1").unwrap();
    }
    change(&processor, "data/99/deep.py", "x = 1\n");
    processor.stderr.wait_for("the change", |line| line.contains("has changed"));
    assert!(processor.stderr.text().contains("data/99/deep.py has changed"), "{}", processor.stderr.text());
    change(&processor, "hello.py", &returns("second"));
    answers(&processor, "second");
    ends(processor);
}

#[test]
fn a_link_to_a_handler_is_followed_when_it_gets_another_target() {
    let folder = tempfile::tempdir().unwrap();
    for version in ["v1", "v2"] {
        std::fs::create_dir(folder.path().join(version)).unwrap();
        std::fs::write(folder.path().join(version).join("hello.py"), returns(version)).unwrap();
    }
    let link = folder.path().join("hello.py");
    std::os::unix::fs::symlink("v1/hello.py", &link).unwrap();
    let ports = Ports { http: free_port(), health: 0, admin: 0, metrics: 0 };
    let mut command = Command::new(processor_bin());
    command
        .args(["dev", "--port", &ports.http.to_string()])
        .arg(&link)
        .env("NUCLIO_PYTHON_EXE_PATH", python());
    let processor = Processor::spawn(command, ports, folder);
    answers(&processor, "v1");
    std::os::unix::fs::symlink("v2/hello.py", path(&processor, "next")).unwrap();
    std::fs::rename(path(&processor, "next"), &link).unwrap();
    answers(&processor, "v2");
    std::fs::write(path(&processor, "v2/hello.py"), returns("v3")).unwrap();
    answers(&processor, "v3");
    ends(processor);
}

const SHOWS: &str = "import os\ndef handler(context, event):\n    return ' '.join(os.environ.get(n, '-') for n in ('FROM_FILE', 'SET_BEFORE', 'ADDED'))\n";

fn dev_of_variables(text: &str) -> Processor {
    dev_with("hello.py", "", SHOWS, |command| {
        let file = command.get_args().last().unwrap().to_string_lossy().into_owned();
        let variables = Path::new(&file).with_file_name("my.env");
        std::fs::write(&variables, text).unwrap();
        command.arg("--env-file").arg(variables).env("SET_BEFORE", "environment");
    })
}

#[test]
fn variables_of_a_file_reach_the_handler_and_us_and_are_read_again() {
    let processor = dev_of_variables("FROM_FILE='a b'\nSET_BEFORE=file\nNUCLIO_WORKER_START_TIMEOUT=3m\n");
    answers(&processor, "a b environment -");
    change(&processor, "my.env", "SET_BEFORE=file\nADDED=new # comment\n");
    answers(&processor, "- environment new");
    change(&processor, "my.env", "ADDED=newer\nnonsense\n");
    processor.stderr.wait_for("the fault", |line| line.contains("my.env:2: cannot read \"nonsense\""));
    assert!(asks(processor.ports.http, "*/*").contains("my.env:2: cannot read \"nonsense\""));
    change(&processor, "my.env", "NUCLIO_WORKER_START_TIMEOUT=often\n");
    processor.stderr.wait_for("the fault", |line| line.contains("NUCLIO_WORKER_START_TIMEOUT: cannot use"));
    change(&processor, "my.env", "ADDED=last\n");
    answers(&processor, "- environment last");
    ends(processor);
}

#[test]
fn files_of_variables_that_cannot_be_read_end_the_first_start() {
    let mut processor = dev_of_variables("A=1\n\n=nothing\n");
    assert_eq!(processor.end().code(), Some(1));
    assert!(processor.stderr.text().contains("my.env:3: "), "{}", processor.stderr.text());
    let output = Command::new(processor_bin())
        .args(["dev", "--env-file", "/nowhere/my.env", "x.py"])
        .output()
        .unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && err.contains("/nowhere/my.env: cannot read"), "{err}");
}

#[test]
fn what_was_asked_for_counts_whatever_it_is_called() {
    let source = "import os\nPAGE = open(os.path.dirname(__file__) + '/pages/index.html').read()\ndef handler(context, event):\n    return PAGE\n";
    let processor = dev_with("hello.py", "", source, |command| {
        let file = command.get_args().last().unwrap().to_string_lossy().into_owned();
        let pages = Path::new(&file).with_file_name("pages");
        std::fs::create_dir(&pages).unwrap();
        std::fs::write(pages.join("index.html"), "first").unwrap();
        command.arg("--watch").arg(pages);
    });
    answers(&processor, "first");
    change(&processor, "pages/index.html", "second");
    answers(&processor, "second");
    ends(processor);
}

#[test]
fn a_port_that_is_taken_is_named_with_a_remedy() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = Command::new(processor_bin()).args(["dev", "--port", &port]).output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && err.contains("choose another --port"), "{err}");
}

/// One on a port that the kernel chooses, and that port.
fn on_a_free_port(source: Option<&str>, says: &str) -> (Processor, u16) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(processor_bin());
    command.args(["dev", "--port", "0"]).env("NUCLIO_PYTHON_EXE_PATH", python());
    if let Some(source) = source {
        std::fs::write(folder.path().join("hello.py"), source).unwrap();
        command.arg(folder.path().join("hello.py"));
    }
    let ports = Ports { http: 0, health: 0, admin: 0, metrics: 0 };
    let processor = Processor::spawn(command, ports, folder);
    let line = processor.stderr.wait_for("the URL", |line| line.starts_with(says));
    let port = line.rsplit_once(':').unwrap().1.parse().unwrap();
    (processor, port)
}

#[test]
fn a_free_port_is_found_said_and_kept() {
    let (processor, port) = on_a_free_port(Some(&returns("free")), "Handler answers at http://127.0.0.1:");
    assert_eq!(get(port, "/").unwrap().text(), "free");
    change(&processor, "hello.py", &returns("again"));
    wait_until("again", || get(port, "/").is_ok_and(|answer| answer.text() == "again"));
    ends(processor);
    let (processor, port) = on_a_free_port(None, "Handler answers at http://127.0.0.1:");
    assert_eq!(get(port, "/").unwrap().status, 200);
    ends(processor);
}

#[test]
fn a_free_port_is_said_also_where_the_handler_does_not_start() {
    let says = "Until then this is the answer at http://127.0.0.1:";
    let (processor, port) = on_a_free_port(Some("def handler(:\n"), says);
    assert!(get(port, "/").unwrap().text().contains("SyntaxError"));
    change(&processor, "hello.py", &returns("mended"));
    wait_until("mended", || get(port, "/").is_ok_and(|answer| answer.text() == "mended"));
    let served = format!("Serving what has changed at http://127.0.0.1:{port}, after ");
    processor.stderr.wait_for("the URL", |line| line.starts_with(&served));
    ends(processor);
}
