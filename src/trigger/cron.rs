//! The cron trigger: sends its event whenever its clock says so, and no more often than the policy allows. What is due
//! is `clock`'s business, what is sent `template`'s.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::clock::{Clock, Due, Moment, Tick};
use super::template::{Template, deliver};
use super::{Trigger, TriggerContext};
use crate::config::{ConcurrencyPolicy, CronTrigger};
use crate::event::Recall;
use crate::fields;
use crate::metrics::DropReason;
use crate::turns::own;

/// Least time between two warnings of dropped ticks.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Starts no clock yet.
pub(super) fn build(config: &CronTrigger, workers: usize, cx: TriggerContext) -> Trigger {
    let info = cx.info;
    let replaces = config.concurrency == ConcurrencyPolicy::Replace;
    let at_once_max = match config.concurrency {
        ConcurrencyPolicy::Forbid | ConcurrencyPolicy::Replace => 1,
        ConcurrencyPolicy::Allow => workers,
    };
    if replaces && !cx.events.ends_handlers() {
        let message = "concurrencyPolicy Replace counts as Forbid here, because a handler inside the processor cannot \
                       be ended; one that is an executable (handlerForm) can";
        cx.logger.warn(message, fields! {"trigger" => info.name});
    }
    let cron = Cron {
        template: Template::new(&config.event, info),
        at_once_max,
        recall: (replaces && cx.events.ends_handlers()).then(Recall::default),
        cx: Arc::new(cx),
        running: JoinSet::new(),
        backlog: VecDeque::new(),
        busy: false,
        warned: None,
    };
    let config = config.clone();
    let task = async move {
        let clock = Clock::new(&config.timetable, config.missed, Moment::now());
        cron.run(clock).await;
    };
    Trigger { info, task: Box::pin(task) }
}

struct Cron {
    cx: Arc<TriggerContext>,
    template: Template,
    /// Events in work at the same moment.
    at_once_max: usize,
    /// Takes back the event in work, where the next one replaces it.
    recall: Option<Recall>,
    running: JoinSet<()>,
    /// Missed ticks that are still to be sent; bounded by what a clock hands out at once.
    backlog: VecDeque<Tick>,
    /// Ticks have come too early since an event was last sent in time.
    busy: bool,
    /// When that was last warned of.
    warned: Option<Instant>,
}

impl Cron {
    async fn run(mut self, mut clock: Clock) {
        let shutdown = self.cx.shutdown.clone();
        loop {
            tokio::select! {
                biased;
                () = shutdown.draining.cancelled() => break,
                _ = self.running.join_next(), if !self.running.is_empty() => {}
                () = tokio::time::sleep(clock.wait(Moment::now())) => self.take(clock.due(Moment::now())),
            }
            while self.has_room()
                && let Some(tick) = self.backlog.pop_front()
            {
                self.send(tick);
            }
        }
        self.drop_ticks(DropReason::Missed, self.backlog.len() as u64);
        while !self.running.is_empty() {
            tokio::select! {
                _ = self.running.join_next() => {}
                () = shutdown.kill.cancelled() => return,
            }
        }
    }

    fn has_room(&self) -> bool {
        self.running.len() < self.at_once_max
    }

    fn take(&mut self, due: Due) {
        if due.missed > 0 {
            self.drop_ticks(DropReason::Missed, due.missed);
            let fields = fields! {"trigger" => self.cx.info.name, "missed" => due.missed};
            if due.late {
                self.cx.logger.warn("Ticks were missed", fields);
            } else {
                self.cx.logger.debug("Ticks were missed", fields);
            }
        }
        match due.ticks[..] {
            [] => {}
            [tick] if self.has_room() && self.backlog.is_empty() => {
                self.busy = false;
                self.send(tick);
            }
            [tick] => match &self.recall {
                Some(recall) => {
                    recall.ask();
                    self.tell("Replaced an event that was still in work by the next one", tick);
                    self.queue(&[tick]); // Until the other has been given up, which waits for nobody.
                }
                None => {
                    self.drop_ticks(DropReason::Busy, 1);
                    self.tell("Dropped a tick, because an earlier event is still in work", tick);
                }
            },
            ref ticks => self.queue(ticks),
        }
    }

    /// What does not fit goes first: it is the oldest.
    fn queue(&mut self, ticks: &[Tick]) {
        self.backlog.extend(ticks);
        let excess = self.backlog.len().saturating_sub(super::clock::CATCH_UP_MAX);
        self.backlog.drain(..excess);
        self.drop_ticks(DropReason::Missed, excess as u64);
    }

    fn send(&mut self, tick: Tick) {
        let fields = vec![
            ("scheduledTime".to_owned(), tick.scheduled.to_string()),
            ("missed".to_owned(), tick.missed.to_string()),
        ];
        let (cx, event) = (self.cx.clone(), self.template.event(tick.time(), fields));
        // Each event has one of its own: what is taken back stays so.
        let recall = self.recall.as_mut().map(|recall| {
            *recall = Recall::default();
            recall.clone()
        });
        self.running.spawn(own(async move { deliver(&cx, event, recall.as_ref()).await }));
    }

    /// A handler that is too slow for its timetable is named when it begins to be, not at every tick; one that is so
    /// again and again, now and then.
    fn tell(&mut self, message: &str, tick: Tick) {
        let fields = fields! {
            "trigger" => self.cx.info.name, "scheduled" => tick.scheduled.to_string(), "in_work" => self.running.len()
        };
        let known = std::mem::replace(&mut self.busy, true);
        if known || self.warned.is_some_and(|warned| warned.elapsed() < WARN_EVERY) {
            self.cx.logger.debug(message, fields);
        } else {
            self.warned = Some(Instant::now());
            self.cx.logger.warn(message, fields);
        }
    }

    fn drop_ticks(&self, reason: DropReason, count: u64) {
        self.cx.events.counters().dropped(reason, count);
    }
}
