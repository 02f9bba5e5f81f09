//! Which chunks to ask for next: the largest file first, each file from its start, what came back before all else.
//!
//! Each connection works on a stretch of its own: a large file, or neighbouring small files of one directory. Two connections that
//! write to one file, or make files in one directory, wait for each other in the kernel. Who runs out takes over
//! half of what another has left, so one large file is split over all of them in the end.

use std::collections::HashMap;

use crate::Manifest;
use crate::digest::DigestTable;
use crate::manifest::EntryKind;

/// A chunk that arrives damaged this often is not asked for again.
const DAMAGED_MAX: u8 = 5;
/// Files of at least so many chunks are stretches of their own.
const LARGE_CHUNKS: u32 = 4;
/// Most files in one stretch.
const STRETCH_FILES: usize = 256;

/// A file by its position in the order, and a chunk counted from its first.
type At = (usize, u32);

/// What is still to be asked for between two places; `end` is the first that is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stretch {
    at: At,
    end: At,
}

/// The chunks that are neither proven nor asked for. Knows files by number; a chunk costs no memory until it comes back.
#[derive(Debug)]
pub(super) struct Queue {
    /// Files with something missing, the largest first.
    order: Vec<u32>,
    /// The first file in `order` that no connection has begun.
    unclaimed: usize,
    /// What each connection has taken on.
    stretches: HashMap<usize, Stretch>,
    /// Content bytes that are not asked for.
    left: u64,
    returned: Vec<u32>,
    damaged: HashMap<u32, u8>,
}

impl Queue {
    pub(super) fn new(manifest: &Manifest, proven: &DigestTable) -> Self {
        let mut left = 0;
        let mut order: Vec<u32> = Vec::new();
        for index in 0..manifest.len() as u32 {
            let entry = manifest.entry(index);
            if entry.kind != EntryKind::File {
                continue;
            }
            let missing: u64 = (0..entry.chunks)
                .filter(|&nth| entry.has_data(nth) && !proven.knows(entry.first_chunk + nth))
                .map(|nth| u64::from(manifest.place(index, &entry, nth).len))
                .sum();
            if missing > 0 {
                left += missing;
                order.push(index);
            }
        }
        // Files of about the same size stay in the order of their paths: neighbours share a directory.
        order.sort_by_key(|&index| {
            let entry = manifest.entry(index);
            std::cmp::Reverse(if entry.chunks > 1 { entry.moved.next_power_of_two() } else { 0 })
        });
        Self {
            order,
            unclaimed: 0,
            stretches: HashMap::new(),
            left,
            returned: Vec::new(),
            damaged: HashMap::new(),
        }
    }

    /// Content bytes that nobody has asked for.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Takes chunks for connection `who` until they make `bytes`, or `count`, or none is left. Gives their sum in bytes.
    pub(super) fn take(
        &mut self,
        manifest: &Manifest,
        proven: &DigestTable,
        who: usize,
        (bytes, count): (u64, usize),
        out: &mut Vec<u32>,
    ) -> u64 {
        let mut sum = 0;
        while sum < bytes && out.len() < count {
            let next = self.returned.pop().or_else(|| self.next(manifest, proven, who));
            let Some(chunk) = next else { break };
            sum += manifest.locate(chunk).map_or(0, |place| u64::from(place.len));
            out.push(chunk);
        }
        self.left = self.left.saturating_sub(sum);
        sum
    }

    fn next(&mut self, manifest: &Manifest, proven: &DigestTable, who: usize) -> Option<u32> {
        loop {
            let mut stretch = match self.stretches.remove(&who) {
                Some(stretch) => stretch,
                None => self.claim(manifest).or_else(|| self.take_over(manifest))?,
            };
            while stretch.at < stretch.end {
                let entry = manifest.entry(self.order[stretch.at.0]);
                let nth = stretch.at.1;
                if nth >= entry.chunks {
                    stretch.at = (stretch.at.0 + 1, 0);
                    continue;
                }
                stretch.at.1 += 1;
                if entry.has_data(nth) && !proven.knows(entry.first_chunk + nth) {
                    self.stretches.insert(who, stretch);
                    return Some(entry.first_chunk + nth);
                }
            }
        }
    }

