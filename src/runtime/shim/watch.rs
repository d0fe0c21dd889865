//! What happens to the events of a worker outside of it: clients take of a streamed answer, send more of a body, leave;
//! triggers take events back. Only those are looked at that something happened to ([`super::desk::Bells`]), however
//! many the worker has.

use std::task::Context;
use std::time::Instant;

use super::batch::Seat;
use super::deadline::Why;
use super::protocol::v2::{self, CancelReason};
use super::worker::{Ended, Worker};

impl Worker {
    /// Looks at the events something happened to, and at those that have just come or begun. True: there is something to
    /// write, or an event was taken back.
    pub(super) fn look(&mut self) -> bool {
        let write = self.link.writer.is_empty();
        if write {
            self.post.rung.append(&mut self.blocked);
        }
        // The list is put back, so that its room is used again.
        let mut rung = std::mem::take(&mut self.post.rung);
        for key in rung.drain(..) {
            self.look_at(key, write);
        }
        self.post.rung = rung;
        write && !self.link.writer.is_empty() || !self.taken_back.is_empty()
    }

    /// `write`: bodies may be written; else what is there goes first, and its end is waited for already.
    fn look_at(&mut self, key: usize, write: bool) {
        #[cfg(test)]
        {
            self.looks += 1;
        }
        let waker = self.bells.reset(key, &self.post.desk);
        let mut cx = Context::from_waker(waker);
        // A bell may have rung for an event that has left since.
        let Some(event) = self.in_flight.get_mut(key) else { return };
        let writer = &mut self.link.writer;
        if let Some(intake) = event.intake.as_mut().filter(|_| event.begun.is_some()) {
            if !write {
                self.blocked.push(key);
            } else if intake.poll(&mut cx, event.id, writer).is_ready() {
                event.intake = None;
            }
        }
        // A shim that asked for it learns of clients that leave before their answer. Of a batch the others are still
        // there.
        let watched = event.seat == Seat::Alone && (self.hello.client_gone || event.event.recall().is_some());
        let mut gone = match &mut event.reply {
            Some(reply) if watched => reply.poll_closed(&mut cx).is_ready(),
            _ => false,
        };
        let mut tell = self.hello.client_gone;
        if let Some(stream) = &event.stream {
            let (bytes, left) = stream.poll_passed_on(&cx);
            if bytes > 0 {
                v2::write_credit(writer.frames(), event.id, bytes);
            }
            (gone, tell) = (left, self.hello.cancel);
        }
        if gone && event.event.is_taken_back() {
            self.taken_back.push(key);
        } else if gone && tell && !event.cancelled {
            event.cancelled = true;
            v2::write_cancel(writer.frames(), event.id, CancelReason::ClientGone);
        }
    }

