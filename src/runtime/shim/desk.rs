//! Where a worker's task finds what is there for it: the events lent to it, and which of those it has need a look.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use crate::queue::Job;

/// A worker as the queue knows it. Two desks are the same if they are one worker's.
#[derive(Debug, Clone)]
pub struct Desk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Keys whose bells have rung.
    rung: Vec<usize>,
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
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is there and wakes the worker's task.
    fn put(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Lends the worker an event and wakes its task.
    pub fn hand(&self, job: Job) {
        self.put(|state| state.jobs.push_back(job));
    }

    /// An event lent before, without waiting.
    pub fn take(&self) -> Option<Job> {
        self.lock().jobs.pop_front()
    }

    /// The next event that is lent, for a task whose events ring no bells.
    pub fn poll_job(&self, cx: &Context<'_>) -> Poll<Job> {
        self.poll_take(cx, &mut Vec::new())
    }

    /// The next event that is lent. Whatever comes of it, the keys of bells that have rung are added to `rung`; each
    /// further one wakes the task.
    pub(super) fn poll_take(&self, cx: &Context<'_>, rung: &mut Vec<usize>) -> Poll<Job> {
        let mut state = self.lock();
        rung.append(&mut state.rung);
        if let Some(job) = state.jobs.pop_front() {
            return Poll::Ready(job);
        }
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

/// Wakers for the places of a worker, so that it learns which of its events something happened to, instead of looking at
/// all of them. A place's bell serves all events that come to it, so what rings may concern the one before.
#[derive(Debug, Default)]
pub(super) struct Bells(Vec<Option<(Arc<Bell>, Waker)>>);

#[derive(Debug)]
struct Bell {
    desk: Desk,
    key: usize,
    /// It lies on the desk.
    rung: AtomicBool,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.desk.put(|state| state.rung.push(self.key));
        }
    }
}

impl Bells {
    /// What rings for that place, from now on: look at it afterwards, for what was before may have been missed.
    pub(super) fn reset(&mut self, key: usize, desk: &Desk) -> &Waker {
        if self.0.len() <= key {
            self.0.resize_with(key + 1, || None);
        }
        let (bell, waker) = self.0[key].get_or_insert_with(|| {
            let bell = Arc::new(Bell { desk: desk.clone(), key, rung: AtomicBool::new(false) });
            (bell.clone(), bell.into())
        });
        bell.rung.store(false, Ordering::Release);
        waker
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_keys_of_bells_that_rang_are_found_each_once() {
        let (desk, mut bells) = (Desk::default(), Bells::default());
        let wakers: Vec<Waker> = (0..1000).map(|key| bells.reset(key, &desk).clone()).collect();
        let cx = Context::from_waker(Waker::noop());
        let mut rung = Vec::new();
        assert!(desk.poll_take(&cx, &mut rung).is_pending() && rung.is_empty());
        for key in [700, 3, 700, 700] {
            wakers[key].wake_by_ref();
        }
        assert!(desk.poll_take(&cx, &mut rung).is_pending());
        assert_eq!(rung, [700, 3]);
        rung.clear();
        assert!(wakers[700].will_wake(bells.reset(700, &desk)), "the same bell serves the place on");
        wakers[700].wake_by_ref();
        assert!(desk.poll_take(&cx, &mut rung).is_pending());
        assert_eq!(rung, [700]);
    }
}