    /// The next stretch that nobody has begun.
    fn claim(&mut self, manifest: &Manifest) -> Option<Stretch> {
        let start = self.unclaimed;
        let first = manifest.entry(*self.order.get(start)?);
        let mut end = start + 1;
        if first.chunks < LARGE_CHUNKS {
            let belongs = |&index: &u32| {
                let entry = manifest.entry(index);
                entry.chunks < LARGE_CHUNKS && entry.path.parent() == first.path.parent()
            };
            end +=
                self.order[end..].iter().take(STRETCH_FILES - 1).take_while(|index| belongs(index)).count();
        }
        self.unclaimed = end;
        Some(Stretch { at: (start, 0), end: (end, 0) })
    }

    /// Half of the longest stretch that another connection has begun.
    fn take_over(&mut self, manifest: &Manifest) -> Option<Stretch> {
        let chunks_left = |stretch: &Stretch| {
            let files = stretch.end.0 + usize::from(stretch.end.1 > 0) - stretch.at.0;
            if files > 1 {
                return files as u64;
            }
            let last = if stretch.end.1 > 0 {
                stretch.end.1
            } else {
                manifest.entry(self.order[stretch.at.0]).chunks
            };
            u64::from(last.saturating_sub(stretch.at.1))
        };
        let (victim, most) = self
            .stretches
            .iter()
            .map(|(who, stretch)| (*who, chunks_left(stretch)))
            .max_by_key(|&(_, n)| n)?;
        if most < 2 {
            return None;
        }
        let stretch = self.stretches.get_mut(&victim)?;
        let (end, half) = (stretch.end, most / 2);
        let files = end.0 + usize::from(end.1 > 0) - stretch.at.0;
        let middle = if files > 1 {
            (stretch.at.0 + files - half as usize, 0)
        } else {
            (stretch.at.0, stretch.at.1 + (most - half) as u32)
        };
        stretch.end = middle;
        Some(Stretch { at: middle, end })
    }

    /// Gives chunks back that a connection asked for and did not get, in the order of asking.
    pub(super) fn give_back(&mut self, manifest: &Manifest, chunks: impl DoubleEndedIterator<Item = u32>) {
        let before = self.returned.len();
        self.returned.extend(chunks.rev());
        let places = self.returned[before..].iter().filter_map(|&chunk| manifest.locate(chunk));
        self.left += places.map(|place| u64::from(place.len)).sum::<u64>();
    }

    /// Gives a damaged chunk back; `false` when that happened too often.
    pub(super) fn give_back_damaged(&mut self, manifest: &Manifest, chunk: u32) -> bool {
        let times = self.damaged.entry(chunk).or_insert(0);
        *times += 1;
        let again = *times < DAMAGED_MAX;
        self.give_back(manifest, std::iter::once(chunk));
        again
    }

