//! Request ids that were served, with their replies: the same id again gets the same reply, also across a restart.

use std::path::Path;

use crate::error::Result;

/// Bounds of the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheLimits {
    /// Most entries; with more unexpired ones new changes are refused as busy.
    pub max_entries: usize,
    /// Most bytes of kept replies; likewise.
    pub max_bytes: usize,
}

impl Default for CacheLimits {
    fn default() -> Self {
        Self { max_entries: 50_000, max_bytes: 64 << 20 }
    }
}

/// Replies by request id, kept until the deadline and a margin, in a file that survives a crash.
#[derive(Debug)]
pub struct ReplyCache {}

impl ReplyCache {
    /// Opens or makes the file. A torn end is cut off; blocking.
    pub fn open(_path: &Path, _limits: CacheLimits) -> Result<Self> {
        Ok(Self {})
    }
}
