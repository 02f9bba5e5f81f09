//! The donor's end: serves one tree to who knows the token.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::{DigestKind, Error, Exclude, Fingerprint, Progress, Result, Throttle, Token};

/// Says whether the snapshot is still good. Asked while chunks move, and after the last read before "done".
pub trait SourceGuard: Send + Sync {
    /// `Err` with a message for people when the bytes read so far must not be trusted.
    fn prove(&self) -> Result<(), String>;
}

/// Always content: for trees that cannot become invalid.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoGuard;

impl SourceGuard for NoGuard {
    fn prove(&self) -> Result<(), String> {
        Ok(())
    }
}

/// How a donor offers its tree.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "holds a dyn SourceGuard")]
pub struct DonorOptions {
    /// The tree to serve, usually a mounted snapshot.
    pub root: PathBuf,
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The secret that the recipient must know; good for one seed.
    pub token: Token,
    /// Encrypt with TLS 1.3. Plain TCP only when this is false and the recipient has no fingerprint either.
    pub tls: bool,
    /// What stays at home.
    pub exclude: Exclude,
    /// The limit on bytes sent.
    pub throttle: Arc<Throttle>,
    /// Asked whether the snapshot is still good.
    pub source_guard: Arc<dyn SourceGuard>,
    /// How often it is asked while chunks move.
    pub guard_interval: Duration,
    /// Connections served at once; more are turned away.
    pub connections_max: usize,
    /// A connection on which nothing moves for this long is dropped.
    pub stall_timeout: Duration,
    /// The offer ends when no recipient is connected for this long.
    pub idle_timeout: Duration,
    /// Digests to agree to, best first.
    pub digests: Vec<DigestKind>,
    /// Size of a chunk in bytes, a power of two of at least 256 KiB; `None` chooses by the size of the tree.
    pub chunk_size: Option<u32>,
}

impl DonorOptions {
    /// The usual offer of `root` to who knows `token`: TLS on a free port of all addresses.
    pub fn new(root: impl Into<PathBuf>, token: Token) -> Self {
        Self {
            root: root.into(),
            listen: SocketAddr::from(([0, 0, 0, 0], 0)),
            token,
            tls: true,
            exclude: Exclude::none(),
            throttle: Arc::default(),
            source_guard: Arc::new(NoGuard),
            guard_interval: Duration::from_secs(5),
            connections_max: 64,
            stall_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(600),
            digests: vec![DigestKind::Xxh3, DigestKind::Blake3],
            chunk_size: None,
        }
    }
}

/// What a donor has done when its seed is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DonorReport {
    /// Bytes put on sockets.
    pub bytes_sent: u64,
    /// Content of the tree, in bytes.
    pub bytes_total: u64,
    /// BLAKE3 over the manifest and all chunk digests, the same on both ends.
    pub root_digest: [u8; 32],
}

/// A running offer. Dropping it stops it.
#[derive(Debug)]
pub struct Donor {
    addr: SocketAddr,
    fingerprint: Option<Fingerprint>,
    progress: Arc<Progress>,
}

impl Donor {
    /// Listens and begins to walk the tree; returns as soon as recipients may connect.
    pub fn start(options: DonorOptions) -> Result<Self> {
        let _ = options;
        Err(Error::Options("not built yet"))
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The certificate's fingerprint for the offer; `None` on plain TCP.
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.fingerprint
    }

    /// Live counters.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Waits until the tree is walked; gives its files and bytes.
    pub fn wait_ready(&self) -> Result<(u64, u64)> {
        Err(Error::Cancelled)
    }

    /// Ends the offer: closes all sockets and frees the tree in less than a second. [`Donor::wait`] gives `Cancelled`.
    pub fn stop(&self) {}

    /// Waits until the recipient has everything and both agree on it, or until the seed failed.
    pub fn wait(&self) -> Result<DonorReport> {
        Err(Error::Cancelled)
    }
}
