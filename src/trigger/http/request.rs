//! From a request to an [`Event`]: limits, path, headers, body. Copies nothing that hyper already holds.

use std::future::poll_fn;
use std::mem::take;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use http_body::Body;
use hyper::body::Incoming;

use super::{LOG_LEVEL, bodiless};
use crate::config::Level;
use crate::config::percent;
use crate::event::cloudevent;
use crate::event::{BodyBudget, BodyPermit, Event, EventBody, EventId, Target, TriggerInfo, WebRequest};
use crate::logging::LogBuffer;
use crate::net::Activity;

/// What no trailer may say (RFC 9110, section 6.5.1): whoever looked at the head has decided by these.
pub(super) static HEAD_ONLY: [HeaderName; 17] = [
    header::AUTHORIZATION,
    header::CONNECTION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::EXPECT,
    header::HOST,
    header::MAX_FORWARDS,
    header::ORIGIN,
    header::PROXY_AUTHORIZATION,
    header::RANGE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    LOG_LEVEL,
];

/// Room that a body takes because it is announced: whoever only announces bodies must not keep others out.
const TAKEN_AHEAD_BYTES: usize = 64 << 10;

/// Why a request gets no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Its body is over the limit.
    TooLarge,
    /// All bodies together would be.
    NoRoom,
    /// Its body cannot be read.
    Broken,
}

/// Which headers a request has of those that decide something. Most have few of them, and one look at all names costs
/// less than to ask for each.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Known(u8);

impl Known {
    const HOST: u8 = 1;
    const CONNECTION: u8 = 1 << 1;
    const LOG_LEVEL: u8 = 1 << 2;
    const COOKIE: u8 = 1 << 3;
    const FRAMING: u8 = 1 << 4;
    const CLOUD_EVENT: u8 = 1 << 5;

    /// Looks at all names.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let bit = |name: &HeaderName| match name.as_str() {
            "host" => Self::HOST,
            "connection" => Self::CONNECTION,
            "cookie" => Self::COOKIE,
            "content-length" | "transfer-encoding" => Self::FRAMING,
            "content-type" => Self::CLOUD_EVENT,
            _ if name == LOG_LEVEL => Self::LOG_LEVEL,
            name if name.starts_with(cloudevent::BINARY) => Self::CLOUD_EVENT,
            _ => 0,
        };
        Self(headers.keys().map(bit).fold(0, |known, bit| known | bit))
    }

    /// Whether a host is named.
    pub(super) fn has_host(self) -> bool {
        self.0 & Self::HOST != 0
    }

    /// Whether something is said of the connection.
    pub(super) fn has_connection(self) -> bool {
        self.0 & Self::CONNECTION != 0
    }

    /// Whether the caller may want to be told of the handler's log.
    pub(super) fn asks_for_logs(self) -> bool {
        self.0 & Self::LOG_LEVEL != 0
    }

    /// Whether it may be worth a look for a cloud event.
    pub(super) fn may_be_cloud_event(self) -> bool {
        self.0 & Self::CLOUD_EVENT != 0
    }
}

/// The path as handlers see it, where that differs from the one in the target: escapes decoded once, then double
/// slashes and dot segments removed.
pub(super) fn decoded_path(uri: &Uri) -> Option<Box<[u8]>> {
    let raw = uri.path().as_bytes();
    let plain = raw.first() == Some(&b'/')
        && !raw.contains(&b'%')
        && !raw.windows(2).any(|pair| matches!(pair, b"//" | b"/."));
    if plain {
        return None;
    }
    let mut path = percent::decode(raw, false);
    if raw.first() != Some(&b'/') {
        path.insert(0, b'/');
    }
    Some(clean(&path).into())
}

/// Removes empty segments, `.` segments that are not the last, and `..` segments with the one before them.
// compat: a trailing `/.` stays, a trailing `/..` leaves a slash, as in the Go processor.
fn clean(path: &[u8]) -> Vec<u8> {
    let mut out: Vec<&[u8]> = Vec::new();
    let mut segments = path.split(|byte| *byte == b'/').skip(1).peekable();
    let mut slash_at_end = false;
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        slash_at_end = last && matches!(segment, b"" | b"..");
        match segment {
            b"" => {}
            b"." if !last => {}
            b".." => drop(out.pop()),
            segment => out.push(segment),
        }
    }
    let mut joined = Vec::with_capacity(path.len());
    for segment in out {
        joined.push(b'/');
        joined.extend_from_slice(segment);
    }
    if slash_at_end || joined.is_empty() {
        joined.push(b'/');
    }
    joined
}

/// Whether at most one host is named, with no blank and no delimiter, a port of digits, and brackets in pairs: everything else is
/// a mistake or an attempt to be routed by one reading and served by another.
// compat: a request without one is served; nothing here goes by it.
pub(super) fn host_is_sound(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    hosts.next().is_none_or(|host| is_sound(host.as_bytes())) && hosts.next().is_none()
}

