//! Batches as jobs: several events that one worker gets at once. A batch waits, expires and goes back as a whole;
//! its events leave it one by one when nobody waits for them any more.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{AGAIN_WAIT_MAX, Job, Reply, ReplySender, SubmitError};
use crate::event::Event;

/// One event of a batch.
#[derive(Debug)]
pub struct Member {
    /// What the handler gets in its list.
    pub event: Box<Event>,
    /// Where this event's answer goes.
    pub reply: ReplySender,
}

impl Member {
    /// A member and the end its answer arrives at.
    pub fn new(event: Box<Event>) -> (Self, oneshot::Receiver<Reply>) {
        let (reply, receiver) = oneshot::channel();
        (Self { event, reply }, receiver)
    }

    /// Whether nobody waits for its answer any more.
    pub fn is_gone(&self) -> bool {
        self.reply.is_closed()
    }
}

impl Job {
    /// A batch of these events; `None`: there are none. `wait`: how long it may wait for a worker.
    pub fn batch(members: Vec<Member>, wait: Duration) -> Option<Self> {
        let submitted = Instant::now();
        Self::of_members(members, submitted, submitted + wait)
    }

    /// A batch that goes back to the queue, as [`Job::again`] does it.
    pub fn batch_again(members: Vec<Member>, submitted: Instant) -> Option<Self> {
        Self::of_members(members, submitted, submitted + AGAIN_WAIT_MAX)
    }

    fn of_members(members: Vec<Member>, submitted: Instant, expires: Instant) -> Option<Self> {
        let mut members = members.into_iter();
        let Member { event, reply } = members.next()?;
        Some(Self { event, reply, submitted, expires, batch: Some(members.collect()) })
    }

    /// How many events it holds.
    pub fn events(&self) -> usize {
        1 + self.batch.as_ref().map_or(0, Vec::len)
    }

    /// Takes out the events whose clients have left. Returns how many, and whether those were all: then the job is
    /// of no use any more.
    pub(super) fn drop_gone(&mut self) -> (usize, bool) {
        let Some(rest) = &mut self.batch else {
            let gone = self.reply.is_closed();
            return (usize::from(gone), gone);
        };
        let before = rest.len();
        rest.retain(|member| !member.is_gone());
        let gone = before - rest.len();
        if !self.reply.is_closed() {
            return (gone, false);
        }
        if rest.is_empty() {
            return (gone + 1, true);
        }
        let Member { event, reply } = rest.remove(0);
        (self.event, self.reply) = (event, reply);
        (gone + 1, false)
    }

    /// Answers all of its events without a worker.
    pub fn refuse(self, error: SubmitError) {
        for member in self.batch.into_iter().flatten() {
            drop(member.reply.send(Err(error.clone()))); // Nobody may be waiting any more, which is fine.
        }
        drop(self.reply.send(Err(error)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::tests::{event, id, queue};

    fn batch(names: &[&str], wait_ms: u64) -> (Job, Vec<oneshot::Receiver<Reply>>) {
        let (members, replies) = names.iter().map(|name| Member::new(event(name))).unzip();
        (Job::batch(members, Duration::from_millis(wait_ms)).unwrap(), replies)
    }

    fn ids(job: &Job) -> Vec<&str> {
        let rest = job.batch.iter().flatten().map(|member| member.event.id.as_str());
        std::iter::once(id(job)).chain(rest).collect()
    }

    #[test]
    fn events_whose_clients_left_are_taken_out_of_a_waiting_batch() {
        for (gone, left) in
            [(&[0][..], &["b", "c"][..]), (&[1], &["a", "c"]), (&[0, 1], &["c"]), (&[2], &["a", "b"])]
        {
            let queue = queue(0, 9);
            let (job, mut replies) = batch(&["a", "b", "c"], 1000);
            assert!(queue.admit(job).is_none());
            gone.iter().rev().for_each(|at| drop(replies.remove(*at)));
            assert_eq!(ids(&queue.next(0).unwrap().1), left);
            assert_eq!(queue.open_events(), left.len().cast_signed());
        }
    }

    #[test]
    fn a_batch_without_clients_is_skipped() {
        let queue = queue(0, 9);
        let (job, replies) = batch(&["a", "b"], 1000);
        queue.admit(job);
        drop(replies);
        let (job, _replies) = batch(&["c"], 1000);
        queue.admit(job);
        assert_eq!(ids(&queue.next(0).unwrap().1), ["c"]);
        assert_eq!(queue.open_events(), 1);
    }

    #[test]
    fn a_waiting_batch_counts_by_its_events() {
        let queue = queue(0, 3);
        let (first, _first) = batch(&["a", "b", "c"], 1000);
        assert!(queue.admit(first).is_none());
        let (second, mut replies) = batch(&["d"], 1000);
        assert!(queue.admit(second).is_none());
        assert!(matches!(replies[0].try_recv(), Ok(Err(SubmitError::NoWorkers))), "refused: three wait");
        assert_eq!(queue.open_events(), 3);
    }

    #[tokio::test]
    async fn a_batch_that_is_refused_answers_every_client() {
        let queue = queue(1, 9);
        queue.close();
        let (job, replies) = batch(&["a", "b"], 1000);
        assert!(queue.admit(job).is_none());
        for reply in replies {
            assert!(matches!(reply.await, Ok(Err(SubmitError::Stopping))));
        }
        queue.drained().await;
    }
}
