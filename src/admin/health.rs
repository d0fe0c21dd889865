//! `/ready` and `/live`, byte for byte as probes in the field know them; `?verbose=1` adds the reasons.

use http::{Method, StatusCode, Uri};
use serde_json::json;

use super::readiness::{Readiness, Verdict};
use super::{Page, not_found, refusal};

const JSON: &str = "application/json; charset=utf-8";

pub(super) fn page(method: &Method, uri: &Uri, readiness: &Readiness) -> Page {
    let (key, ok) = match uri.path() {
        "/ready" => ("ready", readiness.ready()),
        "/live" => ("live", readiness.live()),
        _ => return not_found(),
    };
    if method != Method::GET {
        return refusal(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
    }
    let asks = |name: &str| uri.query().unwrap_or_default().split('&').any(|pair| pair == name);
    // The reasons decide, so that they and the status cannot differ.
    let (ok, body) = if asks("verbose=1") {
        verbose(key, readiness)
    } else if asks("full=1") {
        (ok, full(key, ok, readiness.live()))
    } else {
        (ok, "{}\n".to_owned())
    };
    super::page(if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, JSON, body)
}

/// The probe of a function without an HTTP trigger; that path exactly, any method.
pub(super) fn internal(path: &str, readiness: &Readiness) -> Page {
    if path != "/__internal/health" {
        return not_found();
    }
    let (status, text) =
        if readiness.ready() { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "") };
    super::page(status, "text/plain; charset=utf-8", text)
}

fn verbose(key: &str, readiness: &Readiness) -> (bool, String) {
    let verdict = match key {
        "ready" => readiness.verdict(),
        _ => Verdict { reasons: readiness.dead_reasons(), degraded: Vec::new() },
    };
    let ok = verdict.reasons.is_empty();
    let mut body = json!({key: ok, "reasons": verdict.reasons});
    if !verdict.degraded.is_empty() {
        body["degraded"] = json!(verdict.degraded);
    }
    (ok, format!("{body}\n"))
}

fn full(key: &str, ok: bool, live: bool) -> String {
    let check =
        |name: &str, ok: bool, wrong: &str| format!("    \"{name}\": \"{}\"", if ok { "OK" } else { wrong });
    let live = check("processor_liveness", live, "Processor cannot heal itself");
    match key {
        "ready" => {
            format!("{{\n{live},\n{}\n}}\n", check("processor_readiness", ok, "Processor not ready yet"))
        }
        _ => format!("{{\n{live}\n}}\n"),
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::shutdown::Shutdown;

    async fn check(readiness: &Readiness, method: Method, target: &str, status: u16, body: &str) {
        let answer = page(&method, &target.parse().unwrap(), readiness);
        assert_eq!(answer.status(), status, "{target}");
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(bytes, body, "{target}");
    }

    #[tokio::test]
    async fn bodies_are_those_of_the_reference() {
        let readiness = Readiness::new(Shutdown::default());
        check(&readiness, Method::GET, "/live", 200, "{}\n").await;
        check(&readiness, Method::GET, "/ready", 503, "{}\n").await;
        let not_yet = "{\n    \"processor_liveness\": \"OK\",\n    \"processor_readiness\": \"Processor not ready yet\"\n}\n";
        check(&readiness, Method::GET, "/ready?full=1", 503, not_yet).await;
        readiness.started();
        check(&readiness, Method::GET, "/ready", 200, "{}\n").await;
        check(&readiness, Method::GET, "/live?full=1", 200, "{\n    \"processor_liveness\": \"OK\"\n}\n")
            .await;
        check(&readiness, Method::HEAD, "/ready", 405, "method not allowed\n").await;
        check(&readiness, Method::GET, "/ready/", 404, "404 page not found\n").await;
    }

    #[tokio::test]
    async fn verbose_names_the_reasons() {
        let shutdown = Shutdown::default();
        let readiness = Readiness::new(shutdown.clone());
        readiness.started();
        check(&readiness, Method::GET, "/ready?verbose=1", 200, "{\"ready\":true,\"reasons\":[]}\n").await;
        shutdown.drain();
        assert_eq!(readiness.verdict().reasons[0].code, "draining");
        assert!(!readiness.ready());
        assert!(readiness.live());
    }
}
