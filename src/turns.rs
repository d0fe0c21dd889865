//! How tasks take turns on the event threads, which handlers may block: a task whose turn is over must be within reach
//! of the other threads. What the runtime does by itself puts it where only the thread looks that ran it, once it waits
//! for I/O the next time; and that thread may be inside a handler, or asleep, by then.
//!
//! Knows none of the tasks. Every task of the event threads that takes more than a step begins with [`own`].

use std::cell::Cell;
use std::future::poll_fn;
use std::task::{Poll, Waker};
use std::thread::{self, ThreadId};

use tokio::task::coop::{Unconstrained, unconstrained};

/// The future as a task of the event threads: only it ends its turns, not the runtime after so many steps. One that
/// finds something to do each time it looks has to [`give_way`] now and then.
pub fn own<F: Future>(future: F) -> Unconstrained<F> {
    unconstrained(future)
}

/// Ends this turn of the task. The next one comes after those of the tasks that wait already, on any thread.
pub async fn give_way() {
    let mut given = false;
    let next_turn = poll_fn(|cx| {
        if std::mem::replace(&mut given, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    });
    next_turn.await;
}

thread_local! {
    /// A task that does nothing but wait. Nobody else wakes it, so it does not run while it is here.
    static STAND_IN: Cell<Option<StandIn>> = const { Cell::new(None) };
}

/// Woken when it is dropped: to stand in, or to end with its thread.
struct StandIn(Waker);

impl Drop for StandIn {
    fn drop(&mut self) {
        self.0.wake_by_ref();
    }
}

/// Lets other threads have the task that this one was to run next: the runtime keeps the task woken last out of their
/// reach. A task that does nothing takes its place. For who is about to block a thread for long.
pub fn hand_on() {
    match STAND_IN.take() {
        Some(waiting) => drop(waiting),
        None => drop(tokio::spawn(stand_in(thread::current().id()))), // The last one may not have had its turn yet.
    }
}

/// Waits to be woken by its thread, again and again, unless that has another one, or it has come to another thread:
/// it could be woken there while it runs here, which would put it into nobody's place.
async fn stand_in(owner: ThreadId) {
    poll_fn(|cx| {
        let is_needed = thread::current().id() == owner
            && STAND_IN.try_with(|place| {
                let other = place.take();
                let is_free = other.is_none();
                place.set(other.or_else(|| Some(StandIn(cx.waker().clone()))));
                is_free
            }) == Ok(true);
        if is_needed { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::mpsc;
    use std::task::Context;
    use std::time::Duration;

    use tokio::runtime::Builder;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn the_runtime_ends_no_turn() {
        async fn steps() {
            for _ in 0..1000 {
                tokio::task::coop::consume_budget().await;
            }
        }
        // As a task of the runtime has it.
        let turn = |ready: &mut dyn FnMut(&mut Context<'_>) -> bool| {
            let mut context = Context::from_waker(std::task::Waker::noop());
            ready(&mut context)
        };
        let mut owned = pin!(own(steps()));
        assert!(turn(&mut |cx| owned.as_mut().poll(cx).is_ready()));
        let mut others = pin!(steps());
        assert!(!turn(&mut |cx| others.as_mut().poll(cx).is_ready()), "the runtime has its ways");
    }

    #[test]
    fn what_a_blocked_thread_was_to_run_next_runs_on_another() {
        let threads = Builder::new_multi_thread().worker_threads(2).build().unwrap();
        let blocked = threads.spawn(async {
            for round in 0..100 {
                let (tell, told) = mpsc::channel();
                drop(tokio::spawn(async move { tell.send(()).unwrap() }));
                hand_on();
                told.recv_timeout(LONG).expect("it runs while this thread is blocked");
                if round % 3 > 0 {
                    give_way().await; // So that what has stood in has its turn.
                }
            }
        });
        threads.block_on(blocked).unwrap();
    }

    #[test]
    fn whoever_has_given_way_goes_on_although_its_thread_is_blocked() {
        let threads = Builder::new_multi_thread().worker_threads(2).build().unwrap();
        let (tell, told) = mpsc::channel();
        let giving_way = threads.spawn(own(async move {
            // Woken last, so it runs next on this thread, and blocks it.
            let blocked = tokio::spawn(async move { told.recv_timeout(LONG).expect("it went on") });
            give_way().await;
            tell.send(()).unwrap();
            blocked.await.unwrap();
        }));
        threads.block_on(giving_way).unwrap();
    }
}
