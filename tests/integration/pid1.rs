//! The processor as process 1 of its own namespace, as in a container: it reaps what handlers leave behind, and ends
//! when told to.

use std::path::Path;
use std::process::Command;

use crate::harness::{Setup, alive, children_of, wait_until};

/// Whether this user may make namespaces of processes.
fn permitted() -> bool {
    let tried = Command::new("unshare").args(["--pid", "--fork", "--mount-proc", "true"]).output();
    let permitted = tried.is_ok_and(|output| output.status.success());
    if !permitted {
        println!("skipped: unshare --pid --fork --mount-proc is not permitted here");
    }
    permitted
}

/// Runs the command as process 1: `unshare` stays its parent and passes its exit code on.
fn as_process_1(command: &mut Command) {
    let program = command.get_program().to_owned();
    let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let variables: Vec<_> =
        command.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect();
    let mut outer = Command::new("unshare");
    outer
        .args(["--pid", "--fork", "--mount-proc", "--kill-child"])
        .arg(program)
        .args(arguments)
        .envs(variables);
    outer.stdin(std::process::Stdio::null());
    outer.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    *command = outer;
}

const FORKING: &str = "
import os, time
def handler(context, event):
    if event.path == '/orphan':
        pid = os.fork()
        if pid == 0:
            if os.fork() == 0:
                os.setsid()
                time.sleep(0.05)
            os._exit(0)
        os.waitpid(pid, 0)
    return str(os.getppid())
";

#[test]
fn as_process_1_it_reaps_orphans_keeps_its_shims_and_drains() {
    if !permitted() {
        return;
    }
    let mut outer = Setup::python(FORKING).start_redirected(as_process_1);
    let inner = children_of(outer.child.id())[0];
    assert_eq!(outer.get("/").text(), "1", "the processor is process 1");
    for _ in 0..20 {
        assert_eq!(outer.get("/orphan").status, 200);
    }
    wait_until("no orphan is left, dead or alive", || children_of(inner as u32).len() == 1);
    // A shim's status is its owner's, orphans or not.
    let shim = children_of(inner as u32)[0];
    crate::support::kill(shim);
    wait_until("it is counted", || outer.restarts("signal") == 1);
    assert_eq!(outer.get("/orphan").status, 200);
    wait_until("nothing else is left", || {
        !Path::new(&format!("/proc/{shim}")).exists() && children_of(inner as u32).len() == 1
    });
    signal(inner, rustix::process::Signal::TERM);
    assert_eq!(outer.end().code(), Some(0), "{}", outer.stderr.text());
    outer.stdout.wait_for_record("Processor quitting");
    assert!(!alive(inner));
}

#[test]
fn as_process_1_it_leaves_the_children_of_a_handler_library_to_it() {
    let Some(library) = crate::support::plain_c_library().filter(|_| permitted()) else { return };
    let outer = Setup::library(&library).start_redirected(as_process_1);
    let inner = children_of(outer.child.id())[0];
    for _ in 0..3 {
        let answer = outer.get("/child");
        assert_eq!((answer.status, answer.text().as_str()), (200, ""));
    }
    wait_until("no orphan is left", || children_of(inner as u32).is_empty());
}

#[test]
fn as_process_1_it_can_be_stopped_while_it_starts() {
    if !permitted() {
        return;
    }
    let source = "import sys, time\nsys.stderr.write('loading\\n')\ntime.sleep(60)\n";
    for number in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        let mut outer = Setup::python(source).no_wait().start_redirected(as_process_1);
        outer.stderr.wait_for("loading", |line| line == "loading");
        let inner = children_of(outer.child.id())[0];
        signal(inner, number);
        assert_eq!(outer.end().code(), Some(0));
    }
}

fn signal(pid: i32, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
}
