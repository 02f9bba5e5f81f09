//! What several recipients of one tree have in common: a part that one has read stays in the page cache until the others have read
//! it too, so that the disk reads it once.
//!
//! Offers of one snapshot are donors of their own, so this is found by the tree's root and lives as long as one of them. It is
//! bounded: recipients further apart than [`KEEP_MAX`] are served from the disk each for itself, as if they were alone.
//! Nobody waits for anybody.
//!
//! Of a large file it keeps parts. A small one, of one part, stays or goes as a whole: then nothing but its inode is remembered, for
//! there may be hundreds of thousands.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::inodes::Inodes;
use crate::cache;
use crate::manifest::CHUNK_SIZE_MIN;

/// Bytes of one tree that wait for further readers, in large files and as much again in small ones.
const KEEP_MAX: u64 = 256 << 20;

/// Device and inode of a root.
type Root = (u64, u64);

static SHELVES: Mutex<Vec<(Root, Weak<Shelf>)>> = Mutex::new(Vec::new());

/// What the readers of one tree share.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By what names a recipient.
    readers: HashMap<[u8; 16], Read>,
    /// Parts that someone is still to read, the oldest first.
    kept: VecDeque<Part>,
    kept_bytes: u64,
    /// Small files that someone is still to read.
    small: Inodes,
    small_bytes: u64,
    /// Files that a seed has opened, and those of them that were in the page cache then: what seeds themselves have read
    /// since says nothing.
    opened: Inodes,
    was_cached: Inodes,
}

/// What one recipient has read.
#[derive(Debug, Default)]
struct Read {
    connections: usize,
    /// By inode, one bit for each place where a part may begin.
    parts: HashMap<u64, Vec<u64>>,
    small: Inodes,
}

/// A part of a file.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) file: Arc<File>,
    pub(super) inode: u64,
    pub(super) range: Range<u64>,
}

/// One connection's place among the readers; dropping it gives it up.
#[derive(Debug)]
pub(super) struct Reader {
    shelf: Arc<Shelf>,
    recipient: [u8; 16],
}

impl Shelf {
    /// The shelf of the tree with this root.
    pub(super) fn of(root: Root) -> Arc<Self> {
        let mut shelves = SHELVES.lock().unwrap_or_else(PoisonError::into_inner);
        shelves.retain(|(_, shelf)| shelf.strong_count() > 0);
        let known = shelves.iter().find(|(tree, _)| *tree == root).and_then(|(_, shelf)| shelf.upgrade());
        known.unwrap_or_else(|| {
            let shelf = Arc::new(Self::default());
            shelves.push((root, Arc::downgrade(&shelf)));
            shelf
        })
    }

    /// Takes a place for a connection of this recipient.
    pub(super) fn reader(self: &Arc<Self>, recipient: [u8; 16]) -> Reader {
        self.lock().readers.entry(recipient).or_default().connections += 1;
        Reader { shelf: Arc::clone(self), recipient }
    }

