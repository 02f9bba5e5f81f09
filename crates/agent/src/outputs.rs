//! What the host's own commands have printed: beside the journals and not in them, because whoever may look at jobs reads those, and only
//! who may run such a command reads this.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use job::{JobError, crashsafe};
use protocol::error::WireError;
use protocol::ids::JobId;
use serde_json::Value;

use crate::errors::system;
use crate::host::Host;

fn dir(state_dir: &Path) -> PathBuf {
    state_dir.join("outputs")
}

fn path(state_dir: &Path, job: JobId) -> PathBuf {
    dir(state_dir).join(format!("{job}.json"))
}

/// Keeps what the command of a job has printed. Blocking.
pub(crate) fn keep(state_dir: &Path, job: JobId, printed: &Value) -> Result<(), WireError> {
    let path = path(state_dir, job);
    crashsafe::write(&path, printed.to_string().as_bytes(), 0o600)
        .map_err(|e| system(format!("cannot keep the output in {}", path.display()), &e))
}

/// What the command of a job has printed, as long as its journal is kept.
pub(crate) fn of(state_dir: &Path, job: JobId) -> Option<Value> {
    serde_json::from_slice(&fs::read(path(state_dir, job)).ok()?).ok()
}

/// Removes what belongs to journals that are gone.
pub(crate) async fn prune(host: &Arc<Host>) {
    let Ok(entries) = fs::read_dir(dir(&host.config.agent.state_dir)) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let job = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        let Some(job) = job else { continue };
        if matches!(host.runner.show(job).await, Err(JobError::Unknown(_))) {
            drop(fs::remove_file(&path));
        }
    }
}
