//! Whose a snapshot is. A snapshot root, a volume group or an array may hold those of several agents, and anything that people put there;
//! to be listed there proves nothing.
//!
//! The evidence is what was recorded when it was made (agent, cluster) and where it was made of, as the medium tells it. What lacks any of it
//! is *foreign*: shown with the reason, and neither given, proven, mounted for writing nor removed by rule.

use std::path::{Path, PathBuf};

use protocol::ids::AgentId;
use protocol::snapshot::Snapshot;

use crate::Error;
use crate::provider::Provider;

/// Whose snapshots count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The agent.
    pub host: AgentId,
    /// Its cluster.
    pub cluster: String,
    /// Its live data directory; absent while it is not known, and then nothing is its own.
    pub datadir: Option<PathBuf>,
}

impl Owner {
    /// All that the provider lists, oldest first, the foreign ones marked as such.
    ///
    /// # Errors
    /// When the provider cannot list.
    pub fn list(&self, provider: &dyn Provider) -> Result<Vec<Snapshot>, Error> {
        let mut listed = provider.list()?;
        if listed.is_empty() {
            return Ok(listed);
        }
        let origin = match &self.datadir {
            Some(datadir) => provider.origin(datadir).map_err(|error| error.to_string()),
            None => Err("its datadir is not known".to_owned()),
        };
        for snapshot in &mut listed {
            snapshot.foreign = self.objection(snapshot, origin.as_deref().map_err(String::as_str));
        }
        Ok(listed)
    }

    /// Why a snapshot is not this owner's, whose data directory lies on `origin`.
    fn objection(&self, snapshot: &Snapshot, origin: Result<&str, &str>) -> Option<String> {
        let Some(meta) = &snapshot.meta else {
            return Some("nothing is recorded of whose data it holds".to_owned());
        };
        if meta.host != self.host {
            return Some(format!("made by the agent {}", meta.host));
        }
        if meta.cluster != self.cluster {
            return Some(format!(
                "of cluster {:?}, and {} belongs to {:?}",
                meta.cluster, self.host, self.cluster
            ));
        }
        match origin {
            Ok(origin) if Path::new(origin) == Path::new(&snapshot.origin) => None,
            Ok(origin) => {
                Some(format!("of {}, and the datadir of {} is on {origin}", snapshot.origin, self.host))
            }
            Err(why) => Some(format!("whether it is of the datadir of {} cannot be told: {why}", self.host)),
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use protocol::snapshot::{Consistency, Freeze, ProviderKind, SnapshotMeta, Validity};

    use super::*;

    #[test]
    fn only_what_agent_cluster_and_origin_are_recorded_of_is_ones_own() {
        let owner = Owner {
            host: "db1".parse().unwrap(),
            cluster: "orders".to_owned(),
            datadir: Some("/var/lib/mysql".into()),
        };
        let meta = SnapshotMeta {
            cluster: "orders".to_owned(),
            dc: String::new(),
            host: "db1".parse().unwrap(),
            consistency: Consistency::Crash,
            freeze: Freeze::Atomic,
            coordinates: None,
            at_least: None,
            no_position: None,
            log: None,
            server_version: None,
            datadir: PathBuf::new(),
            expires_at: None,
            proof: None,
        };
        let own = Snapshot {
            id: "vg0/s".parse().unwrap(),
            provider: ProviderKind::Lvm,
            origin: "vg0/data".to_owned(),
            created_at: Timestamp::UNIX_EPOCH,
            size_bytes: None,
            fill_percent: None,
            validity: Validity::Valid,
            mounts: Vec::new(),
            meta: Some(meta),
            foreign: None,
        };
        let why = |change: fn(&mut Snapshot), origin| {
            let mut snapshot = own.clone();
            change(&mut snapshot);
            owner.objection(&snapshot, origin)
        };
        assert_eq!(why(|_| (), Ok("vg0/data")), None);
        type Change = fn(&mut Snapshot);
        let cases: [(Change, _, &str); 5] = [
            (|s| s.meta = None, Ok("vg0/data"), "nothing is recorded"),
            (|s| s.meta.as_mut().unwrap().host = "db2".parse().unwrap(), Ok("vg0/data"), "agent db2"),
            (|s| s.meta.as_mut().unwrap().cluster = "users".into(), Ok("vg0/data"), "cluster \"users\""),
            (|_| (), Ok("vg0/other"), "is on vg0/other"),
            (|_| (), Err("it is not mounted"), "cannot be told: it is not mounted"),
        ];
        for (change, origin, words) in cases {
            let said = why(change, origin).expect(words);
            assert!(said.contains(words), "{said}");
        }
    }
}
