//! What is served while a handler cannot be: why, as text or as a page, on the socket that the handler will have.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::task::JoinHandle;

use crate::config::Level;
use crate::fields;
use crate::logging::{Logger, format};
use crate::net::{Activity, Limits, Listener, Phase, Server};
use crate::shutdown::Shutdown;

/// Limits of a server for one person.
const LIMITS: Limits =
    Limits { head_bytes_max: 64 << 10, stall: Duration::from_secs(30), connections_max: 1024 };
/// Time for the last answers.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// Answers every request with a 500.
pub(super) struct Broken {
    shutdown: Shutdown,
    running: JoinHandle<()>,
}

impl Broken {
    /// Serves that text from now on, on the current runtime.
    ///
    /// # Errors
    /// There is no descriptor left.
    pub(super) fn serve(listener: &TcpListener, text: &str, logger: &Logger) -> std::io::Result<Self> {
        let (plain, page) = (Bytes::from(format!("{}\n", text.trim_end())), Bytes::from(page(text)));
        let logger = logger.child("http").child(format::REQUESTS);
        let log = logger.clone();
        let service = move |request: http::Request<Incoming>, activity: Arc<Activity>| {
            activity.set_phase(Phase::Service);
            let began = Instant::now();
            let as_page = prefers_html(request.headers());
            let answer = answer(if as_page { &page } else { &plain }, as_page);
            let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
            let fields = fields! {
                "method" => request.method().as_str(), "path" => target, "status" => 500,
                "milliseconds" => began.elapsed().as_secs_f64() * 1e3, "bytes" => if as_page { page.len() } else { plain.len() },
            };
            log.record(Level::Error, "Request", fields, None);
            activity.set_phase(Phase::Idle);
            std::future::ready(Ok(answer))
        };
        let server = Server::new(Listener::adopt(listener)?, LIMITS, logger, service)?;
        let shutdown = Shutdown::default();
        Ok(Self { running: tokio::spawn(server.run(shutdown.clone())), shutdown })
    }

    /// Ends; what has been asked is answered.
    pub(super) async fn stop(self) {
        self.shutdown.drain();
        self.shutdown.closing.cancel();
        let mut running = self.running;
        if tokio::time::timeout(LAST_ANSWERS, &mut running).await.is_err() {
            self.shutdown.kill.cancel();
            drop(running.await);
        }
    }
}

fn answer(body: &Bytes, as_page: bool) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(body.clone()));
    *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    let kind = if as_page { "text/html; charset=utf-8" } else { "text/plain; charset=utf-8" };
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // A body that is not read stands before the next request, and that is for the next start anyway.
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// Whether a client names HTML, as browsers do, and does not like plain text as well.
fn prefers_html(headers: &HeaderMap) -> bool {
    let weight = |wanted: &str| {
        let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let mut parts = accepted.flat_map(|value| value.split(','));
        let found = parts.find_map(|part| {
            let mut pieces = part.split(';').map(str::trim);
            let kind = pieces.next()?;
            let weight = pieces.find_map(|piece| piece.strip_prefix("q=")?.trim().parse::<f32>().ok());
            kind.eq_ignore_ascii_case(wanted).then_some(weight.unwrap_or(1.0))
        });
        found.unwrap_or(0.0)
    };
    weight("text/html") > weight("text/plain")
}

fn page(text: &str) -> String {
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Handler does not start</title>\n\
         <style>body{{font:16px/1.5 system-ui,sans-serif;margin:2rem;max-width:70rem}}pre{{background:#f4f4f4;color:#222;\
         padding:1rem;overflow:auto}}h1{{color:#b00020;font-size:1.3rem}}</style></head>\n\
         <body><h1>The handler does not start</h1>\n<p>{}</p>\n<pre>{}</pre>\n\
         <p>It starts by itself once its source has been corrected; then reload this page.</p></body></html>\n",
        escape(first),
        escape(rest.trim_end())
    )
}

fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_get_a_page_and_others_text() {
        for (accept, expected) in [
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", true),
            ("*/*", false),
            ("text/plain, text/html;q=0.5", false),
            ("text/plain;q=0.5, text/html;q=0.9", true),
            ("application/json", false),
            ("text/html;q=0", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            assert_eq!(prefers_html(&headers), expected, "{accept}");
        }
        assert!(!prefers_html(&HeaderMap::new()));
    }

    #[test]
    fn nothing_of_a_message_is_markup() {
        let page = page("File \"<string>\"\n<script>alert('&')</script>");
        assert!(
            !page.contains("<script>") && page.contains("&lt;script&gt;alert(&#39;&amp;&#39;)"),
            "{page}"
        );
    }
}
