//! Where lines go: one thread that writes to the standard streams behind a queue bounded in lines and bytes. What is
//! lost, for want of room or because the stream takes nothing, is counted, and said once it flows again.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

/// Lines that may wait for the writing thread.
const LINES_MAX: usize = 8192;
/// Bytes that may wait for the writing thread.
const BYTES_MAX: usize = 8 << 20;
/// Bytes gathered into one write.
const WRITE_BYTES: usize = 64 << 10;
/// Shortest time between two lines that say what was lost.
const NOTICE_EVERY: Duration = Duration::from_secs(1);

/// Which stream raw bytes go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// The line that says how many others were lost.
type Notice = Box<dyn Fn(u64) -> Vec<u8> + Send + Sync>;

/// What was lost of one sink.
pub struct Loss {
    count: AtomicU64,
    reported: AtomicU64,
    notice: Notice,
}

impl Loss {
    /// Nothing yet. `notice` makes the line that says so.
    pub fn new(notice: impl Fn(u64) -> Vec<u8> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { count: AtomicU64::new(0), reported: AtomicU64::new(0), notice: Box::new(notice) })
    }

    /// Lines lost so far.
    pub fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    fn unreported(&self) -> u64 {
        self.count().saturating_sub(self.reported.load(Relaxed))
    }
}

enum Item {
    Line(Vec<u8>, Arc<Loss>),
    Raw(Stream, Vec<u8>),
    Flush(SyncSender<()>),
}

/// Hands lines to the writing thread. Cheap to clone.
#[derive(Clone)]
pub struct Writer {
    queue: Option<SyncSender<Item>>,
    queued_bytes: Arc<AtomicUsize>,
}

impl Writer {
    /// Starts the writing thread, which lasts as long as the process.
    pub fn start() -> io::Result<Self> {
        let (queue, items) = sync_channel(LINES_MAX);
        let queued_bytes = Arc::new(AtomicUsize::new(0));
        let output = Output {
            queued_bytes: queued_bytes.clone(),
            gathered: Vec::with_capacity(WRITE_BYTES),
            lines: Vec::new(),
            stream: Stream::Out,
            torn: false,
            losses: Vec::new(),
            noticed: None,
        };
        std::thread::Builder::new()
            .name("log-writer".into())
            .stack_size(256 << 10)
            .spawn(move || output.write_all(&items))?;
        Ok(Self { queue: Some(queue), queued_bytes })
    }

    /// A writer that throws everything away.
    pub fn discarding() -> Self {
        Self { queue: None, queued_bytes: Arc::default() }
    }

    /// Queues a line for standard output, or counts it as lost. Never blocks.
    pub fn write(&self, line: Vec<u8>, loss: &Arc<Loss>) {
        if self.put(line.len(), || Item::Line(line, loss.clone())).is_err() {
            loss.count.fetch_add(1, Relaxed);
        }
    }

    /// Queues bytes; gives them back when the queue is full, for a caller that would rather wait.
    ///
    /// # Errors
    /// The bytes.
    pub fn write_to(&self, stream: Stream, bytes: Vec<u8>) -> Result<(), Vec<u8>> {
        let size = bytes.len();
        let mut bytes = Some(bytes);
        match self.put(size, || Item::Raw(stream, bytes.take().unwrap_or_default())) {
            Ok(()) => Ok(()),
            Err(Some(Item::Raw(_, back))) => Err(back),
            Err(_) => Err(bytes.unwrap_or_default()),
        }
    }

    /// The item is made only if there is room for its bytes.
    fn put(&self, size: usize, item: impl FnOnce() -> Item) -> Result<(), Option<Item>> {
        let Some(queue) = &self.queue else { return Ok(()) };
        if self.queued_bytes.fetch_add(size, Relaxed) > BYTES_MAX {
            self.queued_bytes.fetch_sub(size, Relaxed);
            return Err(None);
        }
        queue.try_send(item()).map_err(|error| {
            self.queued_bytes.fetch_sub(size, Relaxed);
            let (TrySendError::Full(item) | TrySendError::Disconnected(item)) = error;
            Some(item)
        })
    }

    /// Waits until everything queued before has been written, at most `limit`. False: it has not.
    pub fn flush(&self, limit: Duration) -> bool {
        let Some(queue) = &self.queue else { return true };
        let (done, wait) = sync_channel(1);
        queue.try_send(Item::Flush(done)).is_ok() && wait.recv_timeout(limit).is_ok()
    }
}

