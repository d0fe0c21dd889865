//! `processor dev`: handlers of several languages, saved in all the ways that editors, copies and compilers save.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::dev::{answers, dev_with};
use crate::harness::{Ports, Processor, free_port, get, processor_bin, python, wait_until};

const WAITS: &str = "waiting for its source to change";

/// A way to save a file.
type Save = fn(&Path, &[u8]);

const WAYS: [(&str, Save); 5] = [
    ("written aside and renamed over it", |path, bytes| {
        let aside = path.with_extension("tmp");
        std::fs::write(&aside, bytes).unwrap();
        std::fs::rename(aside, path).unwrap();
    }),
    ("emptied and written again in two pieces", |path, bytes| {
        let mut file = File::create(path).unwrap();
        let (first, second) = bytes.split_at(bytes.len() / 2);
        file.write_all(first).unwrap();
        file.sync_all().unwrap();
        file.write_all(second).unwrap();
    }),
    ("written over and cut to its length", |path, bytes| {
        let mut file = OpenOptions::new().write(true).open(path).unwrap();
        file.write_all(bytes).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
    }),
    ("moved to a backup and written anew", |path, bytes| {
        std::fs::rename(path, path.with_extension("bak~")).unwrap();
        std::fs::write(path, bytes).unwrap();
    }),
    ("deleted and written anew", |path, bytes| {
        std::fs::remove_file(path).unwrap();
        std::fs::write(path, bytes).unwrap();
    }),
];

fn ends(mut processor: Processor) {
    processor.signal(2);
    assert_eq!(processor.end().code(), Some(0), "{}", processor.stderr.text());
}

/// Saves a handler in all ways; every time it must answer with what has been saved. In between it is broken, and what
/// is then answered holds `says`.
fn saved_in_all_ways(
    name: &str,
    environment: (&str, &str),
    source: impl Fn(&str) -> Vec<u8>,
    broken: &[u8],
    says: &str,
) {
    let file = |processor: &Processor| processor.directory.path().join(name);
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join(name), source("first")).unwrap();
    let ports = Ports { http: free_port(), health: 0, admin: 0, metrics: 0 };
    let mut command = Command::new(processor_bin());
    command.args(["dev", "--port", &ports.http.to_string()]).arg(directory.path().join(name));
    command.env(environment.0, environment.1);
    let processor = Processor::spawn(command, ports, directory);
    answers(&processor, "first");
    for (round, (way, save)) in WAYS.into_iter().enumerate() {
        println!("{name} is {way}");
        save(&file(&processor), &source(&format!("round {round}")));
        answers(&processor, &format!("round {round}"));
        save(&file(&processor), broken);
        wait_until(says, || {
            get(processor.ports.http, "/")
                .is_ok_and(|answer| answer.status == 500 && answer.text().contains(says))
        });
        save(&file(&processor), &source(&format!("mended {round}")));
        answers(&processor, &format!("mended {round}"));
    }
    assert!(processor.children().len() <= 1, "no process is left of the starts before");
    ends(processor);
}

#[test]
fn python_handlers_are_saved_in_all_ways() {
    let source = |text: &str| format!("def handler(context, event):\n    return '{text}'\n").into_bytes();
    let broken = b"def handler(context, event):\n    return (\n";
    saved_in_all_ways("hello.py", ("NUCLIO_PYTHON_EXE_PATH", python()), source, broken, "hello.py\", line 2");
}

#[test]
fn nodejs_handlers_are_saved_in_all_ways() {
    let Some(node) = crate::languages::nodejs() else { return };
    let source = |text: &str| {
        format!("exports.handler = (context, event) => context.callback('{text}')\n").into_bytes()
    };
    let broken = b"// broken\nexports.handler = (\n";
    saved_in_all_ways("hello.js", ("NUCLIO_NODEJS_EXE", node), source, broken, "SyntaxError");
}

/// A script is read for each event, so that what is wrong with it is the answer to that event.
#[test]
fn scripts_are_saved_in_all_ways() {
    let source = |text: &str| format!("printf '{text}'\n").into_bytes();
    saved_in_all_ways("hello.sh", ("LC_ALL", "C"), source, b"if true; then (\n", "hello.sh");
}

/// The example in C as a library, greeting with this. `None`: no compiler.
fn compiled(greeting: &str) -> Option<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let example = std::fs::read_to_string(root.join("examples/c/hello/hello.c")).unwrap();
    let (source, library) = (folder.path().join("hello.c"), folder.path().join("handler.so"));
    std::fs::write(&source, example.replace("\"Hello, \"", &format!("\"{greeting}\""))).unwrap();
    let mut command = Command::new("cc");
    command.args(["-std=c11", "-fPIC", "-shared", "-I"]).arg(root.join("runtimes/rust/include"));
    match command.arg(&source).arg("-o").arg(&library).output() {
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Some(std::fs::read(library).unwrap())
        }
        Err(error) => {
            println!("skipped: cc does not start: {error}");
            None
        }
    }
}

/// One that is written over while it is loaded must not take the processor with it.
#[test]
fn compiled_handlers_are_saved_in_all_ways() {
    if compiled("probe").is_none() {
        return;
    }
    saved_in_all_ways(
        "handler.so",
        ("LC_ALL", "C"),
        |text| compiled(text).unwrap(),
        b"\x7fELF no library",
        "handler.so",
    );
}

#[test]
fn a_library_that_cannot_be_loaded_is_named_as_it_was_given() {
    let directory = tempfile::tempdir().unwrap();
    let file: PathBuf = directory.path().join("handler.so");
    std::fs::write(&file, "no library").unwrap();
    let ports = Ports { http: free_port(), health: 0, admin: 0, metrics: 0 };
    let mut command = Command::new(processor_bin());
    command.args(["dev", "--port", &ports.http.to_string()]).arg(&file);
    let processor = Processor::spawn(command, ports, directory);
    processor.stderr.wait_for("what to do", |line| line.contains(WAITS));
    let text = processor.get("/").text();
    assert!(text.contains(&file.display().to_string()) && !text.contains("processor-dev-"), "{text}");
    ends(processor);
}

#[test]
fn several_files_saved_together_are_one_state() {
    let handler = |text: &str| {
        format!(
            "from part import A\nfrom package.more import B\ndef handler(context, event):\n    return '{text} ' + A + ' ' + B\n"
        )
    };
    let part = |name: &str, text: &str| format!("{name} = '{text}'\n");
    let processor = dev_with("hello.py", "", &handler("first"), |command| {
        let file = command.get_args().last().unwrap().to_string_lossy().into_owned();
        let folder = Path::new(&file).parent().unwrap();
        std::fs::create_dir(folder.join("package")).unwrap();
        std::fs::write(folder.join("part.py"), part("A", "first")).unwrap();
        std::fs::write(folder.join("package/more.py"), part("B", "first")).unwrap();
    });
    answers(&processor, "first first first");
    let folder = processor.directory.path().to_owned();
    for (round, (way, save)) in WAYS.into_iter().enumerate() {
        println!("all are {way}");
        let text = format!("round{round}");
        save(&folder.join("package/more.py"), part("B", &text).as_bytes());
        save(&folder.join("part.py"), part("A", &text).as_bytes());
        save(&folder.join("hello.py"), handler(&text).as_bytes());
        answers(&processor, &format!("{text} {text} {text}"));
    }
    ends(processor);
}
