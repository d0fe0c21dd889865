//! What is asked, by scenario: the request, and how the right answer looks. All servers under load agree on it:
//!
//! | path | |
//! |---|---|
//! | `/` | `hello`, whatever it costs to say so; of the built-in handler what it always says |
//! | `/echo` | the body back |
//! | `/cpu` | 100 µs of CPU, then `hello` |
//! | `/sleep` | 10 ms of waiting, then `hello` |
//! | `/log` | three records, one with fields, then `hello` |
//! | `/stream` | ten pieces of 1 KiB, each sent by itself |
//! | `/fanout` | four waits of 5 ms one after the other, in a handler that can be in many events at once, then `hello` |
//! | `/detect` | a JSON object with 2 MiB of base64 is decoded, 20 ms of CPU, then `[]` |

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::ValueEnum;

use crate::generator::Question;

/// What is measured between two sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Work {
    Empty,
    #[value(name = "echo-1k")]
    Echo1k,
    #[value(name = "echo-100k")]
    Echo100k,
    #[value(name = "echo-4m")]
    Echo4m,
    #[value(name = "cpu-100us")]
    Cpu100us,
    #[value(name = "sleep-10ms")]
    Sleep10ms,
    Logs,
    Streaming,
    AsyncFanout,
    Detector,
}

/// A request and its answer.
#[derive(Debug, Clone)]
pub(crate) struct Exchange {
    pub(crate) request: Vec<u8>,
    pub(crate) answer: Vec<u8>,
}

impl Work {
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Bytes of the body that is sent.
    pub(crate) fn body_length(self) -> usize {
        match self {
            Self::Echo1k => 1 << 10,
            Self::Echo100k => 100 << 10,
            Self::Echo4m => 4 << 20,
            Self::Detector => 2 << 20,
            _ => 0,
        }
    }

    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Empty => "/",
            Self::Echo1k | Self::Echo100k | Self::Echo4m => "/echo",
            Self::Cpu100us => "/cpu",
            Self::Sleep10ms => "/sleep",
            Self::Logs => "/log",
            Self::Streaming => "/stream",
            Self::AsyncFanout => "/fanout",
            Self::Detector => "/detect",
        }
    }

    pub(crate) fn exchange(self) -> Exchange {
        let (path, length) = (self.path(), self.body_length());
        let get = format!("GET {path} HTTP/1.1\r\nHost: load\r\n\r\n").into_bytes();
        let hello = b"hello".to_vec();
        match self {
            Self::Echo1k | Self::Echo100k | Self::Echo4m => {
                let body: Vec<u8> = (0..length).map(|at| b'a' + (at % 23) as u8).collect();
                Exchange { request: post(path, "application/octet-stream", &body), answer: body }
            }
            Self::Detector => {
                let image: Vec<u8> = (0..length / 4 * 3).map(|at| (at % 251) as u8).collect();
                let body = format!(r#"{{"image": "{}"}}"#, STANDARD.encode(image));
                let request = post(path, "application/json", body.as_bytes());
                Exchange { request, answer: b"[]".to_vec() }
            }
            Self::Streaming => Exchange { request: get, answer: vec![b'x'; 10 << 10] },
            _ => Exchange { request: get, answer: hello },
        }
    }

    pub(crate) fn question(self) -> Question {
        let Exchange { request, answer } = self.exchange();
        Question { bytes: request, answer: Some(answer) }
    }
}

fn post(path: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nHost: load\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n"
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}
