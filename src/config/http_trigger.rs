//! Settings particular to a trigger of kind `http`.

use std::time::Duration;

use serde::Deserialize;

use super::error::Problem;
use super::ignored::Ignored;
#[cfg(test)]
use super::schema::generate;
use super::source::Source;
use super::trigger::{TriggerFile, TriggerSource, with_defaults};
use super::{Batch, Cors, HttpTrigger, RuntimeKind, SeveralFor, Trigger, TriggerKind};

/// Address when nothing is said: every one of this host.
pub(super) const DEFAULT_LISTEN: &str = ":8080";
const HEAD_BYTES_MAX: usize = 16_384;
/// compat: a negative `readBufferSize` gave the HTTP library's own default.
const HEAD_BYTES_MAX_WHEN_NEGATIVE: usize = 4_096;
const BODY_BYTES_MAX: usize = 4_194_304;
const BATCH_SIZE: usize = 10;
/// Most events of a batch; each costs memory, and a shim's ids are not without end.
const BATCH_SIZE_MAX: usize = 10_000;
const BATCH_TIMEOUT: Duration = Duration::from_secs(1);
const CONNECTIONS_PER_WORKER: usize = 1000;
/// Events in flight per worker of a handler that is async by itself, where no mode is set.
const ASYNC_HANDLER_IN_FLIGHT: usize = 100;
const CONNECTIONS_PER_WORKER_MAX: i64 = 100_000;
/// The kernel's limit, less what the name that a socket file is made under is longer.
const SOCKET_PATH_BYTES_MAX: usize = 100;
const PREFLIGHT_MAX_AGE_SECONDS: i64 = 5;
const CORS_METHODS: [&str; 7] = ["HEAD", "GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"];
const CORS_HEADERS: [&str; 5] =
    ["Accept", "Content-Length", "Content-Type", "Authorization", "X-Nuclio-Log-Level"];

/// `attributes` of an `http` trigger.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "HttpAttributes"))]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Attributes {
    /// Most bytes of request line and headers. 0: the default; negative: 4096.
    #[cfg_attr(test, schemars(extend("default" = 16_384)))]
    read_buffer_size: i64,
    /// Most bytes of a request's body. 0 and negative: the default; there is no "unlimited".
    #[cfg_attr(test, schemars(extend("default" = 4_194_304)))]
    max_request_body_size: i64,
    /// Accepted, without effect: buffers are given back in any case.
    reduce_memory_usage: bool,
    /// Cross-origin rules for browsers.
    cors: CorsFile,
    /// How callers prove who they are, at the platform's gateway.
    _authentication: Ignored,
    /// How callers prove who they are, at the platform's gateway.
    _authentication_mode: Ignored,
    /// The platform publishes no port.
    _disable_port_publishing: Ignored,
    /// Ways from outside into the cluster.
    _ingresses: Ignored,
    /// Stored by the Go processor, without effect.
    _mode: Ignored,
    /// Port that the platform publishes.
    _port: Ignored,
    /// Kind of the Kubernetes service.
    _service_type: Ignored,
    /// How often newer releases of the Go processor flush streams.
    _streaming_flush_period: Ignored,
}

/// `cors` of an `http` trigger. An empty list means the default, never "none".
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Cors"))]
#[serde(default, rename_all = "camelCase")]
struct CorsFile {
    /// Requests from other origins are answered by these rules.
    enabled: bool,
    /// Origins that may ask; `*` allows all.
    #[cfg_attr(test, schemars(extend("default" = ["*"])))]
    allow_origins: Vec<String>,
    /// Methods that may be used.
    #[cfg_attr(test, schemars(extend("default" = CORS_METHODS)))]
    allow_methods: Vec<String>,
    /// Request headers that may be sent.
    #[cfg_attr(test, schemars(extend("default" = CORS_HEADERS)))]
    allow_headers: Vec<String>,
    /// Cookies and the like may be sent.
    allow_credentials: bool,
    /// Headers of answers that scripts may read.
    expose_headers: Vec<String>,
    /// How long browsers may keep the answer to a preflight, seconds. Any integer.
    #[cfg_attr(test, schemars(extend("default" = 5)))]
    preflight_max_age_seconds: Option<i64>,
    /// The method is always `OPTIONS`.
    // compat: decoded and without effect.
    _preflight_request_method: Ignored,
}

/// `batch` of a trigger.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Batch"))]
#[serde(default, rename_all = "camelCase")]
pub(super) struct BatchFile {
    /// `enable` gathers events; anything else does not.
    #[cfg_attr(test, schemars(extend("enum" = ["enable", "disable"], "default" = "disable")))]
    mode: String,
    /// Most events in a batch. 0: the default; more than 10 000: 10 000.
    #[cfg_attr(test, schemars(range(min = 0, max = BATCH_SIZE_MAX), extend("default" = 10)))]
    batch_size: i64,
    /// Longest time the first event of a batch waits for more, as Go duration.
    #[cfg_attr(test, schemars(schema_with = "generate::duration", extend("default" = "1s")))]
    timeout: String,
}

