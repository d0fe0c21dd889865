//! [`Input`]: what comes from the processor while an event is in work, and [`Shared`]: all that the handler's calls
//! back may touch, from whatever thread.
//!
//! Nobody reads while a handler runs, unless it asks whether it should go on, reads a body as it comes or answers with a
//! stream. Whatever arrives meanwhile is put where it belongs; events wait.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use super::frames::{ABORT, END, Fault, Frame, Reader, SKIPPABLE, Writer, kind};

/// The processor ends, or is gone.
pub(super) const SHUTDOWN: i32 = 3;

/// Largest piece of a stream in one frame.
const PIECE_BYTES_MAX: usize = 64 << 10;
/// So much of a body is read before the processor is told.
const CREDIT_STEP: u32 = 64 << 10;

/// See the module.
pub(super) struct Shared {
    pub(super) input: Mutex<Input>,
    pub(super) writer: Mutex<Writer>,
    /// Lowest level of records of the worker.
    pub(super) level: u32,
    /// Why nobody waits for the answer any more; 0: somebody does.
    pub(super) cancelled: AtomicI32,
}

/// Incoming frames.
pub(super) struct Input {
    pub(super) reader: Reader,
    /// Frames that wait, and whether they have been taken back.
    waiting: VecDeque<(Frame, i32)>,
    open: Open,
    /// No more comes, and why.
    fault: Option<Fault>,
}

/// The event in work.
#[derive(Default)]
struct Open {
    id: u32,
    /// What a stream may still send.
    credit: u32,
    body: Body,
}

/// What comes of its body.
#[derive(Default)]
struct Body {
    pieces: VecDeque<Vec<u8>>,
    /// Bytes of the first piece that have been read.
    read: usize,
    /// Bytes read that the processor does not know of yet.
    owed: u32,
    wanted: bool,
    ended: bool,
    aborted: bool,
}

impl Input {
    pub(super) fn new(reader: Reader) -> Self {
        Self { reader, waiting: VecDeque::new(), open: Open::default(), fault: None }
    }
}

/// The lock, whoever panicked with it: no part of what it guards is ever half done.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Waits for the next frame that is work: an EVENT or a CONTROL, and whether it has been taken back already.
    pub(super) fn work(&self) -> Result<(Frame, i32), Fault> {
        let input = &mut *lock(&self.input);
        loop {
            if let Some(waiting) = input.waiting.pop_front() {
                return Ok(waiting);
            }
            self.take(input, true)?;
        }
    }

    /// An event, or the first of a batch, comes into work.
    pub(super) fn open(&self, id: u32, credit: u32, more: bool, cancelled: i32) {
        let body = Body { ended: !more, ..Body::default() };
        lock(&self.input).open = Open { id, credit, body };
        self.cancelled.store(cancelled, Ordering::Relaxed);
        lock(&self.writer).busy = true;
    }

    /// It is answered: what still comes of it is for nobody.
    pub(super) fn close(&self) {
        lock(&self.input).open = Open::default();
    }

    /// Takes what is there, without waiting; nothing, where somebody else reads.
    pub(super) fn look(&self) {
        let mut input = match self.input.try_lock() {
            Ok(input) => input,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        while matches!(self.take(&mut input, false), Ok(true)) {}
    }

    /// Reads of the body of the event in work; `None` at its end. `Err`: no more comes.
    pub(super) fn read_body(&self, buffer: &mut [u8]) -> Result<Option<usize>, ()> {
        let input = &mut *lock(&self.input);
        loop {
            let (id, body) = (input.open.id, &mut input.open.body);
            if let Some(piece) = body.pieces.front() {
                let bytes = buffer.len().min(piece.len() - body.read);
                buffer[..bytes].copy_from_slice(&piece[body.read..body.read + bytes]);
                (body.read, body.owed) = (body.read + bytes, body.owed + bytes as u32);
                if body.read == piece.len() {
                    body.pieces.pop_front();
                    body.read = 0;
                }
                if body.owed >= CREDIT_STEP {
                    self.give_credit(id, body);
                }
                return Ok(Some(bytes));
            }
            if body.aborted {
                return Err(());
            }
            if body.ended {
                return Ok(None);
            }
            if !body.wanted || body.owed > 0 {
                self.give_credit(id, body);
            }
            self.take(input, true).map_err(drop)?;
        }
    }

    fn give_credit(&self, id: u32, body: &mut Body) {
        body.wanted = true;
        let bytes = std::mem::take(&mut body.owed).to_le_bytes();
        lock(&self.writer).send(kind::BODY_CREDIT, 0, 0, id, &[&bytes], &[]);
    }

    /// Waits until a piece of the stream may go, and says how many bytes of it. `None`: nobody wants it any more.
    pub(super) fn credit(&self, wanted: usize) -> Option<usize> {
        let input = &mut *lock(&self.input);
        while input.open.credit == 0 && self.cancelled.load(Ordering::Relaxed) == 0 {
            self.take(input, true).ok()?;
        }
        if self.cancelled.load(Ordering::Relaxed) != 0 {
            return None;
        }
        let bytes = wanted.min(PIECE_BYTES_MAX).min(input.open.credit as usize);
        input.open.credit -= bytes as u32;
        Some(bytes)
    }

    /// Takes one frame to where it belongs. False: there is none, and it was not to be waited for.
    fn take(&self, input: &mut Input, wait: bool) -> Result<bool, Fault> {
        let taken = match input.fault.take() {
            Some(fault) => Err(fault),
            None => input.reader.next(wait),
        };
        let frame = match taken {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(false),
            Err(fault) => {
                self.cancelled.store(SHUTDOWN, Ordering::Relaxed);
                let told = match &fault {
                    Fault::End => Fault::End,
                    Fault::Protocol(text) => Fault::Protocol(text.clone()),
                };
                input.fault = Some(fault); // Also for who asks next.
                return Err(told);
            }
        };
        let here = frame.id == input.open.id;
        let open = &mut input.open;
        match frame.kind {
            kind::EVENT | kind::CONTROL => input.waiting.push_back((frame, 0)),
            kind::CREDIT if here => open.credit = open.credit.saturating_add(frame.number()),
            kind::CANCEL if here => self.cancelled.store(frame.code.into(), Ordering::Relaxed),
            kind::CANCEL => {
                let waiting = input.waiting.iter_mut().find(|(waiting, _)| waiting.id == frame.id);
                if let Some((_, cancelled)) = waiting {
                    *cancelled = frame.code.into();
                }
            }
            kind::BODY if here => {
                open.body.aborted |= frame.flags & ABORT != 0;
                open.body.ended |= frame.flags & END != 0;
                if !frame.body().is_empty() && !open.body.aborted {
                    open.body.pieces.push_back(frame.into_body());
                }
            }
            kind::CREDIT | kind::BODY => {} // Of an event that has been answered.
            other if frame.flags & SKIPPABLE == 0 => {
                let fault = Fault::Protocol(format!("frame of unknown kind {other:#04x}"));
                input.fault = Some(fault);
                return self.take(input, false);
            }
            _ => {}
        }
        Ok(true)
    }
}
