//! The contract that every kind of snapshot keeps.
//!
//! What a provider promises, whatever it is made of:
//! - What is missing on a host (tools, kernel support, leave) is told by [`Provider::probe`], never by a panic or by a failing start.
//! - [`Provider::list`] shows its own snapshots and those that others made, and costs a fixed number of processes.
//! - Only what `list` shows is ever mounted, extended or removed; the origin never is.
//! - A failed or interrupted [`Provider::create`] leaves nothing that `list` would show.
//! - Metadata survive a restart and the loss of the agent's state directory as far as the medium allows.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use protocol::ids::{AgentId, SnapshotId};
use protocol::mysql::{Coordinates, LogIdentity, ServerVersion};
use protocol::snapshot::{Consistency, Freeze, ProviderKind, Snapshot, SnapshotMeta, Validity};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::error::IoContext as _;

/// A maker of snapshots. All methods block.
pub trait Provider: Send + Sync + fmt::Debug {
    /// What it is.
    fn kind(&self) -> ProviderKind;

    /// What its snapshots are like, on every host.
    fn features(&self) -> Features;

    /// Whether it works on this host now. Cheap enough to be asked at every heartbeat.
    fn probe(&self) -> Capability;

    /// All snapshots, its own and others', oldest first; [`Snapshot::foreign`] is left to [`crate::Owner`]. `mounts` is filled from the kernel's mount table, without holders:
    /// those are known to the [`crate::MountTable`].
    ///
    /// # Errors
    /// When the tool or the medium cannot be read.
    fn list(&self) -> Result<Vec<Snapshot>, Error>;

    /// What a snapshot of this data directory has as its [`Snapshot::origin`]. Only what was made of the same place, by the same
    /// agent, is that agent's to give and to remove ([`crate::owner`]).
    ///
    /// # Errors
    /// When it cannot be told where the data directory lies.
    fn origin(&self, datadir: &Path) -> Result<String, Error>;

    /// Makes a snapshot of the data directory.
    ///
    /// Everything slow is prepared first; then `at_instant` is called, exactly once. It brings the data to rest as far as the provider's
    /// [`Features::atomic`] demands, calls [`Take`], reads the coordinates, lets go, and reports what it saw. A failure in it, or after
    /// it, removes what was taken.
    ///
    /// # Errors
    /// The provider's own failure even when `at_instant` reports another one after it; [`Error::Instant`] for the caller's.
    fn create(&self, request: &CreateRequest, at_instant: AtInstant<'_>) -> Result<Snapshot, Error>;

    /// Removes a snapshot that `list` shows and that is not mounted.
    ///
    /// # Errors
    /// [`Error::NotListed`], [`Error::Held`] when mounted, or the tool's failure.
    fn remove(&self, id: &SnapshotId) -> Result<(), Error>;

    /// Mounts it at `target`, an existing empty directory.
    ///
    /// # Errors
    /// [`Error::NotListed`], [`Error::Invalid`], or the system's refusal; then nothing stays mounted.
    fn mount(&self, id: &SnapshotId, target: &Path, mode: MountMode) -> Result<Mounted, Error>;

    /// Undoes [`Provider::mount`], also when the mount is gone already or the agent has been restarted since.
    ///
    /// # Errors
    /// When the mount is busy, or its view cannot be removed.
    fn unmount(&self, mounted: &Mounted) -> Result<(), Error>;

    /// Whether the data can still be read; asked anew of the medium at every call.
    ///
    /// # Errors
    /// [`Error::NotListed`], or the tool's failure.
    fn validity(&self, id: &SnapshotId) -> Result<Validity, Error>;

    /// Replaces the metadata kept with a snapshot (for example with a new proof).
    ///
    /// # Errors
    /// [`Error::NotListed`], [`Error::Unsupported`] for a snapshot that someone else made, or the medium's failure.
    fn record(&self, id: &SnapshotId, meta: &SnapshotMeta) -> Result<(), Error>;

    /// Removes what an interrupted [`Provider::create`] or a crash with a writable view mounted has left behind, and says what. Called
    /// once after a start, before anything is mounted.
    ///
    /// # Errors
    /// The first removal that failed; the others are tried all the same.
    fn sweep(&self, host: &AgentId) -> Result<Vec<String>, Error> {
        let _ = host;
        Ok(Vec::new())
    }

    /// Gives the snapshot's own store (or its pool) more room; the new size in bytes.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where a snapshot has no store of its own; [`Error::NoSpace`].
    fn extend(&self, id: &SnapshotId, add_bytes: u64) -> Result<u64, Error> {
        let _ = (id, add_bytes);
        Err(Error::Unsupported { provider: kind_name(self.kind()), operation: "be extended" })
    }
}

/// Copies the data; calling it more than once is refused.
pub type Take<'a> = &'a mut dyn FnMut() -> Result<(), TakeFailed>;

/// What the caller does around the instant of the snapshot.
pub type AtInstant<'a> =
    &'a mut dyn FnMut(Take<'_>) -> Result<Observed, Box<dyn std::error::Error + Send + Sync>>;

/// The copy failed. [`Provider::create`] returns the reason itself: pass this on or drop it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the snapshot was not taken")]
pub struct TakeFailed;

