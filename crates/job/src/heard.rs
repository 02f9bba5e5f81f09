//! Up to which record an observer has heard for good, beside the journal. After a crash it is what tells a record that nobody heard of from
//! one that was told long ago; clocks cannot, since they jump.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Its name in the job's directory.
const NAME: &str = "heard";

/// The mark of a job that is open.
#[derive(Debug)]
pub(crate) struct Mark {
    path: PathBuf,
    /// The record that was heard last; absent where that was not kept.
    last: Option<u64>,
    /// Cleared by the first record that was not heard: those after it do not count.
    follows: bool,
}

impl Mark {
    /// Of the job with this directory.
    pub(crate) fn of(directory: &Path) -> Self {
        Self { path: directory.join(NAME), last: read(directory), follows: true }
    }

    /// The record with this number was heard, or was not. Nothing is synced: a mark that a crash of the system takes back has records told
    /// again which are still known as told elsewhere.
    pub(crate) fn note(&mut self, seq: u64, heard: bool) {
        // One between that was missed before this process is still to be told.
        self.follows &= heard && self.last.is_none_or(|last| seq <= last + 1);
        if self.follows {
            self.set(seq);
        }
    }

    /// All up to this record are known to be heard.
    pub(crate) fn set(&mut self, seq: u64) {
        self.last = Some(seq);
        // Always as long, and written over: a process that is killed leaves the old number or the new one.
        let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(&self.path);
        if let Err(error) = file.and_then(|mut file| file.write_all(format!("{seq:020}").as_bytes())) {
            tracing::debug!(path = %self.path.display(), %error, "which records were heard cannot be kept");
        }
    }
}

/// Up to which record the observer has heard; `None` where that was not kept.
pub(crate) fn read(directory: &Path) -> Option<u64> {
    fs::read_to_string(directory.join(NAME)).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_was_missed_holds_the_mark_back_until_it_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let mut mark = Mark::of(dir.path());
        mark.note(0, true);
        mark.note(1, false);
        mark.note(2, true);
        assert_eq!(read(dir.path()), Some(0), "in the process that missed it");
        Mark::of(dir.path()).note(3, true);
        assert_eq!(read(dir.path()), Some(0), "and in the next");
        let mut mark = Mark::of(dir.path());
        mark.set(3);
        mark.note(4, true);
        assert_eq!(read(dir.path()), Some(4));
    }
}
