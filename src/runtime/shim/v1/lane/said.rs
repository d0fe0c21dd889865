//! What a wrapper's lines do: answers, streams, log records.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{ANSWER_GRACE, GONE_GRACE, Lane, Lines, SHOWN_BYTES, Streaming};
use crate::event::{Body, HandlerError, Response};
use crate::fields;
use crate::queue::Reply;
use crate::runtime::shim::answers::check_status;
use crate::runtime::shim::protocol::v1::ProtocolError;
use crate::runtime::shim::protocol::v1::answer::{Answer, Answers, read_answers, read_chunk};
use crate::runtime::shim::protocol::v1::line::{Line, parse, read_log, read_metric};
use crate::runtime::shim::stream::pipe;
use crate::runtime::shim::worker::Ended;

impl Lane {
    /// Handles every complete line that has been read.
    pub(super) fn read_lines(&mut self) -> Result<(), Ended> {
        // The reader is moved out so that a line may borrow from it while the lane changes.
        let mut lines = std::mem::replace(&mut self.lines, Lines::new(0, 0));
        let result = loop {
            match lines.next_line() {
                Ok(None) => break Ok(()),
                Ok(Some(line)) => {
                    if let Err(ended) = self.read_line(line) {
                        break Err(ended);
                    }
                }
                Err(error) => break Err(broke(&error)),
            }
        };
        let dropped = lines.take_dropped();
        self.lines = lines;
        if dropped > 0 {
            let fields = fields! {"lines" => dropped};
            self.shared.logger.warn("Dropped log lines of the wrapper that are too long", fields);
        }
        result
    }

    fn read_line(&mut self, line: &[u8]) -> Result<(), Ended> {
        self.passage = self.passage.take().filter(|passage| !passage.is_written());
        match parse(line).1 {
            Line::Answer(_) if self.shut => {} // It complains about the end of the connection.
            Line::Start | Line::Empty => {}
            Line::Log(json) => self.read_log(json),
            Line::Metric(json) => self.read_metric(json),
            Line::Answer(json) => return self.read_answer(json),
            Line::StreamStart(json) => return self.read_stream_start(json),
            Line::Chunk(text) => self.read_chunk(text),
            Line::StreamEnd => self.read_stream_end(),
            Line::Unknown => self.warn_once(line),
        }
        Ok(())
    }

    fn warn_once(&self, line: &[u8]) {
        if !self.shared.warned.swap(true, Ordering::Relaxed) {
            let shown = String::from_utf8_lossy(&line[..line.len().min(SHOWN_BYTES)]);
            let fields = fields! {"line" => shown};
            self.shared.logger.warn("The wrapper sends lines of an unknown kind, which are ignored", fields);
        }
    }

    fn read_log(&self, json: &[u8]) {
        let Some(log) = read_log(json) else {
            let shown = String::from_utf8_lossy(&json[..json.len().min(SHOWN_BYTES)]);
            return self.shared.logger.error("Can't decode log", fields! {"line" => shown});
        };
        let current = self.current.as_ref();
        let mut origin = current.map(|current| current.event.origin()).unwrap_or_default();
        if current.is_some_and(|current| current.events().count() > 1) {
            origin.buffer = None; // What a handler says of a batch may hold what another client sent.
        }
        self.shared.record(log, origin);
    }

    /// How long the handler took. We measure ourselves; what counts is that the handler has ended.
    fn read_metric(&mut self, json: &[u8]) {
        if let Err(text) = read_metric(json) {
            self.shared.logger.error(text, fields! {});
        }
        if self.current.as_ref().is_some_and(|current| current.stream.is_some()) {
            // Known wrappers send it last, also where they forget to end the stream.
            self.finish_stream(Ok(()));
        } else if std::mem::take(&mut self.owes_metric) {
            // It belongs to the event before.
        } else if let Some(current) = &mut self.current {
            let now = Instant::now();
            current.measured = Some(now);
            if self.shared.wrapper.streams {
                self.post.wake_at(now + ANSWER_GRACE);
            }
        }
    }

    fn read_answer(&mut self, json: &[u8]) -> Result<(), Ended> {
        let Some(current) = &self.current else { return Err(surplus(b'r', json)) };
        if current.stream.is_some() {
            // The handler failed in the middle of its stream.
            let text = match read_answers(json).map(|answers| answers.single()) {
                Ok(Ok(answer)) => answer.body.map(|body| String::from_utf8_lossy(&body).into_owned()),
                Ok(Err(text)) => Err(text.to_owned()),
                Err(text) => Err(text),
            };
            let text = text.unwrap_or_else(|text| text);
            self.shared.logger.error("A streamed answer failed", fields! {"err" => text});
            self.finish_stream(Err(HandlerError::failed(text)));
            return Ok(());
        }
        let (measured, batch) = (current.measured.is_some(), current.batch.is_some());
        let answers = read_answers(json);
        // Newer wrappers report the duration afterwards, except for their own error answers.
        let own_error = matches!(&answers, Ok(Answers::One(one)) if one.status == 500 && !one.has_headers);
        self.owes_metric = self.shared.wrapper.newer && !measured && !own_error;
        if batch {
            self.finish_batch(answers);
            return Ok(());
        }
        let answer = answers.and_then(|answers| answers.single().map_err(str::to_owned));
        let reply =
            answer.map_err(|text| HandlerError::failed(text).into()).and_then(|answer| self.reply(answer));
        self.finish(reply);
        Ok(())
    }

