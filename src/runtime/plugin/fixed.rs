//! [`Thread`]: a plugin's worker on a thread of its own, for handlers that ask for it.
//!
//! Whoever calls hands a job over and waits, so that a call costs two wake-ups more than a direct one.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::direct::Direct;
use crate::runtime::StartError;

/// As the handler ABI promises.
const STACK_BYTES: usize = 8 << 20;

enum Job {
    Run(Box<dyn FnOnce(&mut Direct) + Send>),
    Stop,
}

/// Hands jobs to the thread; callers come one at a time.
#[derive(Clone)]
pub(super) struct Jobs(SyncSender<Job>);

/// The thread; dropping it stops the worker there and waits for that.
pub(super) struct Thread {
    jobs: Jobs,
    handle: Option<JoinHandle<()>>,
}

impl Thread {
    /// Starts the thread, and the worker on it.
    pub(super) fn start(
        name: String,
        start_worker: impl FnOnce() -> Result<Direct, StartError> + Send + 'static,
    ) -> Result<Self, StartError> {
        let (jobs, inbox) = sync_channel(1);
        let (started, result) = sync_channel(1);
        let refuse =
            |cause: String| StartError::new("failed to start a thread for a worker of the handler", cause);
        let run = move || match start_worker() {
            Ok(worker) => {
                // The starter waits for this.
                _ = started.send(Ok(()));
                work(worker, &inbox);
            }
            Err(error) => _ = started.send(Err(error)),
        };
        let handle = std::thread::Builder::new()
            .name(name)
            .stack_size(STACK_BYTES)
            .spawn(run)
            .map_err(|error| refuse(error.to_string()))?;
        result.recv().map_err(|_| refuse("it ended at once".into()))??;
        Ok(Self { jobs: Jobs(jobs), handle: Some(handle) })
    }

    pub(super) fn jobs(&self) -> &Jobs {
        &self.jobs
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        // Both fail only if the thread is gone already.
        _ = self.jobs.0.send(Job::Stop);
        _ = self.handle.take().map(JoinHandle::join);
    }
}

impl Jobs {
    /// Runs a job on the thread and waits for it; `None` when the thread is gone.
    pub(super) fn run<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Direct) -> R + Send + 'static,
    ) -> Option<R> {
        let (done, result) = sync_channel(1);
        let job = move |worker: &mut Direct| {
            // The caller waits for this.
            _ = done.send(job(worker));
        };
        self.0.send(Job::Run(Box::new(job))).ok()?;
        result.recv().ok()
    }
}

fn work(mut worker: Direct, inbox: &Receiver<Job>) {
    while let Ok(Job::Run(job)) = inbox.recv() {
        job(&mut worker);
    }
}