/// Whether the target has a form that its method may have (RFC 9112, section 3.2): a host alone is for CONNECT, an
/// asterisk for OPTIONS.
pub(super) fn target_is_sound(method: &Method, uri: &Uri) -> bool {
    match uri.path().as_bytes() {
        [b'/', ..] => true,
        b"*" => method == Method::OPTIONS,
        // What has a scheme may have no path.
        _ => uri.scheme().is_some(),
    }
}

/// Whether a request with a body expects nothing of us but to be asked for it.
pub(super) fn expects_continue_only(headers: &HeaderMap) -> bool {
    let mut expectations = headers.get_all(header::EXPECT).iter();
    expectations.all(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Whether a body in chunks is nothing else besides: what another coding has made of it is not what handlers expect,
/// and two readers may disagree about a list of codings. Called for bodies of unknown length only.
pub(super) fn is_chunked_only(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let only =
        codings.next().is_some_and(|value| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"));
    only && codings.next().is_none()
}

fn is_sound(host: &[u8]) -> bool {
    let (name, port) = match host.strip_prefix(b"[") {
        Some(rest) => match rest.iter().position(|byte| *byte == b']') {
            Some(end) => (&rest[..end], &rest[end + 1..]),
            None => return false,
        },
        None => host.split_at(host.iter().position(|byte| *byte == b':').unwrap_or(host.len())),
    };
    let sound_port = port.is_empty() || port[0] == b':' && port[1..].iter().all(u8::is_ascii_digit);
    sound_port
        && !name.iter().any(|byte| {
            byte.is_ascii_whitespace() || matches!(byte, b'[' | b']' | b'/' | b'?' | b'#' | b'@' | b'\\')
        })
}

/// What the caller asked to be told of the handler's log.
pub(super) fn log_buffer(headers: &HeaderMap, trigger: &str) -> Option<Arc<LogBuffer>> {
    let wanted = headers.get(LOG_LEVEL)?.as_bytes();
    let level = match wanted.to_ascii_lowercase().as_slice() {
        b"" => return None,
        b"info" => Level::Info,
        b"warn" | b"warning" => Level::Warn,
        b"error" | b"dpanic" | b"panic" | b"fatal" => Level::Error,
        _ => Level::Debug,
    };
    Some(Arc::new(LogBuffer::new(level, trigger)))
}

/// Reads the whole body; trailers join the headers.
///
/// # Errors
/// See [`Refusal`]. Nothing is read of a body that is announced too large, so a client that asked first
/// (`Expect: 100-continue`) need not send it.
pub(super) async fn read_body(
    parts: &mut Parts,
    mut body: Incoming,
    bytes_max: usize,
    budget: &BodyBudget,
    activity: &Activity,
) -> Result<EventBody, Refusal> {
    let mut read = EventBody::none();
    let announced = body.size_hint().exact();
    if announced.is_some_and(|bytes| bytes > bytes_max as u64) {
        return Err(Refusal::TooLarge);
    }
    let announced = (announced.unwrap_or(0) as usize).min(TAKEN_AHEAD_BYTES);
    let mut permit = budget.take(announced).ok_or(Refusal::NoRoom)?;
    // Taken for every body: it belongs to this request or to none.
    let first_chunk = activity.take_first_chunk_size();
    let mut first_chunk = first_chunk.filter(|_| parts.headers.contains_key(header::TRANSFER_ENCODING));
    let mut poll_frame = |cx: &mut Context<'_>| {
        let frame = Pin::new(&mut body).poll_frame(cx);
        // A chunk that is announced too large is refused without waiting for it.
        if let Some(size) = first_chunk.take()
            && frame.is_pending()
            && size > bytes_max as u64
        {
            return Poll::Ready(Err(Refusal::TooLarge));
        }
        // Asked only now: what had come before the end is here.
        if frame.is_pending() && activity.half_closed() {
            return Poll::Ready(Err(Refusal::Broken));
        }
        frame.map(Ok)
    };
    while let Some(frame) = poll_fn(&mut poll_frame).await? {
        match frame.map_err(|_| Refusal::Broken)?.into_data() {
            Ok(piece) => {
                if read.len() + piece.len() > bytes_max {
                    return Err(Refusal::TooLarge);
                }
                grow(&mut permit, budget, announced, read.len(), piece.len())?;
                read.push(piece);
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    if trailers.keys().any(|name| HEAD_ONLY.contains(name)) {
                        return Err(Refusal::Broken);
                    }
                    parts.headers.extend(trailers);
                }
            }
        }
    }
    read.finish();
    read.present = !read.is_empty();
    read.permit = Some(permit);
    Ok(read)
}

/// What was not taken ahead takes its room as it comes.
fn grow(
    permit: &mut BodyPermit,
    budget: &BodyBudget,
    announced: usize,
    read: usize,
    more: usize,
) -> Result<(), Refusal> {
    let excess = (read + more).saturating_sub(announced.max(read));
    if excess > 0 {
        permit.join(budget.take(excess).ok_or(Refusal::NoRoom)?);
    }
    Ok(())
}

/// Whether a request asks for a WebSocket (RFC 6455, section 4.1).
pub(super) fn wants_web_socket(headers: &HeaderMap) -> bool {
    headers.get(header::UPGRADE).is_some_and(|protocol| {
        let mut names = protocol.as_bytes().split(|byte| *byte == b',');
        names.any(|name| name.trim_ascii().eq_ignore_ascii_case(b"websocket"))
    })
}

/// The event of a request that has been read, whose parts go into it. `ends`: those of its connection, for web
/// applications.
pub(super) fn event(
    parts: &mut Parts,
    known: Known,
    path: Option<Box<[u8]>>,
    body: EventBody,
    log_buffer: Option<Arc<LogBuffer>>,
    trigger: &'static TriggerInfo,
    ends: Option<Arc<str>>,
) -> Box<Event> {
    tidy_headers(parts, known, ends.is_some());
    // Made where it stays: it is large.
    Box::write(
        Box::new_uninit(),
        Event {
            id: EventId::random(),
            trigger,
            timestamp: SystemTime::now(),
            target: Target::Http { method: take(&mut parts.method), uri: take(&mut parts.uri), path },
            header_map: take(&mut parts.headers),
            body,
            log_buffer,
            trace: None,
            extra: None,
            web: ends.map(|ends| WebRequest { version: parts.version, ends }),
        },
    )
}

/// Cookies become one header; a missing length is shown as 0 to functions where a body could have been.
fn tidy_headers(parts: &mut Parts, known: Known, web: bool) {
    let headers = &mut parts.headers;
    if known.0 & Known::COOKIE != 0 && headers.get_all(header::COOKIE).iter().nth(1).is_some() {
        let lines: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(joined) = HeaderValue::from_bytes(&lines.join(&b"; "[..])) {
            headers.insert(header::COOKIE, joined);
        }
    }
    if !web && known.0 & Known::FRAMING == 0 && !bodiless(&parts.method) {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_path(raw: &str, expected: &str) {
        let uri: Uri = raw.parse().unwrap();
        let path = decoded_path(&uri);
        let path = path.as_deref().unwrap_or(uri.path().as_bytes());
        assert_eq!(String::from_utf8_lossy(path), expected, "{raw}");
    }

    #[test]
    fn paths_are_decoded_once_and_cleaned() {
        for (raw, expected) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a%20b", "/a b"),
            ("/a//b///c", "/a/b/c"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/..", "/"),
            ("/../../a", "/a"),
            ("/a/.", "/a/."),
            ("/a/", "/a/"),
            ("//", "/"),
            ("/a%2Fb", "/a/b"),
            ("/a/%2e%2e/b", "/b"),
            ("/a+b", "/a+b"),
            ("/a%zz", "/a%zz"),
            ("/a%2", "/a%2"),
            ("/%25", "/%"),
            ("/%2541", "/%41"),
            ("/a;v=1", "/a;v=1"),
            ("/.hidden", "/.hidden"),
            ("/a/..b", "/a/..b"),
            ("http://h.example/p/q?z=1", "/p/q"),
            ("*", "/*"),
        ] {
            check_path(raw, expected);
        }
    }

    #[test]
    fn hosts_need_digits_behind_their_colon_and_no_blank() {
        for (host, sound) in [
            ("x", true),
            ("", true),
            ("A.Example:80", true),
            ("x:", true),
            ("my_host.é", true),
            ("[::1]", true),
            ("[::1]:8080", true),
            ("x y", false),
            ("x\ty", false),
            ("x:8o", false),
            ("x:80:80", false),
            ("::1", false),
            ("[::1", false),
            ("[::1]8080", false),
            ("x]", false),
            ("a@x", false),
            ("x/y", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_bytes(host.as_bytes()).unwrap());
            assert_eq!(host_is_sound(&headers), sound, "{host}");
        }
        assert!(host_is_sound(&HeaderMap::new()));
        let mut two = HeaderMap::new();
        two.append(header::HOST, HeaderValue::from_static("x"));
        two.append(header::HOST, HeaderValue::from_static("x"));
        assert!(!host_is_sound(&two), "RFC 9112, section 3.2");
    }

    #[test]
    fn the_log_level_is_read_in_any_case_and_unknown_words_mean_debug() {
        for (value, expected) in [
            ("", None),
            ("info", Some(Level::Info)),
            ("WARN", Some(Level::Warn)),
            ("chatty", Some(Level::Debug)),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(LOG_LEVEL, value.parse().unwrap());
            assert_eq!(log_buffer(&headers, "web").map(|buffer| buffer.level()), expected, "{value}");
        }
        assert!(log_buffer(&HeaderMap::new(), "web").is_none());
    }
}
