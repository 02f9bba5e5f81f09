//! Ctrl-C and SIGTERM as something to wait for.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::{CtlError, Result};

/// Ctrl-C and SIGTERM, remembered from the moment that this is made.
#[derive(Debug)]
pub struct Interrupt {
    int: Signal,
    term: Signal,
}

impl Interrupt {
    /// Begins to listen: from now on Ctrl-C no longer ends the process by itself.
    ///
    /// # Errors
    /// When the system refuses a signal handler.
    pub fn listen() -> Result<Self> {
        let failed =
            |source| CtlError::File { action: "listen for signals of", path: "this process".into(), source };
        Ok(Self {
            int: signal(SignalKind::interrupt()).map_err(failed)?,
            term: signal(SignalKind::terminate()).map_err(failed)?,
        })
    }

    /// Waits for one of them.
    pub async fn wait(&mut self) {
        tokio::select! {
            _ = self.int.recv() => {}
            _ = self.term.recv() => {}
        }
    }
}
