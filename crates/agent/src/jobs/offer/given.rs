//! What this donor has given: a recipient that has kept it moves only what differs from it, as long as the snapshot is still there.
//!
//! A record is found by the root digest on which both ends agreed, so it names content and not a name; and its snapshot is believed
//! only while its stamp is what it was before the first byte of it was read.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use job::crashsafe;
use mysql::datadir::LogNames;
use protocol::error::WireError;
use protocol::ids::{AgentId, SnapshotId};
use serde::{Deserialize, Serialize};
use snapshot::{MountMode, MountTable};
use transfer::{BaseTree, Bases, DonorReport};

use super::left_out::exclude;
use crate::config::Binlogs;
use crate::host::{Host, chain};

/// So many are remembered, the newest: few donors keep more snapshots than these.
const MOST: usize = 256;

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    snapshot: SnapshotId,
    /// [`DonorReport::stamp`], in hexadecimal digits.
    stamp: String,
    at: Timestamp,
}

fn dir(host: &Host) -> PathBuf {
    host.config.agent.state_dir.join("given")
}

fn path_in(dir: &Path, root_digest: &[u8; 32]) -> PathBuf {
    dir.join(format!("{}.json", sys::hex::encode(root_digest)))
}

/// Remembers that a snapshot was given whole. A record that is lost costs a later seed its advantage and nothing else.
pub(super) fn remember(host: &Host, snapshot: &SnapshotId, report: &DonorReport) {
    let dir = dir(host);
    let record =
        Record { snapshot: snapshot.clone(), stamp: sys::hex::encode(report.stamp), at: Timestamp::now() };
    let write = || -> Result<(), crashsafe::Error> {
        if !dir.exists() {
            crashsafe::create_dir(&dir, 0o700)?;
        }
        let text = serde_json::to_vec(&record).unwrap_or_default();
        crashsafe::write(&path_in(&dir, &report.root_digest), &text, 0o600)
    };
    if let Err(error) = write() {
        tracing::warn!(error = %chain(&error), "that this snapshot was given is not remembered");
    }
    forget_oldest(&dir);
}

fn forget_oldest(dir: &Path) {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let written_at = |entry: &fs::DirEntry| entry.metadata().and_then(|meta| meta.modified()).ok();
    let mut all: Vec<_> = entries.map(|entry| (written_at(&entry), entry.path())).collect();
    all.sort();
    for (_, path) in all.iter().rev().skip(MOST) {
        let _ = fs::remove_file(path);
    }
}

/// Finds the snapshots that were given, for one offer.
pub(super) struct Given {
    dir: PathBuf,
    mounts: Arc<MountTable>,
    /// Who holds such a snapshot while it is compared with. It names no offer: what a crash leaves of it is let go at the next start.
    holder: String,
    names: LogNames,
    binlogs: Binlogs,
}

impl Given {
    pub(super) fn of(host: &Host, recipient: &AgentId, names: LogNames) -> Result<Self, WireError> {
        Ok(Self {
            dir: dir(host),
            mounts: Arc::clone(&host.snapshots()?.mounts),
            holder: format!("comparison for {recipient}"),
            names,
            binlogs: host.config.seed.binlogs,
        })
    }

    fn record(&self, root_digest: &[u8; 32]) -> Option<(SnapshotId, [u8; 32])> {
        let text = fs::read(path_in(&self.dir, root_digest)).ok()?;
        let record: Record = serde_json::from_slice(&text).ok()?;
        let stamp = sys::hex::decode(&record.stamp)?.try_into().ok()?;
        Some((record.snapshot, stamp))
    }
}

impl Bases for Given {
    fn find(&self, root_digest: &[u8; 32]) -> Result<BaseTree, String> {
        let known = self.record(root_digest);
        let (snapshot, stamp) = known.ok_or("what the recipient has kept was not given from here")?;
        let lease = self.mounts.acquire(&snapshot, MountMode::ReadOnly, &self.holder);
        let lease = lease.map_err(|error| format!("{snapshot} is no longer there: {}", chain(&error)))?;
        let root = lease.mounted().datadir.clone();
        let exclude = exclude(&root, &self.names, self.binlogs).map_err(|error| error.to_string())?;
        Ok(BaseTree { root, exclude, stamp, hold: Box::new(lease) })
    }
}
