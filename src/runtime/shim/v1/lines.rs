//! Cuts what a wrapper sends into lines, each within its bound.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use crate::runtime::shim::protocol::v1::ProtocolError;

/// Bytes of a log or metric line; longer ones are dropped.
const SIDE_LINE_BYTES_MAX: usize = 1 << 20;
/// A buffer that grew beyond this is given back once it is empty.
const KEPT_BYTES: usize = 1 << 20;
/// What the message about a long answer ends with.
const ANSWER_REMEDY: &str = "; NUCLIO_MAX_ANSWER_BYTES sets how long an answer may be";

/// See the module.
#[derive(Debug)]
pub struct Lines {
    data: Vec<u8>,
    start: usize,
    end: usize,
    /// No line end before this place.
    scanned: usize,
    /// Bytes of a line that is being dropped.
    skipped: Option<usize>,
    /// Lines dropped so far.
    dropped: u64,
    first_bytes: usize,
    answer_bytes_max: usize,
}

impl Lines {
    /// `first_bytes`: size of the buffer before a line needs more. `answer_bytes_max`: of an answer, or a piece of one.
    pub fn new(first_bytes: usize, answer_bytes_max: usize) -> Self {
        Self {
            data: vec![0; first_bytes],
            start: 0,
            end: 0,
            scanned: 0,
            skipped: None,
            dropped: 0,
            first_bytes,
            answer_bytes_max,
        }
    }