    /// Whether a file was in the page cache before any seed read it.
    pub(super) fn was_cached(&self, inode: u64, is_cached: impl FnOnce() -> bool) -> bool {
        let mut state = self.lock();
        if state.opened.insert(inode) && is_cached() {
            state.was_cached.insert(inode);
        }
        state.was_cached.contains(inode)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reader {
    /// Notes that a part was read, and lets go of what nobody is still to read. `false` when there is no other reader: then
    /// this one may let go as it likes.
    pub(super) fn passed(&self, part: &Part) -> bool {
        let mut state = self.shelf.lock();
        let others = state.readers.len() > 1;
        let done = state.passed(self.recipient, part);
        drop(state);
        if others {
            done.iter().for_each(Part::let_go);
        }
        others
    }

    /// Notes that a small file of `len` bytes was read. `true`: it is to stay for other readers.
    pub(super) fn passed_small(&self, inode: u64, len: u64) -> bool {
        self.shelf.lock().passed_small(self.recipient, inode, len)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let done = self.shelf.lock().leave(self.recipient);
        done.iter().for_each(Part::let_go);
    }
}

impl State {
    /// Gives what may go.
    fn passed(&mut self, recipient: [u8; 16], part: &Part) -> Vec<Part> {
        if let Some(reader) = self.readers.get_mut(&recipient) {
            reader.mark(part);
        }
        let kept = self.kept.iter().position(|kept| kept.is_at(part));
        if self.readers.values().all(|reader| reader.has_read(part)) {
            if let Some(at) = kept {
                self.take(at);
            }
            return vec![part.clone()];
        }
        let mut done = Vec::new();
        if kept.is_none() {
            self.kept_bytes += part.len();
            self.kept.push_back(part.clone());
            while self.kept_bytes > KEEP_MAX {
                done.extend(self.take(0));
            }
        }
        done
    }

    fn passed_small(&mut self, recipient: [u8; 16], inode: u64, len: u64) -> bool {
        if let Some(reader) = self.readers.get_mut(&recipient) {
            reader.small.insert(inode);
        }
        if self.readers.values().all(|reader| reader.small.contains(inode)) {
            if self.small.remove(inode) {
                self.small_bytes = self.small_bytes.saturating_sub(len);
            }
            return false;
        }
        if self.small.contains(inode) {
            return true;
        }
        let has_room = self.small_bytes + len <= KEEP_MAX;
        if has_room {
            self.small.insert(inode);
            self.small_bytes += len;
        }
        has_room
    }

    /// A connection is gone; gives what waited for its recipient only.
    fn leave(&mut self, recipient: [u8; 16]) -> Vec<Part> {
        let Some(reader) = self.readers.get_mut(&recipient) else { return Vec::new() };
        reader.connections -= 1;
        if reader.connections > 0 {
            return Vec::new();
        }
        self.readers.remove(&recipient);
        if self.readers.len() < 2 {
            // What waited for nobody else is left to the kernel: nothing of it is open any more.
            self.small.clear();
            self.small_bytes = 0;
        }
        let (readers, mut done) = (&self.readers, Vec::new());
        self.kept.retain(|part| {
            let is_done = readers.values().all(|reader| reader.has_read(part));
            if is_done {
                done.push(part.clone());
            }
            !is_done
        });
        self.kept_bytes = self.kept.iter().map(Part::len).sum();
        done
    }

    fn take(&mut self, at: usize) -> Option<Part> {
        let part = self.kept.remove(at)?;
        self.kept_bytes -= part.len();
        Some(part)
    }
}

impl Read {
    fn mark(&mut self, part: &Part) {
        let (word, bit) = part.place();
        let words = self.parts.entry(part.inode).or_default();
        if words.len() <= word {
            words.resize(word + 1, 0);
        }
        words[word] |= bit;
    }

    fn has_read(&self, part: &Part) -> bool {
        let (word, bit) = part.place();
        let words = self.parts.get(&part.inode);
        words.and_then(|words| words.get(word)).is_some_and(|word| word & bit != 0)
    }
}

impl Part {
    fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    fn is_at(&self, other: &Self) -> bool {
        (self.inode, self.range.start) == (other.inode, other.range.start)
    }

    /// Its word and bit among the marks: no part is smaller than the smallest chunk but a file's last.
    fn place(&self) -> (usize, u64) {
        let nth = self.range.start / u64::from(CHUNK_SIZE_MIN);
        ((nth / 64) as usize, 1 << (nth % 64))
    }

    /// Lets it go from the page cache.
    pub(super) fn let_go(&self) {
        cache::let_go(&self.file, &self.range);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const ANN: [u8; 16] = [1; 16];
    const BEN: [u8; 16] = [2; 16];

    fn part(nth: u64) -> Part {
        let file = Arc::new(File::open("/dev/null").unwrap());
        Part { file, inode: 7, range: nth * MIB..(nth + 1) * MIB }
    }

    fn starts(parts: &[Part]) -> Vec<u64> {
        parts.iter().map(|part| part.range.start / MIB).collect()
    }

    fn shelf(recipients: &[[u8; 16]]) -> (Arc<Shelf>, Vec<Reader>) {
        let shelf = Arc::new(Shelf::default());
        let readers = recipients.iter().map(|recipient| shelf.reader(*recipient)).collect();
        (shelf, readers)
    }

    #[test]
    fn a_part_goes_when_the_last_has_read_it() {
        let (shelf, _readers) = shelf(&[ANN, ANN, BEN]);
        let mut state = shelf.lock();
        assert_eq!(starts(&state.passed(ANN, &part(0))), [0; 0]);
        assert_eq!(starts(&state.passed(ANN, &part(1))), [0; 0]);
        assert_eq!(starts(&state.passed(BEN, &part(1))), [1]);
        assert_eq!(starts(&state.passed(BEN, &part(0))), [0]);
        assert_eq!((state.kept.len(), state.kept_bytes), (0, 0));
        assert_eq!(starts(&state.passed(BEN, &part(0))), [0], "once more, after a damage");
    }

    #[test]
    fn what_waits_is_bounded_and_the_oldest_goes_first() {
        let (shelf, _readers) = shelf(&[ANN, BEN]);
        let mut state = shelf.lock();
        let most = KEEP_MAX / MIB;
        for nth in 0..most {
            assert_eq!(starts(&state.passed(ANN, &part(nth))), [0; 0]);
        }
        assert_eq!(starts(&state.passed(ANN, &part(most))), [0]);
        assert_eq!(starts(&state.passed(BEN, &part(0))), [0], "from the disk, and not kept again");
        assert_eq!(state.kept_bytes, KEEP_MAX);
    }

    #[test]
    fn who_leaves_is_not_waited_for() {
        let (shelf, mut readers) = shelf(&[ANN, BEN, BEN]);
        shelf.lock().passed(ANN, &part(0));
        shelf.lock().passed(BEN, &part(1));
        readers.pop();
        assert_eq!(shelf.lock().kept.len(), 2, "another connection of the same recipient is there");
        readers.pop();
        assert_eq!(starts(shelf.lock().kept.make_contiguous()), [1], "what the one that stays is to read");
        assert_eq!(starts(&shelf.lock().passed(ANN, &part(1))), [1]);
        readers.pop();
        let state = shelf.lock();
        assert_eq!((state.kept.len(), state.readers.len()), (0, 0));
    }

    #[test]
    fn a_small_file_stays_until_the_last_has_read_it() {
        let (shelf, mut readers) = shelf(&[ANN, BEN]);
        assert!(readers[0].passed_small(7, MIB) && readers[0].passed_small(8, MIB));
        assert!(!readers[1].passed_small(7, MIB), "the last one lets go");
        assert!(!readers[1].passed_small(7, MIB), "once more, after a damage");
        assert_eq!(shelf.lock().small_bytes, MIB);
        assert!(readers[1].passed_small(9, KEEP_MAX - MIB));
        assert!(!readers[1].passed_small(10, 1), "there is no more room");
        readers.pop();
        assert!(!readers[0].passed_small(9, KEEP_MAX - MIB), "nobody else is there");
        assert_eq!(shelf.lock().small_bytes, 0);
    }

    #[test]
    fn what_a_seed_has_read_does_not_count_as_cached_before() {
        let shelf = Shelf::default();
        assert!(!shelf.was_cached(1, || false) && shelf.was_cached(2, || true));
        assert!(!shelf.was_cached(1, || true) && shelf.was_cached(2, || false));
    }

    #[test]
    fn donors_of_one_tree_share_a_shelf_and_it_goes_with_the_last() {
        let (one, same, other) =
            (Shelf::of((1, u64::MAX)), Shelf::of((1, u64::MAX)), Shelf::of((2, u64::MAX)));
        assert!(Arc::ptr_eq(&one, &same) && !Arc::ptr_eq(&one, &other));
        one.was_cached(1, || true);
        drop((one, same));
        assert!(!Shelf::of((1, u64::MAX)).was_cached(1, || false), "a new one knows nothing of the old");
    }
}
