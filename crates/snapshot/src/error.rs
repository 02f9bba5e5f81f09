//! What can go wrong with snapshots, typed so that the caller can tell a refusal from a failure.

use std::io;
use std::path::{Path, PathBuf};

use protocol::error::{ErrorCode, WireError};

/// A failure or refusal. Each message tells its own layer only; causes are chained as sources.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The host cannot do it at all; the same reason is in [`crate::Capability`].
    #[error("no {provider} snapshots on this host: {reason}")]
    Unavailable {
        /// Provider's name in the configuration.
        provider: &'static str,
        /// What is missing.
        reason: String,
    },
    /// The provider has no such operation.
    #[error("{provider} snapshots cannot {operation}")]
    Unsupported {
        /// Provider's name in the configuration.
        provider: &'static str,
        /// What was asked for, as a verb.
        operation: &'static str,
    },
    /// The id is not one that the provider lists: not a snapshot, or not one that it may touch.
    #[error("{id:?} is not a snapshot on this host; `snapshot list` names those that are")]
    NotListed {
        /// The id as given.
        id: String,
    },
    /// Someone else uses it.
    #[error("snapshot {id} is held by {}; wait for it, or release that first", holders.join(", "))]
    Held {
        /// The snapshot.
        id: String,
        /// Who holds it.
        holders: Vec<String>,
    },
    /// A release by someone who does not hold it.
    #[error("snapshot {id} is not held by {holder}")]
    NotHeld {
        /// The snapshot.
        id: String,
        /// Who asked.
        holder: String,
    },
    /// The frozen data are lost.
    #[error("snapshot {id} is invalid: {reason}; what was read of it must not be used")]
    Invalid {
        /// The snapshot.
        id: String,
        /// The provider's reason.
        reason: String,
    },
    /// It cannot be told whether the data are still there; never taken for valid.
    #[error("whether snapshot {id} is valid cannot be told: {reason}")]
    ValidityUnknown {
        /// The snapshot.
        id: String,
        /// The provider's reason.
        reason: String,
    },
    /// What is mounted now is not what was mounted before: reads in between may have seen an empty directory.
    #[error("{} is no longer the mount that it was: {reason}; what was read there must not be used", path.display())]
    MountChanged {
        /// The mount point.
        path: PathBuf,
        /// The difference.
        reason: String,
    },
    /// The mount point cannot be used.
    #[error("cannot use {} as a mount point: {reason}", path.display())]
    MountPoint {
        /// The path.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The data directory is not where the provider can snapshot it.
    #[error("cannot snapshot {}: {reason}", datadir.display())]
    Origin {
        /// The live data directory.
        datadir: PathBuf,
        /// Why not, and what to do.
        reason: String,
    },
    /// The copy is not one instant and the caller did not keep writes away.
    #[error(
        "{provider} snapshots copy file after file, so the server must be stopped or paused meanwhile: {detail}"
    )]
    NotAtRest {
        /// Provider's name in the configuration.
        provider: &'static str,
        /// What was observed.
        detail: String,
    },
    /// The caller's own part of the instant failed (lock, coordinates); the copy was removed again.
    #[error("the data could not be brought to rest for the snapshot")]
    Instant {
        /// What the caller reported.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A process could not be held still.
    #[error("cannot pause process {pid}: {reason}")]
    Pause {
        /// Process id.
        pid: i32,
        /// Why not.
        reason: String,
    },
    /// Too little room for the snapshot.
    #[error("no room for the snapshot in {place}: {needed_bytes} bytes needed, {free_bytes} free; {advice}")]
    NoSpace {
        /// Volume group or file system.
        place: String,
        /// Bytes that the size policy asks for.
        needed_bytes: u64,
        /// Bytes that are free.
        free_bytes: u64,
        /// What to do.
        advice: &'static str,
    },
    /// A tool could not be started, hung, or ended with a failure.
    #[error(transparent)]
    Tool(#[from] sys::process::Error),
    /// A tool succeeded and printed something else than expected.
    #[error("cannot read the output of {program}: {detail}")]
    ToolOutput {
        /// Program and sub-command.
        program: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file of our own is damaged.
    #[error("{} is damaged: {detail}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// A setting makes no sense.
    #[error("snapshot setting `{key}`: {why}")]
    Setting {
        /// Key below the provider's table.
        key: &'static str,
        /// What was expected.
        why: String,
    },
}

impl From<sys::file::Error> for Error {
    fn from(error: sys::file::Error) -> Self {
        Self::Io { action: error.action, path: error.path, source: error.source }
    }
}

/// Attaches what was tried to an [`io::Error`].
pub(crate) trait IoContext<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> IoContext<T> for Result<T, E> {
    fn context(self, action: &'static str, path: &Path) -> Result<T, Error> {
        self.map_err(|e| Error::Io { action, path: path.to_owned(), source: e.into() })
    }
}

impl From<Error> for WireError {
    fn from(error: Error) -> Self {
        let code = match error {
            Error::Unavailable { .. } | Error::Unsupported { .. } => ErrorCode::MissingCapability,
            Error::NotListed { .. } | Error::NotHeld { .. } => ErrorCode::NotFound,
            Error::Held { .. } => ErrorCode::Busy,
            _ => ErrorCode::Snapshot,
        };
        Self { retryable: code == ErrorCode::Busy, ..Self::from_error(code, &error) }
    }
}
