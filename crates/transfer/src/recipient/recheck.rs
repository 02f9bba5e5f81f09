//! Looks at what an earlier run proved: is it still there, and still the same? Costs no network.

use std::os::unix::fs::FileExt as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use super::RecipientOptions;
use super::staging::Staging;
use crate::digest::{ChunkHasher, DigestKind, DigestTable};
use crate::frame::PIECE_MAX;
use crate::manifest::{Entry, EntryKind};
use crate::{Cancel, Error, Manifest, Result};

const THREADS: usize = 2;

/// Forgets chunks of files that are gone or changed in size and, if the options say so, chunks whose content differs.
pub(super) fn recheck(
    options: &RecipientOptions,
    manifest: &Manifest,
    staging: &Staging,
    kind: DigestKind,
    proven: &mut DigestTable,
    stop: &Cancel,
) -> Result<()> {
    let files: Vec<u32> = (0..manifest.len() as u32)
        .filter(|&index| {
            let entry = manifest.entry(index);
            entry.kind == EntryKind::File
                && (0..entry.chunks).any(|nth| proven.knows(entry.first_chunk + nth))
        })
        .collect();
    let lost = Mutex::new(Vec::new());
    let next = AtomicUsize::new(0);
    let known = &*proven;
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let mut checker =
                    Checker { hasher: ChunkHasher::new(kind), buffer: vec![0; PIECE_MAX], lost: Vec::new() };
                while let Some(&index) = files.get(next.fetch_add(1, Relaxed)) {
                    checker.check(options, manifest, index, staging, known, stop);
                }
                if let Ok(mut all) = lost.lock() {
                    all.append(&mut checker.lost);
                }
            });
        }
    });
    if stop.is_cancelled() {
        return Err(Error::Cancelled);
    }
    let lost = lost.into_inner().unwrap_or_default();
    if !lost.is_empty() {
        tracing::warn!(chunks = lost.len(), "proven chunks are gone or changed; they travel again");
    }
    for chunk in lost {
        proven.forget(chunk);
    }
    Ok(())
}

struct Checker {
    hasher: ChunkHasher,
    buffer: Vec<u8>,
    lost: Vec<u32>,
}

impl Checker {
    fn check(
        &mut self,
        options: &RecipientOptions,
        manifest: &Manifest,
        index: u32,
        staging: &Staging,
        known: &DigestTable,
        stop: &Cancel,
    ) {
        let entry = manifest.entry(index);
        let file = staging.open_proven(&entry);
        for nth in 0..entry.chunks {
            let chunk = entry.first_chunk + nth;
            let Some(digest) = known.get(chunk) else { continue };
            let Some(file) = &file else {
                self.lost.push(chunk);
                continue;
            };
            if !options.recheck {
                continue;
            }
            if stop.is_cancelled() {
                return;
            }
            let place = manifest.place(index, &entry, nth);
            let mut readable = true;
            for run in manifest.runs(&place) {
                let mut at = run.start;
                while readable && at < run.end {
                    let part = &mut self.buffer[..PIECE_MAX.min((run.end - at) as usize)];
                    readable = file.read_exact_at(part, at).is_ok();
                    self.hasher.update(part);
                    at += part.len() as u64;
                }
                staging.let_go(file, &run);
            }
            if self.hasher.finish() != digest || !readable {
                self.lost.push(chunk);
            }
        }
    }
}

/// Content bytes of all proven chunks.
pub(super) fn proven_bytes(manifest: &Manifest, proven: &DigestTable) -> u64 {
    (0..manifest.chunks())
        .filter(|&chunk| proven.knows(chunk))
        .filter_map(|chunk| manifest.locate(chunk))
        .map(|place| u64::from(place.len))
        .sum()
}

/// Files of which no chunk is missing.
pub(super) fn proven_files(manifest: &Manifest, proven: &DigestTable) -> u64 {
    let complete = |entry: &Entry<'_>| {
        (0..entry.chunks).all(|nth| !entry.has_data(nth) || proven.knows(entry.first_chunk + nth))
    };
    manifest.iter().filter(|entry| entry.kind == EntryKind::File).filter(complete).count() as u64
}