/// `async` of a trigger.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Async"))]
#[serde(default, rename_all = "camelCase")]
pub(super) struct AsyncFile {
    /// Most events that a worker handles at once. 0: the default.
    #[cfg_attr(test, schemars(range(min = 0, max = 100_000), extend("default" = 1000)))]
    max_connections_number: i64,
    /// Connections that the Go processor opens at start; must not be above the maximum.
    min_connections_number: i64,
    /// When the Go processor opens connections.
    _connection_creation_mode: Ignored,
    /// Wait for a free connection in the Go processor, as Go duration; checked and without effect.
    #[cfg_attr(test, schemars(schema_with = "generate::duration"))]
    connection_availability_timeout: String,
    /// Wait for a connection in the Go processor, as Go duration; checked and without effect.
    #[cfg_attr(test, schemars(schema_with = "generate::duration"))]
    establish_connection_timeout: String,
}

impl BatchFile {
    /// compat: any other mode is off.
    pub(super) fn is_enabled(&self) -> bool {
        self.mode == "enable"
    }
}

/// Resolves what stands in the file.
pub(super) fn resolve(
    file: &TriggerFile,
    place: &TriggerSource<'_>,
    runtime: RuntimeKind,
    source: &mut Source,
) -> Result<HttpTrigger, Box<Problem>> {
    let attributes: Attributes = place.attributes(source)?;
    let (in_flight_per_worker, several_for) = in_flight(file, place, runtime, source)?;
    Ok(HttpTrigger {
        listen: listen(file, place, source)?,
        head_bytes_max: limit(attributes.read_buffer_size, HEAD_BYTES_MAX, HEAD_BYTES_MAX_WHEN_NEGATIVE),
        body_bytes_max: limit(attributes.max_request_body_size, BODY_BYTES_MAX, BODY_BYTES_MAX),
        reduce_memory: attributes.reduce_memory_usage,
        cors: attributes.cors.enabled.then(|| attributes.cors.resolve()),
        batch: batch(&file.batch, place, runtime, source)?,
        in_flight_per_worker,
        several_for,
        request_records: false,
        adopted: None,
    })
}

/// An HTTP trigger about which only address and workers are said.
pub(super) fn plain(name: &str, listen: &str, workers: usize, runtime: RuntimeKind) -> Trigger {
    let (in_flight_per_worker, several_for) = in_flight_by_handler(runtime);
    let http = HttpTrigger {
        listen: listen.to_owned(),
        head_bytes_max: HEAD_BYTES_MAX,
        body_bytes_max: BODY_BYTES_MAX,
        reduce_memory: false,
        cors: None,
        batch: None,
        in_flight_per_worker,
        several_for,
        request_records: false,
        adopted: None,
    };
    with_defaults(name, workers, TriggerKind::Http(http))
}

/// compat: zero is the default too; there is no "unlimited".
fn limit(value: i64, default: usize, when_negative: usize) -> usize {
    match usize::try_from(value) {
        Err(_) => when_negative,
        Ok(0) => default,
        Ok(bytes) => bytes,
    }
}

fn listen(file: &TriggerFile, place: &TriggerSource<'_>, source: &Source) -> Result<String, Box<Problem>> {
    if file.url.is_empty() {
        return Ok(DEFAULT_LISTEN.to_owned());
    }
    if let Some(path) = file.url.strip_prefix("unix:") {
        if path.starts_with('/') && path.len() <= SOCKET_PATH_BYTES_MAX && !path.contains('\0') {
            return Ok(file.url.clone());
        }
        let problem = place.place(source, "url").problem(format!("{path:?} is no file to listen on"));
        let remedy = format!("write unix: and an absolute path of at most {SOCKET_PATH_BYTES_MAX} bytes");
        return Err(problem.remedy(format!("{remedy}, for example unix:/run/function/http.sock")));
    }
    let port = file.url.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    if port.is_none() || file.url.contains('/') {
        let problem =
            place.place(source, "url").problem(format!("{:?} is no address to listen on", file.url));
        return Err(
            problem.remedy("write host:port, or :port for every address, or unix:/path, for example :8080")
        );
    }
    Ok(file.url.clone())
}

impl CorsFile {
    fn resolve(&self) -> Cors {
        // compat: an empty list means the default, never "none".
        let or = |given: &[String], default: &[&str]| {
            if given.is_empty() {
                default.iter().map(|text| (*text).to_owned()).collect()
            } else {
                given.to_vec()
            }
        };
        Cors {
            allow_origins: or(&self.allow_origins, &["*"]),
            allow_methods: or(&self.allow_methods, &CORS_METHODS),
            allow_headers: or(&self.allow_headers, &CORS_HEADERS),
            allow_credentials: self.allow_credentials,
            expose_headers: self.expose_headers.clone(),
            preflight_max_age_seconds: self.preflight_max_age_seconds.unwrap_or(PREFLIGHT_MAX_AGE_SECONDS),
        }
    }
}

