//! The digest that proves a chunk.

/// Digest algorithms that can be agreed on for chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum DigestKind {
    /// XXH3, 128 bits: as fast as memory; finds every accident, stops no forger (TLS does that).
    Xxh3 = 1,
    /// BLAKE3, first 128 bits: also stops a forger on plain TCP; about four times the CPU.
    Blake3 = 2,
}
