//! The duty of process 1, and of one that workers are forked for: reap children that nobody here started. A shim's status must never be taken from its
//! owner, so only processes that are not in [`Children`] are reaped; nor may it be
//! taken from a handler library that started a process.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Pid, WaitOptions, getpid, set_child_subreaper, waitpid};
use tokio::signal::unix::{SignalKind, signal};

/// The processes that have an owner. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Children(Arc<Mutex<HashSet<i32>>>);

impl Children {
    /// Spawns with `spawn` and enters the pid it returns, so that nobody reaps the child in between.
    pub fn adopt<T, E>(&self, spawn: impl FnOnce() -> Result<(i32, T), E>) -> Result<(i32, T), E> {
        let mut owned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (pid, value) = spawn()?;
        owned.insert(pid);
        Ok((pid, value))
    }

    /// The owner has its status.
    pub fn release(&self, pid: i32) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&pid);
    }

    /// Whether a process of that pid has an owner now.
    pub fn owns(&self, pid: i32) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&pid)
    }

    fn reap_others(&self) {
        let owned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for pid in children() {
            if !owned.contains(&pid)
                && let Some(pid) = Pid::from_raw(pid)
            {
                // Not ended yet, or gone by now: nothing to do.
                waitpid(Some(pid), WaitOptions::NOHANG).unwrap_or_default();
            }
        }
    }
}

/// Reaps strangers whenever a child ends, from now on and for ever; does nothing unless we are process 1.
pub fn start(children: Children) {
    if std::process::id() == 1 {
        reap(children);
    }
}

/// Makes processes our children whose parents end below us, as those of process 1 are anyway, and reaps strangers from
/// now on.
///
/// # Errors
/// The kernel cannot.
pub fn adopt_orphans(children: Children) -> std::io::Result<()> {
    if std::process::id() != 1 {
        set_child_subreaper(Some(getpid()))?;
        reap(children);
    }
    Ok(())
}

fn reap(children: Children) {
    let Ok(mut ended) = signal(SignalKind::child()) else { return };
    tokio::spawn(async move {
        children.reap_others();
        while ended.recv().await.is_some() {
            children.reap_others();
        }
    });
}

/// The pids of the main thread's children. Orphans become its children; what a handler library started on a thread of
/// its own is not among them, and that library waits for it.
pub fn children() -> Vec<i32> {
    let path = format!("/proc/self/task/{}/children", std::process::id());
    let list = std::fs::read_to_string(path).unwrap_or_default();
    list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}
