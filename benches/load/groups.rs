//! The process groups of programs that were started: each is ended with its group, also when this program is told to
//! stop.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::{fs, io, process};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, getpid, kill_process, kill_process_group, set_child_subreaper};
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

use crate::process_tree;

static RUNNING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// Folders of programs that run, which nobody removes when this program is told to stop.
static FOLDERS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Exit code of a program that a signal ended, as shells write it.
const INTERRUPTED: i32 = 130;

/// The group of a child that was started in one of its own.
pub(crate) struct Group {
    pid: Pid,
    /// All have been killed; the number may soon be somebody else's.
    ended: AtomicBool,
}

fn running() -> MutexGuard<'static, Vec<Pid>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a program in a group of its own, which ends with the returned value at the latest.
pub(crate) fn spawn(command: &mut Command) -> io::Result<(Child, Group)> {
    // Held meanwhile, so that nothing is started behind the back of whoever ends all.
    let mut running = running();
    let mut child = command.process_group(0).spawn()?;
    let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else {
        child.kill()?;
        return Err(io::Error::other("the kernel gave a child no number"));
    };
    running.push(pid);
    Ok((child, Group { pid, ended: AtomicBool::new(false) }))
}

/// A temporary folder that is gone with the returned value, and also when this program is told to stop.
pub(crate) fn folder() -> io::Result<Folder> {
    let folder = tempfile::tempdir()?;
    folders().push(folder.path().to_owned());
    Ok(Folder(folder))
}

/// See [`folder`].
pub(crate) struct Folder(TempDir);

fn folders() -> MutexGuard<'static, Vec<PathBuf>> {
    FOLDERS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Folder {
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        folders().retain(|folder| folder != self.0.path());
    }
}

impl Group {
    pub(crate) fn signal(&self, signal: Signal) {
        // One that has ended is what was wanted.
        kill_process_group(self.pid, signal).ok();
    }

    /// Ends the program and all that it started, groups of their own included.
    pub(crate) fn kill(&self) {
        if !self.ended.swap(true, Ordering::Relaxed) {
            kill_tree(self.pid);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
        running().retain(|pid| *pid != self.pid);
    }
}

fn kill_tree(root: Pid) {
    let members = process_tree::members(root.as_raw_nonzero().get().unsigned_abs());
    kill_process_group(root, Signal::KILL).ok();
    kill_all(members.into_iter().skip(1));
}

fn kill_all(pids: impl IntoIterator<Item = u32>) {
    for pid in pids.into_iter().filter_map(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
        kill_process(pid, Signal::KILL).ok();
    }
}

/// Servers are in groups of their own, so a Ctrl-C does not reach them: end them, and this program.
pub(crate) fn end_with_this_program() -> Result<()> {
    // What outlives its parent becomes our child, and is found.
    set_child_subreaper(Some(getpid())).context("failed to adopt what servers leave behind")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let watch = move || {
        runtime.block_on(async {
            let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
            let [Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)] = kinds.map(signal) else { return };
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            // Kept until the end: nothing is started any more.
            let running = running();
            running.iter().for_each(|pid| kill_tree(*pid));
            kill_all(process_tree::members(process::id()).into_iter().skip(1));
            folders().iter().for_each(|folder| fs::remove_dir_all(folder).unwrap_or_default());
            leave();
        });
    };
    thread::Builder::new().name("signals".to_owned()).spawn(watch).context("failed to start a thread")?;
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the main thread waits for servers that are gone")]
fn leave() {
    process::exit(INTERRUPTED);
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "run by `unit_tests.rs`; the bench has no harness")]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn wait_until(what: &str, holds: impl Fn() -> bool) {
        let started = Instant::now();
        while !holds() {
            assert!(started.elapsed() < Duration::from_secs(60), "{what}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn a_group_ends_with_its_children_and_with_those_that_left_it() {
        let script = "setsid sleep 1000 & sleep 1000 & sleep 1000";
        let (mut child, group) = spawn(Command::new("sh").args(["-c", script])).unwrap();
        let root = child.id();
        wait_until("three children", || process_tree::members(root).len() >= 4);
        // Until all of them are what they will be, so that none is just about to start another.
        let name = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        wait_until("sleeps", || process_tree::members(root).iter().skip(1).all(|pid| name(pid) == "sleep\n"));
        let members = process_tree::members(root);
        drop(group);
        child.wait().unwrap();
        wait_until("all have ended", || members.iter().all(|pid| process_tree::has_ended(*pid)));
        assert!(running().iter().all(|pid| pid.as_raw_nonzero().get().unsigned_abs() != root));
    }

    /// Set for the program that a test below runs.
    const IS_PROGRAM: &str = "LOAD_TEST_IS_PROGRAM";

    /// What the next test runs as a program of its own; by itself it has nothing to say.
    #[test]
    fn a_program_with_children() {
        if crate::tools::environment(IS_PROGRAM).is_none() {
            return;
        }
        end_with_this_program().unwrap();
        let script = "setsid sleep 1000 & (sleep 1000 &) ; echo started; exec sleep 1000";
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdout(process::Stdio::piped());
        let (mut child, _group) = spawn(&mut command).unwrap();
        let mut line = String::new();
        io::BufRead::read_line(&mut io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();
        // The one in brackets is an orphan, and ours.
        wait_until("four descendants", || process_tree::members(process::id()).len() >= 4);
        let members = process_tree::members(process::id());
        let folder = folder().unwrap();
        println!("folder {}", folder.path().display());
        println!("members {}", members.iter().map(u32::to_string).collect::<Vec<_>>().join(" "));
        thread::sleep(Duration::from_secs(600));
    }

    #[test]
    fn a_program_that_is_told_to_stop_takes_all_its_descendants_with_it() {
        use std::io::BufRead;
        for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
            let mut program = Command::new(std::env::current_exe().unwrap());
            program.env(IS_PROGRAM, "yes").args([
                "--exact",
                "--nocapture",
                "groups::tests::a_program_with_children",
            ]);
            let (mut child, group) = spawn(program.stdout(process::Stdio::piped())).unwrap();
            let mut lines = io::BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
            let mut after =
                |what: &str| lines.find_map(|line| Some(line.split_once(what)?.1.to_owned())).unwrap();
            let folder = PathBuf::from(after("folder "));
            assert!(folder.is_dir());
            let members: Vec<u32> = after("members ").split(' ').map(|pid| pid.parse().unwrap()).collect();
            assert!(members.len() >= 4, "{members:?}");
            kill_process(group.pid, signal).unwrap();
            assert_eq!(child.wait().unwrap().code(), Some(INTERRUPTED), "{signal:?}");
            group.ended.store(true, Ordering::Relaxed);
            wait_until("all have ended", || members.iter().all(|pid| process_tree::has_ended(*pid)));
            assert!(!folder.exists());
        }
    }
}
