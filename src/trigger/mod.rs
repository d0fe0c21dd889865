//! A trigger turns something that happened into events. It is a name and a future: it can only submit, and it ends
//! when told to.

mod batch;
mod clock;
mod cron;
mod guard;
pub mod http;
mod kickstart;
mod template;

use std::io;
use std::pin::Pin;
use std::time::Duration;

use crate::config;
use crate::dispatch::Dispatcher;
use crate::event::{BodyBudget, TriggerInfo};
use crate::link::Link;
use crate::logging::Logger;
use crate::net;
use crate::shutdown::Shutdown;
pub use guard::guarded;

/// A trigger that has bound what it needs and serves once its task is polled.
pub struct Trigger {
    /// Kind and name.
    pub info: &'static TriggerInfo,
    /// Lasts until the shutdown closes it and it owes nothing.
    pub task: Task,
}

/// The future that serves a trigger.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a trigger is given.
pub struct TriggerContext {
    /// Kind and name.
    pub info: &'static TriggerInfo,
    /// The way to workers.
    pub events: Dispatcher,
    /// Longest time of an event with a worker.
    pub event_timeout: Option<Duration>,
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
    #[error(
        "cannot listen on {address} for trigger {trigger}: {error}; {} spec.triggers.{trigger}.url (with `dev`: --host, --port)",
        bind_remedy(error)
    )]
    Bind {
        /// Its name.
        trigger: String,
        /// What it wanted.
        address: String,
        /// Why not.
        error: io::Error,
    },
    /// Another trigger listens there.
    #[error(
        "triggers {first} and {second} cannot both listen: {first} on {first_address}, {second} on {second_address}; \
         change spec.triggers.{second}.url, or remove one of them"
    )]
    SameAddress {
        /// The trigger that gets the address.
        first: String,
        /// What it listens on.
        first_address: String,
        /// The other one.
        second: String,
        /// What it wants.
        second_address: String,
    },
    /// It wants the address of one of the platform's own servers.
    #[error(
        "trigger {trigger} cannot listen on {address}: {key} of platform.yaml has {taken}; change \
         spec.triggers.{trigger}.url or {key}"
    )]
    SideServerAddress {
        /// The trigger.
        trigger: String,
        /// What it wants.
        address: String,
        /// What gives the server its address.
        key: String,
        /// That address.
        taken: String,
    },
    /// This build does not serve its kind.
    #[error(
        "{place}: trigger {trigger} is of kind {kind}, which this build cannot serve yet; remove the trigger, or run \
         this function with the Go processor (served are {})",
        config::SERVED_KINDS.join(", ")
    )]
    Unsupported {
        /// Where its kind is written.
        place: String,
        /// Its name.
        trigger: String,
        /// Its kind.
        kind: String,
    },
}

fn unsupported(trigger: &str, kind: &str, place: &str) -> TriggerError {
    TriggerError::Unsupported { place: place.to_owned(), trigger: trigger.to_owned(), kind: kind.to_owned() }
}

/// What helps beside another address; the address's key follows.
fn bind_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "free the port or change",
        io::ErrorKind::NotFound => "make the socket's folder or change",
        io::ErrorKind::PermissionDenied => {
            "let the processor's user have it (ports below 1024 need a capability) or change"
        }
        _ => "change",
    }
}

/// Refuses what this build cannot serve, before anything is started.
///
/// # Errors
/// Names the trigger and what cannot be served.
pub fn check(config: &config::Trigger) -> Result<(), TriggerError> {
    match &config.kind {
        config::TriggerKind::Http(_) | config::TriggerKind::Cron(_) | config::TriggerKind::Kickstart(_) => {
            Ok(())
        }
        config::TriggerKind::Unsupported { kind, place } => Err(unsupported(&config.name, kind, place)),
    }
}

/// Triggers that cannot be served, because a trigger before them or a server of the platform listens on their address.
/// Binding says it too, of the one that comes later.
pub fn check_addresses(triggers: &[config::Trigger], platform: &config::Platform) -> Vec<TriggerError> {
    let listens = triggers.iter().filter_map(|trigger| match &trigger.kind {
        config::TriggerKind::Http(http) => Some((trigger.name.as_str(), http.listen.as_str())),
        _ => None,
    });
    let all: Vec<(&str, &str)> = listens.collect();
    let servers = platform.listens();
    let clash = |(at, (second, address)): (usize, &(&str, &str))| {
        let server = servers.iter().find(|(_, taken)| net::collide(taken, address));
        if let Some((key, taken)) = server {
            return Some(TriggerError::SideServerAddress {
                trigger: (*second).to_owned(),
                address: (*address).to_owned(),
                key: key.clone(),
                taken: (*taken).to_owned(),
            });
        }
        let (first, first_address) = all[..at].iter().find(|(_, before)| net::collide(before, address))?;
        Some(TriggerError::SameAddress {
            first: (*first).to_owned(),
            first_address: (*first_address).to_owned(),
            second: (*second).to_owned(),
            second_address: (*address).to_owned(),
        })
    };
    all.iter().enumerate().filter_map(clash).collect()
}

/// Binds what the trigger needs; serves nothing yet. Call it inside the runtime that will serve.
///
/// # Errors
/// See [`TriggerError`].
pub fn build(config: &config::Trigger, cx: TriggerContext) -> Result<Trigger, TriggerError> {
    check(config)?;
    match &config.kind {
        config::TriggerKind::Http(http) => http::build(http, cx),
        config::TriggerKind::Cron(cron) => Ok(cron::build(cron, config.workers, cx)),
        config::TriggerKind::Kickstart(event) => Ok(kickstart::build(event, cx)),
        config::TriggerKind::Unsupported { kind, place } => Err(unsupported(&config.name, kind, place)),
    }
}
