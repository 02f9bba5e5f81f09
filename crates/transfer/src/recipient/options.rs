//! How a recipient receives.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::{Cancel, Compression, DigestKind, Fingerprint, Progress, Throttle, Token, cache};

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
    /// The inode of `staging`, which then must be there: another directory in its place fails the transfer.
    pub staging_inode: Option<u64>,
    /// What is proven, on disk. Must not lie inside `staging`. Remove it together with `staging`.
    pub journal: PathBuf,
    /// Connections that pull at once, at most 64; 0 chooses by how long the donor takes to answer.
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
    /// Who owns what is made, as (uid, gid); `None` keeps the donor's numbers. Only root can give files away.
    pub owner: Option<(u32, u32)>,
    /// The recipient's old tree: blocks of 16 KiB that it holds at the same place of the same file do not travel. It is only
    /// read, and shared by reflink where it lies on the same filesystem and that can.
    pub delta_base: Option<PathBuf>,
    /// A tree that has come from this donor before, as it came. If the donor still has it too, only what differs is read, on either
    /// side, and the rest is shared with it by reflink; it comes before `delta_base`.
    pub base: Option<Base>,
    /// A tree of more bytes than this is let go from the page cache as soon as it is on disk, and so is what is read of it or
    /// of the old tree. Usually a quarter of the host's memory.
    pub cache_max: u64,
    /// How long a recipient that gives up tries to tell the donor.
    pub tell_limit: Duration,
    /// Digests to agree to, best first.
    pub digests: Vec<DigestKind>,
    /// How what travels may be compressed.
    pub compression: Compression,
    /// Where to hand on to other recipients of the same tree what is proven here, and so to get from them what they have; port 0
    /// takes a free one. Only over TLS, without a delta, and with a donor that introduces them.
    pub relay: Option<SocketAddr>,
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
            staging_inode: None,
            journal: journal.into(),
            connections: 0,
            throttle: Arc::default(),
            progress: Arc::default(),
            cancel: Arc::default(),
            stall_timeout: Duration::from_secs(30),
            recheck: true,
            durable: true,
            owner: None,
            delta_base: None,
            base: None,
            cache_max: cache::fair_share(),
            tell_limit: Duration::from_millis(500),
            digests: vec![DigestKind::Xxh3, DigestKind::Blake3],
            compression: Compression::Auto,
            relay: None,
        }
    }
}

/// A tree that a recipient has kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// Where it lies, on the file system of staging. Nobody may write to it.
    pub root: PathBuf,
    /// [`Received::root_digest`] of when it came: that the tree is still the same is for the caller to know.
    pub root_digest: [u8; 32],
}
