//! Where lines go: one thread that writes to the standard streams behind a queue bounded in lines and bytes.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

/// Lines that may wait for the writing thread.
const LINES_MAX: usize = 8192;
/// Bytes that may wait for the writing thread.
const BYTES_MAX: usize = 8 << 20;
/// Bytes gathered into one write.
const WRITE_BYTES: usize = 64 << 10;

/// Which stream raw bytes go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

enum Item {
    Bytes(Stream, Vec<u8>),
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
    pub fn start() -> std::io::Result<Self> {
        let (queue, items) = sync_channel(LINES_MAX);
        let queued_bytes = Arc::new(AtomicUsize::new(0));
        let counted = queued_bytes.clone();
        std::thread::Builder::new()
            .name("log-writer".into())
            .stack_size(256 << 10)
            .spawn(move || write_all(&items, &counted))?;
        Ok(Self { queue: Some(queue), queued_bytes })
    }

    /// A writer that throws everything away.
    pub fn discarding() -> Self {
        Self { queue: None, queued_bytes: Arc::default() }
    }

    /// Queues bytes for standard output. False: the queue is full and they are lost.
    pub fn write(&self, bytes: Vec<u8>) -> bool {
        self.write_to(Stream::Out, bytes).is_ok()
    }

    /// Queues bytes; gives them back when the queue is full, for a caller that would rather wait.
    pub fn write_to(&self, stream: Stream, bytes: Vec<u8>) -> Result<(), Vec<u8>> {
        let Some(queue) = &self.queue else { return Ok(()) };
        let size = bytes.len();
        if self.queued_bytes.fetch_add(size, Ordering::Relaxed) > BYTES_MAX {
            self.queued_bytes.fetch_sub(size, Ordering::Relaxed);
            return Err(bytes);
        }
        queue.try_send(Item::Bytes(stream, bytes)).map_err(|error| {
            self.queued_bytes.fetch_sub(size, Ordering::Relaxed);
            match error {
                TrySendError::Full(Item::Bytes(_, bytes))
                | TrySendError::Disconnected(Item::Bytes(_, bytes)) => bytes,
                _ => Vec::new(),
            }
        })
    }

    /// Waits until everything queued before has been written, at most `limit`. False: it has not.
    pub fn flush(&self, limit: Duration) -> bool {
        let Some(queue) = &self.queue else { return true };
        let (done, wait) = sync_channel(1);
        queue.try_send(Item::Flush(done)).is_ok() && wait.recv_timeout(limit).is_ok()
    }
}

fn write_all(items: &Receiver<Item>, queued_bytes: &AtomicUsize) {
    let mut gathered = Vec::with_capacity(WRITE_BYTES);
    while let Ok(first) = items.recv() {
        let mut next = Some(first);
        let mut stream = Stream::Out;
        while let Some(item) = next {
            match item {
                Item::Bytes(to, bytes) => {
                    if to != stream || gathered.len() + bytes.len() > WRITE_BYTES {
                        write_out(stream, &mut gathered, queued_bytes);
                        stream = to;
                    }
                    gathered.extend_from_slice(&bytes);
                }
                Item::Flush(done) => {
                    write_out(stream, &mut gathered, queued_bytes);
                    done.try_send(()).unwrap_or_default(); // nobody waits any more
                }
            }
            next = items.try_recv().ok();
        }
        write_out(stream, &mut gathered, queued_bytes);
        gathered.shrink_to(WRITE_BYTES);
    }
}

fn write_out(stream: Stream, bytes: &mut Vec<u8>, queued_bytes: &AtomicUsize) {
    // A closed stream loses the bytes; there is nowhere left to say so.
    let written = match stream {
        Stream::Out => {
            let mut out = std::io::stdout().lock();
            out.write_all(bytes).and_then(|()| out.flush())
        }
        Stream::Err => std::io::stderr().lock().write_all(bytes),
    };
    written.unwrap_or_default();
    queued_bytes.fetch_sub(bytes.len(), Ordering::Relaxed);
    bytes.clear();
}
