//! The connection: it is made once, retried for ever, and tells its state.
//!
//! What the NATS client leaves to its user is done here: a delay with jitter, credentials read anew at each attempt, a
//! time limit that holds while disconnected, permission violations given to the call that caused them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{ConnectErrorKind, ConnectOptions, HeaderMap, Message, RequestErrorKind, jetstream};
use bytes::Bytes;
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, timeout, timeout_at};

use crate::config::BusConfig;
use crate::credentials::{check_tls_files, make_auth};
use crate::error::{BusError, Result, Unconnected};

mod hooks;

use hooks::Hooks;
pub(crate) use hooks::Violation;

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
    jetstream: jetstream::Context,
    state: watch::Receiver<ConnState>,
    violations: broadcast::Sender<Violation>,
    inbox_refused: Arc<AtomicBool>,
    config: Arc<BusConfig>,
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bus")
            .field("servers", &self.config.servers)
            .field("state", &*self.state.borrow())
            .finish()
    }
}

impl Bus {
    /// Sets up the connection in the background and returns at once: a server that is down is no error.
    ///
    /// `name` stands in the server's monitoring unless the config names one.
    ///
    /// # Errors
    /// Settings that cannot work, credentials or certificates that cannot be read or are open to others.
    pub async fn connect(config: &BusConfig, name: &str) -> Result<Self> {
        config.validate()?;
        if let Some(credentials) = &config.credentials {
            make_auth(credentials, b"")?;
        }
        check_tls_files(config)?;
        let (state_sender, state) = watch::channel(ConnState::Connecting);
        let (violations, _) = broadcast::channel(64);
        let hooks = Arc::new(Hooks::new(config, state_sender, violations.clone()));
        let client = options(config, name, Some(&hooks))
            .retry_on_initial_connect()
            .connect(config.servers.clone())
            .await
            .map_err(BusError::Setup)?;
        hooks.set_client(Some(client.clone()));
        tokio::spawn(hooks::follow_state(client.clone(), config.clone(), Arc::downgrade(&hooks)));
        let builder = jetstream::ContextBuilder::new().timeout(config.request_timeout());
        let jetstream = builder
            .api_prefix(config.jetstream_api())
            .timeout(config.request_timeout())
            .build(client.clone());
        let inbox_refused = hooks.inbox_refused.clone();
        Ok(Self { client, jetstream, state, violations, inbox_refused, config: Arc::new(config.clone()) })
    }

