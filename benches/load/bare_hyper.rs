//! The yardstick: hyper on tokio with two threads and nothing of ours, answering with the same headers as we do.
//!
//! It does what `workload.rs` says of a path. A POST to `/` is the harness testing itself: its body starts with
//! microseconds to sleep, and is echoed.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, SERVER};
use http::{HeaderValue, Method, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustix::time::{ClockId, clock_gettime};
use tokio::net::TcpListener;

const THREADS: usize = 2;

/// Serves until killed.
pub(crate) fn serve(port: u16) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            // A connection that fails is the peer's affair.
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)));
        }
    })
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

async fn answer(request: Request<Incoming>) -> Result<Answer, Infallible> {
    let hello = || Full::new(Bytes::from_static(b"hello")).boxed();
    let body = match request.uri().path() {
        "/" if request.method() == Method::POST => Full::new(sleep_and_echo(request).await).boxed(),
        // In the pieces it came in: whoever joins them makes one copy more.
        "/echo" => request.into_body().collect().await.map_or_else(|_| hello(), BodyExt::boxed),
        "/detect" => Full::new(detect(&whole(request).await)).boxed(),
        "/stream" => Pieces(10).boxed(),
        path => {
            wait_or_burn(path).await;
            hello()
        }
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(SERVER, HeaderValue::from_static("nuclio"));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Ok(response)
}

async fn wait_or_burn(path: &str) {
    match path {
        "/cpu" => burn(Duration::from_micros(100)),
        "/sleep" => tokio::time::sleep(Duration::from_millis(10)).await,
        "/fanout" => {
            for _ in 0..4 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        _ => {}
    }
}

/// CPU time of this thread, as the handlers in C and Rust take it.
fn burn(length: Duration) {
    let end = cpu_time() + length;
    while cpu_time() < end {}
}

fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default())
}

fn detect(body: &[u8]) -> Bytes {
    let data: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let image = STANDARD.decode(data["image"].as_str().unwrap_or_default()).unwrap_or_default();
    burn(Duration::from_millis(20));
    if image.is_empty() { Bytes::from_static(b"no image") } else { Bytes::from_static(b"[]") }
}

async fn whole(request: Request<Incoming>) -> Bytes {
    request.into_body().collect().await.map(|collected| collected.to_bytes()).unwrap_or_default()
}

async fn sleep_and_echo(request: Request<Incoming>) -> Bytes {
    let body = whole(request).await;
    // The runtime's timer would round nothing up to a millisecond.
    match leading_number(&body) {
        0 => {}
        micros => tokio::time::sleep(Duration::from_micros(micros)).await,
    }
    body
}

/// The number that a body starts with, as `handlers/sleep.c` reads it.
fn leading_number(body: &[u8]) -> u64 {
    let digits = body.iter().take(9).take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
}

/// So many more pieces of 1 KiB.
struct Pieces(u32);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        static PIECE: [u8; 1024] = [b'x'; 1024];
        self.0 = match self.0.checked_sub(1) {
            Some(left) => left,
            None => return Poll::Ready(None),
        };
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&PIECE)))))
    }
}