/// The writing thread's side.
struct Output {
    queued_bytes: Arc<AtomicUsize>,
    /// For one write to `stream`.
    gathered: Vec<u8>,
    /// Whose lines end where in `gathered`.
    lines: Vec<(usize, Arc<Loss>)>,
    stream: Stream,
    /// The last thing that standard output took was the beginning of a line.
    torn: bool,
    /// Of all sinks seen; few.
    losses: Vec<Arc<Loss>>,
    noticed: Option<Instant>,
}

impl Output {
    fn write_all(mut self, items: &Receiver<Item>) {
        while let Some(first) = self.wait(items) {
            let mut next = first;
            while let Some(item) = next {
                self.take(item);
                next = items.try_recv().ok();
            }
            self.write();
            self.gathered.shrink_to(WRITE_BYTES);
            self.notice(false);
        }
    }

    /// The next item; `Some(None)`: it is time to say what was lost. `None`: the end.
    fn wait(&self, items: &Receiver<Item>) -> Option<Option<Item>> {
        if self.losses.iter().all(|loss| loss.unreported() == 0) {
            return items.recv().ok().map(Some);
        }
        match items.recv_timeout(NOTICE_EVERY) {
            Ok(item) => Some(Some(item)),
            Err(RecvTimeoutError::Timeout) => Some(None),
            Err(RecvTimeoutError::Disconnected) => None,
        }
    }

    fn take(&mut self, item: Item) {
        match item {
            Item::Line(bytes, loss) => {
                self.gather(Stream::Out, &bytes);
                if !self.losses.iter().any(|known| Arc::ptr_eq(known, &loss)) {
                    self.losses.push(loss.clone());
                }
                self.lines.push((self.gathered.len(), loss));
            }
            Item::Raw(stream, bytes) => self.gather(stream, &bytes),
            Item::Flush(done) => {
                self.write();
                self.notice(true);
                done.try_send(()).unwrap_or_default(); // nobody waits any more
            }
        }
    }

    fn gather(&mut self, stream: Stream, bytes: &[u8]) {
        if stream != self.stream || self.gathered.len() + bytes.len() > WRITE_BYTES {
            self.write();
            self.stream = stream;
        }
        self.gathered.extend_from_slice(bytes);
    }

    /// Writes what has been gathered; what the stream does not take is lost, and its lines are counted.
    fn write(&mut self) {
        if self.gathered.is_empty() {
            return;
        }
        let written = self.write_out(&self.gathered);
        let complete = written == self.gathered.len();
        if self.stream == Stream::Out && (complete || written > 0) {
            self.torn = self.gathered[written - 1] != b'\n' && !self.lines.is_empty();
        }
        for (end, loss) in self.lines.drain(..) {
            if end > written {
                loss.count.fetch_add(1, Relaxed);
            }
        }
        self.queued_bytes.fetch_sub(self.gathered.len(), Relaxed);
        self.gathered.clear();
    }

    /// Bytes that the stream took.
    fn write_out(&self, bytes: &[u8]) -> usize {
        let out = io::stdout();
        let error = io::stderr();
        let stream: BorrowedFd<'_> = match self.stream {
            Stream::Out => std::os::fd::AsFd::as_fd(&out),
            Stream::Err => std::os::fd::AsFd::as_fd(&error),
        };
        if self.torn && self.stream == Stream::Out && write_some(stream, b"\n") == 0 {
            return 0;
        }
        write_some(stream, bytes)
    }

    /// Says what was lost, if standard output takes it; not too often, unless it is the last chance.
    fn notice(&mut self, last: bool) {
        if !last && self.noticed.is_some_and(|before| before.elapsed() < NOTICE_EVERY) {
            return;
        }
        for at in 0..self.losses.len() {
            let loss = self.losses[at].clone();
            let lost = loss.unreported();
            if lost == 0 {
                continue;
            }
            self.noticed = Some(Instant::now());
            let line = (loss.notice)(lost);
            self.stream = Stream::Out;
            let written = self.write_out(&line);
            if written > 0 {
                self.torn = written < line.len();
            }
            if written == line.len() {
                loss.reported.fetch_add(lost, Relaxed);
            }
        }
    }
}

/// Writes until all is written or the stream refuses. One that others have made non-blocking is waited for: only this
/// thread waits.
// Not through std's own buffer, which would keep what a full disk refused and write it twice.
fn write_some(stream: BorrowedFd<'_>, bytes: &[u8]) -> usize {
    let mut written = 0;
    while written < bytes.len() {
        match rustix::io::write(stream, &bytes[written..]) {
            Ok(0) => break,
            Ok(more) => written += more,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut wait = [PollFd::new(&stream, PollFlags::OUT)];
                if poll(&mut wait, None).is_err_and(|error| error != Errno::INTR) {
                    break;
                }
            }
            Err(_) => break,
        }
    }
    written
}
