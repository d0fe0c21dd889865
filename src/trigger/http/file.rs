//! A file as an answer: a handler names it in a header, its contents are the body. Opening, reading, closing and
//! deleting may block, so they happen on the runtime's blocking threads, a piece per visit; the next piece is read
//! when the client has taken the last. Knows nothing of status lines and connections.
//!
//! The name is trusted as all of the handler's answer is: whatever the processor may read can be sent.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;
use http::{HeaderMap, HeaderName};
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::event::{Body, HandlerError, Response};
use crate::fields;
use crate::logging::Logger;

const PATH: HeaderName = HeaderName::from_static("x-nuclio-filestream-path");
const DELETE: HeaderName = HeaderName::from_static("x-nuclio-filestream-delete-after-send");
/// Most bytes read at once, and held per answer.
const PIECE_BYTES: usize = 64 << 10;

/// A file that a handler wants sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    path: PathBuf,
    delete: bool,
}

/// Takes the headers about files out of an answer.
pub(super) fn wanted(headers: &mut HeaderMap) -> Option<Wanted> {
    if headers.is_empty() {
        return None;
    }
    // compat: any value deletes, also `false`.
    let delete = headers.remove(DELETE).is_some();
    let path = headers.remove(PATH)?;
    Some(Wanted { path: PathBuf::from(OsStr::from_bytes(path.as_bytes())), delete })
}

impl Wanted {
    /// Puts the file in the place of the answer's body, or what became of it in the place of the answer. Returns the
    /// length of a body that is streamed, where it is known.
    ///
    /// A file that could be opened and is to be deleted is gone in the end, even if this future or the body is
    /// dropped half-way.
    pub(super) async fn send(self, response: &mut Response, logger: &Logger) -> Option<u64> {
        response.body = Body::Empty;
        let path = self.path.display().to_string();
        let opened = spawn_blocking({
            let logger = logger.clone();
            move || self.open(logger)
        });
        // A join fails only if the runtime ends.
        let error = match opened.await.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok((first, None)) => {
                response.body = Body::from(first);
                return None;
            }
            Ok((first, Some(source))) => {
                let length = source.left.map(|left| left + first.len() as u64);
                response.body = Body::Stream(Box::pin(Pieces { first, state: State::Resting(source) }));
                return length;
            }
            Err(error) => error,
        };
        // compat: status and type are those of a missing file; the handler's other headers stay.
        response.content_type = None;
        response.status = if error.kind() == io::ErrorKind::NotFound { 404 } else { 500 };
        if response.status == 500 {
            let fields = fields! {"path" => path, "err" => error.to_string()};
            logger.warn("Failed to open the file to send", fields);
        }
        None
    }

    /// Opens the file and reads its first piece; the source is left out if that was all of it.
    fn open(self, logger: Logger) -> io::Result<(Bytes, Option<Source>)> {
        // Opening a pipe must not wait for whoever writes to it.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&self.path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        // Files made by the kernel as they are read say that they are empty.
        let left = Some(metadata.len()).filter(|length| *length > 0);
        let mut source = Source { file, wanted: self, left, logger };
        let first = source.read()?;
        // A file that became shorter before its length was announced has the length that it has.
        let complete = first.len() < PIECE_BYTES || source.left == Some(0);
        Ok((first, (!complete).then_some(source)))
    }
}

/// A file being sent; deleted when dropped, if that was asked for. Belongs on a blocking thread.
struct Source {
    file: File,
    wanted: Wanted,
    /// Bytes announced and not read yet; `None`: up to the end.
    left: Option<u64>,
    logger: Logger,
}

