//! The events of a worker in the order they were written, those in work first. Taking one out costs the same wherever
//! it stands and however many there are: a handler may have a thousand in work and end them in any order.

/// In the place of a key: there is none.
const NONE: usize = usize::MAX;

/// A list of keys, linked in both directions. The keys are small numbers that are used again.
#[derive(Debug)]
pub(super) struct Order {
    links: Vec<Link>,
    first: usize,
    last: usize,
    /// The first that has not begun; all behind it have not either.
    next: usize,
}

#[derive(Debug, Clone, Copy)]
struct Link {
    before: usize,
    after: usize,
}

impl Default for Order {
    fn default() -> Self {
        Self { links: Vec::new(), first: NONE, last: NONE, next: NONE }
    }
}

impl Order {
    /// An event has been written.
    pub(super) fn push(&mut self, key: usize) {
        if self.links.len() <= key {
            self.links.resize(key + 1, Link { before: NONE, after: NONE });
        }
        self.links[key] = Link { before: self.last, after: NONE };
        match self.last {
            NONE => self.first = key,
            last => self.links[last].after = key,
        }
        self.last = key;
        if self.next == NONE {
            self.next = key;
        }
    }

    /// An event has left, begun or not.
    pub(super) fn remove(&mut self, key: usize) {
        let Link { before, after } = self.links[key];
        match before {
            NONE => self.first = after,
            before => self.links[before].after = after,
        }
        match after {
            NONE => self.last = before,
            after => self.links[after].before = before,
        }
        if self.next == key {
            self.next = after;
        }
    }

    /// The one that begins next.
    pub(super) fn next(&self) -> Option<usize> {
        (self.next != NONE).then_some(self.next)
    }

    /// That one has begun.
    pub(super) fn begin(&mut self) {
        if let Some(next) = self.next() {
            self.next = self.links[next].after;
        }
    }

    /// All keys.
    pub(super) fn keys(&self) -> impl Iterator<Item = usize> {
        let some = |key: usize| (key != NONE).then_some(key);
        std::iter::successors(some(self.first), move |key| some(self.links[*key].after))
    }

    /// Those in work: of that key, or of the first one, and behind it.
    pub(super) fn begun(&self, after: Option<usize>) -> Option<usize> {
        let key = after.map_or(self.first, |key| self.links[key].after);
        (key != self.next).then_some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(order: &Order, begun: &[usize], ahead: &[usize]) {
        assert_eq!(order.keys().collect::<Vec<_>>(), [begun, ahead].concat());
        let found: Vec<usize> =
            std::iter::successors(order.begun(None), |key| order.begun(Some(*key))).collect();
        assert_eq!(found, begun);
        assert_eq!(order.next(), ahead.first().copied());
    }

    #[test]
    fn events_leave_from_any_place_and_the_rest_keeps_its_order() {
        let mut order = Order::default();
        check(&order, &[], &[]);
        order.begin();
        (0..6).for_each(|key| order.push(key));
        (0..3).for_each(|_| order.begin());
        check(&order, &[0, 1, 2], &[3, 4, 5]);
        order.remove(1);
        order.remove(3);
        check(&order, &[0, 2], &[4, 5]);
        order.remove(0);
        order.remove(5);
        order.push(1);
        check(&order, &[2], &[4, 1]);
        order.begin();
        order.begin();
        check(&order, &[2, 4, 1], &[]);
        order.remove(1);
        order.push(0);
        check(&order, &[2, 4], &[0]);
        [4, 2, 0].into_iter().for_each(|key| order.remove(key));
        check(&order, &[], &[]);
        order.push(3);
        check(&order, &[], &[3]);
    }
}
