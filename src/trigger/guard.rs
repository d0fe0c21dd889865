//! A trigger whose own task panics is polled by nobody any more: its link is down for good, and an error line says so.
//! Requests have tasks of their own, so it takes a mistake in the trigger itself.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Poll;

use super::Task;
use crate::fields;
use crate::link::Link;
use crate::logging::Logger;

/// The same task, whose panic is told of instead of going unnoticed.
pub fn guarded(mut task: Task, name: String, link: Link, logger: Logger) -> Task {
    Box::pin(std::future::poll_fn(move |cx| {
        // It is not polled again after a panic, so nobody sees what it left half done.
        catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(cx))).unwrap_or_else(|panic| {
            let cause = format!("the trigger panicked ({}); restart the processor", words(&*panic));
            let fields = fields! {"trigger" => name, "err" => cause};
            logger.error("Trigger has ended, its events are not handled any more", fields);
            link.down(cause);
            Poll::Ready(())
        })
    }))
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_takes_the_link_down_and_an_end_does_not() {
        let run = |task: Task| async {
            let link = Link::default();
            guarded(task, "orders".into(), link.clone(), Logger::silent()).await;
            link.state()
        };
        assert_eq!(run(Box::pin(async { tokio::task::yield_now().await })).await, None);
        let panics = Box::pin(async {
            tokio::task::yield_now().await;
            panic!("no {}", "luck");
        });
        let down = run(panics).await.unwrap();
        assert_eq!(down.cause, "the trigger panicked (no luck); restart the processor");
    }
}
