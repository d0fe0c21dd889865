//! Reads answers off a connection as they come, without keeping their bodies: status, length, whether it goes on.

use anyhow::{Result, anyhow, bail};

/// A head beyond this is nobody's answer.
const HEAD_MAX: usize = 64 * 1024;

/// An answer that has come whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Bytes of the body, without the marks of its chunks.
    pub(crate) length: u64,
    /// The server closes the connection behind it.
    pub(crate) closes: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Head,
    Body {
        left: u64,
    },
    UntilClosed,
    ChunkSize {
        size: u64,
        in_extension: bool,
    },
    Chunk {
        left: u64,
    },
    /// The line break behind a chunk.
    ChunkEnd,
    /// Lines behind the last chunk: bytes of this line so far.
    Trailer {
        line: usize,
    },
}

/// What has come of one answer.
#[derive(Debug)]
pub(crate) struct Parser {
    part: Part,
    head: Vec<u8>,
    answer: Answer,
}

impl Parser {
    pub(crate) fn new() -> Self {
        let answer = Answer { status: 0, length: 0, closes: false };
        Self { part: Part::Head, head: Vec::new(), answer }
    }

    /// Takes what has arrived; the answer, once it is complete. Bytes behind it are an error: nothing was asked.
    pub(crate) fn take(&mut self, mut bytes: &[u8]) -> Result<Option<Answer>> {
        while !bytes.is_empty() {
            let (used, done) = self.step(bytes)?;
            bytes = &bytes[used..];
            if done {
                if !bytes.is_empty() {
                    bail!("{} bytes behind an answer", bytes.len());
                }
                return Ok(Some(self.finish()));
            }
        }
        Ok(None)
    }

    /// The connection has ended: an answer, if it is one that ends so.
    pub(crate) fn closed(&mut self) -> Option<Answer> {
        (self.part == Part::UntilClosed).then(|| self.finish())
    }

    fn finish(&mut self) -> Answer {
        let answer = self.answer;
        self.part = Part::Head;
        self.head.clear();
        self.answer = Answer { status: 0, length: 0, closes: false };
        answer
    }

    /// Bytes used, and whether the answer is complete.
    fn step(&mut self, bytes: &[u8]) -> Result<(usize, bool)> {
        match self.part {
            Part::Head => self.head(bytes),
            Part::UntilClosed => {
                self.answer.length += bytes.len() as u64;
                Ok((bytes.len(), false))
            }
            Part::Body { left } => {
                let used = left.min(bytes.len() as u64);
                self.answer.length += used;
                self.part = Part::Body { left: left - used };
                Ok((used as usize, left == used))
            }
            Part::Chunk { left } => {
                let used = left.min(bytes.len() as u64);
                self.answer.length += used;
                self.part = if used == left { Part::ChunkEnd } else { Part::Chunk { left: left - used } };
                Ok((used as usize, false))
            }
            Part::ChunkEnd => {
                if bytes[0] == b'\n' {
                    self.part = Part::ChunkSize { size: 0, in_extension: false };
                }
                Ok((1, false))
            }
            Part::ChunkSize { size, in_extension } => self.chunk_size(bytes[0], size, in_extension),
            Part::Trailer { line } => {
                let length = if bytes[0] == b'\r' { line } else { line + 1 };
                let ends = bytes[0] == b'\n';
                self.part = Part::Trailer { line: if ends { 0 } else { length } };
                Ok((1, ends && line == 0))
            }
        }
    }

    fn chunk_size(&mut self, byte: u8, size: u64, in_extension: bool) -> Result<(usize, bool)> {
        self.part = match byte {
            b'\n' if size == 0 => Part::Trailer { line: 0 },
            b'\n' => Part::Chunk { left: size },
            b';' | b'\r' => Part::ChunkSize { size, in_extension: true },
            _ if in_extension => self.part,
            _ => {
                let digit = char::from(byte).to_digit(16);
                let digit = digit.ok_or_else(|| anyhow!("no size of a chunk: {}", byte.escape_ascii()))?;
                let size = size.checked_mul(16).ok_or_else(|| anyhow!("a chunk is too large"))?;
                Part::ChunkSize { size: size + u64::from(digit), in_extension }
            }
        };
        Ok((1, false))
    }

