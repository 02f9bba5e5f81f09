//! What a private server runs on, and how it treats others.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use protocol::mysql::{Layout, ServerVersion};
use sys::dir::Dir;

use super::{RUN_ROOT, whole};
use crate::error::{Error, Result};
use crate::find;
use crate::process::{Limits, User};

/// A server that has only idle time may show no progress for so long.
const IDLE_PATIENCE: Duration = Duration::from_secs(900);

/// What the private server runs on.
#[derive(Debug, Clone)]
pub struct SandboxOptions {
    /// Datadir, writable.
    pub datadir: PathBuf,
    /// Server binary; absent: the installed one.
    pub binary: Option<PathBuf>,
    /// Words that the host puts before its binary, for example `chroot /srv/db`.
    pub prefix: Vec<String>,
    /// Parent of its run directory (socket, pid file, temporary files, error log); short, for the socket's path.
    pub run_root: PathBuf,
    /// That parent, held, where somebody else may rename what leads to it: all that is made, read and removed in it is
    /// reached by this.
    pub run_held: Option<Arc<Dir>>,
    /// Layout of the data, where it is not the default.
    pub layout: Option<Layout>,
    /// Base name of the binary log *inside* the datadir, to recover with it and read the GTID; absent: no binary log.
    pub log_bin: Option<String>,
    /// Arguments added last, for example for keys of encrypted tablespaces.
    pub extra_args: Vec<String>,
    /// Size of its buffer pool in bytes.
    pub buffer_pool_bytes: u64,
    /// Given up after this long without a sign of progress.
    pub start_patience: Duration,
    /// It has only the processor and disk time that nobody else wants; see [`SandboxOptions::in_idle_time`].
    pub idle: bool,
    /// Bytes per second that it may have the disk read and write; absent or 0: as many as it likes. Best effort: where its account
    /// cannot be read, or its program is the child of a wrapper, it is not held to them.
    pub bytes_per_s: Option<u64>,
    /// Nobody keeps the data afterwards: nothing that it writes is made durable, and no query of the live server waits behind its
    /// `fsync`s. [`verify`](super::verify) sets it.
    pub discarded: bool,
}

impl SandboxOptions {
    /// Options for a datadir with everything else by default.
    #[must_use]
    pub fn new(datadir: impl Into<PathBuf>) -> Self {
        Self {
            datadir: datadir.into(),
            binary: None,
            prefix: Vec::new(),
            run_root: PathBuf::from(RUN_ROOT),
            run_held: None,
            layout: None,
            log_bin: None,
            extra_args: Vec::new(),
            buffer_pool_bytes: 64 << 20,
            start_patience: Duration::from_secs(60),
            idle: false,
            bytes_per_s: None,
            discarded: false,
        }
    }

    /// Nobody waits for it: queries of the live server go first, and on a host that is never idle it takes as long as it takes. The disk
    /// reads and writes no more than `bytes_per_s` for it; 0: as many as it likes.
    #[must_use]
    pub fn in_idle_time(self, bytes_per_s: u64) -> Self {
        Self { idle: true, bytes_per_s: Some(bytes_per_s), start_patience: IDLE_PATIENCE, ..self }
    }

    /// The server's program and whose it is.
    pub(super) async fn program(&self) -> Result<(PathBuf, ServerVersion)> {
        let binary = self.binary.clone().or_else(find::binary);
        let binary = binary.ok_or(Error::NotFound { what: "the server binary" })?;
        let owner = fs::metadata(&self.datadir).map_err(Error::io("read", &self.datadir))?;
        let user = User::owner_of(&owner).filter(|_| self.prefix.is_empty());
        let program = [self.prefix.clone(), vec![binary.display().to_string()]].concat();
        let version = find::version_by(&program, &Limits::default(), user).await;
        let version = version.ok_or(Error::NotFound { what: "the version of the server binary" })?;
        Ok((binary, version))
    }

    /// What the datadir lacks before any server has touched it.
    pub(super) async fn missing(&self) -> Result<Option<String>> {
        let (_, version) = self.program().await?;
        Ok(whole::missing_before(&self.datadir, self.layout.as_ref(), &version))
    }
}
