//! Where a worker's task finds the events lent to it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::queue::Job;

/// A worker as the queue knows it. Two desks are the same if they are one worker's.
#[derive(Debug, Clone)]
pub struct Desk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Job>,
    waker: Option<Waker>,
}

impl Default for Desk {
    fn default() -> Self {
        Self(Arc::new(Mutex::default()))
    }
}

impl PartialEq for Desk {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Desk {
    /// Lends the worker an event and wakes its task.
    pub fn hand(&self, job: Job) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.jobs.push_back(job);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// An event lent before, without waiting.
    pub fn take(&self) -> Option<Job> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).jobs.pop_front()
    }

    /// The next event that is lent.
    pub fn poll_take(&self, cx: &Context<'_>) -> Poll<Job> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(job) = state.jobs.pop_front() {
            return Poll::Ready(job);
        }
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}