    /// Where the connection stands, and its changes.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<ConnState> {
        self.state.clone()
    }

    /// How many times a connection was made. What [`Bus::state`] shows may miss a loss between two looks; this does not.
    pub(crate) fn connects(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Relaxed)
    }

    /// How many times it was made anew after the first.
    #[must_use]
    pub fn reconnects(&self) -> u64 {
        self.connects().saturating_sub(1)
    }

    /// True while connected.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Waits until connected, at most so long; the error tells why it failed, as far as one more attempt can tell.
    pub async fn connected(&self, within: Duration) -> Result<()> {
        match self.wait_connected(Instant::now() + within).await {
            Err(BusError::NotConnected { servers, .. }) => {
                let (trouble, why) = match attempt(&self.config).await {
                    Ok(()) => (Unconnected::Away, "a new attempt succeeded just now".to_owned()),
                    Err(failed) => failed,
                };
                Err(BusError::NotConnected { servers, why, trouble })
            }
            other => other,
        }
    }

    async fn wait_connected(&self, until: Instant) -> Result<()> {
        if self.is_connected() {
            return Ok(());
        }
        let mut state = self.state.clone();
        let up = state.wait_for(|state| matches!(state, ConnState::Connected | ConnState::Closed));
        match timeout_at(until, up).await {
            Ok(Ok(state)) if *state == ConnState::Connected => Ok(()),
            Ok(_) => Err(BusError::Closed),
            Err(_) => Err(self.not_connected("it is tried again and again")),
        }
    }

    pub(crate) fn not_connected(&self, why: &str) -> BusError {
        let servers = self.config.servers.join(", ");
        BusError::NotConnected { servers, why: why.to_owned(), trouble: Unconnected::Away }
    }

    /// What the server refuses to this user, as it tells.
    pub(crate) fn violations(&self) -> broadcast::Receiver<Violation> {
        self.violations.subscribe()
    }

    /// # Errors
    /// When the permissions do not let this connection hear answers.
    pub(crate) fn hears_answers(&self) -> Result<()> {
        if self.inbox_refused.load(Ordering::Relaxed) {
            return Err(BusError::InboxRefused { inbox: self.config.inbox().to_owned() });
        }
        Ok(())
    }

    /// Reconnects, and so reads credentials and certificates anew. What is subscribed stays so.
    ///
    /// # Errors
    /// When the files cannot be read, or no server takes a connection with them: the present one is kept then.
    pub async fn reconnect(&self) -> Result<()> {
        if let Some(credentials) = &self.config.credentials {
            make_auth(credentials, b"")?;
        }
        check_tls_files(&self.config)?;
        let servers = || self.config.servers.join(", ");
        attempt(&self.config).await.map_err(|(trouble, why)| BusError::NotConnected {
            servers: servers(),
            why,
            trouble,
        })?;
        match timeout(self.config.request_timeout(), self.client.force_reconnect()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(BusError::Closed),
            Err(_) => Err(self.not_connected("a reconnect is under way already")),
        }
    }

    /// The client itself, for bulk data. Put a time limit round every call: its own do not hold while disconnected.
    #[must_use]
    pub fn client(&self) -> &async_nats::Client {
        &self.client
    }

    /// JetStream with the configured prefix and limits.
    #[must_use]
    pub fn jetstream(&self) -> jetstream::Context {
        self.jetstream.clone()
    }

    /// The settings of this connection.
    #[must_use]
    pub fn config(&self) -> &BusConfig {
        &self.config
    }

    /// Sends what is queued, then closes; at most so long.
    pub async fn close(&self, within: Duration) {
        let closing = async {
            if self.is_connected() {
                self.client.flush().await.ok();
            }
            self.client.drain().await.ok();
        };
        if timeout(within, closing).await.is_err() {
            tracing::debug!("the bus did not take all that was queued in time");
        }
    }

    /// Publishes now or not at all: nothing is queued while disconnected.
    pub async fn publish(&self, subject: String, headers: Option<HeaderMap>, body: Bytes) -> Result<()> {
        if !self.is_connected() {
            return Err(self.not_connected("nothing is sent meanwhile"));
        }
        let limit = self.config.request_timeout();
        let sent = async {
            match headers {
                Some(headers) => self.client.publish_with_headers(subject.clone(), headers, body).await,
                None => self.client.publish(subject.clone(), body).await,
            }
        };
        match timeout(limit, sent).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(BusError::Unsendable { what: subject, why: error.to_string() }),
            Err(_) => Err(BusError::TimedOut { what: subject, after: limit }),
        }
    }

    /// Asks and waits for one answer, `limit` in all, waiting for the connection included.
    pub async fn request(
        &self,
        subject: String,
        headers: Option<HeaderMap>,
        body: Bytes,
        limit: Duration,
    ) -> Result<Message> {
        let until = Instant::now() + limit;
        self.wait_connected(until).await?;
        self.hears_answers()?;
        let mut violations = self.violations();
        let mut request = async_nats::Request::new().payload(body).timeout(None);
        if let Some(headers) = headers {
            request = request.headers(headers);
        }
        let answer = timeout_at(until, self.client.send_request(subject.clone(), request));
        tokio::pin!(answer);
        loop {
            tokio::select! {
                answer = &mut answer => return answered(answer, subject, limit),
                violation = violations.recv() => match violation {
                    Ok(violation) if violation.concerns(&subject) => return Err(violation.into_error()),
                    // Missed or foreign: the time limit still holds.
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => self.hears_answers()?,
                    Err(broadcast::error::RecvError::Closed) => return Err(BusError::Closed),
                },
            }
        }
    }

    /// Subscribes; holds through reconnects.
    pub async fn subscribe(&self, subject: String) -> Result<async_nats::Subscriber> {
        let limit = self.config.request_timeout();
        match timeout(limit, self.client.subscribe(subject.clone())).await {
            Ok(Ok(subscriber)) => Ok(subscriber),
            Ok(Err(error)) => Err(BusError::Unsendable { what: subject, why: error.to_string() }),
            Err(_) => Err(BusError::TimedOut { what: format!("subscribing to {subject}"), after: limit }),
        }
    }

    /// Subscribes in a queue group: of all its members one gets each message.
    pub async fn queue_subscribe(&self, subject: String, group: String) -> Result<async_nats::Subscriber> {
        let limit = self.config.request_timeout();
        match timeout(limit, self.client.queue_subscribe(subject.clone(), group)).await {
            Ok(Ok(subscriber)) => Ok(subscriber),
            Ok(Err(error)) => Err(BusError::Unsendable { what: subject, why: error.to_string() }),
            Err(_) => Err(BusError::TimedOut { what: format!("subscribing to {subject}"), after: limit }),
        }
    }
}

