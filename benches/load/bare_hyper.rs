//! The yardstick: hyper on tokio with two threads and nothing of ours, answering with the same headers as we do.
//!
//! A request with a body is the harness testing itself: the body starts with microseconds to sleep and is echoed.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, SERVER};
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::handlers::leading_number;

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

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = if request.body().is_end_stream() {
        Bytes::from_static(b"hello")
    } else {
        sleep_and_echo(request.into_body()).await
    };
    let mut response = Response::new(Full::new(body));
    response.headers_mut().insert(SERVER, HeaderValue::from_static("nuclio"));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Ok(response)
}

async fn sleep_and_echo(body: Incoming) -> Bytes {
    let body = body.collect().await.map(|collected| collected.to_bytes()).unwrap_or_default();
    // The runtime's timer would round nothing up to a millisecond.
    match leading_number(&body) {
        0 => {}
        micros => tokio::time::sleep(Duration::from_micros(micros)).await,
    }
    body
}
