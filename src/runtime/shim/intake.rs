//! Bodies of requests on their way to a shim, piece by piece: no more is taken from the client than the shim has credit
//! for. What has not begun is not touched, so that it can still go to another worker.

use std::task::{Context, Poll};

use bytes::Bytes;

use super::connection::Writer;
use super::protocol::v2::{self, CREDIT_BYTES, DATA_ABORT, DATA_END, Header, ProtocolError};
use super::worker::Worker;
use crate::event::BodyStream;

/// Most bytes of one DATA frame.
const PIECE_BYTES_MAX: u32 = 64 << 10;

/// A body of which more comes.
#[derive(Debug)]
pub(super) struct Intake {
    stream: BodyStream,
    /// Taken from the client, and not written for want of credit.
    rest: Bytes,
    credit: u32,
    /// The client sends only when asked, and the shim has not asked yet.
    held: bool,
}

impl Intake {
    pub(super) fn new(stream: BodyStream) -> Self {
        Self { held: stream.on_demand, stream, rest: Bytes::new(), credit: CREDIT_BYTES }
    }

    /// The body of an event that goes to another worker: nothing has been taken of it.
    pub(super) fn into_stream(self) -> BodyStream {
        self.stream
    }

    /// The shim asks for the body, and may get that much more of it.
    fn allow(&mut self, bytes: u32) {
        self.held = false;
        self.credit = self.credit.saturating_add(bytes).min(CREDIT_BYTES);
    }

    /// Writes what there is and may be written. Ready: that was the last of it.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, id: u32, writer: &mut Writer) -> Poll<()> {
        while self.credit > 0 && !self.held {
            if self.rest.is_empty() {
                match std::task::ready!(self.stream.poll_next(cx)) {
                    Some(Ok(piece)) => self.rest = piece,
                    None => {
                        v2::write_data(writer.frames(), id, DATA_END, 0);
                        return Poll::Ready(());
                    }
                    Some(Err(fault)) => {
                        let text = Bytes::from(fault.to_string());
                        v2::write_data(writer.frames(), id, DATA_ABORT, text.len() as u32);
                        writer.body(text.len(), std::iter::once(&text));
                        return Poll::Ready(());
                    }
                }
            }
            let bytes =
                self.credit.min(PIECE_BYTES_MAX).min(u32::try_from(self.rest.len()).unwrap_or(u32::MAX));
            let piece = self.rest.split_to(bytes as usize);
            self.credit -= bytes;
            v2::write_data(writer.frames(), id, 0, bytes);
            writer.body(piece.len(), std::iter::once(&piece));
        }
        Poll::Pending
    }
}

impl Worker {
    /// CREDIT of the shim. One for a body that has been written meanwhile means nothing.
    pub(super) fn read_credit(&mut self, header: Header, head: &[u8]) -> Result<(), ProtocolError> {
        let bytes = v2::read_credit(head)?;
        if let Some(key) = self.key(header.id)
            && let Some(intake) = &mut self.in_flight[key].intake
        {
            intake.allow(bytes);
            self.post.rung.push(key);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::Pin;

    use futures_core::Stream;

    use super::*;
    use crate::event::BodyFault;

    struct Pieces(Vec<Result<Bytes, BodyFault>>);

    impl Stream for Pieces {
        type Item = Result<Bytes, BodyFault>;

        fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            Poll::Ready(if self.0.is_empty() { None } else { Some(self.0.remove(0)) })
        }
    }

    fn intake(pieces: Vec<Result<Bytes, BodyFault>>, on_demand: bool) -> Intake {
        Intake::new(BodyStream::new(Pieces(pieces), on_demand))
    }

    /// Bytes written of a body, frame headers left out, and whether that was all of it.
    async fn pull(intake: &mut Intake) -> (usize, bool) {
        let mut writer = Writer::default();
        let over = poll_fn(|cx| Poll::Ready(intake.poll(cx, 7, &mut writer))).await.is_ready();
        let (mut ours, mut theirs) = tokio::net::UnixStream::pair().unwrap();
        let reading = tokio::spawn(async move {
            let mut all = Vec::new();
            tokio::io::AsyncReadExt::read_to_end(&mut theirs, &mut all).await.unwrap();
            all
        });
        poll_fn(|cx| writer.poll_flush(cx, &mut ours)).await.unwrap();
        drop(ours);
        let all = reading.await.unwrap();
        let (mut at, mut bytes) = (0, 0);
        while at < all.len() {
            let size = u32::from_le_bytes(all[at..at + 4].try_into().unwrap()) as usize;
            assert_eq!((all[at + 4], size <= PIECE_BYTES_MAX as usize), (v2::kind::DATA_IN, true));
            at += v2::HEADER_BYTES + size;
            bytes += size;
        }
        (bytes, over)
    }

    #[tokio::test]
    async fn no_more_is_written_than_the_shim_has_credit_for() {
        let large = CREDIT_BYTES as usize + 100;
        let mut intake =
            intake(vec![Ok(Bytes::from(vec![b'x'; large])), Ok(Bytes::from_static(b"end"))], false);
        assert_eq!(pull(&mut intake).await, (CREDIT_BYTES as usize, false));
        assert_eq!(pull(&mut intake).await, (0, false));
        intake.allow(60);
        assert_eq!(pull(&mut intake).await, (60, false));
        intake.allow(u32::MAX);
        assert_eq!(pull(&mut intake).await, (43, true));
    }

    #[tokio::test]
    async fn a_client_that_waits_to_be_asked_is_not_asked_before_the_shim_wants_it() {
        let mut intake = intake(vec![Ok(Bytes::from_static(b"body"))], true);
        assert_eq!(pull(&mut intake).await, (0, false));
        intake.allow(0);
        assert_eq!(pull(&mut intake).await, (4, true));
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_says_why() {
        let mut intake = intake(vec![Err(BodyFault::TooSlow)], false);
        assert_eq!(pull(&mut intake).await, (BodyFault::TooSlow.to_string().len(), true));
    }
}
