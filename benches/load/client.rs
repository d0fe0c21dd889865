//! Just enough HTTP/1.1 to ask and to check an answer byte for byte: keep-alive, `Content-Length`, chunks.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long any single answer may take; the longest scenario waits for 5 s.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);

/// What came back.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    /// The server will close the connection.
    pub(crate) closes: bool,
}

pub(crate) fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: load\r\n\r\n").into_bytes()
}

pub(crate) fn post(body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST / HTTP/1.1\r\nHost: load\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Takes one answer off the front of what has arrived, when it is complete.
pub(crate) fn take_answer(received: &mut Vec<u8>) -> io::Result<Option<Answer>> {
    let Some(head_end) = memchr::memmem::find(received, b"\r\n\r\n") else { return Ok(None) };
    let (answer, length) = parse_head(&received[..head_end])?;
    let rest = &received[head_end + 4..];
    let whole = match length {
        Some(length) => rest.get(..length).map(|body| (body.to_vec(), length)),
        None => take_chunks(rest)?,
    };
    let Some((body, used)) = whole else { return Ok(None) };
    received.drain(..head_end + 4 + used);
    Ok(Some(Answer { body, ..answer }))
}

/// The body of all chunks and the bytes they took, once the last one is there.
fn take_chunks(bytes: &[u8]) -> io::Result<Option<(Vec<u8>, usize)>> {
    let (mut body, mut at) = (Vec::new(), 0);
    while let Some(line) = memchr::memmem::find(&bytes[at..], b"\r\n") {
        let text = str::from_utf8(&bytes[at..at + line]).unwrap_or_default();
        let size = text.split(';').next().and_then(|digits| usize::from_str_radix(digits.trim(), 16).ok());
        let size = size.ok_or_else(|| io::Error::other(format!("not the size of a chunk: {text}")))?;
        let start = at + line + 2;
        let Some(chunk) = bytes.get(start..start + size + 2) else { break };
        body.extend_from_slice(&chunk[..size]);
        at = start + size + 2;
        if size == 0 {
            return Ok(Some((body, at)));
        }
    }
    Ok(None)
}

/// The answer without its body, and how long that is; none: it comes in chunks.
fn parse_head(head: &[u8]) -> io::Result<(Answer, Option<usize>)> {
    let bad = || io::Error::other(format!("not an answer: {}", head.escape_ascii()));
    let head = str::from_utf8(head).map_err(|_| bad())?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.get(9..12)?.parse().ok()).ok_or_else(bad)?;
    let headers: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(':')).collect();
    let find = |wanted: &str| {
        headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim())
    };
    let length = match find("transfer-encoding") {
        Some(_) => None,
        None => Some(find("content-length").unwrap_or("0").parse().map_err(|_| bad())?),
    };
    let closes = find("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    Ok((Answer { status, body: Vec::new(), closes }, length))
}

/// A blocking client on one connection, which it opens again whenever the server has closed it.
pub(crate) struct Client {
    address: SocketAddr,
    stream: Option<TcpStream>,
    received: Vec<u8>,
}

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, stream: None, received: Vec::new() }
    }

    /// One exchange and how long it took, connecting included.
    pub(crate) fn call(&mut self, request: &[u8]) -> io::Result<(Answer, Duration)> {
        let started = Instant::now();
        let reused = self.stream.is_some();
        let answer = match self.exchange(request) {
            // The server may have closed a kept connection before it saw this request.
            Err(_) if reused => self.exchange(request)?,
            outcome => outcome?,
        };
        Ok((answer, started.elapsed()))
    }

    fn exchange(&mut self, request: &[u8]) -> io::Result<Answer> {
        let mut stream = self.stream.take().map_or_else(|| self.connect(), Ok)?;
        self.received.clear();
        stream.write_all(request)?;
        let mut chunk = [0; 65536];
        loop {
            if let Some(answer) = take_answer(&mut self.received)? {
                if !answer.closes {
                    self.stream = Some(stream);
                }
                return Ok(answer);
            }
            match stream.read(&mut chunk)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.received.extend_from_slice(&chunk[..count]),
            }
        }
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        Ok(stream)
    }
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "run by `unit_tests.rs`; the bench has no harness")]
mod tests {
    use super::*;

    #[test]
    fn answers_are_taken_off_the_front_when_they_are_complete() {
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n";
        let plain = b"HTTP/1.1 503 Busy\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc";
        for (text, status, closes) in [(chunked.as_slice(), 200, false), (plain, 503, true)] {
            for length in 0..text.len() {
                let mut received = text[..length].to_vec();
                assert_eq!(take_answer(&mut received).unwrap(), None);
                assert_eq!(received, text[..length]);
            }
            let mut received = [text, b"more"].concat();
            let answer = take_answer(&mut received).unwrap();
            assert_eq!(answer, Some(Answer { status, body: b"abc".to_vec(), closes }));
            assert_eq!(received, b"more");
        }
    }
}