    pub(super) fn reply(&self, answer: Answer) -> Reply {
        let (status, mut response) = self.head(&answer);
        response.body = answer.body.map_err(HandlerError::failed)?.into();
        check_status(status)?;
        Ok(response)
    }

    /// Status and the answer without its body.
    fn head(&self, answer: &Answer) -> (u16, Response) {
        for (name, fault) in &answer.dropped {
            let fields = fields! {"header" => name, "err" => fault.to_string()};
            self.shared.logger.warn("Dropped a header of the handler's answer", fields);
        }
        // What is out of range is no HTTP status in any case.
        let status = u16::try_from(answer.status).unwrap_or(u16::MAX);
        let response = Response {
            status,
            content_type: answer.content_type.clone(),
            headers: answer.headers.clone(),
            body: Body::Empty,
            no_ack: answer.no_ack,
        };
        (status, response)
    }

    fn read_stream_start(&mut self, json: &[u8]) -> Result<(), Ended> {
        if self.current.as_ref().is_none_or(|current| current.stream.is_some()) {
            return Err(surplus(b'c', json));
        }
        self.owes_metric = false;
        let answer = read_answers(json).and_then(|answers| answers.single().map_err(str::to_owned));
        let mut stream = Streaming { pipe: None, held: 0, gone: None };
        let reply = answer.map_err(|text| HandlerError::failed(text).into()).and_then(|answer: Answer| {
            let (status, mut response) = self.head(&answer);
            check_status(status)?;
            let first = answer.body.map_err(HandlerError::failed)?;
            let (writer, reader) = pipe(usize::MAX);
            stream.held = first.len();
            if !first.is_empty() {
                // There is room for everything; how much waits is bounded by not reading on.
                writer.push(first).unwrap_or_default();
            }
            stream.pipe = Some(writer);
            response.body = Body::Stream(Box::pin(reader));
            Ok(response)
        });
        if stream.pipe.is_none() {
            self.throw_away(&mut stream);
        }
        if let Some(current) = &mut self.current {
            current.measured = None;
            current.stream = Some(stream);
            if let Some(rest) = current.batch.take() {
                let taken = current.begun.elapsed();
                for _ in &rest {
                    self.shared.queue.finished_beside_others(self.shared.index, taken);
                }
                let replies = current.reply.take().into_iter();
                let replies: Vec<_> = replies.chain(rest.into_iter().map(|member| member.reply)).collect();
                self.fail(replies, "a batch cannot be answered piece by piece");
            } else if let Some(sender) = current.reply.take() {
                self.done.push((sender, reply));
            }
        }
        Ok(())
    }

    /// Nobody gets what still comes of the stream: it is no reason to be busy for ever.
    fn throw_away(&mut self, stream: &mut Streaming) {
        let now = Instant::now();
        stream.held = 0;
        stream.gone.get_or_insert(now);
        self.post.wake_at(now + GONE_GRACE);
    }

    fn read_chunk(&mut self, text: &[u8]) {
        let stream = self.current.as_mut().and_then(|current| current.stream.take());
        let Some(mut stream) = stream else { return self.stray("b") };
        // What nobody gets need not be decoded.
        if let Some(pipe) = stream.pipe.take() {
            match read_chunk(text) {
                Ok(piece) => {
                    if !piece.is_empty() {
                        stream.held += piece.len();
                        pipe.push(piece).unwrap_or_default(); // There is room for everything.
                    }
                    stream.pipe = Some(pipe);
                }
                Err(text) => {
                    pipe.end(Err(HandlerError::failed(text.clone())));
                    self.throw_away(&mut stream);
                    self.shared.logger.error("A streamed answer failed", fields! {"err" => text});
                }
            }
        }
        if let Some(current) = &mut self.current {
            current.stream = Some(stream);
        }
    }

    fn read_stream_end(&mut self) {
        if self.current.as_ref().is_none_or(|current| current.stream.is_none()) {
            return self.stray("e");
        }
        self.owes_metric = true;
        self.finish_stream(Ok(()));
    }

    fn stray(&self, letter: &str) {
        let fields = fields! {"kind" => letter};
        self.shared.logger.warn("Dropped a piece of a stream that is not open", fields);
    }

    fn finish_stream(&mut self, result: Result<(), HandlerError>) {
        if let Some(mut current) = self.take_current() {
            self.end_stream(&mut current, result);
        }
    }
}

fn surplus(letter: u8, json: &[u8]) -> Ended {
    let text = String::from_utf8_lossy(&json[..json.len().min(SHOWN_BYTES)]);
    broke(&ProtocolError::SurplusAnswer(format!("{}{text}", char::from(letter))))
}

/// The worker is given up for what it sent.
pub(super) fn broke(error: &ProtocolError) -> Ended {
    Ended::Protocol(error.to_string())
}
