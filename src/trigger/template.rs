//! Events that come from the configuration instead of from a client, and their delivery: what `cron` and `kickstart`
//! share. Knows nothing of when.

use std::future::poll_fn;
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::TriggerContext;
use crate::config::EventTemplate;
use crate::event::{
    Body, Event, EventBody, EventId, Extra, OwnValue, Recall, Response, Target, TriggerInfo, cloudevent,
};
use crate::fields;
use crate::metrics::DropReason;
use crate::queue::SubmitError;

/// What makes events of a template.
pub(super) struct Template {
    trigger: &'static TriggerInfo,
    body: Bytes,
    path: String,
    method: String,
    headers: Vec<(String, OwnValue)>,
    /// The same for look-ups, as far as they are headers of HTTP.
    header_map: HeaderMap,
}

impl Template {
    pub(super) fn new(config: &EventTemplate, trigger: &'static TriggerInfo) -> Self {
        let headers: Vec<_> =
            config.headers.iter().map(|(name, value)| (name.clone(), OwnValue::from(value))).collect();
        let mut header_map = HeaderMap::new();
        for (name, value) in &headers {
            if let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value.text()))
            {
                // Fails beyond what any map of headers can hold; the others are there.
                header_map.try_append(name, value).map(drop).unwrap_or_default();
            }
        }
        Self {
            trigger,
            body: config.body.clone().into(),
            path: config.path.clone(),
            method: config.method.clone(),
            headers,
            header_map,
        }
    }

    /// A new event of this time.
    pub(super) fn event(&self, timestamp: SystemTime, fields: Vec<(String, String)>) -> Box<Event> {
        let mut body = EventBody::from(self.body.clone());
        body.present = true; // compat: an empty body is one.
        let extra = Extra {
            // compat: a header of that name does not count.
            content_type: Some(String::new()),
            headers: Some(self.headers.clone()),
            fields,
            shard_id: -1,
            ..Extra::default()
        };
        let mut event = Box::new(Event {
            id: EventId::random(),
            trigger: self.trigger,
            timestamp,
            target: Target::Plain {
                method: self.method.clone(),
                path: self.path.clone(),
                url: String::new(),
            },
            header_map: self.header_map.clone(),
            body,
            log_buffer: None,
            trace: None,
            extra: Some(Box::new(extra)),
            web: None,
        });
        cloudevent::unwrap_headers(&mut event);
        event
    }
}

/// Sends an event and waits for its end. Nobody reads the answer; a failure is logged, once. `recall`: the event may be
/// taken back with it.
pub(super) async fn deliver(cx: &TriggerContext, event: Box<Event>, recall: Option<&Recall>) {
    let id = event.id.as_str().to_owned();
    let reply = match recall {
        None => cx.events.submit(event).await,
        Some(recall) => cx.events.submit_recallable(event, recall).await,
    };
    let error = match reply {
        Ok(response) => match read_to_end(response, recall).await {
            Ok(status) if status < 400 => return,
            Ok(status) => {
                // The handler said so itself, and what it raised is in the log already.
                let fields = fields! {"trigger" => cx.info.name, "id" => id, "status" => status};
                cx.logger.debug("Handler answered an event with an error", fields);
                return;
            }
            Err(error) => error,
        },
        Err(error) => error,
    };
    match error {
        SubmitError::Replaced => return, // Whoever took it back has said so.
        SubmitError::NoWorkers => cx.events.counters().dropped(DropReason::NoWorker, 1),
        SubmitError::Stopping | SubmitError::Handler(_) => {}
    }
    let fields = fields! {"trigger" => cx.info.name, "id" => id, "err" => error.to_string()};
    cx.logger.error("Event failed", fields);
}

/// A streamed answer is read to its end, because the handler works while it is; or until its event is taken back.
async fn read_to_end(response: Response, recall: Option<&Recall>) -> Result<u16, SubmitError> {
    let Body::Stream(mut stream) = response.body else { return Ok(response.status) };
    let read = async {
        while let Some(piece) = poll_fn(|cx| stream.as_mut().poll_next(cx)).await {
            drop(piece?);
        }
        Ok(response.status)
    };
    match recall {
        None => read.await,
        Some(recall) => tokio::select! {
            status = read => status,
            () = recall.asked() => Err(SubmitError::Replaced),
        },
    }
}