    /// One read. `Ok(0)` is the end of the stream.
    pub fn poll_fill<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
    ) -> Poll<io::Result<usize>> {
        if self.start == self.end {
            (self.start, self.end, self.scanned) = (0, 0, 0);
            if self.data.len() > KEPT_BYTES {
                self.data = vec![0; self.first_bytes];
            }
        } else if self.end == self.data.len() && self.start > 0 {
            self.data.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.scanned -= self.start;
            self.start = 0;
        }
        if self.end == self.data.len() {
            self.data.resize(self.data.len() * 2, 0);
        }
        let mut space = ReadBuf::new(&mut self.data[self.end..]);
        ready!(Pin::new(stream).poll_read(cx, &mut space))?;
        let read = space.filled().len();
        self.end += read;
        Poll::Ready(Ok(read))
    }

    /// The next complete line, without its end.
    ///
    /// # Errors
    /// A line that is too long for its kind.
    pub fn next_line(&mut self) -> Result<Option<&[u8]>, ProtocolError> {
        loop {
            let found = memchr::memchr(b'\n', &self.data[self.scanned..self.end]);
            let Some(at) = found.map(|at| self.scanned + at) else {
                self.scanned = self.end;
                self.check_unfinished()?;
                return Ok(None);
            };
            let line = self.start..at;
            (self.start, self.scanned) = (at + 1, at + 1);
            if self.skipped.take().is_some() {
                continue;
            }
            let limit = self.limit(self.data.get(line.start).copied().unwrap_or_default());
            if line.len() > limit.0 {
                self.dropped += 1;
                if limit.1 {
                    continue;
                }
                return Err(self.endless(self.data[line.start]));
            }
            return Ok(Some(&self.data[line]));
        }
    }

    /// Bytes that a line with this letter may have, and whether a longer one is only dropped.
    fn limit(&self, letter: u8) -> (usize, bool) {
        match letter {
            b'r' | b'c' | b'b' => (self.answer_bytes_max, false),
            b'l' | b'm' => (SIDE_LINE_BYTES_MAX, true),
            _ => (SIDE_LINE_BYTES_MAX, false),
        }
    }

    fn check_unfinished(&mut self) -> Result<(), ProtocolError> {
        let Some(letter) = self.data[self.start..self.end].first().copied() else { return Ok(()) };
        let bytes = self.end - self.start;
        if let Some(skipped) = &mut self.skipped {
            *skipped += bytes;
            self.start = self.end;
            // Dropped or not, it has to end some time.
            let endless = *skipped > self.answer_bytes_max.max(SIDE_LINE_BYTES_MAX);
            return if endless { Err(self.endless(b'l')) } else { Ok(()) };
        }
        let (limit, droppable) = self.limit(letter);
        if bytes <= limit {
            return Ok(());
        }
        if !droppable {
            return Err(self.endless(letter));
        }
        self.dropped += 1;
        self.skipped = Some(bytes);
        self.start = self.end;
        Ok(())
    }

    fn endless(&self, letter: u8) -> ProtocolError {
        let (bytes_max, _) = self.limit(letter);
        let remedy = if matches!(letter, b'r' | b'c' | b'b') { ANSWER_REMEDY } else { "" };
        ProtocolError::EndlessLine { letter: char::from(letter), bytes_max, remedy }
    }

    /// What has come of a line that has not ended.
    pub fn unfinished(&self) -> &[u8] {
        if self.skipped.is_some() { &[] } else { &self.data[self.start..self.end] }
    }

    /// Throws away what has come of a line that has not ended.
    pub fn forget_unfinished(&mut self) {
        self.start = self.end;
        self.scanned = self.end;
    }

    /// Lines dropped for their length since the last call.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    async fn check(answer_bytes_max: usize, sent: &[u8]) -> (Vec<String>, u64, Option<ProtocolError>) {
        let mut lines = Lines::new(8, answer_bytes_max);
        let (mut found, mut input) = (Vec::new(), sent);
        loop {
            let read = poll_fn(|cx| lines.poll_fill(cx, &mut input)).await.unwrap();
            loop {
                match lines.next_line() {
                    Ok(Some(line)) => found.push(String::from_utf8_lossy(line).into_owned()),
                    Ok(None) => break,
                    Err(error) => return (found, lines.take_dropped(), Some(error)),
                }
            }
            if read == 0 {
                return (found, lines.take_dropped(), None);
            }
        }
    }

    #[tokio::test]
    async fn long_log_lines_are_dropped_and_counted_and_the_next_line_is_found() {
        let mut sent = b"l".to_vec();
        sent.resize(3 * SIDE_LINE_BYTES_MAX, b'x');
        sent.extend_from_slice(b"\nrok\n\ns\n");
        let (found, dropped, error) = check(1 << 30, &sent).await;
        assert_eq!((found, dropped, error), (vec!["rok".to_owned(), String::new(), "s".to_owned()], 1, None));
    }

    #[tokio::test]
    async fn an_answer_over_its_bound_and_an_endless_line_are_errors() {
        for sent in [&b"rxxxxxxxxxx"[..], b"rxxxxxxxxxx\n", b"bxxxxxxxxxx"] {
            let (_, _, error) = check(10, sent).await;
            assert!(error.unwrap().to_string().contains("NUCLIO_MAX_ANSWER_BYTES"));
        }
        let (_, _, error) = check(10, &vec![b'?'; SIDE_LINE_BYTES_MAX + 2]).await;
        assert!(matches!(error, Some(ProtocolError::EndlessLine { letter: '?', .. })));
        let (_, dropped, error) = check(10, &vec![b'l'; 3 * SIDE_LINE_BYTES_MAX]).await;
        assert!(matches!(error, Some(ProtocolError::EndlessLine { letter: 'l', .. })), "{error:?}");
        assert_eq!(dropped, 1);
    }

    #[tokio::test]
    async fn what_has_not_ended_can_be_seen_and_forgotten() {
        let mut lines = Lines::new(8, 100);
        let mut input = &b"s\nrhalf"[..];
        poll_fn(|cx| lines.poll_fill(cx, &mut input)).await.unwrap();
        assert_eq!(lines.next_line().unwrap(), Some(&b"s"[..]));
        assert_eq!(lines.next_line().unwrap(), None);
        assert_eq!(lines.unfinished(), b"rhalf");
        lines.forget_unfinished();
        assert_eq!(lines.unfinished(), b"");
    }
}
