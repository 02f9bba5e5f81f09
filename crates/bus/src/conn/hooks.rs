//! What the NATS client tells: the state of the connection, refusals, servers that go down.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Event, ServerError};
use parking_lot::Mutex;
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, timeout};

use super::ConnState;
use crate::config::BusConfig;
use crate::error::BusError;

const PUBLISH: &str = "publish to";
const SUBSCRIBE: &str = "subscribe to";
/// A refusal that goes on is told again after so long.
const TELL_AGAIN: Duration = Duration::from_secs(3_600);
/// So many different refusals are told in that time.
const TOLD_MAX: usize = 64;
/// A connection that is not there for so long is told with its cause.
const ABSENT_FOR: Duration = Duration::from_secs(3);

/// The server refused something to this user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    action: &'static str,
    subject: String,
}

impl Violation {
    /// Reads `Permissions Violation for Publish to "subject"`; the server writes nothing better.
    fn parse(text: &str) -> Option<Self> {
        let lower = text.to_ascii_lowercase();
        let rest = lower.split_once("permissions violation for ")?.1;
        let action = if rest.starts_with("publish") { PUBLISH } else { SUBSCRIBE };
        let from = text.find('"')? + 1;
        let to = from + text.get(from..)?.find('"')?;
        Some(Self { action, subject: text.get(from..to)?.to_owned() })
    }

    pub(crate) fn concerns(&self, subject: &str) -> bool {
        self.subject == subject
    }

    pub(super) fn into_error(self) -> BusError {
        BusError::NotPermitted { action: self.action, subject: self.subject }
    }
}

/// What the client's callbacks reach.
pub(super) struct Hooks {
    servers: String,
    /// Begins the subjects on which answers come.
    inbox: String,
    client: Mutex<Option<async_nats::Client>>,
    pub(super) was_connected: AtomicBool,
    /// The permissions do not let this user hear answers.
    pub(super) inbox_refused: Arc<AtomicBool>,
    /// Refusals told already, and when.
    told: Mutex<HashMap<String, Instant>>,
    state: watch::Sender<ConnState>,
    violations: broadcast::Sender<Violation>,
}

impl Hooks {
    pub(super) fn new(
        config: &BusConfig,
        state: watch::Sender<ConnState>,
        violations: broadcast::Sender<Violation>,
    ) -> Self {
        Self {
            servers: config.servers.join(", "),
            inbox: format!("{}.", config.inbox()),
            client: Mutex::new(None),
            was_connected: AtomicBool::new(false),
            inbox_refused: Arc::default(),
            told: Mutex::default(),
            state,
            violations,
        }
    }

    pub(super) fn set_client(&self, client: Option<async_nats::Client>) {
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
                    tracing::info!(servers = self.servers, "connected to the bus");
                }
                ConnState::Disconnected => {
                    tracing::warn!(servers = self.servers, "lost the connection to the bus; reconnecting");
                }
                ConnState::Connecting | ConnState::Closed => {}
            }
        }
    }

    pub(super) async fn on_event(&self, event: Event) {
        match event {
            Event::Connected => {
                // The permissions may be others now.
                self.inbox_refused.store(false, Ordering::Relaxed);
                self.set(ConnState::Connected);
            }
            Event::Disconnected => self.set(ConnState::Disconnected),
            Event::Closed => self.set(ConnState::Closed),
            Event::LameDuckMode => self.leave_lame_duck(),
            Event::ServerError(ServerError::Other(text)) => match Violation::parse(&text) {
                Some(violation) => self.refused(violation),
                None => tracing::warn!("the bus reports: {text}"),
            },
            Event::SlowConsumer(_) => tracing::warn!("messages of the bus come faster than they are handled"),
            other => tracing::debug!("bus event: {other}"),
        }
    }

    /// Gives the refusal to the call that caused it; tells it once.
    fn refused(&self, violation: Violation) {
        if violation.action == SUBSCRIBE && violation.subject.starts_with(&self.inbox) {
            self.inbox_refused.store(true, Ordering::Relaxed);
        }
        let mut told = self.told.lock();
        told.retain(|_, at| at.elapsed() < TELL_AGAIN);
        let key = format!("{} {}", violation.action, violation.subject);
        if told.len() < TOLD_MAX && told.insert(key, Instant::now()).is_none() {
            tracing::warn!(
                servers = self.servers,
                subject = violation.subject,
                "the bus does not permit this user to {} this subject",
                violation.action
            );
        }
        drop(told);
        self.violations.send(violation).ok();
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

/// The client drops events when many come at once; its own state is always right. A connection that is not there for a while
/// is told with its cause.
pub(super) async fn follow_state(
    client: async_nats::Client,
    config: BusConfig,
    hooks: std::sync::Weak<Hooks>,
) {
    let mut absence = Absence::default();
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let Some(hooks) = hooks.upgrade() else { return };
        if hooks.state.receiver_count() == 0 {
            // The last handle is gone: let go of the client too, or it would live for ever.
            hooks.set_client(None);
            return;
        }
        let connected = match client.connection_state() {
            State::Connected => {
                hooks.set(ConnState::Connected);
                true
            }
            State::Disconnected => {
                hooks.set(ConnState::Disconnected);
                false
            }
            State::Pending => false,
        };
        let closed = *hooks.state.borrow() == ConnState::Closed;
        if absence.is_due(connected || closed, Instant::now())
            && let Err((trouble, why)) = super::attempt(&config).await
        {
            tracing::warn!(
                servers = hooks.servers,
                why,
                look_at = trouble.settings(),
                "cannot reach the bus; it is tried again and again"
            );
        }
    }
}

/// How long there has been no connection, and when that is told next.
#[derive(Default)]
struct Absence {
    since: Option<Instant>,
    told: u32,
}

impl Absence {
    /// After some seconds, then ever more rarely.
    fn is_due(&mut self, there: bool, now: Instant) -> bool {
        if there {
            *self = Self::default();
            return false;
        }
        let since = *self.since.get_or_insert(now);
        let rarest = 10u32.pow(3);
        let wait = match self.told {
            told @ 0..=3 => ABSENT_FOR * 10u32.pow(told),
            more => ABSENT_FOR.saturating_mul(rarest.saturating_mul(more - 2)),
        };
        let due = now.duration_since(since) >= wait;
        self.told += u32::from(due);
        due
    }
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
    fn an_absence_is_told_after_a_moment_and_then_ever_more_rarely() {
        let mut absence = Absence::default();
        let start = Instant::now();
        let told: Vec<u64> =
            (0..4_000).filter(|s| absence.is_due(false, start + Duration::from_secs(*s))).collect();
        assert_eq!(told, [3, 30, 300, 3_000]);
        assert!(!absence.is_due(true, start));
        assert!(!absence.is_due(false, start + Duration::from_secs(4_001)), "it begins anew");
    }
}
