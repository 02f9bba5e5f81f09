//! A set of inodes. A tree's lie close together (XFS hands them out in blocks of 64), so 300,000 files take little more than
//! a bit each.

use std::collections::HashMap;

/// By inode / 64, a bit for each of 64.
#[derive(Debug, Default)]
pub(super) struct Inodes(HashMap<u64, u64>);

impl Inodes {
    /// `false` when it was there already.
    pub(super) fn insert(&mut self, inode: u64) -> bool {
        let word = self.0.entry(inode / 64).or_default();
        let is_new = *word & bit(inode) == 0;
        *word |= bit(inode);
        is_new
    }

    /// `false` when it was not there.
    pub(super) fn remove(&mut self, inode: u64) -> bool {
        let Some(word) = self.0.get_mut(&(inode / 64)) else { return false };
        let was_there = *word & bit(inode) != 0;
        *word &= !bit(inode);
        was_there
    }

    pub(super) fn contains(&self, inode: u64) -> bool {
        self.0.get(&(inode / 64)).is_some_and(|word| word & bit(inode) != 0)
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

fn bit(inode: u64) -> u64 {
    1 << (inode % 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_what_was_put_in_and_nothing_else() {
        let mut inodes = Inodes::default();
        for inode in [0, 63, 64, 1 << 40] {
            assert!(inodes.insert(inode) && !inodes.insert(inode));
        }
        let held: Vec<u64> =
            [0, 1, 62, 63, 64, 65, 1 << 40].into_iter().filter(|&inode| inodes.contains(inode)).collect();
        assert_eq!(held, [0, 63, 64, 1 << 40]);
        assert!(inodes.remove(63) && !inodes.remove(63) && !inodes.remove(1000));
        assert!(!inodes.contains(63) && inodes.contains(0));
        inodes.clear();
        assert!(!inodes.contains(0));
    }
}
