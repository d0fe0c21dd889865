//! What a trigger says of its link to where its events come from, a broker for example. The trigger writes it, probes
//! read it; neither waits for the other for longer than a copy takes. Knows no trigger.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// Up until its trigger says otherwise. Cheap to clone; all clones are the same link.
#[derive(Debug, Clone, Default)]
pub struct Link(Arc<Mutex<Option<Down>>>);

/// Why no events arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Down {
    /// In words, for people who look at `/ready?verbose=1`.
    pub cause: String,
    /// Since when.
    pub since: SystemTime,
}

impl Link {
    fn lock(&self) -> MutexGuard<'_, Option<Down>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No events arrive, and why. Said again with another cause it stays the same interruption.
    pub fn down(&self, cause: impl Into<String>) {
        let cause = cause.into();
        let mut state = self.lock();
        let since = state.as_ref().map_or_else(SystemTime::now, |down| down.since);
        *state = Some(Down { cause, since });
    }

    /// Events arrive again.
    pub fn up(&self) {
        *self.lock() = None;
    }

    /// Why no events arrive; `None`: they do.
    pub fn state(&self) -> Option<Down> {
        self.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interruption_keeps_its_beginning_until_it_is_over() {
        let link = Link::default();
        assert_eq!(link.state(), None);
        link.down("connection refused");
        let first = link.state().unwrap();
        link.clone().down("no route to host");
        let second = link.state().unwrap();
        assert_eq!((second.cause.as_str(), second.since), ("no route to host", first.since));
        link.up();
        assert_eq!(link.state(), None);
    }
}
