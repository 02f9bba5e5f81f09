//! Logs that are read in pieces: who reads on gets the reader of the piece before, which would otherwise begin at the log's start again, so that a
//! long log would cost the square of its length.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Readers that are kept; each may be a program at work.
const MAX: usize = 4;
/// Who reads on does so at once; a reader that nobody wants for so long is let go.
const IDLE: Duration = Duration::from_secs(60);

/// Which part of which log is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) file: String,
    pub(crate) start: u64,
    pub(crate) stop: Option<u64>,
}

/// The readers between two pieces.
#[derive(Debug)]
pub(crate) struct Readings<R>(Mutex<Vec<Reading<R>>>);

#[derive(Debug)]
struct Reading<R> {
    part: Part,
    next: u64,
    reader: R,
    kept: Instant,
}

impl<R> Default for Readings<R> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<R> Readings<R> {
    /// The reader that stands at this offset of the part.
    pub(crate) fn take(&self, part: &Part, offset: u64) -> Option<R> {
        let mut readings = self.0.lock();
        let at = readings.iter().position(|kept| kept.part == *part && kept.next == offset)?;
        Some(readings.swap_remove(at).reader)
    }

    /// Keeps a reader that stands at `next`, in the place of the one that was kept first where there are too many.
    pub(crate) fn keep(&self, part: Part, next: u64, reader: R) {
        let mut readings = self.0.lock();
        if readings.len() >= MAX {
            readings.remove(0);
        }
        readings.push(Reading { part, next, reader, kept: Instant::now() });
    }

    /// Lets go of those that nobody wanted for long.
    pub(crate) fn let_go(&self) {
        self.0.lock().retain(|reading| reading.kept.elapsed() < IDLE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_piece_gets_its_reader_and_no_other() {
        let part = |file: &str| Part { file: file.to_owned(), start: 4, stop: None };
        let readings = Readings::default();
        readings.keep(part("a"), 10, "reader");
        assert_eq!(readings.take(&part("a"), 11), None);
        assert_eq!(readings.take(&part("b"), 10), None);
        assert_eq!(readings.take(&Part { start: 5, ..part("a") }, 10), None);
        assert_eq!(readings.take(&part("a"), 10), Some("reader"));
        assert_eq!(readings.take(&part("a"), 10), None, "it is one");
        for n in 0..=MAX as u64 {
            readings.keep(part("a"), n, "reader");
        }
        assert_eq!(readings.take(&part("a"), 0), None, "the first has made room");
        readings.let_go();
        assert_eq!(readings.take(&part("a"), 1), Some("reader"), "not idle for long");
    }
}
