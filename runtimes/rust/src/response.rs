//! [`Response`]: what a handler answers. Owns its bytes, or points to static or event memory.

use std::borrow::Cow;
use std::fmt;

use crate::Error;

/// An answer.
#[derive(Debug, Default)]
pub struct Response {
    pub(crate) status: u16,
    pub(crate) content_type: Cow<'static, str>,
    pub(crate) headers: Vec<(Cow<'static, str>, Cow<'static, [u8]>)>,
    pub(crate) body: Body,
    pub(crate) no_ack: bool,
}

/// Pieces of a streamed answer, pulled as the client reads. An error cuts the client's connection.
pub type Chunks = Box<dyn Iterator<Item = Result<Vec<u8>, Error>> + Send>;

/// The bytes of an answer.
#[derive(Default)]
pub enum Body {
    /// None.
    #[default]
    Empty,
    /// Made for this answer.
    Owned(Vec<u8>),
    /// Part of the program.
    Static(&'static [u8]),
    /// Part of the event that is answered.
    Event(EventSlice),
    /// Pieces that are made while the client reads. The worker takes no other event meanwhile.
    Stream(Chunks),
}

/// Bytes of one event, answered without a copy; from `Event::share`. In the answer to any other event it is an error.
#[derive(Clone, Copy)]
pub struct EventSlice {
    // An address and not a pointer: it is made a pointer again only in the answer to the event it came from.
    address: usize,
    len: usize,
    serial: u64,
}

impl EventSlice {
    pub(crate) fn new(bytes: &[u8], serial: u64) -> Self {
        Self { address: bytes.as_ptr().expose_provenance(), len: bytes.len(), serial }
    }

    /// Start and length, when it belongs to the event with this number.
    pub(crate) fn of_event(self, serial: u64) -> Option<(usize, usize)> {
        (self.serial == serial).then_some((self.address, self.len))
    }
}

impl Response {
    /// Status 200 and no body.
    pub fn new() -> Self {
        Self::default()
    }

    /// Text, with the default content type `text/plain; charset=utf-8`.
    pub fn text(text: impl Into<String>) -> Self {
        Self::new().body(text.into())
    }

    /// A finished JSON text.
    pub fn json(json: impl Into<Body>) -> Self {
        Self::new().content_type("application/json").body(json)
    }

    /// Pieces that are pulled as the client reads.
    pub fn stream<I>(chunks: I) -> Self
    where
        I: IntoIterator<Item = Result<Vec<u8>, Error>>,
        I::IntoIter: Send + 'static,
    {
        Self::new().body(Body::Stream(Box::new(chunks.into_iter())))
    }

    /// Sets the status, 100 to 999.
    #[must_use]
    pub fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// Sets the content type.
    #[must_use]
    pub fn content_type(mut self, content_type: impl Into<Cow<'static, str>>) -> Self {
        self.content_type = content_type.into();
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<HeaderValue>) -> Self {
        self.headers.push((name.into(), value.into().0));
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Body>) -> Self {
        self.body = body.into();
        self
    }

    /// The stream message this answers is not acknowledged.
    #[must_use]
    pub fn no_ack(mut self) -> Self {
        self.no_ack = true;
        self
    }
}

/// Value of a header: text, bytes or a number.
#[derive(Debug, Clone)]
pub struct HeaderValue(Cow<'static, [u8]>);

macro_rules! header_value_from {
    ($($type:ty => $make:expr;)*) => {
        $(impl From<$type> for HeaderValue {
            fn from(value: $type) -> Self {
                Self($make(value))
            }
        })*
    };
}

header_value_from! {
    &'static str => |text: &'static str| Cow::Borrowed(text.as_bytes());
    String => |text: String| Cow::Owned(text.into_bytes());
    Vec<u8> => Cow::Owned;
    i64 => |number: i64| Cow::Owned(number.to_string().into_bytes());
    i32 => |number: i32| Cow::Owned(number.to_string().into_bytes());
    u64 => |number: u64| Cow::Owned(number.to_string().into_bytes());
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Owned(bytes)
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Self::Owned(text.into_bytes())
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Self::Static(text.as_bytes())
    }
}

impl From<&'static [u8]> for Body {
    fn from(bytes: &'static [u8]) -> Self {
        Self::Static(bytes)
    }
}

impl From<EventSlice> for Body {
    fn from(slice: EventSlice) -> Self {
        Self::Event(slice)
    }
}

impl fmt::Debug for EventSlice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventSlice({})", self.len)
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("Empty"),
            Self::Owned(bytes) => write!(f, "Owned({})", bytes.len()),
            Self::Static(bytes) => write!(f, "Static({})", bytes.len()),
            Self::Event(slice) => slice.fmt(f),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}
