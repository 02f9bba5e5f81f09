//! The fleet as a live map, from heartbeats alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use parking_lot::Mutex;
use protocol::heartbeat::Heartbeat;
use protocol::ids::{AgentId, BootId};
use protocol::subject::{self, Subject};
use tokio::task::JoinHandle;

use crate::client::{Client, Window};
use crate::conn::{Bus, ConnState};
use crate::error::{BusError, Result};

/// How fresh an agent's heartbeats are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// Heard of in time.
    Alive,
    /// Silent for three intervals.
    Suspect,
    /// Silent for [`LOST_AFTER`].
    Lost,
}

/// Silence after which an agent counts as lost.
pub const LOST_AFTER: Duration = Duration::from_secs(60);

/// One agent in the view.
#[derive(Debug, Clone)]
pub struct FleetEntry {
    /// Its last heartbeat.
    pub heartbeat: Arc<Heartbeat>,
    /// How fresh it is.
    pub health: Health,
    /// Time since it was heard of.
    pub silent_for: Duration,
    /// Another process with the same id that is alive too.
    pub duplicate: Option<BootId>,
}

/// The map itself, without I/O.
#[derive(Debug, Default)]
pub struct FleetView {
    agents: HashMap<AgentId, Seen>,
}

#[derive(Debug)]
struct Seen {
    heartbeat: Arc<Heartbeat>,
    at: Instant,
    /// A second process of this id: which, and when it was last heard of.
    other: Option<(BootId, Instant)>,
}

impl FleetView {
    /// Takes a heartbeat in, heard of at `now`.
    pub fn update(&mut self, heartbeat: Heartbeat, now: Instant) {
        let Some(seen) = self.agents.get_mut(&heartbeat.agent) else {
            let agent = heartbeat.agent.clone();
            self.agents.insert(agent, Seen { heartbeat: Arc::new(heartbeat), at: now, other: None });
            return;
        };
        let known = &seen.heartbeat;
        if known.boot == heartbeat.boot {
            // One that was asked for may overtake one that was sent.
            if heartbeat.sequence >= known.sequence {
                seen.heartbeat = Arc::new(heartbeat);
            }
            seen.at = now;
        } else if heartbeat.started_at >= known.started_at || seen.is_overdue(now) {
            // A restart: the older process is not heard of any more. If it is, it is a duplicate. Or of two the newer one has ended.
            *seen = Seen { heartbeat: Arc::new(heartbeat), at: now, other: None };
        } else {
            seen.other = Some((heartbeat.boot, now));
        }
    }

    /// All agents by name, as of `now`.
    #[must_use]
    pub fn entries(&self, now: Instant) -> Vec<FleetEntry> {
        let mut entries: Vec<_> = self.agents.values().map(|seen| seen.entry(now)).collect();
        entries.sort_unstable_by(|a, b| a.heartbeat.agent.cmp(&b.heartbeat.agent));
        entries
    }

    /// One agent.
    #[must_use]
    pub fn get(&self, agent: &AgentId, now: Instant) -> Option<FleetEntry> {
        self.agents.get(agent).map(|seen| seen.entry(now))
    }

    /// Number of agents ever heard of and not forgotten.
    #[must_use]
    pub fn len(&self) -> usize {
        self.agents.len()
    }

    /// True before the first heartbeat.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.agents.is_empty()
    }

    /// Forgets agents that were silent for so long.
    pub fn forget(&mut self, silent_for: Duration, now: Instant) {
        self.agents.retain(|_, seen| now.saturating_duration_since(seen.at) < silent_for);
    }
}

impl Seen {
    fn three_intervals(&self) -> Duration {
        Duration::from_millis(self.heartbeat.interval_ms.saturating_mul(3))
    }

    fn is_overdue(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) >= self.three_intervals()
    }

    fn entry(&self, now: Instant) -> FleetEntry {
        let silent_for = now.saturating_duration_since(self.at);
        let three_intervals = self.three_intervals();
        let health = if silent_for >= LOST_AFTER.max(three_intervals) {
            Health::Lost
        } else if silent_for >= three_intervals {
            Health::Suspect
        } else {
            Health::Alive
        };
        let duplicate = self
            .other
            .filter(|(_, at)| now.saturating_duration_since(*at) < three_intervals)
            .map(|(boot, _)| boot);
        FleetEntry { heartbeat: self.heartbeat.clone(), health, silent_for, duplicate }
    }
}

/// A view kept up to date in the background while this handle lives.
#[derive(Debug)]
pub struct LiveFleet {
    view: Arc<Mutex<FleetView>>,
    task: JoinHandle<()>,
}

