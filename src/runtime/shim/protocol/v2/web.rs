//! The EVENT frame of a web application: a request as it came, so that its shim has next to nothing to do. Knows
//! nothing of what applications make of it.
//!
//! The twelve texts have the path and the query as they were sent, names of headers are in lower case, there are no
//! fields, and behind the headers come three texts more: the version of HTTP, the client's address, the server's. It
//! is never typed: what no request can hold is left out of events that are none.

use std::time::Duration;

use http::Version;

use super::{EVENT_FIXED_BYTES, HEADER_BYTES, Header, event_flag, event_level, fill_fixed, kind, push_text};
use crate::event::{Event, Target};

/// Appends the EVENT frame of `event` up to its body, as [`super::write_event`] does for functions.
pub fn write_event(out: &mut Vec<u8>, id: u32, event: &Event, timeout: Option<Duration>) {
    let start = out.len();
    out.resize(start + HEADER_BYTES + EVENT_FIXED_BYTES, 0);
    let headers = match &event.target {
        Target::Http { uri, .. } => {
            write_texts(out, event, uri.path().as_bytes(), event.query().as_bytes(), push_text);
            write_headers(out, event)
        }
        Target::Plain { path, .. } => {
            let (path, query) = path.split_once('?').unwrap_or((path, ""));
            write_texts(out, event, path.as_bytes(), query.as_bytes(), push_without_nul);
            write_own_headers(out, event)
        }
    };
    match &event.web {
        Some(request) => {
            push_text(out, version(request.version));
            out.extend_from_slice(request.ends.as_bytes());
        }
        None => out.extend_from_slice(b"1.1\0\0"), // Between two ends that are not known.
    }
    fill_fixed(&mut out[start + HEADER_BYTES..], event, timeout, (headers, 0));
    let head = (out.len() - start - HEADER_BYTES) as u32;
    let mut flags = 0;
    if event.body.stream.is_some() {
        flags |= event_flag::MORE;
    }
    if !event.body.present {
        flags |= event_flag::NO_BODY;
    }
    let header = Header {
        size: head + event.body.len() as u32,
        kind: kind::EVENT,
        flags,
        code: event.trigger.index & 0x0fff | event_level(event) << 12,
        id,
        head,
        apart: false,
    };
    out[start..start + HEADER_BYTES].copy_from_slice(&header.encode());
}

fn version(version: Version) -> &'static [u8] {
    if version == Version::HTTP_10 { b"1.0" } else { b"1.1" }
}

fn write_texts(out: &mut Vec<u8>, event: &Event, path: &[u8], query: &[u8], push: fn(&mut Vec<u8>, &[u8])) {
    push(out, event.id.as_bytes());
    push(out, event.method().as_bytes());
    push(out, path);
    push(out, query);
    out.extend_from_slice(&[0; 8]); // url, content type, topic, type, its version, version, trigger's kind and name
}

fn push_without_nul(out: &mut Vec<u8>, text: &[u8]) {
    out.extend(text.iter().filter(|byte| **byte != 0));
    out.push(0);
}

fn write_headers(out: &mut Vec<u8>, event: &Event) -> u16 {
    let mut headers = 0;
    for (name, value) in event.headers().take(usize::from(u16::MAX)) {
        push_text(out, name.as_str().as_bytes());
        push_text(out, value.as_bytes());
        headers += 1;
    }
    headers
}

/// Headers of an event that is no request.
fn write_own_headers(out: &mut Vec<u8>, event: &Event) -> u16 {
    let Some(own) = event.own_headers() else { return write_headers(out, event) };
    let mut headers = 0;
    for (name, value) in own.iter().take(usize::from(u16::MAX)) {
        push_without_nul(out, name.to_ascii_lowercase().as_bytes());
        push_without_nul(out, value.text().as_bytes());
        headers += 1;
    }
    headers
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use http::{HeaderMap, HeaderValue, Method};

    use super::*;
    use crate::event::{EventBody, EventId, Extra, OwnValue, TriggerInfo, WebRequest};

    fn event(target: Target) -> Event {
        let mut header_map = HeaderMap::new();
        for value in ["a", "b"] {
            header_map.append("x-two", HeaderValue::from_static(value));
        }
        Event {
            id: EventId::Text("e1".into()),
            trigger: TriggerInfo { index: 0, class: "sync", kind: "http".into(), name: "web".into() }
                .forever(),
            timestamp: SystemTime::UNIX_EPOCH,
            target,
            header_map,
            body: EventBody::none(),
            log_buffer: None,
            trace: None,
            extra: None,
            web: None,
        }
    }

    /// The texts of the frame, and how many headers it says there are.
    fn texts(event: &Event) -> (Vec<String>, u16) {
        let mut out = Vec::new();
        write_event(&mut out, 7, event, None);
        let head = &out[HEADER_BYTES..];
        assert_eq!(out[5], event_flag::NO_BODY);
        let count = u16::from_le_bytes(head[28..30].try_into().unwrap());
        let texts = head[EVENT_FIXED_BYTES..].split(|byte| *byte == 0);
        (texts.map(|text| String::from_utf8_lossy(text).into_owned()).collect(), count)
    }

    #[test]
    fn a_request_goes_as_it_came_with_its_version_and_both_ends() {
        let mut event = event(Target::Http {
            method: Method::GET,
            uri: "/a%2Fb//../c?x=%20".parse().unwrap(),
            path: Some((*b"/c").into()),
        });
        event.web = Some(WebRequest { version: Version::HTTP_10, ends: "10.0.0.1 9\0::1 80".into() });
        let (texts, headers) = texts(&event);
        assert_eq!(texts[..5], ["e1", "GET", "/a%2Fb//../c", "x=%20", ""]);
        assert_eq!(headers, 2);
        assert_eq!(texts[12..], ["x-two", "a", "x-two", "b", "1.0", "10.0.0.1 9", "::1 80"]);
    }

    #[test]
    fn an_event_that_is_no_request_becomes_one_without_what_none_can_hold() {
        let mut event =
            event(Target::Plain { method: String::new(), path: "/t\0?q=1".into(), url: String::new() });
        let own = vec![("X-Own".to_owned(), OwnValue::from("a\0b".to_owned()))];
        event.extra = Some(Box::new(Extra { headers: Some(own), ..Extra::default() }));
        let (texts, headers) = texts(&event);
        assert_eq!(texts[1..4], ["", "/t", "q=1"]);
        assert_eq!((headers, &texts[12..]), (1, &["x-own", "ab", "1.1", "", ""].map(String::from)[..]));
    }
}
