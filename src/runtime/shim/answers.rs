//! What a shim's frames do: answers, streams, log records, acknowledgements.

use http::StatusCode;

use super::connection::{Frame, Payload};
use super::protocol::v2::{self, Answer, DATA_ABORT, DATA_END, Header, ProtocolError, kind};
use super::stream::pipe;
use super::worker::{InFlight, Worker};
use crate::config::Level;
use crate::event::{Body, HandlerError, Response};
use crate::fields;
use crate::logging::{Fields, Logger, Origin};
use crate::queue::Reply;

impl Worker {
    /// Handles every complete frame that has been read.
    pub(super) fn read_frames(&mut self) -> Result<(), ProtocolError> {
        // The reader is moved out so that a frame may borrow from it while the worker changes.
        let mut reader = std::mem::take(&mut self.link.reader);
        let result = loop {
            match reader.next_frame() {
                Ok(None) => break Ok(()),
                Ok(Some(frame)) => {
                    if let Err(error) = self.read_frame(frame) {
                        break Err(error);
                    }
                }
                Err(error) => break Err(error),
            }
        };
        self.link.reader = reader;
        result
    }

    fn read_frame(&mut self, frame: Frame<'_>) -> Result<(), ProtocolError> {
        let Frame { header, head, body } = frame;
        match header.kind {
            kind::ANSWER => self.read_answer(header, head, body),
            kind::DATA => self.read_data(header, body),
            kind::LOG => self.read_log(header, head, body.as_slice()),
            kind::CONTROL_DONE => {
                if let Some(control) = self.take_control(header.id) {
                    let text = || String::from_utf8_lossy(body.as_slice()).into_owned();
                    let outcome = if header.code == 0 { Ok(()) } else { Err(text()) };
                    control.done.send(outcome).unwrap_or_default();
                }
                Ok(())
            }
            kind::CALL => {
                let text = b"calls through the processor are not available";
                v2::write_frame(self.link.writer.frames(), kind::CALL_ANSWER, 0, header.id, &[], text);
                Ok(())
            }
            // No trigger of ours needs explicit acknowledgements or own metrics yet.
            kind::ACK | kind::METRIC | kind::PONG => Ok(()),
            kind::CREDIT_IN => self.read_credit(header, head),
            kind::FAILED => {
                let text = v2::read_failed(head, body.as_slice());
                self.logger.error("The shim cannot go on", fields! {"err" => text});
                Err(ProtocolError::Failed(text))
            }
            other if header.optional() => {
                self.logger.debug("Skipped a frame of unknown kind", fields! {"kind" => other});
                Ok(())
            }
            other => Err(ProtocolError::Kind(other)),
        }
    }

    fn open_key(&self, id: u32) -> Result<usize, ProtocolError> {
        self.key(id).ok_or(ProtocolError::UnknownEvent(id))
    }

    fn read_answer(&mut self, header: Header, head: &[u8], body: Payload<'_>) -> Result<(), ProtocolError> {
        let key = self.open_key(header.id)?;
        if self.in_flight[key].stream.is_some() {
            return Err(ProtocolError::UnknownEvent(header.id));
        }
        let answer = v2::read_answer(header, head)?;
        for (name, fault) in &answer.dropped {
            let fields = fields! {"header" => name, "err" => fault.to_string()};
            let origin = Origin { buffer: None, ..self.in_flight[key].event.origin() };
            self.logger.record_of(origin, Level::Warn, "Dropped a header of the handler's answer", fields);
        }
        if !answer.more {
            let error = (answer.failed || answer.status >= 500).then_some("handler_failed");
            let InFlight { event, reply, .. } = self.remove(key, Some(answer.duration), error);
            let mut answer = finished(answer, body);
            if let Ok(response) = &mut answer
                && response.headers.is_empty()
            {
                response.headers = event.into_empty_headers(); // The trigger's go there, without new memory.
            }
            self.reply_later(reply, answer);
            return Ok(());
        }
        if self.in_flight[key].expired.is_some() {
            return Ok(()); // Its end follows, because the shim has been told.
        }
        // The first piece comes on top of the shim's credit.
        let (writer, reader) = pipe(body.as_slice().len() + v2::CREDIT_BYTES as usize);
        if !body.as_slice().is_empty() {
            writer.push(body.into_bytes())?;
        }
        let event = &mut self.in_flight[key];
        event.stream = Some(writer);
        self.post.rung.push(key);
        let reply = event.reply.take();
        let mut response = head_of(&answer);
        response.body = Body::Stream(Box::pin(reader));
        let status = answer.status;
        self.reply_later(reply, check_status(status).map(|()| response).map_err(Into::into));
        Ok(())
    }

