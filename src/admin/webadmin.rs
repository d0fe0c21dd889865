//! `/triggers`: what runs, without secrets. Nothing here changes anything.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use http::{HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};

use super::{Page, not_found};
use crate::config::percent;
use crate::metrics::{PoolCounters, TriggerCounters};
use crate::pool::status::Status;

/// One trigger as the web admin shows it.
pub struct TriggerView {
    /// Its id.
    pub name: String,
    /// Its configuration, secrets blanked.
    pub configuration: Value,
    /// Its counters.
    pub counters: Arc<TriggerCounters>,
    /// Its pool's.
    pub pool: Arc<PoolCounters>,
    /// Its workers' states.
    pub status: Arc<Status>,
}

const JSON: &str = "application/json";

pub(super) fn page(method: &Method, path: &str, triggers: &[TriggerView]) -> Page {
    let mut parts = path.trim_end_matches('/').split('/').skip(1);
    let route = (parts.next(), parts.next(), parts.next(), parts.next());
    if !matches!(route, (Some("triggers"), _, None | Some("stats"), None)) {
        return not_found();
    }
    if method != Method::GET {
        let mut page = super::page(StatusCode::METHOD_NOT_ALLOWED, "", "");
        page.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
        return page;
    }
    let Some(name) = route.1.map(decoded) else {
        let all: serde_json::Map<String, Value> =
            triggers.iter().map(|trigger| (trigger.name.clone(), trigger.configuration.clone())).collect();
        return json_page(&Value::Object(all));
    };
    match (triggers.iter().find(|trigger| trigger.name == name), route.2) {
        (None, _) => super::page(StatusCode::NOT_FOUND, JSON, ""),
        (Some(trigger), None) => json_page(&trigger.configuration),
        (Some(trigger), Some(_)) => json_page(&trigger.stats()),
    }
}

/// A trigger's id as it stands in a path: blanks and other signs may be escaped.
fn decoded(id: &str) -> String {
    String::from_utf8_lossy(&percent::decode(id.as_bytes(), false)).into_owned()
}

fn json_page(value: &Value) -> Page {
    super::page(StatusCode::OK, JSON, format!("{value}\n"))
}

impl TriggerView {
    fn stats(&self) -> Value {
        let workers: Vec<Value> = self
            .status
            .workers()
            .into_iter()
            .zip(&self.pool.workers)
            .enumerate()
            .map(|(id, (worker, counters))| {
                let (restarts, events) = (counters.restarts.load(Relaxed), counters.events.load(Relaxed));
                json!({"id": id, "state": worker.state.word(), "restarts": restarts, "events": events})
            })
            .collect();
        let (success, failure) = (self.counters.success(), self.counters.failure.load(Relaxed));
        json!({"stats": {"success": success, "failure": failure, "workers": workers}})
    }
}
