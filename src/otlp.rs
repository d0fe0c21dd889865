//! Takes ended spans to an OpenTelemetry collector, by OTLP over HTTP. A thread of its own, so that a collector that is
//! slow or gone costs events nothing: their spans wait in a bounded queue, then they are dropped and counted.
//!
//! The messages are those of `opentelemetry-proto`. The SDK is not used: its spans, samplers and batches come with
//! locks on the path of events, read the environment on their own, and its exporter wants an HTTP client of its own.

mod encode;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Export};
use crate::fields;
use crate::logging::Logger;
use crate::trace::Tracer;
use crate::trace::span::{self, Ended, Span, SpanCounters};
use encode::Encoder;

/// How often a batch is sent before it is given up.
const ATTEMPTS: u32 = 5;
/// Wait before the second attempt; it doubles.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Longest wait between two attempts, whatever the collector asks for.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Time between two lines about a collector that does not take spans.
const WARN_EVERY: Duration = Duration::from_secs(300);
/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Bytes of a complaint that are logged.
const COMPLAINT_BYTES_MAX: usize = 300;

/// Makes traces, and sends their spans if they go anywhere.
pub struct Otlp {
    tracer: Arc<Tracer>,
    sender: Option<Sender>,
}

struct Sender {
    counters: Arc<SpanCounters>,
    stop: CancellationToken,
    ended: Option<oneshot::Receiver<()>>,
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.stop.cancel(); // A start that failed leaves no thread behind.
    }
}

impl Otlp {
    /// Starts the thread that sends, where there is an address to send to. `None`: tracing is off.
    ///
    /// # Errors
    /// The thread or its runtime cannot be started.
    pub fn start(config: &Config, logger: &Logger) -> io::Result<Option<Self>> {
        let Some(tracing) = &config.env.tracing else { return Ok(None) };
        let Some(export) = &tracing.export else {
            let tracer = Arc::new(Tracer::new(tracing.sampler, None));
            return Ok(Some(Self { tracer, sender: None }));
        };
        let (spans, ended) = span::queue(export.queue_max, export.batch_max);
        let counters = spans.counters().clone();
        let stop = CancellationToken::new();
        let exporter = Exporter {
            uri: export.url.parse().map_err(io::Error::other)?,
            headers: headers(export, logger),
            export: export.clone(),
            encoder: Encoder::new(config, tracing),
            ended,
            stop: stop.clone(),
            client: None,
            trouble: None,
            warned: None,
            logger: logger.clone(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (end, ended) = oneshot::channel();
        std::thread::Builder::new().name("otlp".into()).stack_size(512 << 10).spawn(move || {
            runtime.block_on(exporter.run());
            drop(end);
        })?;
        let tracer = Arc::new(Tracer::new(tracing.sampler, Some(spans)));
        Ok(Some(Self { tracer, sender: Some(Sender { counters, stop, ended: Some(ended) }) }))
    }

    /// For triggers.
    pub fn tracer(&self) -> &Arc<Tracer> {
        &self.tracer
    }

    /// What became of spans; `None`: they go nowhere.
    pub fn counters(&self) -> Option<&Arc<SpanCounters>> {
        self.sender.as_ref().map(|sender| &sender.counters)
    }

    /// Sends what waits, once, then ends the thread; waits at most `limit`.
    pub async fn stop(&mut self, limit: Duration) {
        let Some(sender) = &mut self.sender else { return };
        sender.stop.cancel();
        if let Some(ended) = sender.ended.take() {
            drop(tokio::time::timeout(limit, ended).await);
        }
    }
}

/// Those of the configuration; what cannot be a header is left out with a warning.
fn headers(export: &Export, logger: &Logger) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in &export.headers {
        match (HeaderName::try_from(name.as_str()), HeaderValue::try_from(value.as_str())) {
            (Ok(name), Ok(value)) => drop(headers.insert(name, value)),
            _ => {
                let fields = fields! {"header" => name};
                logger.warn("Left out a header of OTEL_EXPORTER_OTLP_HEADERS that cannot be sent", fields);
            }
        }
    }
    headers
}

struct Exporter {
    uri: Uri,
    headers: HeaderMap,
    export: Export,
    encoder: Encoder,
    ended: Ended,
    stop: CancellationToken,
    client: Option<SendRequest<Full<Bytes>>>,
    /// Since when the collector has not taken spans.
    trouble: Option<Instant>,
    warned: Option<Instant>,
    logger: Logger,
}

/// Why a batch was not taken.
struct Refusal {
    error: anyhow::Error,
    /// Sending it again may help.
    again: bool,
    /// The collector asks for this wait.
    wait: Option<Duration>,
}

impl<E: Into<anyhow::Error>> From<E> for Refusal {
    /// Of the connection: it may be better next time.
    fn from(error: E) -> Self {
        Self { error: error.into(), again: true, wait: None }
    }
}

impl Exporter {
    async fn run(mut self) {
        let mut stopping = false;
        while !stopping {
            tokio::select! {
                () = self.stop.cancelled() => stopping = true,
                () = self.ended.batch_ready() => {}
                () = tokio::time::sleep(self.export.delay) => {}
            }
            loop {
                let batch: Vec<Span> =
                    std::iter::from_fn(|| self.ended.take()).take(self.export.batch_max).collect();
                if batch.is_empty() {
                    break;
                }
                self.send(&batch).await;
                stopping |= self.stop.is_cancelled();
                if !stopping && !self.ended.has_batch() {
                    break; // The rest waits for more.
                }
            }
        }
    }

