//! Several events in one call of a plugin. Answers are copied, so that all of the batch's memory is free at once.

use std::sync::atomic::AtomicU8;

use bytes::Bytes;
use nuclio_handler::abi;

use super::{Answer, Direct, Frame, checked_status, crash};
use crate::config::Level;
use crate::event::{Deadline, Event, HandlerError, Response};
use crate::logging::Fields;
use crate::runtime::plugin::worker::BatchOutcome;
use http::StatusCode;

impl Direct {
    /// Calls the handler with all events and waits for it; one answer for each, in the same order.
    #[expect(clippy::vec_box, reason = "they come in boxes, and stay in them")]
    pub(in crate::runtime::plugin) fn call_batch(
        &mut self,
        events: Vec<Box<Event>>,
        cancelled: &AtomicU8,
        deadline: Deadline,
    ) -> BatchOutcome {
        let deadline = self.clock.nanoseconds(deadline);
        let load = |event| {
            let mut frame = Box::<Frame>::default();
            frame.load(event, deadline, cancelled);
            frame
        };
        let frames: Vec<Box<Frame>> = events.into_iter().map(load).collect();
        let inside = crash::inside();
        let (code, answers) = self.plugin.handle_batch(&frames);
        drop(inside);
        let outcome = match answers.iter().find_map(|answer| answer.fault()) {
            Some(fault) => Err(self.fault(&format!("the handler answered with {fault}"))),
            None => match code {
                abi::OK => Ok(answers.iter().map(|answer| self.whole(answer)).collect()),
                abi::ERROR | abi::PANIC | abi::UNSUPPORTED => Ok(self.failures(code, &answers)),
                code => {
                    Err(self.fault(&format!("the handler returned {code}, which is no result of the ABI")))
                }
            },
        };
        // An answer may point into any event of its batch.
        drop(answers);
        drop(frames);
        outcome
    }

    fn whole(&self, answer: &Answer) -> Result<Response, HandlerError> {
        if answer.has(abi::RESPONSE_STREAM) {
            return Err(HandlerError::failed("the handler answered an event of a batch with a stream"));
        }
        let mut response = self.head(answer)?;
        response.body = Bytes::copy_from_slice(answer.body()).into();
        Ok(response)
    }

    /// What a failed call means for each event: its own text and status, or else those of the first.
    fn failures(&self, code: abi::CallResult, answers: &[Answer]) -> Vec<Result<Response, HandlerError>> {
        if code == abi::UNSUPPORTED {
            return answers.iter().map(|_| Err(HandlerError::Unsupported)).collect();
        }
        let first = answers.first().map_or_else(String::new, text);
        if code == abi::PANIC {
            self.home.logger().record(Level::Error, &first, Fields::new(), None);
        }
        let error = |answer: &Answer| {
            let answer = if answer.is_empty() { answers.first().unwrap_or(answer) } else { answer };
            let status = match code {
                abi::ERROR => checked_status(answer).unwrap_or(500),
                _ => 500,
            };
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            Err(HandlerError::Failed { status, message: text(answer) })
        };
        answers.iter().map(error).collect()
    }

    fn fault(&self, message: &str) -> HandlerError {
        self.home.logger().record(Level::Error, message, Fields::new(), None);
        HandlerError::Lost(message.to_owned())
    }
}

fn text(answer: &Answer) -> String {
    String::from_utf8_lossy(answer.body()).into_owned()
}