    fn head(&mut self, bytes: &[u8]) -> Result<(usize, bool)> {
        const END: &[u8] = b"\r\n\r\n";
        if self.head.is_empty()
            && let Some(at) = memchr::memmem::find(bytes, END)
        {
            return self.body(&bytes[..at]).map(|done| (at + END.len(), done));
        }
        let before = self.head.len();
        self.head.extend_from_slice(bytes);
        let from = before.saturating_sub(END.len() - 1);
        let Some(at) = memchr::memmem::find(&self.head[from..], END) else {
            if self.head.len() > HEAD_MAX {
                bail!("a head of more than {HEAD_MAX} bytes");
            }
            return Ok((bytes.len(), false));
        };
        let head = std::mem::take(&mut self.head);
        let end = from + at;
        let done = self.body(&head[..end])?;
        Ok((end + END.len() - before, done))
    }

    /// What follows this head; whether nothing does.
    fn body(&mut self, head: &[u8]) -> Result<bool> {
        let bad = || anyhow!("not an answer: {}", head.escape_ascii());
        let status = head.get(9..12).and_then(|digits| str::from_utf8(digits).ok()?.parse().ok());
        self.answer.status = status.ok_or_else(bad)?;
        let (mut length, mut chunked) = (None, false);
        self.answer.closes = head.starts_with(b"HTTP/1.0");
        for line in head.split(|byte| *byte == b'\n').skip(1) {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            if name.eq_ignore_ascii_case(b"content-length") {
                length = Some(str::from_utf8(value).ok().and_then(|text| text.parse().ok()).ok_or_else(bad)?);
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
                chunked = value.eq_ignore_ascii_case(b"chunked");
            } else if name.eq_ignore_ascii_case(b"connection") {
                self.answer.closes = value.eq_ignore_ascii_case(b"close");
            }
        }
        self.part = match (chunked, length, self.answer.status) {
            (_, _, 204 | 304) => return Ok(true),
            (true, _, _) => Part::ChunkSize { size: 0, in_extension: false },
            (false, Some(0), _) => return Ok(true),
            (false, Some(left), _) => Part::Body { left },
            (false, None, _) => {
                self.answer.closes = true;
                Part::UntilClosed
            }
        };
        Ok(false)
    }
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "run by `unit_tests.rs`; the bench has no harness")]
mod tests {
    use super::*;

    /// Whole, and cut at every byte.
    fn parsed(text: &[u8]) -> Answer {
        let whole = Parser::new().take(text).unwrap();
        for at in 0..text.len() {
            let mut parser = Parser::new();
            assert_eq!(parser.take(&text[..at]).unwrap(), None, "cut at {at}");
            assert_eq!(parser.take(&text[at..]).unwrap(), whole, "cut at {at}");
        }
        let mut parser = Parser::new();
        let pieces: Vec<_> = text.chunks(1).filter_map(|byte| parser.take(byte).unwrap()).collect();
        assert_eq!(pieces, [whole.unwrap()]);
        whole.unwrap()
    }

    #[test]
    fn answers_with_a_length_end_there() {
        let answer = parsed(b"HTTP/1.1 200 OK\r\ncontent-LENGTH: 5\r\n\r\nhello");
        assert_eq!(answer, Answer { status: 200, length: 5, closes: false });
        let answer = parsed(b"HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(answer, Answer { status: 503, length: 0, closes: true });
        assert_eq!(parsed(b"HTTP/1.1 204 No Content\r\n\r\n").status, 204);
    }

    #[test]
    fn chunks_are_added_up() {
        let answer = parsed(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n1A\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nX: y\r\n\r\n",
        );
        assert_eq!(answer, Answer { status: 200, length: 29, closes: false });
    }

    #[test]
    fn an_answer_without_a_length_ends_with_the_connection() {
        let mut parser = Parser::new();
        assert_eq!(parser.take(b"HTTP/1.0 200 OK\r\n\r\nabc").unwrap(), None);
        assert_eq!(parser.closed(), Some(Answer { status: 200, length: 3, closes: true }));
        assert_eq!(Parser::new().closed(), None);
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        assert!(Parser::new().take(b"hello\r\n\r\n").is_err());
        assert!(Parser::new().take(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab").is_err());
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n";
        assert!(Parser::new().take(chunked).is_err());
    }

    #[test]
    fn a_parser_is_used_again() {
        let mut parser = Parser::new();
        for _ in 0..2 {
            let answer = parser.take(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab").unwrap().unwrap();
            assert_eq!(answer.length, 2);
        }
    }
}
