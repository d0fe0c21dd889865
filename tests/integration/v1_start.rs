//! Wrappers of shim protocol 1 that end while they start.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::harness::{Processor, Setup, wait_until};

/// Sockets with a name that the processor has open.
fn named_sockets(processor: &Processor) -> usize {
    let folder = format!("/proc/{}", processor.child.id());
    let open: Vec<_> = std::fs::read_dir(format!("{folder}/fd"))
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .collect();
    let is_open = |inode: &str| {
        let link = std::path::PathBuf::from(format!("socket:[{inode}]"));
        open.contains(&link)
    };
    let table = std::fs::read_to_string(format!("{folder}/net/unix")).unwrap();
    let named = table.lines().skip(1).filter(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.len() > 7 && is_open(words[6])
    });
    named.count()
}

#[test]
fn wrappers_that_end_before_they_connect_leave_no_sockets() {
    for mode in ["sync", "async"] {
        let setup = Setup::python("");
        let folder = setup.directory.path().to_owned();
        let broken = folder.join("broken");
        let source = |text: &str| {
            let broken = broken.display();
            format!("import os, sys\nif os.path.exists({:?}): sys.exit(3)\n{text}", broken.to_string())
        };
        setup.write("wrapper.py", &source(include_str!("../handlers/python/wrapper_v1/wrapper.py")));
        let asynchronous = include_str!("../handlers/python/wrapper_v1/async_wrapper.py");
        setup.write("_nuclio_async_wrapper.py", &source(asynchronous));
        let path = folder.join("wrapper.py").display().to_string();
        let setup = setup.env("NUCLIO_PYTHON_WRAPPER_PATH", &path);
        let processor = setup.trigger(json!({"mode": mode})).start();
        let before = named_sockets(&processor);
        assert!(before > 0, "{mode}: sockets are seen");
        std::fs::write(&broken, "").unwrap();
        kill_process(Pid::from_raw(processor.children()[0]).unwrap(), Signal::KILL).unwrap();
        wait_until("it has failed to start some times", || {
            let records = processor.stdout.records();
            records.iter().filter(|record| record["message"] == "Can't restart worker").count() >= 4
        });
        std::fs::remove_file(&broken).unwrap();
        processor.wait_ready();
        wait_until("as many sockets as before", || named_sockets(&processor) <= before);
    }
}