impl LiveFleet {
    /// All agents by name, now.
    #[must_use]
    pub fn entries(&self) -> Vec<FleetEntry> {
        self.lock().entries(Instant::now())
    }

    /// One agent, now.
    #[must_use]
    pub fn get(&self, agent: &AgentId) -> Option<FleetEntry> {
        self.lock().get(agent, Instant::now())
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, FleetView> {
        self.view.lock()
    }
}

impl Drop for LiveFleet {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads a heartbeat; one that an agent sends in another's name is dropped.
pub(crate) fn read_heartbeat(subject: &str, body: &[u8]) -> Option<Heartbeat> {
    let heartbeat: Heartbeat = serde_json::from_slice(body)
        .inspect_err(|error| tracing::debug!(subject, %error, "not a heartbeat"))
        .ok()?;
    match Subject::parse(subject) {
        Ok(Subject::Heartbeat { agent }) if agent == heartbeat.agent => Some(heartbeat),
        _ => {
            tracing::warn!(subject, claims = %heartbeat.agent, "dropped a heartbeat in another agent's name");
            None
        }
    }
}

/// Asks all agents and gathers their answers until they fall silent.
async fn ask(bus: &Bus, window: Window) -> Result<Vec<Heartbeat>> {
    let mut agents = HashMap::new();
    let end = tokio::time::Instant::now() + window.max;
    bus.connected(window.max).await?;
    let inbox = bus.client().new_inbox();
    let mut answers = bus.subscribe(inbox.clone()).await?;
    let question = bus.client().publish_with_reply(subject::ASK_FLEET, inbox, Bytes::new());
    match tokio::time::timeout_at(end, question).await {
        Ok(Ok(())) => {}
        _ => return Err(bus.not_connected("the question to the fleet could not be sent")),
    }
    loop {
        let quiet = end.min(tokio::time::Instant::now() + window.quiet);
        match tokio::time::timeout_at(quiet, answers.next()).await {
            Err(_) | Ok(None) => break,
            Ok(Some(answer)) if answer.status == Some(async_nats::StatusCode::NO_RESPONDERS) => break,
            Ok(Some(answer)) => {
                if let Ok(heartbeat) = serde_json::from_slice::<Heartbeat>(&answer.payload) {
                    agents.insert(heartbeat.boot, heartbeat);
                }
            }
        }
    }
    if agents.is_empty() {
        bus.hears_answers()?;
    }
    let mut agents: Vec<Heartbeat> = agents.into_values().collect();
    agents.sort_unstable_by(|a, b| a.agent.cmp(&b.agent).then(a.boot.cmp(&b.boot)));
    Ok(agents)
}

impl Client {
    /// Asks all agents now; ends when they fall silent. Sorted by name.
    pub async fn fleet(&self, window: Window) -> Result<Vec<Heartbeat>> {
        ask(self.bus(), window).await
    }

    /// Heartbeats as they come.
    pub async fn watch_heartbeats(&self) -> Result<BoxStream<'static, Heartbeat>> {
        let messages = self.bus().subscribe(subject::ALL_HEARTBEATS.to_owned()).await?;
        Ok(messages.filter_map(|m| async move { read_heartbeat(&m.subject, &m.payload) }).boxed())
    }

    /// The fleet, asked once and then kept up to date: it begins to watch, then asks, so that none falls between.
    pub async fn live_fleet(&self) -> Result<LiveFleet> {
        let view = Arc::new(Mutex::new(FleetView::default()));
        let mut heartbeats = self.watch_heartbeats().await?;
        let window = Window::default();
        match ask(self.bus(), window).await {
            Ok(agents) => take(&view, agents),
            // Heartbeats will fill the view.
            Err(BusError::NotPermitted { .. }) => {}
            Err(error) => return Err(error),
        }
        let bus = self.bus().clone();
        let shared = view.clone();
        let task = tokio::spawn(async move {
            let mut state = bus.state();
            state.mark_unchanged();
            loop {
                tokio::select! {
                    Some(heartbeat) = heartbeats.next() => take(&shared, [heartbeat]),
                    Ok(()) = state.changed() => {
                        let connected = *state.borrow_and_update() == ConnState::Connected;
                        if connected && let Ok(agents) = ask(&bus, window).await {
                            take(&shared, agents);
                        }
                    }
                    else => return,
                }
            }
        });
        Ok(LiveFleet { view, task })
    }
}

fn take(view: &Mutex<FleetView>, heartbeats: impl IntoIterator<Item = Heartbeat>) {
    let now = Instant::now();
    let mut view = view.lock();
    for heartbeat in heartbeats {
        view.update(heartbeat, now);
    }
}
