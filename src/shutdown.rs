//! The stages of a stop, as tokens that everything concerned waits on. Who moves from stage to stage is `app`.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use tokio_util::sync::CancellationToken;

/// Cheap to clone; all clones move together.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// A stop has been asked for: not ready any more, every answer closes its connection, everything is served.
    pub draining: CancellationToken,
    /// Listeners close; connections end once they owe nothing.
    pub closing: CancellationToken,
    /// Patience is over: everything that still runs is cut off.
    pub kill: CancellationToken,
    asked: Arc<OnceLock<SystemTime>>,
}

impl Shutdown {
    /// Enters the first stage and remembers when.
    pub fn drain(&self) {
        self.asked.get_or_init(SystemTime::now);
        self.draining.cancel();
    }

    /// When the stop was asked for; `None`: not yet.
    pub fn draining_since(&self) -> Option<SystemTime> {
        self.asked.get().copied()
    }
}
