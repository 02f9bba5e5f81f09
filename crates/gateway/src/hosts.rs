//! The hosts that orchestrator may speak of: their names there, their tokens, and how long they are remembered.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::{FleetEntry, Health};
use parking_lot::RwLock;
use protocol::ids::AgentId;

use crate::names::Naming;
use crate::secrets::{Hidden, Tokens};

/// One host.
#[derive(Debug)]
pub(crate) struct Host {
    /// Its agent.
    pub(crate) agent: AgentId,
    /// What orchestrator calls it.
    pub(crate) name: String,
    /// What orchestrator must show.
    pub(crate) token: Hidden,
}

/// All hosts.
#[derive(Debug)]
pub(crate) struct Hosts {
    naming: Naming,
    tokens: Tokens,
    only: Vec<AgentId>,
    forget_after: Duration,
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    by_name: HashMap<String, Arc<Host>>,
    heard: BTreeMap<AgentId, (Arc<Host>, Instant)>,
}

impl Hosts {
    /// `only`: these agents; empty: all.
    pub(crate) fn new(naming: Naming, tokens: Tokens, only: Vec<AgentId>, forget_after: Duration) -> Self {
        Self { naming, tokens, only, forget_after, known: RwLock::default() }
    }

    /// Takes in who was heard of lately; gives those that are forgotten now.
    pub(crate) fn refresh(&self, fleet: &[FleetEntry], now: Instant) -> Vec<Arc<Host>> {
        let is_there =
            |entry: &&FleetEntry| entry.health != Health::Lost && entry.silent_for < self.forget_after;
        for entry in fleet.iter().filter(is_there) {
            let heard = now.checked_sub(entry.silent_for).unwrap_or(now);
            self.heard(&entry.heartbeat.agent, heard);
        }
        let mut known = self.known.write();
        let over = |at: &Instant| now.saturating_duration_since(*at) >= self.forget_after;
        let gone: Vec<Arc<Host>> =
            known.heard.values().filter(|(_, at)| over(at)).map(|(host, _)| host.clone()).collect();
        for host in &gone {
            known.heard.remove(&host.agent);
            known.by_name.remove(&host.name);
        }
        gone
    }

    /// A host of which something is known although it may be silent.
    pub(crate) fn heard(&self, agent: &AgentId, at: Instant) {
        if !self.only.is_empty() && !self.only.contains(agent) {
            return;
        }
        let mut known = self.known.write();
        if let Some((_, heard)) = known.heard.get_mut(agent) {
            *heard = (*heard).max(at);
            return;
        }
        let Some(name) = self.naming.name(agent) else {
            tracing::debug!(%agent, "its name is too long for orchestrator");
            return;
        };
        if let Some(other) = known.by_name.get(&name) {
            tracing::debug!(%agent, other = %other.agent, name, "two agents have one name for orchestrator");
            return;
        }
        let host = Arc::new(Host { agent: agent.clone(), token: self.tokens.of(agent), name: name.clone() });
        tracing::info!(%agent, name, "a host is served");
        known.by_name.insert(name, host.clone());
        known.heard.insert(agent.clone(), (host, at));
    }

    /// The host that orchestrator calls so.
    pub(crate) fn named(&self, name: &str) -> Option<Arc<Host>> {
        self.known.read().by_name.get(name).cloned()
    }

    /// What orchestrator calls an agent, whether it is served here or elsewhere.
    pub(crate) fn name(&self, agent: &AgentId) -> Option<String> {
        self.naming.name(agent)
    }

    /// All, by the names of their agents.
    pub(crate) fn all(&self) -> Vec<Arc<Host>> {
        self.known.read().heard.values().map(|(host, _)| host.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(only: &[&str]) -> Hosts {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        sys::file::create(&path, &[b'x'; 40], 0o600).unwrap();
        let only = only.iter().map(|id| id.parse().unwrap()).collect();
        let tokens = crate::secrets::token_secret(&path).unwrap();
        Hosts::new(Naming::new("{host}").unwrap(), tokens, only, Duration::from_secs(60))
    }

    #[test]
    fn a_host_that_left_is_forgotten_after_its_time_and_comes_back_with_its_token() {
        let hosts = hosts(&[]);
        let (db1, start): (AgentId, _) = ("db1".parse().unwrap(), Instant::now());
        hosts.heard(&db1, start);
        let token = hosts.named("db1").unwrap().token.clone();
        assert!(hosts.refresh(&[], start + Duration::from_secs(59)).is_empty());
        assert_eq!(hosts.refresh(&[], start + Duration::from_secs(61)).len(), 1);
        assert!(hosts.named("db1").is_none() && hosts.all().is_empty());
        hosts.heard(&db1, start + Duration::from_secs(90));
        assert!(hosts.named("db1").unwrap().token.is(token.expose()));
    }

    #[test]
    fn only_the_configured_hosts_are_served_and_no_two_under_one_name() {
        let few = hosts(&["db1"]);
        for id in ["db1", "db2"] {
            few.heard(&id.parse().unwrap(), Instant::now());
        }
        assert_eq!(few.all().len(), 1);
        let all = hosts(&[]);
        for id in ["db1-3307", "db1:3307"] {
            all.heard(&id.parse().unwrap(), Instant::now());
        }
        assert_eq!(all.named("db1-3307").unwrap().agent.as_str(), "db1-3307");
        assert_eq!(all.all().len(), 1);
    }
}
