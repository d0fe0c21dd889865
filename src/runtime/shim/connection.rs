//! The socket to a shim: whole frames in, whole frames out. It copies bytes and counts them; what they mean is for
//! [`super::protocol`] and [`super::worker`].

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::protocol::v2::{HEADER_BYTES, Header, ProtocolError};
use super::socket::Socket;

/// Bytes of the buffer that small frames are read into; larger ones get a buffer of their own size.
const BUFFER_BYTES: usize = 64 << 10;
/// Frames from this size on get a buffer of their own, which their body then shares.
const LARGE_BYTES: usize = 16 << 10;
/// Bodies up to this size are copied behind their head, so that one plain write takes both.
const COPIED_BODY_BYTES: usize = 4 << 10;
/// Pieces given to one vectored write.
const PIECES_PER_WRITE: usize = 16;

/// One frame as it was read.
#[derive(Debug)]
pub struct Frame<'a> {
    /// Its header.
    pub header: Header,
    /// The first `header.head` bytes.
    pub head: &'a [u8],
    /// The rest.
    pub body: Payload<'a>,
}

/// Bytes in the reader's buffer, or in a buffer of their own.
#[derive(Debug)]
pub enum Payload<'a> {
    /// Copied when kept.
    Borrowed(&'a [u8]),
    /// Kept without a copy.
    Shared(Bytes),
}

impl Payload<'_> {
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }

    /// The bytes, to keep.
    pub fn into_bytes(self) -> Bytes {
        match self {
            Self::Borrowed(bytes) => Bytes::copy_from_slice(bytes),
            Self::Shared(bytes) => bytes,
        }
    }
}

/// Cuts what arrives into frames.
#[derive(Debug, Default)]
pub struct Reader {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// A frame with a buffer of its own, while it is incomplete.
    large: Option<(Header, BytesMut)>,
    /// Bodies may come apart from their frames.
    apart: bool,
    /// The payload that the last frame borrowed.
    taken: Bytes,
}

impl Reader {
    /// A reader with its buffer; the default one has none and stands in for one that is in use.
    pub fn new() -> Self {
        Self { buffer: vec![0; BUFFER_BYTES].into_boxed_slice(), ..Self::default() }
    }

    /// From now on bodies may come apart from their frames.
    pub fn allow_apart(&mut self) {
        self.apart = true;
    }

    /// One read. `Ok(0)` is the end of the stream.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, stream: &mut Socket) -> Poll<io::Result<usize>> {
        if let Some((header, bytes)) = &mut self.large {
            if bytes.len() < header.inline() {
                let missing = header.inline() - bytes.len();
                return poll_read_exact_into(cx, stream, bytes, missing);
            }
            let missing = header.size as usize - bytes.len();
            return poll_read_exact_into(cx, &mut stream.apart(), bytes, missing);
        }
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buffer.len() || self.start > BUFFER_BYTES / 2 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let mut space = ReadBuf::new(&mut self.buffer[self.end..]);
        ready!(Pin::new(stream).poll_read(cx, &mut space))?;
        let read = space.filled().len();
        self.end += read;
        Poll::Ready(Ok(read))
    }

    /// The first bytes before any frame, when that many are there.
    pub fn take_prefix<const N: usize>(&mut self) -> Option<[u8; N]> {
        let prefix = self.buffer[self.start..self.end].first_chunk::<N>().copied()?;
        self.start += N;
        Some(prefix)
    }

    /// The next complete frame, if there is one.
    ///
    /// # Errors
    /// An impossible header.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, ProtocolError> {
        if let Some((header, bytes)) = self.large.take() {
            if bytes.len() < header.size as usize {
                self.large = Some((header, bytes));
                return Ok(None);
            }
            return Ok(Some(self.shared_frame(header, bytes.freeze())));
        }
        let pending = self.start..self.end;
        let Some(bytes) = self.buffer[pending].first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let header = Header::decode(*bytes)?;
        let size = header.size as usize;
        let payload = self.start + HEADER_BYTES;
        if header.apart && !self.apart {
            return Err(ProtocolError::Header(*bytes));
        }
        if size >= LARGE_BYTES || header.apart {
            let here = header.inline().min(self.end - payload);
            let mut bytes = BytesMut::with_capacity(size);
            bytes.extend_from_slice(&self.buffer[payload..payload + here]);
            self.start = payload + here;
            self.large = Some((header, bytes));
            return if here == size { self.next_frame() } else { Ok(None) };
        }
        if self.end - payload < size {
            return Ok(None);
        }
        self.start = payload + size;
        let (head, body) = self.buffer[payload..payload + size].split_at(header.head as usize);
        Ok(Some(Frame { header, head, body: Payload::Borrowed(body) }))
    }

    fn shared_frame(&mut self, header: Header, payload: Bytes) -> Frame<'_> {
        let body = payload.slice(header.head as usize..);
        self.taken = payload.slice(..header.head as usize);
        Frame { header, head: &self.taken, body: Payload::Shared(body) }
    }
}

