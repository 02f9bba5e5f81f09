//! Which hosts the metrics are about.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bus::{FleetEntry, LiveFleet};
use protocol::ids::AgentId;

/// The hosts that the gateway knows: none before it has heard the fleet.
#[derive(Debug)]
pub(crate) struct View {
    fleet: OnceLock<Arc<LiveFleet>>,
    only: Vec<AgentId>,
    /// A host that was silent for so long is no longer told of.
    pub(crate) forget_after: Duration,
}

impl View {
    /// `only`: these agents; empty: all.
    pub(crate) fn new(only: Vec<AgentId>, forget_after: Duration) -> Self {
        Self { fleet: OnceLock::new(), only, forget_after }
    }

    /// From now on the fleet is known.
    pub(crate) fn see(&self, fleet: Arc<LiveFleet>) {
        let _ = self.fleet.set(fleet);
    }

    /// All by name, as of now.
    pub(crate) fn hosts(&self) -> Vec<FleetEntry> {
        let mut hosts = self.fleet.get().map(|fleet| fleet.entries()).unwrap_or_default();
        hosts.retain(|host| host.silent_for < self.forget_after && self.has(&host.heartbeat.agent));
        hosts
    }

    /// Whether the metrics are about this agent.
    pub(crate) fn has(&self, agent: &AgentId) -> bool {
        self.only.is_empty() || self.only.contains(agent)
    }
}