    /// Ends what runs of events that were taken back.
    pub(super) fn end_taken_back(&mut self) -> Result<(), Ended> {
        while let Some(key) = self.taken_back.pop() {
            let Some(event) = self.in_flight.get_mut(key) else { continue };
            if event.expired.is_some() || !event.event.is_taken_back() {
                continue; // It has been told already, or is another one.
            }
            let told = std::mem::replace(&mut event.cancelled, true);
            if event.begun.is_some() && !told {
                self.give_up(key, Instant::now(), Why::TakenBack)?;
            } else if event.begun.is_some() {
                // The shim may have dropped it before its turn; else it hangs in it.
                self.expect_end(key, Instant::now());
            } else if !told && self.hello.cancel {
                v2::write_cancel(self.link.writer.frames(), event.id, CancelReason::TakenBack);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::sync::atomic::Ordering;
    use std::task::Poll;
    use std::time::Duration;

    use tokio::io::AsyncReadExt;
    use tokio::net::UnixStream;
    use tokio::sync::{mpsc, oneshot};

    use super::*;
    use crate::event::Recall;
    use crate::logging::Logger;
    use crate::metrics::PoolCounters;
    use crate::queue::tests::event;
    use crate::queue::{Job, Queue, Reply};
    use crate::runtime::shim::connection::Writer;
    use crate::runtime::shim::handshake::{Hello, Link};
    use crate::runtime::shim::protocol::v2::{ControlCode, HEADER_BYTES, kind};
    use crate::runtime::shim::socket::Socket;
    use crate::runtime::shim::wake::{Wake, Wakes};
    use crate::runtime::shim::worker::{Command, Settings};

    /// A worker with so many events in work, and its shim's end.
    struct Busy {
        worker: Worker,
        clients: Vec<oneshot::Receiver<Reply>>,
        _shim: UnixStream,
        _commands: mpsc::Sender<Command>,
    }

    fn busy(events: usize, recall: Option<&Recall>) -> Busy {
        let (ours, shim) = UnixStream::pair().unwrap();
        let ours = Socket::new(ours.into_std().unwrap()).unwrap();
        let hello = Hello {
            cancel: true,
            deadline: true,
            client_gone: true,
            in_flight_max: events,
            ..Hello::default()
        };
        let settings = Settings { index: 0, event_timeout: None, in_flight_max: events, ahead_max: 0 };
        let queue = Arc::new(Queue::new(PoolCounters::new(1), events));
        let (commands, inbox) = mpsc::channel(1);
        let mut worker = Worker::new(Link::new(ours), hello, settings, queue, inbox, Logger::silent());
        let clients = (0..events).map(|number| {
            let mut event = event(&number.to_string());
            event.extra.get_or_insert_default().recall = recall.cloned();
            let (job, client) = Job::new(event, Duration::ZERO);
            worker.write_job(job);
            client
        });
        let clients = clients.collect();
        worker.link.writer = Writer::default();
        Busy { worker, clients, _shim: shim, _commands: commands }
    }

    async fn wake(worker: &mut Worker) -> Poll<()> {
        poll_fn(|cx| Poll::Ready(worker.poll_wake(cx).map(|wake| assert!(matches!(wake, Ok(Wake::Again))))))
            .await
    }

    #[tokio::test]
    async fn a_wake_costs_what_woke_however_many_events_are_in_work() {
        for events in [2, 1000] {
            let mut busy = busy(events, None);
            let worker = &mut busy.worker;
            assert!(wake(worker).await.is_pending());
            assert_eq!(worker.looks, events, "each once, as it comes");
            for left in 1..3 {
                busy.clients.pop();
                assert!(wake(worker).await.is_ready(), "a CANCEL is to be written");
                assert_eq!(worker.looks, events + left);
                worker.link.writer = Writer::default();
                assert!(wake(worker).await.is_pending());
                assert_eq!(worker.looks, events + left);
            }
        }
    }

    #[tokio::test]
    async fn an_event_taken_back_beside_others_is_told_first_and_condemns_a_shim_that_does_not_answer() {
        let recall = Recall::default();
        let mut busy = busy(2, Some(&recall));
        let worker = &mut busy.worker;
        assert!(wake(worker).await.is_pending());
        recall.ask();
        busy.clients.remove(0);
        assert!(wake(worker).await.is_ready());
        assert!(worker.end_taken_back().is_ok());
        assert_eq!(worker.in_flight.iter().filter(|(_, event)| event.expired.is_some()).count(), 1);
        assert!(worker.check_deadline().is_ok(), "it has some time");
        let hung = || {
            std::thread::sleep(Duration::from_millis(5));
            worker.check_deadline().err()
        };
        let ended = std::iter::repeat_with(hung).flatten().next();
        assert!(matches!(ended, Some(Ended::Replaced { at_once: true })), "{ended:?}");
    }

    #[tokio::test]
    async fn an_event_taken_back_alone_condemns_its_worker_and_one_whose_client_left_does_not() {
        for asked in [true, false] {
            let recall = Recall::default();
            let mut busy = busy(1, Some(&recall));
            assert!(wake(&mut busy.worker).await.is_pending());
            if asked {
                recall.ask();
            }
            busy.clients.clear();
            assert!(wake(&mut busy.worker).await.is_ready());
            let ended = busy.worker.end_taken_back();
            assert_eq!(matches!(ended, Err(Ended::Replaced { at_once: false })), asked, "{ended:?}");
        }
    }

    #[tokio::test]
    async fn an_event_lent_to_a_worker_that_has_just_been_paused_waits_until_it_may_go_on() {
        let Busy { mut worker, _shim: mut shim, _commands: commands, .. } = busy(0, None);
        worker.hello.control = true;
        let (queue, desk) = (worker.queue.clone(), worker.post.desk.clone());
        tokio::spawn(worker.serve());
        let (done, _outcome) = oneshot::channel();
        let drain = Command::Control(ControlCode::Drain, Duration::ZERO, done);
        commands.send(drain).await.unwrap();
        let mut control = [0; HEADER_BYTES + 4];
        shim.read_exact(&mut control).await.unwrap();
        assert_eq!(control[4], kind::CONTROL);
        let (job, _client) = Job::new(event("late"), Duration::ZERO);
        desk.hand(job); // As whoever had taken the worker from the queue does.
        let given_back = async {
            while queue.counters().waiting.load(Ordering::Relaxed) == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), given_back).await.unwrap();
        assert!(shim.try_read(&mut [0; 1]).is_err(), "nothing has been written");
    }
}