impl Source {
    /// The next piece; shorter than [`PIECE_BYTES`] only at the end.
    fn read(&mut self) -> io::Result<Bytes> {
        let bytes_max = self.left.map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES as u64) as usize);
        let mut piece = Vec::with_capacity(bytes_max);
        (&self.file).take(bytes_max as u64).read_to_end(&mut piece)?;
        self.left = self.left.map(|left| left - piece.len() as u64);
        Ok(piece.into())
    }

    /// The next piece, and the source if there may be more.
    fn advance(mut self) -> (Result<Bytes, HandlerError>, Option<Self>) {
        let bytes_wanted = self.left.map_or(0, |left| left.min(PIECE_BYTES as u64) as usize);
        let fault = match self.read() {
            Ok(piece) if piece.len() >= bytes_wanted => {
                let more = self.left != Some(0) && !piece.is_empty();
                return (Ok(piece), more.then_some(self));
            }
            Ok(_) => "it became shorter while it was sent".to_owned(),
            Err(error) => error.to_string(),
        };
        let path = self.wanted.path.display().to_string();
        self.logger.warn("Failed to send a file", fields! {"path" => path, "err" => fault});
        (Err(HandlerError::Lost(format!("file to send: {fault}"))), None)
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if self.wanted.delete
            && let Err(error) = std::fs::remove_file(&self.wanted.path)
        {
            let path = self.wanted.path.display().to_string();
            let fields = fields! {"path" => path, "err" => error.to_string()};
            self.logger.warn("Failed to delete a file after it was sent", fields);
        }
    }
}

/// A file's contents, piece by piece.
struct Pieces {
    first: Bytes,
    state: State,
}

enum State {
    Resting(Source),
    /// On a blocking thread, which drops the source if nobody takes it back.
    Reading(JoinHandle<(Result<Bytes, HandlerError>, Option<Source>)>),
    Ended,
}

