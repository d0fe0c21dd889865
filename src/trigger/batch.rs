//! Gathers the events of a trigger into batches, each for one worker. A batch is complete when it is full, or a set
//! time after its first event came; as the trigger closes, at once. Knows no kind of trigger and no worker: events go
//! in one by one through [`Batcher::submit`], which waits for each one's own answer.
//!
//! Whoever takes the list of events out, under its lock, hands it on; so no event is in two batches or in none.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::config::Batch;
use crate::dispatch::Dispatcher;
use crate::event::{Event, EventId};
use crate::queue::{Member, Reply, SubmitError};

/// See the module.
pub(super) struct Batcher {
    events: Dispatcher,
    settings: Batch,
    /// Longest time from an event's arrival to its answer, however far it has come.
    patience: Option<Duration>,
    /// Once cancelled nothing is gathered any more.
    closing: CancellationToken,
    gathered: Mutex<Gathered>,
    /// A first event has come.
    begun: Notify,
}

#[derive(Default)]
struct Gathered {
    members: Vec<Member>,
    /// When the batch is complete whatever is in it; `None`: it is empty.
    due: Option<Instant>,
}

impl Batcher {
    /// `event_timeout`: what bounds the time with a worker; without it the wait for a worker bounds the whole.
    pub(super) fn new(
        events: Dispatcher,
        settings: Batch,
        event_timeout: Option<Duration>,
        closing: CancellationToken,
    ) -> Self {
        // compat: the Go processor waits that long for a worker and the answer together. Not to wait for a worker
        // cannot mean not to wait for an answer.
        let wait = events.wait();
        let patience = (event_timeout.is_none() && !wait.is_zero()).then(|| settings.timeout + wait);
        let (gathered, begun) = (Mutex::default(), Notify::new());
        Self { events, settings, patience, closing, gathered, begun }
    }

    /// Puts an event into the batch that is being gathered and waits for its answer. Dropping the future is a client
    /// that left: the event is taken out if its batch has not gone to a worker.
    ///
    /// # Errors
    /// Why there is no answer.
    pub(super) async fn submit(&self, event: Box<Event>) -> Reply {
        let (member, answer) = Member::new(event);
        self.events
            .counted(async {
                self.gather(member);
                let answer = match self.patience {
                    None => answer.await,
                    Some(patience) => match tokio::time::timeout(patience, answer).await {
                        Ok(answer) => answer,
                        Err(_) => return Err(SubmitError::NoWorkers),
                    },
                };
                // The other end is dropped unanswered only when everything is cut off.
                answer.unwrap_or(Err(SubmitError::Stopping))
            })
            .await
    }

    /// Completes batches whose time has come. Lasts as long as the trigger.
    pub(super) async fn run(&self) {
        let mut closed = false;
        loop {
            let due = self.with(|gathered| gathered.due);
            let time = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.begun.notified() => continue,
                () = time => {}
                () = self.closing.cancelled(), if !closed => closed = true,
            }
            let now = Instant::now();
            // Another batch may have begun since.
            self.hand_on(self.with(|gathered| {
                let complete = closed || gathered.due.is_some_and(|due| due <= now);
                complete.then(|| gathered.take())
            }));
        }
    }

    fn gather(&self, member: Member) {
        let closing = &self.closing;
        let complete = self.with(|gathered| {
            if gathered.members.is_empty() {
                gathered.due = Some(Instant::now() + self.settings.timeout);
                self.begun.notify_one();
            }
            gathered.members.push(member);
            if gathered.members.len() >= self.settings.size {
                gathered.members.retain(|member| !member.is_gone()); // Their places are free again.
            }
            let full = gathered.members.len() >= self.settings.size;
            // Looked at under the lock: whoever cancels it looks at what has been gathered afterwards.
            (full || closing.is_cancelled()).then(|| gathered.take())
        });
        self.hand_on(complete);
    }

    fn hand_on(&self, complete: Option<Vec<Member>>) {
        let Some(mut members) = complete else { return };
        members.retain(|member| !member.is_gone());
        tell_apart(&mut members);
        self.events.submit_batch(members);
    }

    fn with<T>(&self, look: impl FnOnce(&mut Gathered) -> T) -> T {
        look(&mut self.gathered.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Gathered {
    fn take(&mut self) -> Vec<Member> {
        self.due = None;
        std::mem::take(&mut self.members)
    }
}

/// Answers find their clients by the event's id, which a cloud event's sender chooses: of equal ones only the first
/// stays.
fn tell_apart(members: &mut [Member]) {
    if !members.iter().any(|member| matches!(member.event.id, EventId::Text(_))) {
        return; // All of them are ours, and random.
    }
    let mut seen = HashSet::new();
    for Member { event, .. } in members {
        if !seen.insert(event.id.as_str().to_owned()) {
            event.id = EventId::random();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::event::{EventBody, Target, TriggerInfo};

    fn members(ids: &[&str]) -> Vec<Member> {
        let member = |id: &&str| {
            let event = Event {
                id: EventId::Text((*id).into()),
                trigger: TriggerInfo { index: 0, class: "sync", kind: "http".into(), name: "h".into() }
                    .forever(),
                timestamp: SystemTime::UNIX_EPOCH,
                target: Target::Plain { method: String::new(), path: String::new(), url: String::new() },
                header_map: http::HeaderMap::new(),
                body: EventBody::none(),
                log_buffer: None,
                trace: None,
                extra: None,
                web: None,
            };
            Member::new(Box::new(event)).0
        };
        ids.iter().map(member).collect()
    }

    #[test]
    fn of_equal_ids_only_the_first_stays() {
        let mut members = members(&["a", "b", "a", "", "a"]);
        tell_apart(&mut members);
        let ids: Vec<&str> = members.iter().map(|member| member.event.id.as_str()).collect();
        assert_eq!((ids[0], ids[1], ids[3]), ("a", "b", ""));
        assert!(ids[2].len() == 36 && ids[4].len() == 36 && ids[2] != ids[4], "{ids:?}");
    }
}
