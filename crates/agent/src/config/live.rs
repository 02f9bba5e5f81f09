//! The configuration in force, replaced as a whole while the agent runs.
//!
//! Whoever reads it holds plain references that stay valid. So a configuration that was once in force stays in memory:
//! each reload costs a few KiB, and reloads are made by people.

use std::ops::Deref;
use std::sync::{PoisonError, RwLock};

use super::Config;

/// Reads as the [`Config`] that is in force at that moment.
#[derive(Debug)]
pub(crate) struct Live {
    now: RwLock<&'static Config>,
}

impl Live {
    /// The configuration of the start.
    pub(crate) fn new(config: Config) -> Self {
        Self { now: RwLock::new(Box::leak(Box::new(config))) }
    }

    /// Puts another one in force.
    pub(crate) fn replace(&self, config: Config) {
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = Box::leak(Box::new(config));
    }
}

impl Deref for Live {
    type Target = Config;

    fn deref(&self) -> &Config {
        *self.now.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Settings that parts of the agent have taken over at its start: they stay as they are until a restart.
///
/// Gives the configuration to put in force, and the keys that differ but wait for a restart.
pub(crate) fn merge(now: &Config, mut new: Config) -> (Config, Vec<&'static str>) {
    let mut waiting = Vec::new();
    macro_rules! keep {
        ($($key:literal = $($field:ident).+;)+) => { $(
            if format!("{:?}", now.$($field).+) != format!("{:?}", new.$($field).+) {
                waiting.push($key);
                new.$($field).+.clone_from(&now.$($field).+);
            }
        )+ };
    }
    keep! {
        "agent.id" = agent.id;
        "agent.cluster" = agent.cluster;
        "agent.dc" = agent.dc;
        "agent.state_dir" = agent.state_dir;
        "agent.heartbeat_s" = agent.heartbeat_s;
        "bus" = bus;
        "mysql" = mysql;
        "snapshot.provider" = snapshot.provider;
        "snapshot.mount_root" = snapshot.mount_root;
        "log.format" = log.format;
        "events" = events;
        "trace" = trace;
    }
    (new, waiting)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_a_restart_stays_and_is_named() {
        let mut new = Config::default();
        new.agent.paths = vec!["/srv".into()];
        new.agent.cluster = "other".into();
        new.bus.ping_interval_s = 77;
        let live = Live::new(Config::default());
        let (merged, waiting) = merge(&live, new);
        assert_eq!(waiting, ["agent.cluster", "bus"]);
        assert_eq!((merged.agent.cluster.as_str(), merged.bus.ping_interval_s), ("default", 10));
        let before: &Config = &live;
        live.replace(merged);
        assert!(before.agent.paths.is_empty(), "who reads on reads the old one");
        assert_eq!(live.agent.paths.len(), 1);
    }
}
