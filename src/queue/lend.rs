//! Which of the workers that wait gets the next event.

use std::collections::VecDeque;

/// A worker as the queue knows it.
pub trait Lend: PartialEq + Sized {
    /// Events that it has, if it may have several: of the workers that wait, the one with the fewest gets the next.
    fn load(&self) -> usize {
        0
    }

    /// Lends one of its places; it goes on waiting for events. `None`: it has one place only, or this is its last, and it
    /// is lent as a whole.
    fn lend_place(&self) -> Option<Self> {
        None
    }
}

/// The worker that gets the next event: the first of those with the fewest.
pub(super) fn lend<W: Lend>(idle: &mut VecDeque<W>) -> Option<W> {
    let (mut place, mut fewest) = (0, usize::MAX);
    for (other, worker) in idle.iter().enumerate() {
        let load = worker.load();
        if load < fewest {
            (place, fewest) = (other, load);
        }
        if load == 0 {
            break;
        }
    }
    idle.get(place)?.lend_place().or_else(|| idle.remove(place))
}
