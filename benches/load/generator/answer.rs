//! Reads answers off a connection as they come, without keeping their bodies: status, length, whether the body is the one
//! that is expected, whether the connection goes on.

use anyhow::{Result, anyhow, bail};

/// A head beyond this is nobody's answer.
const HEAD_MAX: usize = 64 * 1024;

/// An answer that has come whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Bytes of the body, without the marks of its chunks.
    pub(crate) length: u64,
    /// The body is the expected one, byte for byte; true where none is expected.
    pub(crate) right: bool,
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

const NOTHING_YET: Answer = Answer { status: 0, length: 0, right: true, closes: false };

impl Parser {
    pub(crate) fn new() -> Self {
        Self { part: Part::Head, head: Vec::new(), answer: NOTHING_YET }
    }

    /// Takes what has arrived; the answer, once it is complete. Bytes behind it are an error: nothing was asked.
    /// `body` is what is expected, the same until the answer is complete; nothing: any is right.
    pub(crate) fn take(&mut self, mut bytes: &[u8], body: Option<&[u8]>) -> Result<Option<Answer>> {
        while !bytes.is_empty() {
            let (used, done) = self.step(bytes, body)?;
            bytes = &bytes[used..];
            if done {
                if !bytes.is_empty() {
                    bail!("{} bytes behind an answer", bytes.len());
                }
                return Ok(Some(self.finish(body)));
            }
        }
        Ok(None)
    }

    /// The connection has ended: an answer, if it is one that ends so.
    pub(crate) fn closed(&mut self, body: Option<&[u8]>) -> Option<Answer> {
        (self.part == Part::UntilClosed).then(|| self.finish(body))
    }

    fn finish(&mut self, expected: Option<&[u8]>) -> Answer {
        let mut answer = self.answer;
        answer.right &= expected.is_none_or(|expected| expected.len() as u64 == answer.length);
        self.part = Part::Head;
        self.head.clear();
        self.answer = NOTHING_YET;
        answer
    }

    /// The next piece of the body.
    fn piece(&mut self, piece: &[u8], expected: Option<&[u8]>) {
        let from = self.answer.length as usize;
        self.answer.length += piece.len() as u64;
        if let Some(expected) = expected {
            self.answer.right &= expected.get(from..from + piece.len()) == Some(piece);
        }
    }

    /// Bytes used, and whether the answer is complete.
    fn step(&mut self, bytes: &[u8], expected: Option<&[u8]>) -> Result<(usize, bool)> {
        match self.part {
            Part::Head => self.head(bytes),
            Part::UntilClosed => {
                self.piece(bytes, expected);
                Ok((bytes.len(), false))
            }
            Part::Body { left } => {
                let used = left.min(bytes.len() as u64);
                self.piece(&bytes[..used as usize], expected);
                self.part = Part::Body { left: left - used };
                Ok((used as usize, left == used))
            }
            Part::Chunk { left } => {
                let used = left.min(bytes.len() as u64);
                self.piece(&bytes[..used as usize], expected);
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
        let whole = Parser::new().take(text, None).unwrap();
        for at in 0..text.len() {
            let mut parser = Parser::new();
            assert_eq!(parser.take(&text[..at], None).unwrap(), None, "cut at {at}");
            assert_eq!(parser.take(&text[at..], None).unwrap(), whole, "cut at {at}");
        }
        let mut parser = Parser::new();
        let pieces: Vec<_> = text.chunks(1).filter_map(|byte| parser.take(byte, None).unwrap()).collect();
        assert_eq!(pieces, [whole.unwrap()]);
        whole.unwrap()
    }

    #[test]
    fn answers_with_a_length_end_there() {
        let answer = parsed(b"HTTP/1.1 200 OK\r\ncontent-LENGTH: 5\r\n\r\nhello");
        assert_eq!(answer, Answer { status: 200, length: 5, right: true, closes: false });
        let answer = parsed(b"HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(answer, Answer { status: 503, length: 0, right: true, closes: true });
        assert_eq!(parsed(b"HTTP/1.1 204 No Content\r\n\r\n").status, 204);
    }

    #[test]
    fn chunks_are_added_up() {
        let answer = parsed(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n1A\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nX: y\r\n\r\n",
        );
        assert_eq!(answer, Answer { status: 200, length: 29, right: true, closes: false });
    }

    #[test]
    fn an_answer_without_a_length_ends_with_the_connection() {
        let mut parser = Parser::new();
        assert_eq!(parser.take(b"HTTP/1.0 200 OK\r\n\r\nabc", None).unwrap(), None);
        assert_eq!(parser.closed(None), Some(Answer { status: 200, length: 3, right: true, closes: true }));
        assert_eq!(Parser::new().closed(None), None);
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        assert!(Parser::new().take(b"hello\r\n\r\n", None).is_err());
        assert!(Parser::new().take(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab", None).is_err());
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n";
        assert!(Parser::new().take(chunked, None).is_err());
    }

    #[test]
    fn a_parser_is_used_again() {
        let mut parser = Parser::new();
        for _ in 0..2 {
            let answer =
                parser.take(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab", None).unwrap().unwrap();
            assert_eq!(answer.length, 2);
        }
    }

    #[test]
    fn a_body_is_right_when_it_is_the_expected_one() {
        const PLAIN: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        const CHUNKED: &[u8] =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n";
        const CLOSED: &[u8] = b"HTTP/1.0 200 OK\r\n\r\nhello";
        let right = |text: &[u8], expected: Option<&[u8]>, size: usize| {
            let mut parser = Parser::new();
            let answer = text.chunks(size).find_map(|piece| parser.take(piece, expected).unwrap());
            answer.or_else(|| parser.closed(expected)).unwrap().right
        };
        for text in [PLAIN, CHUNKED, CLOSED] {
            for size in [1, 3, 1000] {
                assert!(right(text, Some(b"hello"), size) && right(text, None, size));
                for wrong in [b"hellO".as_slice(), b"Hello", b"hell", b"hello!", b""] {
                    assert!(!right(text, Some(wrong), size), "{}", wrong.escape_ascii());
                }
            }
        }
        let empty = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        assert!(right(empty, Some(b""), 1000) && !right(empty, Some(b"hello"), 1000));
    }
}
