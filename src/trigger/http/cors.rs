//! Cross-origin requests: preflights are answered here, others admitted or refused.

use http::request::Parts;
use http::{HeaderValue, Method, header};

use super::response::Answer;
use crate::config::Cors;

impl Cors {
    /// Whether `*` is among the allowed origins.
    pub fn allows_any_origin(&self) -> bool {
        self.allow_origins.iter().any(|origin| origin == "*")
    }

    fn allows_origin(&self, origin: &[u8]) -> bool {
        !origin.is_empty() && (self.allows_any_origin() || contains(&self.allow_origins, origin))
    }
}

/// Whether a list holds a text, in any case.
fn contains(list: &[String], text: &[u8]) -> bool {
    list.iter().any(|entry| entry.as_bytes().eq_ignore_ascii_case(text))
}

/// The first value of a header, or nothing.
fn first(parts: &Parts, name: header::HeaderName) -> &[u8] {
    parts.headers.get(name).map_or(b"", HeaderValue::as_bytes)
}

/// A browser asks before it sends the real request.
pub(super) fn is_preflight(parts: &Parts) -> bool {
    parts.method == Method::OPTIONS && !first(parts, header::ACCESS_CONTROL_REQUEST_METHOD).is_empty()
}

/// Answers a preflight; says whether it was accepted.
pub(super) fn preflight(cors: &Cors, parts: &Parts, answer: &mut Answer) -> bool {
    for name in ["Origin", "Access-Control-Request-Method", "Access-Control-Request-Headers"] {
        answer.headers.append(header::VARY, HeaderValue::from_static(name));
    }
    let method = first(parts, header::ACCESS_CONTROL_REQUEST_METHOD);
    let requested = parts.headers.get_all(header::ACCESS_CONTROL_REQUEST_HEADERS).iter();
    let mut requested = requested.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let accepted = cors.allows_origin(first(parts, header::ORIGIN))
        && (method == b"OPTIONS" || contains(&cors.allow_methods, method))
        && requested
            .all(|name| name.trim_ascii().is_empty() || contains(&cors.allow_headers, name.trim_ascii()));
    if !accepted {
        answer.set_status(400);
        return false;
    }
    allow_origin(cors, parts, answer);
    set(answer, header::ACCESS_CONTROL_MAX_AGE, &cors.preflight_max_age_seconds.to_string());
    set(answer, header::ACCESS_CONTROL_ALLOW_METHODS, &cors.allow_methods.join(", "));
    set(answer, header::ACCESS_CONTROL_ALLOW_HEADERS, &cors.allow_headers.join(", "));
    true
}

/// Adds what an allowed origin may know. False: the origin is refused. A request without one is no cross-origin
/// request.
pub(super) fn admit(cors: &Cors, parts: &Parts, answer: &mut Answer) -> bool {
    answer.headers.append(header::VARY, HeaderValue::from_static("Origin"));
    let origin = first(parts, header::ORIGIN);
    if origin.is_empty() {
        return true;
    }
    if !cors.allows_origin(origin) {
        return false;
    }
    allow_origin(cors, parts, answer);
    if !cors.expose_headers.is_empty() {
        set(answer, header::ACCESS_CONTROL_EXPOSE_HEADERS, &cors.expose_headers.join(", "));
    }
    true
}

fn allow_origin(cors: &Cors, parts: &Parts, answer: &mut Answer) {
    if let Some(origin) = parts.headers.get(header::ORIGIN) {
        answer.headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    }
    if cors.allow_credentials {
        answer.headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
}

fn set(answer: &mut Answer, name: header::HeaderName, value: &str) {
    // A configured text that is no header value would have to hold control bytes: it is left out.
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers.insert(name, value);
    }
}
