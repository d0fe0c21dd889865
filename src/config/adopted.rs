//! A listening socket that a trigger serves and somebody else keeps, and how many answers are owed on it. Knows nothing
//! of requests.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// A listening socket that somebody else keeps open, too.
#[derive(Debug, Clone)]
pub struct AdoptedListener {
    /// The socket.
    pub listener: Arc<TcpListener>,
    /// What is owed to its clients.
    pub unanswered: Unanswered,
}

impl PartialEq for AdoptedListener {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.listener, &other.listener)
    }
}

/// Requests whose answers have not begun, counted for whoever waits for them.
#[derive(Debug, Clone, Default)]
pub struct Unanswered(Arc<AtomicUsize>);

impl Unanswered {
    /// One more, until what is returned is dropped.
    #[must_use]
    pub fn owe(&self) -> Owed {
        self.0.fetch_add(1, Relaxed);
        Owed(self.0.clone())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.load(Relaxed)
    }
}

/// A request whose answer has not begun.
#[derive(Debug)]
pub struct Owed(Arc<AtomicUsize>);

impl Drop for Owed {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_owed_counts_until_it_is_dropped() {
        let unanswered = Unanswered::default();
        let (first, second) = (unanswered.owe(), unanswered.clone().owe());
        assert_eq!(unanswered.count(), 2);
        drop(first);
        assert_eq!(unanswered.count(), 1);
        drop(second);
        assert_eq!(unanswered.count(), 0);
    }
}
