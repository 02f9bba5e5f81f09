//! Compares blocks by digest, so that only those that differ travel.
//!
//! A block's digest is short and unkeyed: it only decides what to leave out. Whether the result is right is decided by the
//! digest of the whole chunk, made of what the recipient then has; where that differs the chunk travels whole.

use xxhash_rust::xxh3::xxh3_64;

use crate::frame::{DELTA_BLOCK, le_u64};

/// The digest of one block, as it travels.
pub(crate) fn block_digest(block: &[u8]) -> [u8; 8] {
    xxh3_64(block).to_le_bytes()
}

/// The set of blocks of `piece` that differ from `theirs` (eight bytes per block); blocks without a digest differ.
pub(crate) fn changed_blocks(piece: &[u8], theirs: &[u8]) -> u32 {
    let mut changed = 0;
    for (nth, block) in piece.chunks(DELTA_BLOCK).enumerate() {
        let same = theirs.get(nth * 8..nth * 8 + 8).is_some_and(|digest| xxh3_64(block) == le_u64(digest));
        changed |= u32::from(!same) << nth;
    }
    changed
}

/// The blocks of a piece of `len` bytes that are in `set`, as ranges.
pub(crate) fn ranges(set: u32, len: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let blocks = len.div_ceil(DELTA_BLOCK);
    (0..blocks)
        .filter(move |nth| set >> nth & 1 == 1)
        .map(move |nth| nth * DELTA_BLOCK..((nth + 1) * DELTA_BLOCK).min(len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_blocks_and_only_those_are_found() {
        let old = vec![7_u8; 5 * DELTA_BLOCK + 100];
        let digests: Vec<u8> = old.chunks(DELTA_BLOCK).flat_map(block_digest).collect();
        assert_eq!(changed_blocks(&old, &digests), 0);
        let mut new = old.clone();
        new[DELTA_BLOCK] = 8;
        new[5 * DELTA_BLOCK + 99] = 8;
        let set = changed_blocks(&new, &digests);
        assert_eq!(set, 0b10_0010);
        let found: Vec<_> = ranges(set, new.len()).collect();
        assert_eq!(found, [DELTA_BLOCK..2 * DELTA_BLOCK, 5 * DELTA_BLOCK..5 * DELTA_BLOCK + 100]);
        assert_eq!(changed_blocks(&new, &digests[..8]), 0b11_1110, "blocks that the other end does not have");
    }
}