fn answered(
    answer: Result<Result<Message, async_nats::RequestError>, tokio::time::error::Elapsed>,
    subject: String,
    limit: Duration,
) -> Result<Message> {
    match answer {
        Ok(Ok(message)) => Ok(message),
        Ok(Err(error)) => Err(match error.kind() {
            RequestErrorKind::NoResponders => BusError::NoResponders { subject },
            RequestErrorKind::TimedOut => BusError::TimedOut { what: subject, after: limit },
            RequestErrorKind::InvalidSubject | RequestErrorKind::MaxPayloadExceeded => {
                BusError::Unsendable { what: subject, why: error.to_string() }
            }
            // The client drops the waiting end only when it ends itself.
            RequestErrorKind::Other => BusError::Closed,
        }),
        Err(_) => Err(BusError::TimedOut { what: subject, after: limit }),
    }
}

/// One more connection with the files as they are now, closed at once; what keeps it from being made. The client keeps its
/// reasons to itself.
async fn attempt(config: &BusConfig) -> std::result::Result<(), (Unconnected, String)> {
    let attempt = options(config, "attempt", None).connect(config.servers.clone());
    match timeout(Duration::from_millis(config.connect_timeout_ms), attempt).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => {
            let trouble = match error.kind() {
                ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                    Unconnected::Login
                }
                ConnectErrorKind::Tls => Unconnected::Tls,
                ConnectErrorKind::Dns => Unconnected::Name,
                _ => Unconnected::Away,
            };
            Err((trouble, sys::error::line(&error)))
        }
        Err(_) => Err((Unconnected::Away, "the server does not answer".into())),
    }
}

fn options(config: &BusConfig, name: &str, hooks: Option<&Arc<Hooks>>) -> ConnectOptions {
    let mut options = match config.credentials.clone() {
        // Read anew at each attempt, so that a changed file is taken without a restart.
        Some(credentials) => ConnectOptions::with_auth_callback(move |nonce| {
            let credentials = credentials.clone();
            async move { make_auth(&credentials, &nonce).map_err(async_nats::AuthError::new) }
        }),
        None => ConnectOptions::new(),
    };
    options = options
        .name(config.name.as_deref().unwrap_or(name))
        .ping_interval(Duration::from_secs(config.ping_interval_s))
        .connection_timeout(Duration::from_millis(config.connect_timeout_ms))
        .request_timeout(Some(config.request_timeout()))
        .require_tls(config.tls.require);
    if let Some(prefix) = &config.inbox_prefix {
        options = options.custom_inbox_prefix(prefix);
    }
    if let Some(ca) = &config.tls.ca {
        options = options.add_root_certificates(ca.clone());
    }
    if let (Some(cert), Some(key)) = (&config.tls.cert, &config.tls.key) {
        options = options.add_client_certificate(cert.clone(), key.clone());
    }
    let (min, max) = (config.reconnect_min_ms, config.reconnect_max_ms);
    let Some(hooks) = hooks.cloned() else {
        return options.reconnect_delay_callback(|_| Duration::ZERO);
    };
    let delays = hooks.clone();
    options
        .reconnect_delay_callback(move |attempt| {
            // The very first attempt of a program is not one of a herd.
            let first = attempt <= 1 && !delays.was_connected.load(Ordering::Relaxed);
            if first { Duration::ZERO } else { backoff(attempt, min, max) }
        })
        .event_callback(move |event| {
            let hooks = hooks.clone();
            async move { hooks.on_event(event).await }
        })
}

/// `min` doubled with each attempt up to `max`, ± 50 %.
pub(crate) fn backoff(attempt: usize, min_ms: u64, max_ms: u64) -> Duration {
    let doubled = min_ms.saturating_mul(1 << attempt.saturating_sub(1).min(20));
    let middle = doubled.min(max_ms).max(1);
    Duration::from_millis(rand::random_range(middle / 2..=middle + middle / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_with_jitter_and_stay_below_their_limit() {
        for attempt in 1..100 {
            let delay = backoff(attempt, 100, 4_000);
            assert!((50..=6_000).contains(&delay.as_millis()), "{attempt}: {delay:?}");
        }
        assert!(backoff(1, 100, 4_000).as_millis() <= 150);
    }
}
