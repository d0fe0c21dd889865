//! [`Seat`]: where a worker's task finds what to do next. The task lasts as long as the worker, so a call costs none.

use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use super::{Desk, Work, locked};

/// Of one worker.
#[derive(Default)]
pub(super) struct Seat(Mutex<State>);

#[derive(Default)]
struct State {
    work: Option<(Box<Desk>, Work)>,
    closed: bool,
    task: Option<Waker>,
}

impl Seat {
    /// The worker's task has something to do. Given on an event thread, it runs next on this very thread.
    pub(super) fn give(&self, desk: Box<Desk>, work: Work) {
        let mut state = locked(&self.0);
        state.work = Some((desk, work));
        state.wake();
    }

    /// What there is to do next; `None`: the worker has ended. Looks for it only at the task's next turn, for the one
    /// who waits for the last answer comes first.
    pub(super) async fn next(&self) -> Option<(Box<Desk>, Work)> {
        let mut yielded = false;
        let next = poll_fn(|cx| {
            let mut state = locked(&self.0);
            if !state.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
                state.task = Some(cx.waker().clone());
            }
            if !std::mem::replace(&mut yielded, true) {
                if state.work.is_some() || state.closed {
                    state.wake();
                }
                return Poll::Pending;
            }
            match state.work.take() {
                None if !state.closed => Poll::Pending,
                work => Poll::Ready(work),
            }
        });
        next.await
    }
}

impl State {
    fn wake(&self) {
        if let Some(task) = &self.task {
            task.wake_by_ref();
        }
    }
}

/// A worker's hold on its seat: without it the task ends.
pub(super) struct Hold(pub(super) Arc<Seat>);

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = locked(&self.0.0);
        state.closed = true;
        state.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Callable;
    use super::super::monitor::Slot;
    use super::*;
    use crate::queue::tests::event;
    use crate::queue::{Job, SubmitError};

    fn desk(seat: &Arc<Seat>) -> Box<Desk> {
        let slot = Arc::new(Slot::new(0));
        Box::new(Desk { index: 0, callable: Callable::Builtin, slot, seat: Hold(seat.clone()) })
    }

    #[tokio::test]
    async fn whoever_waits_for_an_answer_comes_before_the_next_job() {
        let seat = Arc::new(Seat::default());
        let order = Arc::new(Mutex::new(Vec::new()));
        let (first, answer) = Job::new(event("a"), Duration::ZERO);
        let (second, _gone) = Job::new(event("b"), Duration::ZERO);
        seat.give(desk(&seat), Work::Call(first)); // Before the task has had a turn.
        let worker = tokio::spawn({
            let (seat, order, mut second) = (seat.clone(), order.clone(), Some(second));
            async move {
                while let Some((desk, Work::Call(job))) = seat.next().await {
                    locked(&order).push("called");
                    match second.take() {
                        Some(second) => seat.give(desk, Work::Call(second)),
                        None => drop(desk), // The worker's end.
                    }
                    drop(job.reply.send(Err(SubmitError::Stopping)));
                }
            }
        });
        let client = tokio::spawn({
            let order = order.clone();
            async move {
                drop(answer.await);
                locked(&order).push("answered");
            }
        });
        client.await.unwrap();
        worker.await.unwrap();
        assert_eq!(*locked(&order), ["called", "answered", "called"]);
    }

    #[tokio::test]
    async fn a_worker_that_ends_before_its_first_job_ends_its_task() {
        let seat = Arc::new(Seat::default());
        drop(desk(&seat));
        assert!(seat.next().await.is_none());
    }
}