/// What the caller saw at the instant.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// How the data were brought to rest.
    pub consistency: Consistency,
    /// What kept writes away; must not be [`Freeze::Atomic`] for a provider that is not atomic.
    pub freeze: Freeze,
    /// Where the data stand.
    pub coordinates: Option<Coordinates>,
    /// Where they stand at least, where commits went on.
    pub at_least: Option<Coordinates>,
    /// Why nothing says where they stand.
    pub no_position: Option<String>,
    /// Which log the coordinates are of.
    pub log: Option<LogIdentity>,
    /// The server that wrote them.
    pub server_version: Option<ServerVersion>,
}

impl Observed {
    /// A snapshot of a running server without any lock, by a provider whose copy is atomic.
    #[must_use]
    pub fn crash_consistent() -> Self {
        Self {
            consistency: Consistency::Crash,
            freeze: Freeze::Atomic,
            coordinates: None,
            at_least: None,
            no_position: None,
            log: None,
            server_version: None,
        }
    }

    /// A snapshot of a stopped server.
    #[must_use]
    pub fn stopped() -> Self {
        Self {
            consistency: Consistency::Stopped,
            freeze: Freeze::Stopped,
            coordinates: None,
            at_least: None,
            no_position: None,
            log: None,
            server_version: None,
        }
    }
}

/// What to snapshot.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateRequest {
    /// Cluster whose data it holds; part of the name where the pattern says so.
    pub cluster: String,
    /// Data centre of this host.
    pub dc: String,
    /// This agent.
    pub host: AgentId,
    /// The live data directory, absolute, links resolved.
    pub datadir: PathBuf,
    /// Room for changes, instead of the configured policy; ignored where a snapshot has no store of its own.
    pub size: Option<SizePolicy>,
    /// When retention may remove it.
    pub expires_at: Option<Timestamp>,
}

/// How much room a classic LVM snapshot gets for the changes of its origin.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SizePolicy {
    /// Percent of the origin's size.
    OriginPercent(f64),
    /// Percent of what is free in the volume group.
    FreePercent(f64),
    /// Bytes.
    FixedBytes(u64),
}

/// How a snapshot is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountMode {
    /// For reading: a seed, a person.
    ReadOnly,
    /// For a server to run on. Where [`Features::private_views`] holds, writes go to a throw-away view, else into the snapshot itself.
    Writable,
}

/// A mounted snapshot; can be kept on disk and unmounted by a later process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mounted {
    /// The snapshot.
    pub id: SnapshotId,
    /// Where its root is seen. This is the target that was asked for, or the snapshot's own directory where the agent may not mount.
    pub path: PathBuf,
    /// The data directory below it.
    pub datadir: PathBuf,
    /// Mode.
    pub mode: MountMode,
    /// What is mounted there.
    pub identity: MountIdentity,
    /// The provider's name of the throw-away view behind it, if it made one.
    pub view: Option<String>,
}

/// Which mount a path is on. Two reads of it differ when what is seen there was unmounted, or replaced, in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountIdentity {
    /// Device number of the file system.
    pub device: u64,
    /// Inode of the mounted root.
    pub inode: u64,
    /// The kernel's id of the mount.
    pub mount_id: u64,
}

impl MountIdentity {
    /// Reads it of a directory.
    ///
    /// # Errors
    /// When the path cannot be read.
    pub fn of(path: &Path) -> Result<Self, Error> {
        let meta = std::fs::metadata(path).context("look at", path)?;
        let mount_id = crate::mountinfo::mount_id(path)?;
        Ok(Self { device: meta.dev(), inode: meta.ino(), mount_id })
    }
}

/// What a provider can do on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capability {
    /// Whether snapshots can be made now.
    pub available: bool,
    /// What is missing, when they cannot.
    pub reason: Option<String>,
    /// What they are like.
    pub features: Features,
}

impl Capability {
    /// Available unless something is missing.
    #[must_use]
    pub fn unless(missing: Option<String>, features: Features) -> Self {
        match missing {
            Some(reason) => Self { available: false, reason: Some(reason), features },
            None => Self { available: true, reason: None, features },
        }
    }
}

/// Properties of a provider's snapshots, the same on every host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Features {
    /// The copy is one atomic instant of everything below the origin. Without it, the caller must keep the server stopped or paused
    /// ([`crate::freeze`]) while it is taken.
    pub atomic: bool,
    /// A writable mount is a throw-away view that leaves the snapshot as it was.
    pub private_views: bool,
    /// Its store can fill up and be extended.
    pub extendable: bool,
    /// It shares blocks with the origin, so making it costs little time and room.
    pub shares_blocks: bool,
}

/// A provider's name in the configuration and in messages.
#[must_use]
pub fn kind_name(kind: ProviderKind) -> &'static str {
    match kind {
        ProviderKind::Lvm => "lvm",
        ProviderKind::LvmThin => "lvm-thin",
        ProviderKind::Btrfs => "btrfs",
        ProviderKind::Reflink => "reflink",
        ProviderKind::Directory => "directory",
        ProviderKind::Command => "command",
    }
}
