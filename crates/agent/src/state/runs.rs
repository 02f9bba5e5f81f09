//! Which server runs on which snapshot, on disk: written before it happens and read by the next process.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use job::crashsafe;
use protocol::error::{ErrorCode, WireError};
use protocol::ids::{JobId, SnapshotId};
use serde::{Deserialize, Serialize};

use crate::errors::system;

/// A server on a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Run {
    /// The job that made it.
    pub(crate) job: JobId,
    /// Port of a second server; absent: the host's service.
    pub(crate) port: Option<u16>,
    /// The service's datadir, which the snapshot covers.
    pub(crate) datadir: PathBuf,
    /// Device and inode of the live datadir: another one at that path is the snapshot's.
    pub(crate) live: (u64, u64),
    /// Whether the service ran before.
    pub(crate) ran_before: bool,
    /// The boot of the host; the mounts of an earlier one are gone.
    pub(crate) boot: String,
}

impl Run {
    /// How the hold on the snapshot is named.
    pub(crate) fn holder(&self) -> String {
        match self.port {
            Some(port) => format!("mysql on port {port}"),
            None => "mysql service".to_owned(),
        }
    }
}

/// Servers on snapshots, on disk.
#[derive(Debug)]
pub(crate) struct Runs {
    path: PathBuf,
    runs: Mutex<BTreeMap<SnapshotId, Run>>,
}

impl Runs {
    /// Reads what an earlier process wrote; a file that cannot be read is an error, since someone may be served from it.
    pub(crate) fn open(path: PathBuf) -> std::io::Result<Self> {
        let mut runs: BTreeMap<SnapshotId, Run> = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        let boot = boot_id();
        runs.retain(|_, run| run.boot == boot);
        Ok(Self { path, runs: Mutex::new(runs) })
    }

    /// True for the hold of a server on a snapshot.
    pub(crate) fn has_holder(&self, holder: &str) -> bool {
        self.lock().values().any(|run| run.holder() == holder)
    }

    pub(crate) fn find(&self, id: &SnapshotId) -> Option<Run> {
        self.lock().get(id).cloned()
    }

    /// The snapshot that the host's service runs on.
    pub(crate) fn of_service(&self) -> Option<SnapshotId> {
        self.lock().iter().find(|(_, run)| run.port.is_none()).map(|(id, _)| id.clone())
    }

    pub(crate) fn note(&self, id: &SnapshotId, run: &Run) -> Result<(), WireError> {
        let mut runs = self.lock();
        if let Some((other, known)) =
            runs.iter().find(|(other, known)| *other == id || known.port == run.port)
            && known.job != run.job
        {
            return Err(WireError::new(
                ErrorCode::Refused,
                format!(
                    "{} runs on snapshot {other} already: end that first (mysql stop --on-snapshot {other})",
                    known.holder()
                ),
            ));
        }
        runs.insert(id.clone(), run.clone());
        self.save(&runs)
    }

    pub(crate) fn forget(&self, id: &SnapshotId) -> Result<(), WireError> {
        let mut runs = self.lock();
        runs.remove(id);
        self.save(&runs)
    }

    fn save(&self, runs: &BTreeMap<SnapshotId, Run>) -> Result<(), WireError> {
        let cannot = |e: &(dyn std::error::Error + 'static)| {
            system(format!("cannot write {}", self.path.display()), e)
        };
        let bytes = serde_json::to_vec(runs).map_err(|e| cannot(&e))?;
        crashsafe::write(&self.path, &bytes, 0o600).map_err(|e| cannot(&e))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<SnapshotId, Run>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells one boot of the host from another; empty where the kernel does not say.
pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}
