//! The bytes of an event, and the bound on all of them together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{BufMut, Bytes, BytesMut};

use super::incoming::BodyStream;

/// Pieces of a body below this size are gathered: a body that arrives byte by byte must not cost a list of bytes.
const GATHERED_BYTES: usize = 16 << 10;

/// The bytes of an event, in the pieces they arrived in.
#[derive(Debug, Default)]
pub struct EventBody {
    /// `false`: the request carried no body at all.
    pub present: bool,
    /// What its bytes count against.
    pub permit: Option<BodyPermit>,
    /// What follows the bytes that are here, for handlers that take bodies as they come.
    pub stream: Option<BodyStream>,
    first: Bytes,
    rest: Vec<Bytes>,
    gathered: BytesMut,
    len: usize,
}

impl EventBody {
    /// No body at all.
    pub fn none() -> Self {
        Self::default()
    }

    /// A body of which nothing has been read yet.
    pub fn streamed(stream: BodyStream) -> Self {
        Self { present: true, stream: Some(stream), ..Self::default() }
    }

    /// Appends a piece. Call [`EventBody::finish`] after the last.
    pub fn push(&mut self, piece: Bytes) {
        self.present = true;
        self.len += piece.len();
        if self.first.is_empty() {
            self.first = piece;
        } else if piece.len() < GATHERED_BYTES {
            self.gathered.extend_from_slice(&piece);
        } else {
            self.finish();
            self.rest.push(piece);
        }
    }

    /// All pieces are there.
    pub fn finish(&mut self) {
        if !self.gathered.is_empty() {
            self.rest.push(std::mem::take(&mut self.gathered).freeze());
        }
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The pieces in order, none of them empty.
    pub fn pieces(&self) -> impl Iterator<Item = &Bytes> {
        std::iter::once(&self.first).filter(|piece| !piece.is_empty()).chain(&self.rest)
    }

    /// All bytes in one piece; copies only if they arrived in several.
    pub fn contiguous(&mut self) -> &Bytes {
        self.finish();
        if !self.rest.is_empty() {
            let mut whole = BytesMut::with_capacity(self.len);
            self.pieces().for_each(|piece| whole.put_slice(piece));
            self.first = whole.freeze();
            self.rest = Vec::new();
        }
        &self.first
    }
}

impl From<Bytes> for EventBody {
    fn from(bytes: Bytes) -> Self {
        let mut body = Self { present: true, ..Self::default() };
        body.push(bytes);
        body
    }
}

/// Bounds the bytes of all bodies held at once.
#[derive(Debug, Clone)]
pub struct BodyBudget {
    used: Arc<AtomicUsize>,
    bytes_max: usize,
}

impl BodyBudget {
    /// At most `bytes_max` bytes at once.
    pub fn new(bytes_max: usize) -> Self {
        Self { used: Arc::default(), bytes_max }
    }

    /// Room for `bytes`, if there is any.
    pub fn take(&self, bytes: usize) -> Option<BodyPermit> {
        if self.used.fetch_add(bytes, Ordering::Relaxed) + bytes > self.bytes_max {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            return None;
        }
        Some(BodyPermit { used: self.used.clone(), bytes })
    }
}

/// Room for the bytes of one body; given back when dropped.
#[derive(Debug)]
pub struct BodyPermit {
    used: Arc<AtomicUsize>,
    bytes: usize,
}

impl BodyPermit {
    /// Takes the room of another permit of the same budget over.
    pub fn join(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Gives a part of the room, or what is left of it, to a permit of its own.
    pub fn split(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self { used: self.used.clone(), bytes }
    }
}

impl Drop for BodyPermit {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_in_pieces_become_one() {
        let mut body = EventBody::none();
        assert!(!body.present);
        for piece in ["", "ab", "", "cd"] {
            body.push(Bytes::from_static(piece.as_bytes()));
        }
        body.finish();
        assert_eq!((body.len(), body.pieces().count()), (4, 2));
        assert_eq!(body.contiguous(), &Bytes::from_static(b"abcd"));
    }

    #[test]
    fn a_body_byte_by_byte_is_gathered() {
        let mut body = EventBody::none();
        (0..1000).for_each(|_| body.push(Bytes::from_static(b"x")));
        body.push(Bytes::from(vec![b'y'; GATHERED_BYTES]));
        body.finish();
        assert_eq!(body.pieces().map(Bytes::len).collect::<Vec<_>>(), [1, 999, GATHERED_BYTES]);
    }

    #[test]
    fn a_budget_is_given_back() {
        let budget = BodyBudget::new(10);
        let mut permit = budget.take(6).unwrap();
        assert!(budget.take(5).is_none());
        permit.join(budget.take(4).unwrap());
        assert!(budget.take(1).is_none());
        let part = permit.split(3);
        drop(permit);
        assert!(budget.take(8).is_none());
        drop((part.bytes == 3).then_some(part));
        assert!(budget.take(10).is_some());
    }
}
