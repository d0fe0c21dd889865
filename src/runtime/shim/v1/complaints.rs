//! What a wrapper does wrong: said once per worker and message, then counted, so that a wrapper that sends nothing but
//! garbage does not fill the log.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::Level;
use crate::fields;
use crate::logging::{Fields, Logger};

/// What goes on is said again after this time, with how often it happened meanwhile.
const AGAIN: Duration = Duration::from_secs(10);

/// See the module. The lock is taken for garbage only.
#[derive(Default)]
pub(super) struct Complaints(Mutex<Vec<Complaint>>);

struct Complaint {
    level: Level,
    message: &'static str,
    said_at: Instant,
    /// How often it has happened since.
    more: u64,
}

impl Complaints {
    /// Says it, the first time with these variables.
    pub(super) fn say(
        &self,
        logger: &Logger,
        level: Level,
        message: &'static str,
        fields: impl FnOnce() -> Fields,
    ) {
        self.say_at(Instant::now(), logger, level, message, fields);
    }

    fn say_at(
        &self,
        now: Instant,
        logger: &Logger,
        level: Level,
        message: &'static str,
        fields: impl FnOnce() -> Fields,
    ) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match all.iter_mut().find(|complaint| complaint.message == message) {
            None => {
                all.push(Complaint { level, message, said_at: now, more: 0 });
                logger.record(level, message, fields(), None);
            }
            Some(complaint) => {
                complaint.more += 1;
                if now.duration_since(complaint.said_at) >= AGAIN {
                    complaint.said_at = now;
                    complaint.say_rest(logger);
                }
            }
        }
    }

    /// Says what has only been counted: the worker ends.
    pub(super) fn say_rest(&self, logger: &Logger) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter_mut().for_each(|complaint| complaint.say_rest(logger));
    }
}

impl Complaint {
    fn say_rest(&mut self, logger: &Logger) {
        let more = std::mem::take(&mut self.more);
        if more > 0 {
            let text = format!("{}, and {more} more", self.message);
            logger.record(self.level, &text, fields! {"more" => more}, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_is_said_once_then_counted_for_ten_seconds() {
        let (complaints, logger, start) = (Complaints::default(), Logger::silent(), Instant::now());
        let mut said = 0;
        let mut say = |after: u64, message| {
            let now = start + Duration::from_millis(after);
            let fields = || {
                said += 1;
                fields! {}
            };
            complaints.say_at(now, &logger, Level::Warn, message, fields);
        };
        for after in [0, 1, 2, 9_999] {
            say(after, "one");
        }
        say(3, "other");
        let counts = || {
            let all = complaints.0.lock().unwrap();
            all.iter().map(|complaint| (complaint.message, complaint.more)).collect::<Vec<_>>()
        };
        assert_eq!(counts(), [("one", 3), ("other", 0)]);
        say(10_000, "one");
        assert_eq!(counts(), [("one", 0), ("other", 0)]);
        say(10_001, "one");
        assert_eq!(counts(), [("one", 1), ("other", 0)]);
        complaints.say_rest(&logger);
        assert_eq!(counts(), [("one", 0), ("other", 0)]);
        assert_eq!(said, 2);
    }
}
