//! Frames of shim protocol 2 over the socket: reading them with as few system calls as there can be, and writing whole
//! ones. Knows nothing of events and handlers.

use std::io::{IoSlice, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant, SystemTime};

use crate::abi;

/// Kinds of frames.
pub(super) mod kind {
    pub(crate) const INIT: u8 = 0x01;
    pub(crate) const EVENT: u8 = 0x02;
    pub(crate) const BODY: u8 = 0x03;
    pub(crate) const CREDIT: u8 = 0x04;
    pub(crate) const CANCEL: u8 = 0x05;
    pub(crate) const CONTROL: u8 = 0x06;
    pub(crate) const HELLO: u8 = 0x81;
    pub(crate) const READY: u8 = 0x82;
    pub(crate) const ANSWER: u8 = 0x83;
    pub(crate) const DATA: u8 = 0x84;
    pub(crate) const BODY_CREDIT: u8 = 0x85;
    pub(crate) const LOG: u8 = 0x86;
    pub(crate) const CONTROL_DONE: u8 = 0x87;
    pub(crate) const FAILED: u8 = 0x8f;
}

/// Flags of DATA, either way.
pub(super) const END: u8 = 0x01;
/// See [`END`].
pub(super) const ABORT: u8 = 0x02;
/// A frame of unknown kind that may be skipped.
pub(super) const SKIPPABLE: u8 = 0x80;

const HEADER_BYTES: usize = 16;
/// Frames up to this size are read together with others.
const READ_BYTES: usize = 64 << 10;
/// Bodies above go out on their own instead of being gathered.
const GATHERED_BYTES_MAX: usize = 64 << 10;
/// Records that gather while a handler runs, in bytes and in time.
const LOG_BYTES_MAX: usize = 32 << 10;
const LOG_AFTER: Duration = Duration::from_millis(100);

/// One frame as it came.
#[derive(Default)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) code: u16,
    pub(super) id: u32,
    head: usize,
    payload: Vec<u8>,
}

impl Frame {
    pub(super) fn head(&self) -> &[u8] {
        &self.payload[..self.head]
    }

    pub(super) fn body(&self) -> &[u8] {
        &self.payload[self.head..]
    }

    /// Its body, which keeps the memory.
    pub(super) fn into_body(mut self) -> Vec<u8> {
        self.payload.drain(..self.head);
        self.payload
    }

    /// The number at the start of the head.
    pub(super) fn number(&self) -> u32 {
        self.head().first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }
}

/// Why there are no more frames.
#[derive(Debug)]
pub(super) enum Fault {
    /// The processor is done with us, or gone.
    End,
    /// What it sent is no frame.
    Protocol(String),
}

/// Frames in.
pub(super) struct Reader {
    socket: UnixStream,
    buffer: Box<[u8]>,
    begin: usize,
    end: usize,
    /// Largest frame, bytes after the header.
    pub(super) size_max: u32,
    /// Memory of a frame that nobody needs any more.
    spare: Vec<u8>,
}

impl Reader {
    pub(super) fn new(socket: UnixStream) -> Self {
        let buffer = vec![0; READ_BYTES].into_boxed_slice();
        Self { socket, buffer, begin: 0, end: 0, size_max: 1 << 30, spare: Vec::new() }
    }

    /// The next frame. `None`: it is not there, and was not to be waited for.
    pub(super) fn next(&mut self, wait: bool) -> Result<Option<Frame>, Fault> {
        if !self.have(HEADER_BYTES, wait)? {
            return Ok(None);
        }
        let (frame, size) = self.header()?;
        let whole = HEADER_BYTES + size;
        let mut payload = std::mem::take(&mut self.spare);
        payload.clear();
        if whole <= self.buffer.len() {
            if !self.have(whole, wait)? {
                self.spare = payload;
                return Ok(None);
            }
            payload.extend_from_slice(&self.buffer[self.begin + HEADER_BYTES..self.begin + whole]);
            self.begin += whole;
        } else {
            // Being written, so that it is here soon.
            payload.reserve_exact(size);
            payload.extend_from_slice(&self.buffer[self.begin + HEADER_BYTES..self.end]);
            (self.begin, self.end) = (0, 0);
            let rest = (size - payload.len()) as u64;
            let read = (&self.socket).take(rest).read_to_end(&mut payload);
            if read.is_err() || payload.len() != size {
                return Err(Fault::End);
            }
        }
        Ok(Some(Frame { payload, ..frame }))
    }

    /// Takes a frame's memory back.
    pub(super) fn recycle(&mut self, frame: Frame) {
        if frame.payload.capacity() <= READ_BYTES {
            self.spare = frame.payload;
        }
    }

