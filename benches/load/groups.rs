//! The process groups of servers that run: each is ended with its group, also when this program is told to stop.

use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::signal::unix::{SignalKind, signal};

static RUNNING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// Exit code of a program that a signal ended, as shells write it.
const INTERRUPTED: i32 = 130;

/// The group of a child that was started in one of its own.
pub(crate) struct Group(Option<Pid>);

impl Group {
    pub(crate) fn new(child: u32) -> Self {
        let pid = i32::try_from(child).ok().and_then(Pid::from_raw);
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).extend(pid);
        Self(pid)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // One that has ended is what was wanted.
        self.0.map(|pid| kill_process_group(pid, signal).ok());
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).retain(|pid| Some(*pid) != self.0);
    }
}

/// Servers are in groups of their own, so a Ctrl-C does not reach them: pass it on, and end.
pub(crate) fn end_with_this_program() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let watch = move || {
        runtime.block_on(async {
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            for pid in RUNNING.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                kill_process_group(*pid, Signal::KILL).ok();
            }
            leave();
        });
    };
    thread::Builder::new().name("signals".to_owned()).spawn(watch).context("failed to start a thread")?;
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the main thread waits for servers that are gone")]
fn leave() {
    std::process::exit(INTERRUPTED);
}
