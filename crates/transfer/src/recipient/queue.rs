//! Which chunks to ask for next: the largest file first, each file from its start, what came back before all else.

use std::collections::HashMap;

use crate::Manifest;
use crate::digest::DigestTable;
use crate::manifest::EntryKind;

/// A chunk that arrives damaged this often is not asked for again.
const DAMAGED_MAX: u8 = 5;

/// The chunks that are neither proven nor asked for. Knows files by number; a chunk costs no memory until it comes back.
#[derive(Debug)]
pub(super) struct Queue {
    /// Files with something missing, the largest first.
    order: Vec<u32>,
    /// Position in `order`, and the next chunk of that file counted from its first.
    at: (usize, u32),
    returned: Vec<u32>,
    damaged: HashMap<u32, u8>,
}

impl Queue {
    pub(super) fn new(manifest: &Manifest, proven: &DigestTable) -> Self {
        let mut order: Vec<u32> = (0..manifest.len() as u32)
            .filter(|&index| {
                let entry = manifest.entry(index);
                entry.kind == EntryKind::File
                    && (0..entry.chunks)
                        .any(|nth| entry.has_data(nth) && !proven.knows(entry.first_chunk + nth))
            })
            .collect();
        // Files of about the same size stay in the order of their paths: neighbours share a directory.
        order.sort_by_key(|&index| std::cmp::Reverse(manifest.entry(index).size.next_power_of_two()));
        Self { order, at: (0, 0), returned: Vec::new(), damaged: HashMap::new() }
    }

    /// Takes chunks until they make `bytes`, or `count`, or none is left. Gives their sum in bytes.
    pub(super) fn take(
        &mut self,
        manifest: &Manifest,
        proven: &DigestTable,
        bytes: u64,
        count: usize,
        out: &mut Vec<u32>,
    ) -> u64 {
        let mut sum = 0;
        while sum < bytes && out.len() < count {
            let Some(chunk) = self.returned.pop().or_else(|| self.next(manifest, proven)) else { break };
            sum += manifest.locate(chunk).map_or(0, |place| u64::from(place.len));
            out.push(chunk);
        }
        sum
    }

    fn next(&mut self, manifest: &Manifest, proven: &DigestTable) -> Option<u32> {
        while let Some(&index) = self.order.get(self.at.0) {
            let entry = manifest.entry(index);
            while self.at.1 < entry.chunks {
                let nth = self.at.1;
                self.at.1 += 1;
                if entry.has_data(nth) && !proven.knows(entry.first_chunk + nth) {
                    return Some(entry.first_chunk + nth);
                }
            }
            self.at = (self.at.0 + 1, 0);
        }
        None
    }

    /// Gives chunks back that a connection asked for and did not get, in the order of asking.
    pub(super) fn give_back(&mut self, chunks: impl DoubleEndedIterator<Item = u32>) {
        self.returned.extend(chunks.rev());
    }

    /// Gives a damaged chunk back; `false` when that happened too often.
    pub(super) fn give_back_damaged(&mut self, chunk: u32) -> bool {
        let times = self.damaged.entry(chunk).or_insert(0);
        *times += 1;
        self.returned.push(chunk);
        *times < DAMAGED_MAX
    }

    /// Whether a chunk may have left something behind where it is written.
    pub(super) fn was_damaged(&self, chunk: u32) -> bool {
        self.damaged.contains_key(&chunk)
    }
}