    /// The frame that begins here, without its payload, and the size of that.
    fn header(&self) -> Result<(Frame, usize), Fault> {
        let header = &self.buffer[self.begin..self.begin + HEADER_BYTES];
        let number =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (size, head) = (number(0), number(12));
        let (kind, flags) = (header[4], header[5]);
        if head > size || size > self.size_max || kind & 0x80 != 0 {
            return Err(Fault::Protocol(format!("no frame of shim protocol 2 begins with {header:02x?}")));
        }
        let code = u16::from_le_bytes([header[6], header[7]]);
        Ok((
            Frame { kind, flags, code, id: number(8), head: head as usize, payload: Vec::new() },
            size as usize,
        ))
    }

    /// Whether that many bytes are in the buffer, after waiting for them if asked to.
    fn have(&mut self, bytes: usize, wait: bool) -> Result<bool, Fault> {
        while self.end - self.begin < bytes {
            if self.begin == self.end {
                (self.begin, self.end) = (0, 0);
            } else if self.begin + bytes > self.buffer.len() {
                self.buffer.copy_within(self.begin..self.end, 0);
                (self.begin, self.end) = (0, self.end - self.begin);
            }
            match receive(&self.socket, &mut self.buffer[self.end..], wait) {
                Ok(0) => return Err(Fault::End),
                Ok(read) => self.end += read,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return Err(Fault::End),
            }
        }
        Ok(true)
    }
}

/// Reads what is there; waits for it if asked to.
#[expect(unsafe_code, reason = "the standard library has no read that does not wait on a socket that does")]
fn receive(socket: &UnixStream, buffer: &mut [u8], wait: bool) -> std::io::Result<usize> {
    let flags = if wait { 0 } else { libc::MSG_DONTWAIT };
    // SAFETY: writes no more than the buffer's length into it.
    let read = unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), flags) };
    usize::try_from(read).map_err(|_| std::io::Error::last_os_error())
}

/// Frames out. What cannot be written is noticed by who reads.
pub(super) struct Writer {
    socket: UnixStream,
    out: Vec<u8>,
    written: Instant,
    /// An event is in work, so that its answer takes the records along.
    pub(super) busy: bool,
}

impl Writer {
    pub(super) fn new(socket: UnixStream) -> Self {
        Self { socket, out: Vec::new(), written: Instant::now(), busy: false }
    }

    /// Bytes that are no frame.
    pub(super) fn prefix(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Gathers a frame; one with a large body is written with all before it.
    pub(super) fn add(&mut self, kind: u8, flags: u8, code: u16, id: u32, head: &[&[u8]], body: &[u8]) {
        let head_bytes: usize = head.iter().map(|part| part.len()).sum();
        // Sizes are below 4 GiB: a larger body is cut, and the processor refuses what is above its limit anyway.
        let size = u32::try_from(head_bytes + body.len()).unwrap_or(u32::MAX);
        self.out.extend_from_slice(&size.to_le_bytes());
        self.out.extend_from_slice(&[kind, flags]);
        self.out.extend_from_slice(&code.to_le_bytes());
        self.out.extend_from_slice(&id.to_le_bytes());
        self.out.extend_from_slice(&(head_bytes as u32).to_le_bytes());
        head.iter().for_each(|part| self.out.extend_from_slice(part));
        if body.len() <= GATHERED_BYTES_MAX {
            self.out.extend_from_slice(body);
        } else {
            self.write(body);
        }
    }

    /// Writes what has been gathered.
    pub(super) fn flush(&mut self) {
        if !self.out.is_empty() {
            self.write(&[]);
        }
    }

    /// Adds and flushes.
    pub(super) fn send(&mut self, kind: u8, flags: u8, code: u16, id: u32, head: &[&[u8]], body: &[u8]) {
        self.add(kind, flags, code, id, head, body);
        self.flush();
    }

    /// Gathers a record; what matters, what has waited, and what no answer takes along goes out at once.
    pub(super) fn log(&mut self, level: u32, id: u32, message: &[u8], fields: &[u8]) {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let micros = i64::try_from(since.as_micros()).unwrap_or(i64::MAX).to_le_bytes();
        self.add(kind::LOG, 0, level as u16, id, &[&micros, message], fields);
        let full = self.out.len() > LOG_BYTES_MAX || self.written.elapsed() > LOG_AFTER;
        if level >= abi::LOG_WARN || !self.busy || full {
            self.flush();
        }
    }

    fn write(&mut self, body: &[u8]) {
        let mut parts = [IoSlice::new(&self.out), IoSlice::new(body)];
        let mut left = &mut parts[..];
        while left.iter().any(|part| !part.is_empty()) {
            match (&self.socket).write_vectored(left) {
                Ok(0) => break,
                Ok(written) => IoSlice::advance_slices(&mut left, written),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.out.clear();
        self.out.shrink_to(4 * GATHERED_BYTES_MAX);
        self.written = Instant::now();
    }
}

/// Names and values of a table.
pub(super) fn pairs(table: &[u8]) -> Vec<(String, String)> {
    let text = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
    let texts: Vec<&[u8]> = table.split(|byte| *byte == 0).collect();
    texts.chunks_exact(2).map(|pair| (text(pair[0]), text(pair[1]))).collect()
}