fn batch(
    file: &BatchFile,
    place: &TriggerSource<'_>,
    runtime: RuntimeKind,
    source: &mut Source,
) -> Result<Option<Batch>, Box<Problem>> {
    if !file.is_enabled() {
        return Ok(None);
    }
    let size = usize::try_from(file.batch_size).map_err(|_| {
        let problem = place.place(source, "batch.batchSize").problem("Batch size should be 1 or higher");
        problem.remedy(format!("write a number of events, for example {BATCH_SIZE}"))
    })?;
    let mut size = if size == 0 { BATCH_SIZE } else { size };
    if size > BATCH_SIZE_MAX {
        let text = format!("a batch of {size} events is more than possible; it gets {BATCH_SIZE_MAX}");
        source.warn(&place.place(source, "batch.batchSize"), &text);
        size = BATCH_SIZE_MAX;
    }
    let timeout = batch_timeout(&file.timeout, place, source)?;
    // A handler library is asked by its table whether it takes batches, and answers 501 if not.
    if !matches!(runtime, RuntimeKind::Python | RuntimeKind::Golang) {
        let text = "only python functions answer batches; batching is off";
        source.warn(&place.place(source, "batch"), text);
        return Ok(None);
    }
    Ok(Some(Batch { size, timeout }))
}

fn batch_timeout(text: &str, place: &TriggerSource<'_>, source: &Source) -> Result<Duration, Box<Problem>> {
    if text.is_empty() {
        return Ok(BATCH_TIMEOUT);
    }
    let place = place.place(source, "batch.timeout");
    let timeout = place.duration(text).ok().and_then(super::duration::GoDuration::to_std);
    timeout.ok_or_else(|| {
        let problem = place.problem(format!("Could not parse batch timeout: {text}"));
        problem.remedy("write a number with a unit, for example 1s or 250ms")
    })
}

/// Events in flight per worker where nothing is said, and which handlers get as many.
fn in_flight_by_handler(runtime: RuntimeKind) -> (usize, SeveralFor) {
    match runtime {
        RuntimeKind::NodeJs => (ASYNC_HANDLER_IN_FLIGHT, SeveralFor::Async),
        RuntimeKind::Python => (CONNECTIONS_PER_WORKER, SeveralFor::Applications),
        _ => (1, SeveralFor::Any),
    }
}

/// Events in flight per worker, and which handlers get as many.
fn in_flight(
    file: &TriggerFile,
    place: &TriggerSource<'_>,
    runtime: RuntimeKind,
    source: &mut Source,
) -> Result<(usize, SeveralFor), Box<Problem>> {
    match file.mode.as_str() {
        "async" if matches!(runtime, RuntimeKind::Python | RuntimeKind::NodeJs | RuntimeKind::DotNetCore) => {
            Ok((connections(&file.async_mode, place, source)?, SeveralFor::Any))
        }
        "async" => {
            let problem = place.place(source, "mode");
            let problem = problem.problem(format!("the runtime {} has no async mode", runtime.name()));
            Err(problem.remedy("remove the key; only python, nodejs and dotnetcore have one"))
        }
        "" | "sync" => {
            if place.node().child("async").is_some() {
                let text = "AsyncConfig should be empty when working in `sync` trigger mode; ignored";
                source.warn(&place.place(source, "async"), text);
            }
            Ok(if file.mode.is_empty() { in_flight_by_handler(runtime) } else { (1, SeveralFor::Any) })
        }
        other => {
            let problem = place.place(source, "mode").problem(format!("unknown trigger mode {other:?}"));
            Err(problem.remedy("use sync or async"))
        }
    }
}

fn connections(file: &AsyncFile, place: &TriggerSource<'_>, source: &Source) -> Result<usize, Box<Problem>> {
    let timeouts = [
        ("async.connectionAvailabilityTimeout", &file.connection_availability_timeout),
        ("async.establishConnectionTimeout", &file.establish_connection_timeout),
    ];
    for (key, text) in timeouts {
        if !text.is_empty() {
            place.place(source, key).duration(text)?;
        }
    }
    let max = file.max_connections_number;
    let place = place.place(source, "async.maxConnectionsNumber");
    if !(0..=CONNECTIONS_PER_WORKER_MAX).contains(&max) {
        let problem = place.problem(format!("a worker cannot have {max} connections"));
        return Err(problem.remedy(format!("write a number from 1 to {CONNECTIONS_PER_WORKER_MAX}")));
    }
    let max = if max == 0 { CONNECTIONS_PER_WORKER } else { usize::try_from(max).unwrap_or(1) };
    if usize::try_from(file.min_connections_number).is_ok_and(|min| min > max) {
        let problem = place.problem(format!("it is smaller than minConnectionsNumber: {max}"));
        return Err(problem.remedy("make minConnectionsNumber smaller, or remove it"));
    }
    Ok(max)
}
