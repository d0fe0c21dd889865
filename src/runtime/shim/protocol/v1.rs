//! Shim protocol, version 1: what the Go processor and its own wrappers say to each other. Events go out as msgpack
//! frames or JSON lines ([`event`]); what comes back are lines of a letter and JSON ([`mod@line`], [`answer`]), and
//! JSON lines on a second connection ([`line::read_control`]).

pub mod answer;
pub mod event;
pub mod line;

/// What the other side did wrong. The worker that did it is replaced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// An answer while no event was in work: the next event must not get it.
    #[error("the wrapper sent an answer while no event was in work: {0:?}")]
    SurplusAnswer(String),
    /// A line that does not end.
    #[error("a line of kind {letter:?} is longer than {bytes_max} bytes{remedy}")]
    EndlessLine {
        /// Its first character.
        letter: char,
        /// What it may have.
        bytes_max: usize,
        /// How to allow more; empty where nothing does.
        remedy: &'static str,
    },
    /// The wrapper takes no new connections.
    #[error("the wrapper takes no further connection on {0}")]
    Deaf(String),
}
