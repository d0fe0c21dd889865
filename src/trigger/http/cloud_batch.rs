//! Cloud events that come several in one request: each goes its own way to a worker, and the one answer says what
//! became of each.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use http::{HeaderMap, header};
use serde::Serialize;
use serde_json::value::RawValue;

use super::Http;
use super::response::Answer;
use crate::event::{Body, Event};

/// Most bytes of a streamed answer, which has to be held until the others are there.
const STREAMED_BYTES_MAX: usize = 1 << 20;

/// What became of one event, named as in cloud events.
#[derive(Debug, Serialize)]
struct Part {
    id: String,
    source: String,
    status: u16,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, Values>,
    #[serde(skip_serializing_if = "Option::is_none")]
    datacontenttype: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Data>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
}

/// One value, or those of a repeated header.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Values {
    One(String),
    Several(Vec<String>),
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Data {
    Json(Box<RawValue>),
    Text(String),
}

impl Http {
    /// Hands all events in and gathers their answers, in the order of the request.
    pub(super) async fn submit_cloud_batch(&self, events: Vec<Event>, answer: &mut Answer) {
        // As many as can be in work: more would only keep other requests from waiting. Batches need them all.
        let at_once = if self.batches.is_some() { events.len() } else { self.cx.events.workers() };
        let parts =
            in_order(events.into_iter().map(|event| self.part(Box::new(event))), at_once.max(1)).await;
        let failed = parts.iter().map(|part| part.status).filter(|status| *status >= 400).max();
        // Texts, numbers and JSON that has been read: nothing that could fail.
        let body = serde_json::to_vec(&parts).unwrap_or_default();
        answer.parts(failed.unwrap_or(200), body.into());
    }

    async fn part(&self, event: Box<Event>) -> Part {
        let id = event.id.as_str().to_owned();
        let trigger = event.extra.as_deref().and_then(|extra| extra.trigger.as_ref());
        let source = trigger.map(|(source, _)| source.clone()).unwrap_or_default();
        let mut answer = Answer::to_part();
        let reply = self.submit_elsewhere(event).await;
        self.give_all_back(reply, &mut answer).await;
        let (status, headers, body) = answer.into_part();
        match whole(body).await {
            Ok(body) => Part::new(id, source, status, headers, &body),
            Err(text) => Part::new(id, source, 500, HeaderMap::new(), text.as_bytes()),
        }
    }
}

impl Part {
    fn new(id: String, source: String, status: u16, mut headers: HeaderMap, body: &[u8]) -> Self {
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let datacontenttype = headers.remove(header::CONTENT_TYPE).as_ref().map(text);
        let values = |name| {
            let mut values: Vec<String> = headers.get_all(name).iter().map(text).collect();
            if values.len() == 1 { Values::One(values.remove(0)) } else { Values::Several(values) }
        };
        let shown = headers.keys().map(|name| (name.as_str().to_owned(), values(name))).collect();
        let is_json = datacontenttype.as_deref().is_some_and(|text| {
            let kind = text.split(';').next().unwrap_or_default().trim_end().to_ascii_lowercase();
            kind == "application/json" || kind.ends_with("+json")
        });
        let (mut data, mut data_base64) = (None, None);
        match (is_json.then(|| serde_json::from_slice(body)), std::str::from_utf8(body)) {
            _ if body.is_empty() => {}
            (Some(Ok(json)), _) => data = Some(Data::Json(json)),
            (_, Ok(text)) => data = Some(Data::Text(text.to_owned())),
            (_, Err(_)) => data_base64 = Some(STANDARD.encode(body)),
        }
        Self { id, source, status, headers: shown, datacontenttype, data, data_base64 }
    }
}

/// All bytes of a body.
async fn whole(body: Body) -> Result<Bytes, String> {
    let mut stream = match body {
        Body::Empty => return Ok(Bytes::new()),
        Body::Bytes(bytes) => return Ok(bytes),
        Body::Stream(stream) => stream,
    };
    let mut gathered = BytesMut::new();
    while let Some(piece) = poll_fn(|cx| Pin::new(&mut stream).poll_next(cx)).await {
        gathered.extend_from_slice(&piece.map_err(|error| error.to_string())?);
        if gathered.len() > STREAMED_BYTES_MAX {
            return Err(format!("a streamed answer in a batch may have {STREAMED_BYTES_MAX} bytes"));
        }
    }
    Ok(gathered.freeze())
}

/// What all futures come to, in their order; `at_once` of them run at the same time.
async fn in_order<F: Future>(futures: impl IntoIterator<Item = F>, at_once: usize) -> Vec<F::Output> {
    let mut futures = futures.into_iter();
    let (mut running, mut done) = (Vec::new(), Vec::new());
    poll_fn(|cx| {
        loop {
            while running.len() < at_once
                && let Some(future) = futures.next()
            {
                running.push((done.len(), Box::pin(future)));
                done.push(None);
            }
            let before = running.len();
            if before == 0 {
                return Poll::Ready(());
            }
            running.retain_mut(|(place, future)| match future.as_mut().poll(cx) {
                Poll::Ready(output) => {
                    done[*place] = Some(output);
                    false
                }
                Poll::Pending => true,
            });
            if running.len() == before {
                return Poll::Pending;
            }
        }
    })
    .await;
    done.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn futures_come_back_in_order_however_long_they_take_and_no_more_run_than_may() {
        let (running, most) = (Cell::new(0), Cell::new(0));
        for at_once in [1, 3, 100] {
            most.set(0);
            let futures = (0..20_u64).map(|number| {
                let (running, most) = (&running, &most);
                async move {
                    running.set(running.get() + 1);
                    most.set(most.get().max(running.get()));
                    for _ in 0..number % 5 {
                        tokio::task::yield_now().await;
                    }
                    running.set(running.get() - 1);
                    number
                }
            });
            assert_eq!(in_order(futures, at_once).await, (0..20).collect::<Vec<_>>());
            assert!(most.get() <= at_once, "{} of {at_once}", most.get());
        }
        assert!(in_order(std::iter::empty::<std::future::Ready<()>>(), 1).await.is_empty());
    }

    #[test]
    fn bodies_are_shown_as_what_they_are() {
        for (content_type, body, shown) in [
            ("application/json", &b"{\"a\": 1}"[..], r#""data":{"a": 1}"#),
            ("application/cloudevents+json; charset=x", b"[1]", r#""data":[1]"#),
            ("application/json", b"{no", r#""data":"{no""#),
            ("text/plain", b"\"x\"", r#""data":"\"x\"""#),
            ("image/png", b"\xff", r#""data_base64":"/w==""#),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
            let part = Part::new("i".into(), "s".into(), 200, headers, body);
            let expected = format!(
                r#"{{"id":"i","source":"s","status":200,"datacontenttype":"{content_type}",{shown}}}"#
            );
            assert_eq!(serde_json::to_string(&part).unwrap(), expected);
        }
    }

    #[test]
    fn headers_that_repeat_become_lists() {
        let mut headers = HeaderMap::new();
        headers.append("x-a", "1".parse().unwrap());
        headers.append("x-b", "2".parse().unwrap());
        headers.append("x-b", "3".parse().unwrap());
        let part =
            serde_json::to_string(&Part::new(String::new(), String::new(), 204, headers, b"")).unwrap();
        assert!(part.ends_with(r#""headers":{"x-a":"1","x-b":["2","3"]}}"#), "{part}");
    }
}
