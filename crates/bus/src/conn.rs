//! The connection: it is made once, retried for ever, and tells its state.
//!
//! What the NATS client leaves to its user is done here: a delay with jitter, credentials read anew at each attempt, a
//! time limit that holds while disconnected, permission violations given to the call that caused them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{ConnectOptions, Event, HeaderMap, Message, RequestErrorKind, ServerError, jetstream};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, timeout, timeout_at};

use crate::config::BusConfig;
use crate::credentials::{check_tls_files, make_auth};
use crate::error::{BusError, Result};

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
    config: Arc<BusConfig>,
}

/// The server refused something to this user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    action: &'static str,
    subject: String,
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
        let hooks = Arc::new(Hooks {
            client: Mutex::new(None),
            was_connected: AtomicBool::new(false),
            state: state_sender,
            violations: violations.clone(),
        });
        let client = options(config, name, Some(&hooks))
            .retry_on_initial_connect()
            .connect(config.servers.clone())
            .await
            .map_err(BusError::Setup)?;
        hooks.set_client(Some(client.clone()));
        tokio::spawn(follow_state(client.clone(), Arc::downgrade(&hooks)));
        let builder = jetstream::ContextBuilder::new().timeout(config.request_timeout());
        let jetstream = match &config.jetstream_prefix {
            Some(prefix) => {
                builder.api_prefix(prefix.clone()).timeout(config.request_timeout()).build(client.clone())
            }
            None => builder.build(client.clone()),
        };
        Ok(Self { client, jetstream, state, violations, config: Arc::new(config.clone()) })
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

    /// True while connected.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Waits until connected, at most so long; the error tells why it failed, as far as one more attempt can tell.
    pub async fn connected(&self, within: Duration) -> Result<()> {
        match self.wait_connected(Instant::now() + within).await {
            Err(BusError::NotConnected { servers, .. }) => {
                Err(BusError::NotConnected { servers, why: self.diagnose().await })
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

    /// Why connecting fails, found by one attempt of its own: the client keeps its reasons to itself.
    async fn diagnose(&self) -> String {
        self.attempt().await.err().unwrap_or_else(|| "a new attempt succeeded just now".into())
    }

    /// One more connection with the files as they are now, closed at once; why it fails.
    async fn attempt(&self) -> std::result::Result<(), String> {
        let attempt = options(&self.config, "attempt", None).connect(self.config.servers.clone());
        match timeout(Duration::from_millis(self.config.connect_timeout_ms), attempt).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(sys::error::line(&error)),
            Err(_) => Err("the server does not answer".into()),
        }
    }

    pub(crate) fn not_connected(&self, why: &str) -> BusError {
        BusError::NotConnected { servers: self.config.servers.join(", "), why: why.to_owned() }
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
        self.attempt().await.map_err(|why| self.not_connected(&why))?;
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
        let mut violations = self.violations.subscribe();
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
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
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

impl Violation {
    /// Reads `Permissions Violation for Publish to "subject"`; the server writes nothing better.
    fn parse(text: &str) -> Option<Self> {
        let lower = text.to_ascii_lowercase();
        let rest = lower.split_once("permissions violation for ")?.1;
        let action = if rest.starts_with("publish") { "publish to" } else { "subscribe to" };
        let from = text.find('"')? + 1;
        let to = from + text.get(from..)?.find('"')?;
        Some(Self { action, subject: text.get(from..to)?.to_owned() })
    }

    fn concerns(&self, subject: &str) -> bool {
        self.subject == subject
    }

    fn into_error(self) -> BusError {
        BusError::NotPermitted { action: self.action, subject: self.subject }
    }
}

/// What the client's callbacks reach.
struct Hooks {
    client: Mutex<Option<async_nats::Client>>,
    was_connected: AtomicBool,
    state: watch::Sender<ConnState>,
    violations: broadcast::Sender<Violation>,
}

impl Hooks {
    fn set_client(&self, client: Option<async_nats::Client>) {
        *self.client.lock() = client;
    }

    fn set(&self, state: ConnState) {
        let changed = self.state.send_if_modified(|now| {
            let changed = *now != state && *now != ConnState::Closed;
            if changed {
                *now = state;
            }
            changed
        });
        if changed {
            match state {
                ConnState::Connected => {
                    self.was_connected.store(true, Ordering::Relaxed);
                    tracing::info!("connected to the bus");
                }
                ConnState::Disconnected => tracing::warn!("lost the connection to the bus; reconnecting"),
                ConnState::Connecting | ConnState::Closed => {}
            }
        }
    }

    async fn on_event(&self, event: Event) {
        match event {
            Event::Connected => self.set(ConnState::Connected),
            Event::Disconnected => self.set(ConnState::Disconnected),
            Event::Closed => self.set(ConnState::Closed),
            Event::LameDuckMode => self.leave_lame_duck(),
            Event::ServerError(ServerError::Other(text)) => match Violation::parse(&text) {
                Some(violation) => {
                    tracing::warn!(
                        subject = violation.subject,
                        "the bus does not permit this user to {} it",
                        violation.action
                    );
                    self.violations.send(violation).ok();
                }
                None => tracing::warn!("the bus reports: {text}"),
            },
            Event::SlowConsumer(_) => tracing::warn!("messages of the bus come faster than they are handled"),
            other => tracing::debug!("bus event: {other}"),
        }
    }

    /// The server goes down soon. With another one at hand it is left now, at a random moment, so that a fleet does not
    /// move all at once; with this one only, staying is better.
    fn leave_lame_duck(&self) {
        let Some(client) = self.client.lock().clone() else { return };
        tokio::spawn(async move {
            let others = client.try_server_info().map_or(0, |info| info.connect_urls.len());
            if others > 1 {
                tokio::time::sleep(Duration::from_millis(rand::random_range(0..2_000))).await;
                tracing::info!("the server is shutting down; moving to another one");
                timeout(Duration::from_secs(5), client.force_reconnect()).await.ok();
            }
        });
    }
}

/// The client drops events when many come at once; its own state is always right.
async fn follow_state(client: async_nats::Client, hooks: std::sync::Weak<Hooks>) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let Some(hooks) = hooks.upgrade() else { return };
        if hooks.state.receiver_count() == 0 {
            // The last handle is gone: let go of the client too, or it would live for ever.
            hooks.set_client(None);
            return;
        }
        match client.connection_state() {
            State::Connected => hooks.set(ConnState::Connected),
            State::Disconnected => hooks.set(ConnState::Disconnected),
            State::Pending => {}
        }
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
    fn a_violation_names_action_and_subject() {
        let text = "Permissions Violation for Publish to \"orch.v1.cmd.db2.agent.info\"";
        let violation = Violation::parse(text).unwrap();
        assert_eq!(violation.action, "publish to");
        assert!(violation.concerns("orch.v1.cmd.db2.agent.info"));
        let text = "permissions violation for subscription to \"orch.v1.cmd.>\" using queue \"q\"";
        assert_eq!(Violation::parse(text).unwrap().action, "subscribe to");
        assert_eq!(Violation::parse("stale connection"), None);
    }

    #[test]
    fn delays_grow_with_jitter_and_stay_below_their_limit() {
        for attempt in 1..100 {
            let delay = backoff(attempt, 100, 4_000);
            assert!((50..=6_000).contains(&delay.as_millis()), "{attempt}: {delay:?}");
        }
        assert!(backoff(1, 100, 4_000).as_millis() <= 150);
    }
}
