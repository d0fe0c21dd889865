//! Runtimes make workers; workers handle events. One module per way of running a handler.

pub mod plugin;

/// Why a runtime or one of its workers cannot start: what was found, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found}: {advice}")]
pub struct StartError {
    found: String,
    advice: String,
}

impl StartError {
    /// `found` names the thing and what is wrong with it, `advice` what to do.
    pub fn new(found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { found: found.into(), advice: advice.into() }
    }
}
