//! A hold on a mounted snapshot, as long as a value lives.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;

use nix::fcntl::OFlag;
use protocol::snapshot::Validity;

use super::MountTable;
use crate::Error;
use crate::error::IoContext as _;
use crate::provider::{MountIdentity, Mounted, Provider};

/// A hold that ends when it is dropped.
#[derive(Debug)]
pub struct MountLease {
    table: Arc<MountTable>,
    holder: String,
    mounted: Mounted,
    /// Keeps the kernel from giving the mount's id to another one, and a person from unmounting it.
    pin: Option<File>,
    kept: bool,
}

impl MountLease {
    pub(super) fn new(table: &Arc<MountTable>, holder: &str, mounted: Mounted) -> Result<Self, Error> {
        let pin = OpenOptions::new()
            .read(true)
            .custom_flags((OFlag::O_PATH | OFlag::O_DIRECTORY).bits())
            .open(&mounted.path)
            .context("open", &mounted.path)?;
        let table = Arc::clone(table);
        Ok(Self { table, holder: holder.to_owned(), mounted, pin: Some(pin), kept: false })
    }

    /// What is mounted where.
    #[must_use]
    pub fn mounted(&self) -> &Mounted {
        &self.mounted
    }

    /// Proves, after the last read, that everything was read from this snapshot: the mount is still the same one and the snapshot valid.
    /// An overflowed LVM snapshot may be unmounted by force, and then reads as an empty directory without any error.
    ///
    /// # Errors
    /// [`Error::Invalid`] before [`Error::MountChanged`], because it is the cause; [`Error::ValidityUnknown`]; the provider's failure to tell.
    pub fn prove(&self) -> Result<(), Error> {
        prove_same_mount_and_valid(self.table.provider.as_ref(), &self.mounted)
    }

    /// Keeps the hold beyond this value: only [`MountTable::release`] ends it.
    #[must_use]
    pub fn keep(mut self) -> Mounted {
        self.kept = true;
        self.mounted.clone()
    }

    /// Lets go and tells how that went; dropping the lease does the same and logs a failure.
    ///
    /// # Errors
    /// As [`MountTable::release`].
    pub fn release(mut self) -> Result<(), Error> {
        self.kept = true;
        self.pin = None;
        self.table.release(&self.mounted.id, &self.holder)
    }
}

impl Drop for MountLease {
    fn drop(&mut self) {
        self.pin = None;
        if self.kept {
            return;
        }
        match self.table.release(&self.mounted.id, &self.holder) {
            Ok(()) | Err(Error::NotHeld { .. }) => {}
            Err(error) => {
                tracing::warn!(snapshot = %self.mounted.id, holder = self.holder, %error, "a mount stays");
            }
        }
    }
}

/// As [`MountLease::prove`], for a mount that is held in another way. Without a lease's pin the kernel may have given the same id to a
/// later mount of the same snapshot.
///
/// # Errors
/// As [`MountLease::prove`].
pub fn prove_same_mount_and_valid(provider: &dyn Provider, mounted: &Mounted) -> Result<(), Error> {
    let validity = provider.validity(&mounted.id);
    if let Ok(Validity::Invalid(reason)) = validity {
        return Err(Error::Invalid { id: mounted.id.to_string(), reason });
    }
    let now = MountIdentity::of(&mounted.path)?;
    if now != mounted.identity {
        let reason = "it was unmounted or replaced meanwhile".to_owned();
        return Err(Error::MountChanged { path: mounted.path.clone(), reason });
    }
    match validity? {
        Validity::Valid => Ok(()),
        Validity::Invalid(reason) => Err(Error::Invalid { id: mounted.id.to_string(), reason }),
        Validity::Unknown(reason) => Err(Error::ValidityUnknown { id: mounted.id.to_string(), reason }),
    }
}
