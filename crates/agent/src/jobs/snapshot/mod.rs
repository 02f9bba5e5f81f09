//! Making, removing and proving snapshots.

pub(crate) mod create;
pub(crate) mod remove;
pub(crate) mod verify;

use protocol::error::WireError;

use crate::host::Snapshots;

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