    fn read_data(&mut self, header: Header, body: Payload<'_>) -> Result<(), ProtocolError> {
        let key = self.open_key(header.id)?;
        let Some(stream) = &self.in_flight[key].stream else {
            if self.in_flight[key].expired.is_some() {
                if header.flags & (DATA_END | DATA_ABORT) != 0 {
                    self.remove(key, None, None);
                }
                return Ok(());
            }
            return Err(ProtocolError::Unexpected(kind::DATA));
        };
        if header.flags & DATA_ABORT == 0 && !body.as_slice().is_empty() {
            stream.push(body.into_bytes())?;
        } else if header.flags & DATA_ABORT != 0 {
            let text = String::from_utf8_lossy(body.as_slice()).into_owned();
            // Without a text the shim has logged why.
            if !self.in_flight[key].cancelled && !text.is_empty() {
                self.logger.error("A streamed answer failed", fields! {"err" => text});
            }
            return self.end_stream(key, Err(HandlerError::failed(text)));
        }
        if header.flags & DATA_END != 0 { self.end_stream(key, Ok(())) } else { Ok(()) }
    }

    fn end_stream(&mut self, key: usize, result: Result<(), HandlerError>) -> Result<(), ProtocolError> {
        self.count_stream(result.is_ok());
        let error = result.is_err().then_some("stream_failed");
        if let Some(stream) = self.remove(key, None, error).stream.take() {
            stream.end(result);
        }
        Ok(())
    }

    fn read_log(&mut self, header: Header, head: &[u8], body: &[u8]) -> Result<(), ProtocolError> {
        let event = self.key(header.id).map(|key| &self.in_flight[key]);
        let mut origin = event.map(|event| event.event.origin()).unwrap_or_default();
        if event.is_some_and(|event| self.places.is_shared(event.seat)) {
            origin.buffer = None; // What a handler says of a batch may hold what another client sent.
        }
        record(&self.logger, header, head, body, origin)
    }
}

/// A LOG frame becomes a record, where one is wanted.
pub(super) fn record(
    logger: &Logger,
    header: Header,
    head: &[u8],
    body: &[u8],
    origin: Origin<'_>,
) -> Result<(), ProtocolError> {
    let log = v2::read_log(header, head, body)?;
    if logger.wants(log.level, origin.buffer) {
        logger.record_of(origin, log.level, &log.message, log_fields(log.fields));
    }
    Ok(())
}

/// The fields of a record; a text that is no JSON object is kept as it is.
fn log_fields(text: &[u8]) -> Fields {
    if text.is_empty() {
        return Fields::new();
    }
    serde_json::from_slice(text).unwrap_or_else(|_| fields! {"with" => String::from_utf8_lossy(text)})
}

fn head_of(answer: &Answer) -> Response {
    Response {
        status: answer.status,
        content_type: answer.content_type.clone(),
        headers: answer.headers.clone(),
        body: Body::Empty,
        no_ack: answer.no_ack,
    }
}

/// A status that no client could make sense of fails the answer.
pub(super) fn check_status(status: u16) -> Result<(), HandlerError> {
    match status {
        0 | 200..=999 => Ok(()),
        _ => Err(HandlerError::failed(format!(
            "handler answered with status {status}, which is no final HTTP status"
        ))),
    }
}

/// What the event's caller gets.
fn finished(answer: Answer, body: Payload<'_>) -> Reply {
    check_status(answer.status)?;
    if answer.failed {
        let status = if answer.status == 0 { 500 } else { answer.status };
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let message = String::from_utf8_lossy(body.as_slice()).into_owned();
        return Err(HandlerError::Failed { status, message }.into());
    }
    if answer.none {
        let message = "processor hasn't received corresponding response for the event";
        return Err(HandlerError::failed(message).into());
    }
    Ok(Response {
        status: answer.status,
        content_type: answer.content_type,
        headers: answer.headers,
        body: body.into_bytes().into(),
        no_ack: answer.no_ack,
    })
}

/// The name that a worker's records carry, for example `processor.http.w0.python`.
pub(super) fn worker_logger(logger: &Logger, kind: &str, index: usize, language: &str) -> Logger {
    let kind = if kind.is_empty() { "shared" } else { kind };
    logger.child(&format!("{kind}.w{index}.{language}"))
}
