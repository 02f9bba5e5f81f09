//! What listens for a while after a survey, so that recipients may try to reach this donor.

use tokio::sync::Mutex;
use tokio::task::JoinHandle;

/// The one that holds a fixed port.
#[derive(Debug, Default)]
pub(crate) struct Probe(Mutex<Option<JoinHandle<()>>>);

impl Probe {
    /// Remembers who holds the port.
    pub(crate) async fn keep(&self, task: JoinHandle<()>) {
        *self.0.lock().await = Some(task);
    }

    /// Lets go of the port, for an offer that needs it.
    pub(crate) async fn end(&self) {
        if let Some(task) = self.0.lock().await.take() {
            task.abort();
            let _ = task.await;
        }
    }
}