    /// Whether a chunk may have left something behind where it is written.
    pub(super) fn was_damaged(&self, chunk: u32) -> bool {
        self.damaged.contains_key(&chunk)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;
    use crate::{Cancel, Exclude};

    const CHUNK: u64 = 256 << 10;

    /// A tree with files of these sizes, in three directories.
    fn manifest(sizes: &[u64]) -> Manifest {
        let dir = tempfile::TempDir::with_prefix("queue-test-").unwrap();
        for (nth, size) in sizes.iter().enumerate() {
            let sub = dir.path().join(format!("d{}", nth % 3));
            fs::create_dir_all(&sub).unwrap();
            // Not sparse: a hole has no chunks to ask for.
            fs::write(sub.join(format!("f{nth}")), vec![1; *size as usize]).unwrap();
        }
        crate::manifest::build(dir.path(), &Exclude::none(), Some(CHUNK as u32), &Cancel::new()).unwrap().0
    }

    fn take(
        queue: &mut Queue,
        manifest: &Manifest,
        proven: &DigestTable,
        who: usize,
        bytes: u64,
    ) -> Vec<u32> {
        let mut out = Vec::new();
        queue.take(manifest, proven, who, (bytes, 64), &mut out);
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn every_missing_chunk_is_asked_for_once(
            sizes in prop::collection::vec(prop_oneof![0..3000_u64, 0..12 * CHUNK], 1..40),
            turns in prop::collection::vec((0..4_usize, 1..3 * CHUNK), 1..30),
        ) {
            let manifest = manifest(&sizes);
            let mut proven = DigestTable::new(manifest.chunks());
            for chunk in (0..manifest.chunks()).step_by(5) {
                proven.set(chunk, [1; 16]);
            }
            let mut queue = Queue::new(&manifest, &proven);
            let mut seen = Vec::new();
            let mut turns = turns.iter().cycle();
            let mut idle = 0;
            while idle < 8 {
                let &(who, bytes) = turns.next().unwrap();
                // All connections must come to rest, whatever the order of turns.
                let who = if idle > 0 { idle - 1 } else { who };
                let got = take(&mut queue, &manifest, &proven, who, bytes);
                idle = if got.is_empty() { idle + 1 } else { 0 };
                seen.extend(got);
            }
            seen.sort_unstable();
            let missing: Vec<u32> = (0..manifest.chunks()).filter(|chunk| !proven.knows(*chunk)).collect();
            prop_assert_eq!(seen, missing);
            prop_assert_eq!(queue.left(), 0);
        }
    }

    #[test]
    fn connections_keep_apart_while_there_is_work_for_all() {
        let manifest = manifest(&[8 * CHUNK, 8 * CHUNK, 10, 10, 10, 10, 10, 10]);
        let proven = DigestTable::new(manifest.chunks());
        let mut queue = Queue::new(&manifest, &proven);
        let file_of = |chunk: u32| manifest.locate(chunk).unwrap().entry;
        let first = take(&mut queue, &manifest, &proven, 0, 2 * CHUNK);
        let second = take(&mut queue, &manifest, &proven, 1, 2 * CHUNK);
        assert_ne!(file_of(first[0]), file_of(second[0]), "two large files for two connections");
        assert_eq!(first[1], first[0] + 1, "from its start, one after the other");
    }

    #[test]
    fn one_large_file_is_split_over_all() {
        let manifest = manifest(&[16 * CHUNK]);
        let proven = DigestTable::new(manifest.chunks());
        let mut queue = Queue::new(&manifest, &proven);
        assert_eq!(take(&mut queue, &manifest, &proven, 0, 2 * CHUNK), [0, 1]);
        assert_eq!(take(&mut queue, &manifest, &proven, 1, CHUNK), [9], "the second half of what was left");
        assert_eq!(take(&mut queue, &manifest, &proven, 0, CHUNK), [2]);
    }

    #[test]
    fn what_came_back_is_asked_for_first() {
        let manifest = manifest(&[16 * CHUNK]);
        let proven = DigestTable::new(manifest.chunks());
        let mut queue = Queue::new(&manifest, &proven);
        let lost = take(&mut queue, &manifest, &proven, 0, 3 * CHUNK);
        queue.give_back(&manifest, lost.iter().copied());
        assert_eq!(queue.left(), 16 * CHUNK);
        assert_eq!(take(&mut queue, &manifest, &proven, 1, 3 * CHUNK), lost);
        for _ in 1..DAMAGED_MAX {
            assert!(queue.give_back_damaged(&manifest, 7));
        }
        assert!(!queue.give_back_damaged(&manifest, 7), "not for ever");
    }
}