impl Stream for Pieces {
    type Item = Result<Bytes, HandlerError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if !self.first.is_empty() {
            return Poll::Ready(Some(Ok(std::mem::take(&mut self.first))));
        }
        loop {
            match std::mem::replace(&mut self.state, State::Ended) {
                State::Resting(source) => self.state = State::Reading(spawn_blocking(|| source.advance())),
                State::Reading(mut reading) => {
                    let Poll::Ready(read) = Pin::new(&mut reading).poll(cx) else {
                        self.state = State::Reading(reading);
                        return Poll::Pending;
                    };
                    let stopped = |_| (Err(HandlerError::Lost("the processor stops".into())), None);
                    let (piece, source) = read.unwrap_or_else(stopped);
                    self.state = source.map_or(State::Ended, State::Resting);
                    if !matches!(&piece, Ok(piece) if piece.is_empty()) {
                        return Poll::Ready(Some(piece));
                    }
                }
                State::Ended => return Poll::Ready(None),
            }
        }
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        if let State::Resting(source) = std::mem::replace(&mut self.state, State::Ended) {
            // A runtime that has ended drops the closure, and the source with it, right here.
            match Handle::try_current() {
                Ok(runtime) => drop(runtime.spawn_blocking(|| drop(source))),
                Err(_) => drop(source),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::path::Path;
    use std::time::Duration;

    use http::HeaderValue;

    use super::*;

    /// The answer of a handler that wants a file sent, and the length that is announced.
    async fn answer(path: &Path, delete: bool) -> (Response, Option<u64>) {
        let mut response = Response { status: 201, ..Response::default() };
        response.headers.insert(PATH, HeaderValue::from_str(path.to_str().unwrap()).unwrap());
        if delete {
            response.headers.insert(DELETE, HeaderValue::from_static("false"));
        }
        response.headers.insert("x-a", HeaderValue::from_static("1"));
        response.content_type = Some(HeaderValue::from_static("text/csv"));
        let wanted = wanted(&mut response.headers).unwrap();
        assert_eq!(response.headers.len(), 1);
        let length = wanted.send(&mut response, &Logger::silent()).await;
        (response, length)
    }

    async fn next(body: &mut Body) -> Option<Result<Bytes, HandlerError>> {
        let Body::Stream(stream) = body else { panic!("{body:?} is not streamed") };
        poll_fn(|cx| stream.as_mut().poll_next(cx)).await
    }

    fn file(content: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, content).unwrap();
        (folder, path)
    }

    async fn wait_gone(path: &Path) {
        while path.exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn small_files_are_read_and_deleted_at_once() {
        for size in [0, 1, PIECE_BYTES] {
            let (_folder, path) = file(&vec![b'x'; size]);
            let (response, length) = answer(&path, true).await;
            assert_eq!((response.status, length), (201, None));
            match response.body {
                Body::Bytes(bytes) => assert_eq!(bytes.len(), size),
                Body::Empty => assert_eq!(size, 0),
                Body::Stream(_) => panic!("{size} bytes are streamed"),
            }
            assert!(!path.exists());
        }
    }

    #[tokio::test]
    async fn large_files_come_in_pieces_of_the_announced_length_only() {
        let content: Vec<u8> = (0..3 * PIECE_BYTES + 7).map(|at| at as u8).collect();
        let (_folder, path) = file(&content);
        let (mut response, length) = answer(&path, true).await;
        assert_eq!(length, Some(content.len() as u64));
        std::io::Write::write_all(&mut OpenOptions::new().append(true).open(&path).unwrap(), b"more")
            .unwrap();
        let mut read = Vec::new();
        while let Some(piece) = next(&mut response.body).await {
            let piece = piece.unwrap();
            assert!(piece.len() <= PIECE_BYTES);
            assert!(path.exists() || read.len() + piece.len() == content.len());
            read.extend_from_slice(&piece);
        }
        assert_eq!(read, content);
        wait_gone(&path).await;
    }

    #[tokio::test]
    async fn a_file_that_becomes_shorter_fails_the_body() {
        let (_folder, path) = file(&vec![b'x'; 3 * PIECE_BYTES]);
        let (mut response, _) = answer(&path, false).await;
        OpenOptions::new().write(true).open(&path).unwrap().set_len(PIECE_BYTES as u64 + 1).unwrap();
        assert_eq!(next(&mut response.body).await.unwrap().unwrap().len(), PIECE_BYTES);
        assert!(matches!(next(&mut response.body).await, Some(Err(HandlerError::Lost(_)))));
        assert!(next(&mut response.body).await.is_none());
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_file_is_deleted_when_its_client_leaves() {
        let (_folder, path) = file(&vec![b'x'; 3 * PIECE_BYTES]);
        let (mut response, _) = answer(&path, true).await;
        next(&mut response.body).await.unwrap().unwrap();
        drop(response);
        wait_gone(&path).await;
    }

    #[tokio::test]
    async fn what_is_no_file_is_an_error_of_its_own() {
        let (folder, path) = file(b"");
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        for (path, status) in [
            (folder.path().join("missing"), 404),
            (folder.path().into(), 500),
            (pipe, 500),
            (path.join("x"), 500),
        ] {
            let (response, length) = answer(&path, true).await;
            assert_eq!((response.status, length), (status, None), "{}", path.display());
            assert!(response.content_type.is_none() && matches!(response.body, Body::Empty));
            assert_eq!(response.headers["x-a"], "1");
        }
        assert!(folder.path().join("pipe").exists());
    }

    #[tokio::test]
    async fn files_made_by_the_kernel_are_sent_though_they_say_they_are_empty() {
        let (response, _) = answer(Path::new("/proc/self/status"), false).await;
        assert!(matches!(response.body, Body::Bytes(bytes) if bytes.starts_with(b"Name:")));
    }

    #[test]
    fn the_headers_never_stay() {
        let mut headers = HeaderMap::new();
        assert_eq!(wanted(&mut headers), None);
        headers.insert(DELETE, HeaderValue::from_static("1"));
        assert_eq!(wanted(&mut headers), None);
        assert!(headers.is_empty());
    }
}
