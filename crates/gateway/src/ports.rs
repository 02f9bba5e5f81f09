//! Which host has which port, kept on disk: orchestrator remembers the port that a host was submitted with.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use protocol::ids::AgentId;

/// The ports of all hosts.
#[derive(Debug)]
pub(crate) struct Ports {
    path: PathBuf,
    range: [u16; 2],
    given: Mutex<BTreeMap<AgentId, u16>>,
}

/// No port can be given.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// What is on disk cannot be used.
    #[error("{} cannot be read as ports of hosts; remove it and orchestrator is told new ones", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It cannot be kept.
    #[error(transparent)]
    Unwritable(#[from] sys::file::Error),
    /// All are given away.
    #[error("no port is left for {host}: listen.ports has {count}; widen it")]
    Exhausted {
        /// For whom.
        host: AgentId,
        /// Ports of the range.
        count: usize,
    },
}

impl Ports {
    /// Reads what was given before.
    pub(crate) fn open(state_dir: &Path, range: [u16; 2]) -> Result<Self, PortError> {
        let path = state_dir.join("ports.json");
        let unreadable = |source| PortError::Unreadable { path: path.clone(), source };
        let given = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| unreadable(error.into()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(unreadable(error)),
        };
        Ok(Self { path, range, given: Mutex::new(given) })
    }

    /// The port of a host, for ever; where none is left, that of a host which is not among `served`.
    pub(crate) fn of(&self, host: &AgentId, served: &BTreeSet<AgentId>) -> Result<u16, PortError> {
        let mut given = self.given.lock();
        let [first, last] = self.range;
        if let Some(port) = given.get(host).filter(|port| (first..=last).contains(port)) {
            return Ok(*port);
        }
        let taken: BTreeSet<u16> = given.values().copied().collect();
        let free = (first..=last).find(|port| !taken.contains(port));
        let left =
            || given.iter().find(|(owner, port)| !served.contains(owner) && (first..=last).contains(*port));
        let (port, former) = match (free, left()) {
            (Some(port), _) => (port, None),
            (None, Some((former, port))) => (*port, Some(former.clone())),
            (None, None) => {
                let count = usize::from(last - first) + 1;
                return Err(PortError::Exhausted { host: host.clone(), count });
            }
        };
        if let Some(former) = former {
            given.remove(&former);
        }
        given.insert(host.clone(), port);
        let text = serde_json::to_vec_pretty(&*given).unwrap_or_default();
        sys::file::write(&self.path, &text, 0o600)?;
        Ok(port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_keeps_its_port_and_only_one_that_left_gives_its_own_up() {
        let dir = tempfile::tempdir().unwrap();
        let id = |name: &str| name.parse::<AgentId>().unwrap();
        let served: BTreeSet<AgentId> = [id("db1"), id("db3")].into();
        let ports = Ports::open(dir.path(), [3100, 3101]).unwrap();
        assert_eq!(ports.of(&id("db1"), &served).unwrap(), 3100);
        assert_eq!(ports.of(&id("db2"), &served).unwrap(), 3101);
        let again = Ports::open(dir.path(), [3100, 3101]).unwrap();
        assert_eq!(again.of(&id("db2"), &served).unwrap(), 3101);
        assert_eq!(again.of(&id("db3"), &served).unwrap(), 3101, "db2 has left");
        let error = again.of(&id("db4"), &served).unwrap_err().to_string();
        assert!(error.contains("db4") && error.contains("listen.ports"), "{error}");
        std::fs::write(dir.path().join("ports.json"), "{").unwrap();
        assert!(Ports::open(dir.path(), [3100, 3101]).is_err());
    }
}