/// Reads at most `missing` bytes behind those that `bytes` holds.
fn poll_read_exact_into<S: AsyncRead + Unpin>(
    cx: &mut Context<'_>,
    stream: &mut S,
    bytes: &mut BytesMut,
    missing: usize,
) -> Poll<io::Result<usize>> {
    let mut limited = bytes::BufMut::limit(&mut *bytes, missing);
    tokio_util::io::poll_read_buf(Pin::new(stream), cx, &mut limited)
}

/// Frames that wait to be written.
#[derive(Debug, Default)]
pub struct Writer {
    /// Complete segments before `tail`.
    segments: std::collections::VecDeque<Bytes>,
    /// Heads and small bodies; written last.
    tail: Vec<u8>,
    /// Bytes of `tail` that have been written.
    written: usize,
}

impl Writer {
    /// Where frames are appended.
    pub fn frames(&mut self) -> &mut Vec<u8> {
        &mut self.tail
    }

    /// Appends the pieces of a body behind the frame head written last. Large ones are not copied.
    pub fn body<'a>(&mut self, len: usize, pieces: impl Iterator<Item = &'a Bytes>) {
        if len <= COPIED_BODY_BYTES {
            pieces.for_each(|piece| self.tail.extend_from_slice(piece));
            return;
        }
        let mut head = Bytes::from(std::mem::take(&mut self.tail));
        head.advance(std::mem::take(&mut self.written));
        self.segments.push_back(head);
        self.segments.extend(pieces.cloned());
    }

    /// Whether everything has been written.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.tail.is_empty()
    }

    /// Writes until everything is written or the socket is full.
    pub fn poll_flush<S: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
    ) -> Poll<io::Result<()>> {
        while !self.segments.is_empty() {
            let mut pieces = [io::IoSlice::new(&[]); PIECES_PER_WRITE];
            let mut count = 0;
            for (slot, segment) in pieces.iter_mut().zip(&self.segments) {
                *slot = io::IoSlice::new(segment);
                count += 1;
            }
            if count < PIECES_PER_WRITE {
                pieces[count] = io::IoSlice::new(&self.tail);
                count += 1;
            }
            let written = ready!(Pin::new(&mut *stream).poll_write_vectored(cx, &pieces[..count]))?;
            self.advance(written)?;
        }
        while self.written < self.tail.len() {
            let written = ready!(Pin::new(&mut *stream).poll_write(cx, &self.tail[self.written..]))?;
            self.advance(written)?;
        }
        self.tail.clear();
        self.written = 0;
        Pin::new(stream).poll_flush(cx)
    }

    /// Has what waits written at once by `write`, which says how many bytes it took; the rest still waits. Only while no
    /// large body waits.
    ///
    /// # Errors
    /// Those of `write`.
    pub fn write_by(&mut self, write: impl FnOnce(&[u8]) -> io::Result<usize>) -> io::Result<()> {
        assert!(self.segments.is_empty(), "they would be overtaken");
        let written = write(&self.tail[self.written..])?;
        self.advance(written)
    }

    fn advance(&mut self, mut written: usize) -> io::Result<()> {
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        while let Some(first) = self.segments.front_mut() {
            if written < first.len() {
                first.advance(written);
                return Ok(());
            }
            written -= first.len();
            self.segments.pop_front();
        }
        self.written += written;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::future::poll_fn;
    use std::io::Write as _;
    use std::mem::MaybeUninit;
    use std::os::unix::net::UnixStream as StdStream;
    use std::time::Duration;

    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixStream;

    use super::*;
    use crate::runtime::shim::protocol::v2::{kind, write_frame};

    fn frame(body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write_frame(&mut out, kind::ANSWER, 200, 1, b"head", body);
        out
    }

    /// Sizes of the bodies that come until the end.
    async fn read_all(mut reader: Reader, ours: &mut Socket) -> Vec<usize> {
        let mut seen = Vec::new();
        while poll_fn(|cx| reader.poll_fill(cx, ours)).await.unwrap() > 0 {
            while let Some(frame) = reader.next_frame().unwrap() {
                assert_eq!(frame.head, b"head");
                assert!(frame.body.as_slice().iter().all(|byte| *byte == b'x'));
                seen.push(frame.body.into_bytes().len());
            }
        }
        seen
    }

    async fn check(bytes: &[u8], step: usize, expected: &[usize]) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut ours = Socket::new(ours.into_std().unwrap()).unwrap();
        let bytes = bytes.to_vec();
        let writing = tokio::spawn(async move {
            for piece in bytes.chunks(step) {
                theirs.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let seen = read_all(Reader::new(), &mut ours).await;
        writing.await.unwrap();
        assert_eq!(seen, expected);
    }

    #[tokio::test]
    async fn frames_arrive_whole_however_the_bytes_are_cut() {
        let sizes = [0, 1, 100, LARGE_BYTES - 5, LARGE_BYTES - 4, 200_000, 3];
        let bytes: Vec<u8> = sizes.iter().flat_map(|size| frame(&vec![b'x'; *size])).collect();
        for step in [7, 16, 4096, 65536, 1 << 20] {
            check(&bytes, step, &sizes).await;
        }
        check(&bytes[..40_000], 1, &sizes[..5]).await;
    }

    /// A socket whose frames come through a pipe, and the shim's ends of both.
    fn piped() -> (Socket, StdStream, File) {
        let (ours, theirs) = StdStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut ours = Socket::new(ours).unwrap();
        assert_eq!(ours.send_with_pipe(b"init").unwrap(), 4);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let (mut text, flags) = ([0; 10], RecvFlags::empty());
        let read = recvmsg(&theirs, &mut [io::IoSliceMut::new(&mut text)], &mut ancillary, flags).unwrap();
        assert_eq!(&text[..read.bytes], b"init");
        let Some(RecvAncillaryMessage::ScmRights(mut pipes)) = ancillary.drain().next() else {
            panic!("no pipe")
        };
        (ours, theirs, File::from(pipes.next().unwrap()))
    }

    fn frame_apart(size: usize) -> (Vec<u8>, Vec<u8>) {
        let (mut head, body) = (Vec::new(), vec![b'x'; size]);
        let header = Header {
            size: 4 + size as u32,
            kind: kind::ANSWER,
            code: 200,
            id: 1,
            head: 4,
            ..Header::default()
        };
        head.extend_from_slice(&Header { apart: true, ..header }.encode());
        head.extend_from_slice(b"head");
        (head, body)
    }

    #[tokio::test]
    async fn frames_come_through_a_pipe_and_large_bodies_apart() {
        let (mut ours, mut theirs, mut pipe) = piped();
        let sizes = [3, 100_000, 0, 20_000, LARGE_BYTES, 1, 5, 0];
        let writing = std::thread::spawn(move || {
            for (at, size) in sizes.into_iter().enumerate() {
                if at % 2 == 0 {
                    pipe.write_all(&frame(&vec![b'x'; size])).unwrap();
                    continue;
                }
                let (head, body) = frame_apart(size);
                // In two pieces, so that not even the head comes whole.
                pipe.write_all(&head[..18]).unwrap();
                std::thread::sleep(Duration::from_millis(5));
                pipe.write_all(&head[18..]).unwrap();
                theirs.write_all(&body).unwrap();
            }
        });
        let mut reader = Reader::new();
        reader.allow_apart();
        let seen = read_all(reader, &mut ours).await;
        writing.join().unwrap();
        assert_eq!(seen, sizes);
    }

    #[tokio::test]
    async fn a_shim_that_ends_between_a_frame_and_its_body_is_seen() {
        for missing in [0, 1] {
            let (mut ours, mut theirs, mut pipe) = piped();
            let (head, body) = frame_apart(100_000);
            pipe.write_all(&head[..head.len() - missing]).unwrap();
            theirs.write_all(&body[..50_000]).unwrap();
            drop((theirs, pipe));
            let mut reader = Reader::new();
            reader.allow_apart();
            while poll_fn(|cx| reader.poll_fill(cx, &mut ours)).await.is_ok_and(|read| read > 0) {
                assert!(reader.next_frame().unwrap().is_none());
            }
        }
    }

    #[tokio::test]
    async fn a_body_apart_needs_a_pipe() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut ours = Socket::new(ours.into_std().unwrap()).unwrap();
        theirs.write_all(&frame_apart(100_000).0).await.unwrap();
        let mut reader = Reader::new();
        poll_fn(|cx| reader.poll_fill(cx, &mut ours)).await.unwrap();
        assert!(matches!(reader.next_frame(), Err(ProtocolError::Header(_))));
    }

    #[tokio::test]
    async fn large_bodies_are_written_behind_their_heads_in_order() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut ours = Socket::new(ours.into_std().unwrap()).unwrap();
        let mut writer = Writer::default();
        let mut expected = Vec::new();
        for size in [10, 100_000, 5, 5000] {
            let pieces = [Bytes::from(vec![b'a'; size]), Bytes::from(vec![b'b'; size])];
            writer.frames().extend_from_slice(b"<head>");
            writer.body(2 * size, pieces.iter());
            expected.extend_from_slice(b"<head>");
            pieces.iter().for_each(|piece| expected.extend_from_slice(piece));
        }
        let reading = tokio::spawn(async move {
            let mut theirs = theirs;
            let mut all = Vec::new();
            tokio::io::AsyncReadExt::read_to_end(&mut theirs, &mut all).await.unwrap();
            all
        });
        poll_fn(|cx| writer.poll_flush(cx, &mut ours)).await.unwrap();
        assert!(writer.is_empty());
        drop(ours);
        assert!(reading.await.unwrap() == expected);
    }
}
