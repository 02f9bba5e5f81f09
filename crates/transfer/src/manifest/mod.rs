//! What a seed consists of: every path with its metadata.

mod exclude;
pub use exclude::Exclude;

/// The encoded, validated list of all entries of a tree.
#[derive(Debug)]
pub struct Manifest {
    bytes: Vec<u8>,
}

impl Manifest {
    /// The encoded form.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Why a manifest is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Fewer bytes than announced.
    #[error("truncated")]
    Truncated,
}
