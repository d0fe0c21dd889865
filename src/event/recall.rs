//! How a trigger takes back an event that it has handed out, because it has something newer. Whoever has the event
//! learns of it by the end of its reply handle or of its streamed answer, and looks here for the reason: a client that
//! merely leaves has its event handled to the end all the same.

use tokio_util::sync::CancellationToken;

/// Shared by an event and its trigger. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Recall(CancellationToken);

impl Recall {
    /// Takes the event back, for good.
    pub fn ask(&self) {
        self.0.cancel();
    }

    /// Whether it has been taken back.
    pub fn is_asked(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Lasts until the event is taken back.
    pub async fn asked(&self) {
        self.0.cancelled().await;
    }
}
