//! The recipient's end: pulls a tree into a staging directory and proves it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::{Cancel, DigestKind, Error, Fingerprint, Progress, Result, Throttle, Token};

/// How to receive a tree.
#[derive(Debug, Clone)]
pub struct RecipientOptions {
    /// Where the donor may be reached, tried in turn.
    pub donor: Vec<SocketAddr>,
    /// The donor's certificate; `None` is plain TCP.
    pub fingerprint: Option<Fingerprint>,
    /// The secret from the offer.
    pub token: Token,
    /// Where the tree lands. Created if missing; on resume it holds what was proven.
    pub staging: PathBuf,
    /// What is proven, on disk. Must not lie inside `staging`. Remove it together with `staging`.
    pub journal: PathBuf,
    /// Connections that pull at once.
    pub connections: usize,
    /// The limit on bytes received.
    pub throttle: Arc<Throttle>,
    /// Live counters.
    pub progress: Arc<Progress>,
    /// Stops the transfer.
    pub cancel: Arc<Cancel>,
    /// The transfer fails when no byte arrives for this long, reconnecting included.
    pub stall_timeout: Duration,
    /// Read again and check what an earlier run proved, without the network.
    pub recheck: bool,
    /// Whether "done" means on disk. Off only for benchmarks and throw-away copies.
    pub durable: bool,
    /// Digests to agree to, best first.
    pub digests: Vec<DigestKind>,
}

impl RecipientOptions {
    /// The usual way to receive from `donor` into `staging`.
    pub fn new(
        donor: Vec<SocketAddr>,
        token: Token,
        staging: impl Into<PathBuf>,
        journal: impl Into<PathBuf>,
    ) -> Self {
        Self {
            donor,
            fingerprint: None,
            token,
            staging: staging.into(),
            journal: journal.into(),
            connections: 4,
            throttle: Arc::default(),
            progress: Arc::default(),
            cancel: Arc::default(),
            stall_timeout: Duration::from_secs(30),
            recheck: true,
            durable: true,
            digests: vec![DigestKind::Xxh3, DigestKind::Blake3],
        }
    }
}

/// A tree that has arrived and is proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Content of the tree, in bytes.
    pub bytes_total: u64,
    /// Content that this call moved.
    pub bytes_moved: u64,
    /// Content that was there already, proven by an earlier call.
    pub bytes_resumed: u64,
    /// Bytes read from sockets, with framing and encryption.
    pub bytes_wire: u64,
    /// Files of the tree.
    pub files: u64,
    /// BLAKE3 over the manifest and all chunk digests, the same on both ends.
    pub root_digest: [u8; 32],
    /// How long this call took.
    pub elapsed: Duration,
}

/// Pulls the donor's tree until it is complete and proven.
///
/// Connections that break are made anew by themselves. After a crash, the same call goes on where the journal ends.
pub fn receive(options: RecipientOptions) -> Result<Received> {
    let _ = options;
    Err(Error::Options("not built yet"))
}
