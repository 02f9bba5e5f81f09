//! Snapshots: list, mounts, and a person's own mount.

use std::path::PathBuf;
use std::sync::Arc;

use protocol::error::{ErrorCode, WireError};
use protocol::ids::SnapshotId;
use protocol::params::{Empty, MountStatus, SnapshotListParams, SnapshotMountParams, SnapshotUnmountParams};
use protocol::snapshot::{Snapshot, SnapshotMount};
use snapshot::MountMode;

use crate::host::{Host, blocking};
use crate::owned::{self, Foreign};

/// Who holds what a person mounted by command.
const OPERATOR: &str = "operator";

/// `snapshot.list`.
pub(crate) async fn list(host: &Host, params: &SnapshotListParams) -> Result<Vec<Snapshot>, WireError> {
    let mut list = owned::list(host).await?;
    list.retain(|s| !params.usable || s.is_usable());
    Ok(list)
}

/// `snapshot.mount-status`.
pub(crate) fn mounts(host: &Host) -> Result<Vec<MountStatus>, WireError> {
    let held = host.snapshots()?.mounts.held();
    Ok(held
        .into_iter()
        .map(|held| MountStatus { snapshot: held.mounted.id.clone(), mount: mount_of(held), since: None })
        .collect())
}

fn mount_of(held: snapshot::mounts::HeldMount) -> SnapshotMount {
    SnapshotMount {
        writable: held.mounted.mode == MountMode::Writable,
        path: held.mounted.path,
        holders: held.holders,
    }
}

/// `snapshot.mount`.
pub(crate) async fn mount(host: &Arc<Host>, params: SnapshotMountParams) -> Result<SnapshotMount, WireError> {
    let snapshots = host.snapshots()?.clone();
    let mode = if params.writable { MountMode::Writable } else { MountMode::ReadOnly };
    let at = match (params.at_mount_point, &params.snapshot) {
        (false, Some(_)) => None,
        _ => Some(mount_point(host)?),
    };
    let foreign = match mode {
        MountMode::ReadOnly => Foreign::allowed(params.foreign),
        MountMode::Writable => Foreign::Never,
    };
    let id = owned::choose(host, params.snapshot.as_ref(), foreign).await?.id;
    let mounted = blocking(move || {
        let lease = match at {
            Some(target) => snapshots.mounts.acquire_at(&id, mode, OPERATOR, &target),
            None => snapshots.mounts.acquire(&id, mode, OPERATOR),
        };
        // The hold outlives this request, and the agent: it ends by `snapshot.unmount`.
        let mounted = lease?.keep();
        Ok(SnapshotMount {
            path: mounted.path,
            writable: params.writable,
            holders: vec![OPERATOR.to_owned()],
        })
    })
    .await?;
    host.look_soon();
    Ok(mounted)
}

/// `snapshot.unmount`.
pub(crate) async fn unmount(host: &Arc<Host>, params: SnapshotUnmountParams) -> Result<Empty, WireError> {
    let snapshots = host.snapshots()?.clone();
    match params.snapshot {
        Some(id) => blocking(move || release(&snapshots.mounts, &id)).await?,
        None => {
            let target = mount_point(host)?;
            let released =
                blocking(move || snapshots.mounts.release_at(&target, OPERATOR).map_err(WireError::from));
            released.await?;
        }
    }
    host.look_soon();
    Ok(Empty {})
}

/// The one mount point of the commands that name no other.
fn mount_point(host: &Host) -> Result<PathBuf, WireError> {
    host.config.snapshot.mount_point.clone().ok_or_else(|| {
        WireError::new(
            ErrorCode::MissingCapability,
            format!(
                "{} has no mount point of its own for snapshots: name the snapshot, or set snapshot.mount_point",
                host.id
            ),
        )
    })
}

fn release(mounts: &snapshot::MountTable, id: &SnapshotId) -> Result<(), WireError> {
    // Two different refusals: a seed holds it, or nobody has it mounted.
    let holders: Vec<String> = mounts
        .held()
        .into_iter()
        .filter(|held| held.mounted.id == *id)
        .flat_map(|held| held.holders)
        .filter(|holder| holder != OPERATOR)
        .collect();
    match mounts.release(id, OPERATOR) {
        Err(snapshot::Error::NotHeld { .. }) if !holders.is_empty() => {
            Err(snapshot::Error::Held { id: id.to_string(), holders }.into())
        }
        result => result.map_err(WireError::from),
    }
}
