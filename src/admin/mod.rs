//! The side servers: health, web admin, metrics. They live on a thread and a runtime of their own, so that they
//! answer however busy the events' threads are, and they never wait for a worker.

mod health;
mod metrics;
mod push;
pub mod readiness;
mod webadmin;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio_util::task::TaskTracker;

use crate::logging::Logger;
use crate::net::{Activity, Limits, Phase, Server, bind};
use crate::shutdown::Shutdown;
pub use push::Push;
use readiness::Readiness;
pub use webadmin::TriggerView;

use crate::metrics::text::Exposition;

/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Time for a head, and longest time without progress.
const STALL: Duration = Duration::from_secs(30);
/// Connections of one server at once: descriptors are the events'.
const CONNECTIONS_MAX: usize = 1024;

/// Time for the last push of metrics.
const LAST_PUSH: Duration = Duration::from_secs(1);

type Page = Response<Full<Bytes>>;

/// What a side server shows.
#[derive(Clone)]
enum Service {
    Health(Arc<Readiness>),
    /// What the HTTP trigger answers to probes, where there is none.
    InternalHealth(Arc<Readiness>),
    WebAdmin(Arc<Vec<TriggerView>>),
    Metrics(Arc<Exposition>, Arc<str>),
}

/// Starts side servers on their thread.
pub struct Admin {
    runtime: tokio::runtime::Handle,
    shutdown: Shutdown,
    pushes: TaskTracker,
    logger: Logger,
}

impl Admin {
    /// Starts the thread. Its servers close when `shutdown` says kill: probes are answered until the very end.
    ///
    /// # Errors
    /// The thread or its runtime cannot be started.
    pub fn start(logger: Logger) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let shutdown = Shutdown::default();
        let end = shutdown.kill.clone();
        let thread = std::thread::Builder::new().name("admin".into()).stack_size(512 << 10);
        thread.spawn(move || runtime.block_on(end.cancelled()))?;
        Ok(Self { runtime: handle, shutdown, pushes: TaskTracker::new(), logger })
    }

    /// `/ready` and `/live`.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn health(&self, address: &str, readiness: Arc<Readiness>) -> io::Result<()> {
        self.serve(address, Service::Health(readiness))
    }

    /// `/__internal/health`, in the place of an HTTP trigger.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn internal_health(&self, address: &str, readiness: Arc<Readiness>) -> io::Result<()> {
        self.serve(address, Service::InternalHealth(readiness))
    }

    /// `/triggers`.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn web_admin(&self, address: &str, triggers: Vec<TriggerView>) -> io::Result<()> {
        self.serve(address, Service::WebAdmin(Arc::new(triggers)))
    }

    /// `/metrics`.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn metrics(&self, address: &str, exposition: Arc<Exposition>, instance: &str) -> io::Result<()> {
        self.serve(address, Service::Metrics(exposition, Arc::from(instance)))
    }

    fn serve(&self, address: &str, service: Service) -> io::Result<()> {
        let listener = bind(address)?;
        let _entered = self.runtime.enter();
        let limits =
            Limits { head_bytes_max: HEAD_BYTES_MAX, stall: STALL, connections_max: CONNECTIONS_MAX };
        let answer = move |request: http::Request<Incoming>, activity: Arc<Activity>| {
            activity.set_phase(Phase::Service);
            let page = service.page(&request);
            activity.set_phase(Phase::Idle);
            std::future::ready(Ok(page))
        };
        let server = Server::new(listener, limits, self.logger.clone(), answer)?;
        self.runtime.spawn(server.run(self.shutdown.clone()));
        Ok(())
    }

    /// Pushes metrics from now on.
    pub fn push(&self, push: Push, exposition: Arc<Exposition>) {
        let pushing = push::run(push, exposition, self.logger.clone(), self.shutdown.draining.clone());
        self.pushes.spawn_on(pushing, &self.runtime);
    }

    /// Pushes metrics once more, then ends the thread.
    pub async fn stop(&self) {
        self.shutdown.drain();
        self.pushes.close();
        drop(tokio::time::timeout(LAST_PUSH, self.pushes.wait()).await);
        self.shutdown.kill.cancel();
    }
}

impl Service {
    fn page(&self, request: &http::Request<Incoming>) -> Page {
        let (method, uri) = (request.method(), request.uri());
        match self {
            Self::Health(readiness) => health::page(method, uri, readiness),
            Self::InternalHealth(readiness) => health::internal(uri.path(), readiness),
            Self::WebAdmin(triggers) => webadmin::page(method, uri.path(), triggers),
            Self::Metrics(exposition, instance) => metrics::page(uri.path(), exposition, instance),
        }
    }
}

fn page(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Page {
    let mut page = Response::new(Full::new(body.into()));
    *page.status_mut() = status;
    if !content_type.is_empty() {
        page.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    page
}

/// A refusal in the words of the reference's HTTP library.
fn refusal(status: StatusCode, text: &'static str) -> Page {
    let mut page = page(status, "text/plain; charset=utf-8", text);
    page.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    page
}

fn not_found() -> Page {
    refusal(StatusCode::NOT_FOUND, "404 page not found\n")
}
