//! Settles what is proven: first the data to disk, then the record to the journal, beside the transfer and in batches.

use std::time::Duration;

use super::journal::Journal;
use super::shared::Shared;
use crate::Result;
use crate::digest::ChunkDigest;

/// A batch is settled when it has this many bytes, or is this old.
const BATCH_BYTES: u64 = 512 << 20;
const BATCH_AGE: Duration = Duration::from_secs(2);
/// With more files than this in a batch, one flush of the filesystem costs less than one per file.
const FILES_MAX: usize = 16;

/// What is proven and not in the journal.
pub(super) type Unsettled = Vec<(u32, ChunkDigest)>;

/// Runs until no more chunks will be proven. What a complete transfer leaves unsettled is given back: the flush at its end
/// covers it, and flushing it here would only keep the end waiting.
pub(super) fn settle(shared: &Shared<'_>, journal: &mut Journal) -> Unsettled {
    let mut batch = Vec::new();
    let durable = shared.options.durable;
    while shared.take_unsettled(&mut batch, BATCH_BYTES, BATCH_AGE) {
        if durable && shared.is_complete() {
            return batch;
        }
        let settled = flush(shared, &batch).and_then(|()| journal.append(&batch, durable));
        if let Err(error) = settled {
            shared.fail(error);
            break;
        }
        let_go(shared, &batch);
    }
    Vec::new()
}

fn flush(shared: &Shared<'_>, batch: &[(u32, ChunkDigest)]) -> Result<()> {
    if !shared.options.durable {
        return Ok(());
    }
    let mut files: Vec<u32> = batch
        .iter()
        .filter_map(|&(chunk, _)| shared.manifest.locate(chunk))
        .map(|place| place.entry)
        .collect();
    files.sort_unstable();
    files.dedup();
    if files.len() > FILES_MAX {
        return shared.staging.flush_all();
    }
    files.into_iter().try_for_each(|index| shared.staging.flush_file(&shared.manifest.entry(index)))
}

/// Lets go from the page cache what is on disk, where the tree is large.
pub(super) fn let_go(shared: &Shared<'_>, batch: &[(u32, ChunkDigest)]) {
    let mut places: Vec<_> = batch.iter().filter_map(|&(chunk, _)| shared.manifest.locate(chunk)).collect();
    places.sort_unstable_by_key(|place| place.entry);
    for file in places.chunk_by(|one, next| one.entry == next.entry) {
        let entry = shared.manifest.entry(file[0].entry);
        let runs = file.iter().flat_map(|place| shared.manifest.runs(place));
        shared.staging.let_go_of(&entry, runs);
    }
}