    /// Sends a batch, several times if need be; what is not taken is counted.
    async fn send(&mut self, batch: &[Span]) {
        let body = Bytes::from(self.encoder.request(batch));
        let mut wait = FIRST_WAIT;
        for attempt in 1.. {
            let once = tokio::time::timeout(self.export.timeout, self.once(body.clone())).await;
            let refusal = match once {
                Ok(Ok(rejected)) => return self.taken(batch.len() as u64, rejected),
                Ok(Err(refusal)) => refusal,
                Err(_) => anyhow::anyhow!("no answer within {:?}", self.export.timeout).into(),
            };
            self.client = None;
            self.warn(&refusal.error);
            if !refusal.again || attempt == ATTEMPTS || self.stop.is_cancelled() {
                break;
            }
            let pause = refusal.wait.unwrap_or(wait).min(WAIT_MAX).mul_f64(0.8 + 0.4 * fastrand::f64());
            wait *= 2;
            // Once more at the end, without a wait.
            drop(tokio::time::timeout(pause, self.stop.cancelled()).await);
        }
        self.ended.counters().failed.fetch_add(batch.len() as u64, Relaxed);
    }

    fn taken(&mut self, spans: u64, rejected: u64) {
        let counters = self.ended.counters();
        let rejected = rejected.min(spans);
        counters.exported.fetch_add(spans - rejected, Relaxed);
        counters.failed.fetch_add(rejected, Relaxed);
        let lost = counters.failed.load(Relaxed) + counters.dropped.load(Relaxed);
        if let Some(since) = self.trouble.take() {
            let fields = fields! {"lost" => lost, "seconds" => since.elapsed().as_secs()};
            self.logger.info("Spans are exported again", fields);
        }
    }

    /// Says so, once and then rarely.
    fn warn(&mut self, error: &anyhow::Error) {
        self.trouble.get_or_insert_with(Instant::now);
        if self.warned.is_some_and(|before| before.elapsed() < WARN_EVERY) {
            return;
        }
        self.warned = Some(Instant::now());
        let counters = self.ended.counters();
        let lost = counters.failed.load(Relaxed) + counters.dropped.load(Relaxed);
        let fields =
            fields! {"url" => self.export.shown_url(), "err" => format!("{error:#}"), "lost" => lost};
        self.logger.warn("Failed to export spans; check OTEL_EXPORTER_OTLP_ENDPOINT", fields);
    }

    /// One request; how many of its spans were rejected.
    async fn once(&mut self, body: Bytes) -> Result<u64, Refusal> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(self.uri.path_and_query().map_or("/", |target| target.as_str()))
            .header(header::HOST, self.uri.authority().map_or("", |authority| authority.as_str()))
            .header(header::CONTENT_TYPE, "application/x-protobuf")
            .header(header::USER_AGENT, concat!("nuclio-processor/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(body))?;
        request.headers_mut().extend(self.headers.clone());
        let client = self.connected().await?;
        let answer = client.send_request(request).await?;
        read(answer).await
    }

    /// The connection of last time, if it still stands.
    async fn connected(&mut self) -> Result<&mut SendRequest<Full<Bytes>>, Refusal> {
        let usable = match &mut self.client {
            Some(client) => client.ready().await.is_ok(),
            None => false,
        };
        if !usable {
            let host = self.uri.host().unwrap_or_default().trim_matches(['[', ']']);
            let stream = TcpStream::connect((host, self.uri.port_u16().unwrap_or(80))).await?;
            let (client, connection) = http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            self.client = Some(client);
        }
        self.client.as_mut().ok_or_else(|| anyhow::anyhow!("no connection").into())
    }
}

async fn read(answer: Response<Incoming>) -> Result<u64, Refusal> {
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(anyhow::Error::from_boxed)?;
    let body = body.to_bytes();
    if head.status.is_success() {
        // A collector that says nothing has taken all.
        let answer = ExportTraceServiceResponse::decode(body).unwrap_or_default();
        let rejected = answer.partial_success.map_or(0, |partial| partial.rejected_spans);
        return Ok(u64::try_from(rejected).unwrap_or(0));
    }
    let again = matches!(
        head.status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    );
    let wait = head.headers.get(header::RETRY_AFTER);
    let wait = wait.and_then(|value| value.to_str().ok()?.trim().parse().ok()).map(Duration::from_secs);
    let complaint = String::from_utf8_lossy(&body[..body.len().min(COMPLAINT_BYTES_MAX)]);
    let error = anyhow::anyhow!("the collector answered {}: {}", head.status, complaint.trim());
    Err(Refusal { error, again, wait })
}
