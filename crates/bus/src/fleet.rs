//! The fleet as a live map, from heartbeats alone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use protocol::heartbeat::Heartbeat;
use protocol::ids::{AgentId, BootId};

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
    agents: HashMap<AgentId, Arc<Heartbeat>>,
}

impl FleetView {
    /// Takes a heartbeat in, heard of at `now`.
    pub fn update(&mut self, heartbeat: Heartbeat, _now: Instant) {
        self.agents.insert(heartbeat.agent.clone(), Arc::new(heartbeat));
    }

    /// All agents by name, as of `now`.
    #[must_use]
    pub fn entries(&self, _now: Instant) -> Vec<FleetEntry> {
        Vec::new()
    }

    /// One agent.
    #[must_use]
    pub fn get(&self, _agent: &AgentId, _now: Instant) -> Option<FleetEntry> {
        None
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
    pub fn forget(&mut self, _silent_for: Duration, _now: Instant) {}
}

/// A view kept up to date in the background while this handle lives.
#[derive(Debug)]
pub struct LiveFleet {
    pub(crate) view: Arc<Mutex<FleetView>>,
}

impl LiveFleet {
    /// All agents by name, now.
    #[must_use]
    pub fn entries(&self) -> Vec<FleetEntry> {
        self.view.lock().unwrap_or_else(std::sync::PoisonError::into_inner).entries(Instant::now())
    }
}
