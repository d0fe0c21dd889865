//! A trigger turns something that happened into events. It is a name and a future: it can only submit, and it ends
//! when told to.

pub mod http;

use std::pin::Pin;
use std::sync::Arc;

use crate::config;
use crate::dispatch::Dispatcher;
use crate::event::{BodyBudget, TriggerInfo};
use crate::link::Link;
use crate::logging::Logger;
use crate::shutdown::Shutdown;

/// A trigger that has bound what it needs and serves once its task is polled.
pub struct Trigger {
    /// Kind and name.
    pub info: Arc<TriggerInfo>,
    /// Lasts until the shutdown closes it and it owes nothing.
    pub task: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// What a trigger is given.
pub struct TriggerContext {
    /// Kind and name.
    pub info: Arc<TriggerInfo>,
    /// The way to workers.
    pub events: Dispatcher,
    /// Bounds the bytes of bodies held at once.
    pub bodies: BodyBudget,
    /// When to end.
    pub shutdown: Shutdown,
    /// Where a trigger that depends on something else, a broker for example, says that it is cut off from it: then
    /// the processor is not ready.
    pub link: Link,
    /// For what happens.
    pub logger: Logger,
}

/// Why a trigger cannot start.
#[derive(Debug, thiserror::Error)]
pub enum TriggerError {
    /// Its address cannot be bound.
    #[error("cannot listen on {address} for trigger {trigger}: {error}; free the port or change `url`")]
    Bind {
        /// Its name.
        trigger: String,
        /// What it wanted.
        address: String,
        /// Why not.
        error: std::io::Error,
    },
    /// This build does not serve its kind.
    #[error("trigger {trigger} is of kind {kind}, which this build cannot serve yet; it serves http")]
    Unsupported {
        /// Its name.
        trigger: String,
        /// Its kind.
        kind: String,
    },
    /// This build does not serve a setting.
    #[error("trigger {trigger}: {setting} cannot be served by this build yet; remove it")]
    Setting {
        /// Its name.
        trigger: String,
        /// The key.
        setting: &'static str,
    },
}

/// Refuses what this build cannot serve, before anything is started.
///
/// # Errors
/// Names the trigger and what cannot be served.
pub fn check(config: &config::Trigger) -> Result<(), TriggerError> {
    let trigger = config.name.clone();
    match &config.kind {
        config::TriggerKind::Http(http) if http.batch.is_some() => {
            Err(TriggerError::Setting { trigger, setting: "batch" })
        }
        config::TriggerKind::Http(_) => Ok(()),
        config::TriggerKind::Unsupported(kind) => {
            Err(TriggerError::Unsupported { trigger, kind: kind.clone() })
        }
    }
}

/// Binds what the trigger needs; serves nothing yet. Call it inside the runtime that will serve.
///
/// # Errors
/// See [`TriggerError`].
pub fn build(config: &config::Trigger, cx: TriggerContext) -> Result<Trigger, TriggerError> {
    check(config)?;
    match &config.kind {
        config::TriggerKind::Http(http) => http::build(http, cx),
        config::TriggerKind::Unsupported(kind) => {
            Err(TriggerError::Unsupported { trigger: config.name.clone(), kind: kind.clone() })
        }
    }
}
