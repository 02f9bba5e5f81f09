//! Making, removing and proving snapshots.

pub(crate) mod create;
pub(crate) mod remove;
pub(crate) mod verify;

use std::path::PathBuf;

use protocol::error::WireError;

use crate::host::{Host, Snapshots};

/// Run directories of private servers, beside the mounts: servers of other users get through to both.
pub(crate) fn private_root(host: &Host) -> PathBuf {
    let mounts = &host.config.snapshot.mount_root;
    mounts.parent().unwrap_or(mounts).join("private")
}

/// Gives a hold up; no error when it is not there.
pub(crate) fn release_if_held(
    snapshots: &Snapshots,
    id: &protocol::ids::SnapshotId,
    holder: &str,
) -> Result<(), WireError> {
    match snapshots.mounts.release(id, holder) {
        Ok(()) | Err(snapshot::Error::NotHeld { .. } | snapshot::Error::NotListed { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
