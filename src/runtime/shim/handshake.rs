//! From spawned to ready: HELLO, INIT, then READY or FAILED.

use std::future::poll_fn;

use super::answers::record;
use super::connection::{Reader, Writer};
use super::protocol::v2::{self, FRAME_BYTES_MAX, MAGIC, ProtocolError, VERSION, kind};
use super::socket::Socket;
use crate::fields;
use crate::logging::{Logger, Origin};

/// What a shim says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hello {
    /// Language, version and SDK, for the log.
    pub about: String,
    /// What it offers, in its own words.
    pub capabilities: String,
    /// `cancel` offered: the shim reads while a handler runs.
    pub cancel: bool,
    /// `batch` offered: its handler takes several events at once.
    pub batch: bool,
    /// `deadline` offered: told that an event has passed its deadline, the shim answers at once, whatever its handler
    /// does.
    pub deadline: bool,
    /// `client-gone` offered: the shim wants to know of clients that leave before their answer has begun.
    pub client_gone: bool,
    /// `control` offered: drain, continue, terminate.
    pub control: bool,
    /// `pipe` offered: its frames may come through a pipe.
    pub pipe: bool,
    /// Events it may have in work at once.
    pub in_flight_max: usize,
    /// Events it may hold beyond those.
    pub prefetch: usize,
    /// Its handler takes bodies as they come; known once it is ready.
    pub streams_bodies: bool,
    /// Its handler is a web application and gets requests as they are; known once it is ready.
    pub web: bool,
}

/// What READY says of the handler.
#[derive(Debug, Clone, Copy)]
pub struct Ready {
    /// How many events in work at once it allows, if it says so.
    pub in_flight_max: Option<usize>,
    /// It asks for bodies as they come.
    pub streams_bodies: bool,
    /// It is a web application.
    pub web: bool,
}

/// Why a shim did not become ready.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HandshakeError {
    /// It said so.
    #[error("{0}")]
    Failed(String),
    /// The connection ended.
    #[error("the shim ended before it was ready")]
    Ended,
    /// Neither side understands the other.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// What a wrapper of protocol 1 did instead of getting ready.
    #[error("{0}")]
    Wrapper(String),
    /// It speaks other versions.
    #[error("the shim speaks protocol versions {0} to {1}, the processor speaks {VERSION}")]
    Version(u16, u16),
}

/// The parts of a connection.
#[derive(Debug)]
pub struct Link {
    /// The socket.
    pub stream: Socket,
    /// Incoming frames.
    pub reader: Reader,
    /// Outgoing frames.
    pub writer: Writer,
}

impl Link {
    /// Over a connected socket.
    pub fn new(stream: Socket) -> Self {
        Self { stream, reader: Reader::new(), writer: Writer::default() }
    }

    async fn fill(&mut self) -> Result<(), HandshakeError> {
        match poll_fn(|cx| self.reader.poll_fill(cx, &mut self.stream)).await {
            Ok(0) | Err(_) => Err(HandshakeError::Ended),
            Ok(_) => Ok(()),
        }
    }

    /// Kind and head of the next frame that is no log record; FAILED becomes an error.
    async fn frame(&mut self, logger: &Logger) -> Result<(u8, Vec<u8>), HandshakeError> {
        loop {
            if let Some(frame) = self.reader.next_frame()? {
                let body = frame.body.as_slice();
                match frame.header.kind {
                    kind::FAILED => {
                        return Err(HandshakeError::Failed(v2::read_failed(frame.head, body)));
                    }
                    kind::LOG => record(logger, frame.header, frame.head, body, Origin::default())?,
                    other => return Ok((other, frame.head.to_vec())),
                }
                continue;
            }
            self.fill().await?;
        }
    }

    /// Waits for HELLO.
    pub async fn hello(&mut self, logger: &Logger) -> Result<Hello, HandshakeError> {
        let magic = loop {
            if let Some(magic) = self.reader.take_prefix::<4>() {
                break magic;
            }
            self.fill().await?;
        };
        if magic != MAGIC {
            return Err(ProtocolError::Magic(magic).into());
        }
        let (found, head) = self.frame(logger).await?;
        if found != kind::HELLO {
            return Err(ProtocolError::Unexpected(found).into());
        }
        let pairs = v2::read_pairs(&head);
        let text =
            |name: &str| pairs.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str());
        let (lowest, highest) = (number(text("protocol_min")), number(text("protocol_max")));
        if !(lowest..=highest).contains(&VERSION) {
            return Err(HandshakeError::Version(lowest, highest));
        }
        let offers = |name: &str| text("capabilities").split(',').any(|offered| offered.trim() == name);
        Ok(Hello {
            about: format!("{} {}, SDK {}", text("language"), text("version"), text("sdk")),
            capabilities: text("capabilities").to_owned(),
            cancel: offers("cancel"),
            batch: offers("batch"),
            deadline: offers("cancel") && offers("deadline"),
            client_gone: offers("cancel") && offers("client-gone"),
            control: offers("control"),
            pipe: offers("pipe"),
            in_flight_max: text("max_inflight").parse().unwrap_or(1).max(1),
            prefetch: text("prefetch").parse().unwrap_or(0),
            streams_bodies: offers("stream-in"),
            web: offers("web"),
        })
    }

    /// Sends INIT and waits for READY, as long as loading takes. What the handler's own initialization logs goes to
    /// `logger`; frames come through a pipe from then on if `piped` and if the kernel has one. Returns what the loaded
    /// handler is like.
    pub async fn init(
        &mut self,
        settings: &[(&'static str, String)],
        piped: bool,
        logger: &Logger,
    ) -> Result<Ready, HandshakeError> {
        let own = [
            ("max_frame", FRAME_BYTES_MAX.to_string()),
            ("credit", v2::CREDIT_BYTES.to_string()),
            ("log_flush", "batch".to_owned()),
        ];
        v2::write_init(self.writer.frames(), settings.iter().cloned().chain(own));
        if piped {
            match self.writer.write_by(|init| self.stream.send_with_pipe(init)) {
                Ok(()) => self.reader.allow_apart(),
                Err(error) => {
                    let fields = fields! {"err" => error.to_string()};
                    logger.debug("There is no pipe for the shim; the socket does as well", fields);
                }
            }
        }
        poll_fn(|cx| self.writer.poll_flush(cx, &mut self.stream))
            .await
            .map_err(|_| HandshakeError::Ended)?;
        loop {
            let (found, head) = self.frame(logger).await?;
            match found {
                kind::READY => {
                    let pairs = v2::read_pairs(&head);
                    let said =
                        |name: &str| pairs.iter().find(|(other, _)| other == name).map(|(_, value)| value);
                    return Ok(Ready {
                        in_flight_max: said("max_inflight")
                            .and_then(|value| value.parse().ok())
                            .filter(|events| *events > 0),
                        streams_bodies: said("stream_in").is_some_and(|value| value == "1"),
                        web: said("web").is_some_and(|value| !value.is_empty()),
                    });
                }
                kind::METRIC => {}
                other => return Err(ProtocolError::Unexpected(other).into()),
            }
        }
    }
}

fn number(text: &str) -> u16 {
    text.parse().unwrap_or_default()
}
