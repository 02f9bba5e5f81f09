//! What is kept of a pipe that may say anything for any time.

use std::collections::VecDeque;

/// Which part of a pipe is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    First,
    Last,
}

/// At most `limit` bytes from one end of what was said.
#[derive(Debug)]
pub(super) struct Kept {
    end: End,
    limit: usize,
    bytes: VecDeque<u8>,
}

impl Kept {
    pub(super) fn new(end: End, limit: usize) -> Self {
        Self { end, limit, bytes: VecDeque::new() }
    }

    pub(super) fn add(&mut self, said: &[u8]) {
        match self.end {
            End::First => {
                let room = self.limit.saturating_sub(self.bytes.len());
                self.bytes.extend(&said[..said.len().min(room)]);
            }
            End::Last => {
                self.bytes.extend(&said[said.len().saturating_sub(self.limit)..]);
                let over = self.bytes.len().saturating_sub(self.limit);
                self.bytes.drain(..over);
            }
        }
    }

    /// What was kept; empties it.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes).into()
    }
}

/// The last lines that say something, the very last one last.
pub(super) fn last_lines(bytes: &[u8], count: usize) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    // Some tools end with a pointer to their help, which says nothing.
    let telling = |line: &String| !line.is_empty() && !line.starts_with("Run `");
    let mut lines: Vec<String> = text.lines().rev().map(printable).filter(telling).take(count).collect();
    lines.reverse();
    lines
}

fn printable(line: &str) -> String {
    let line: String = line.chars().filter(|c| !c.is_control()).collect();
    line.trim().chars().take(400).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_end_is_kept_within_its_limit() {
        for (end, expected) in [(End::First, "abcd"), (End::Last, "fghi")] {
            for pieces in [&["abcdefghi"][..], &["ab", "cdef", "ghi"], &["abcdefgh", "i", ""]] {
                let mut kept = Kept::new(end, 4);
                pieces.iter().for_each(|piece| kept.add(piece.as_bytes()));
                assert_eq!(kept.take(), expected.as_bytes(), "{pieces:?}");
            }
        }
    }

    #[test]
    fn the_last_lines_are_those_that_say_something() {
        let said = b"one\n two \x1b[1m\n\n  \nRun `x --help` now.\n";
        assert_eq!(last_lines(said, 5), ["one", "two [1m"]);
        assert_eq!(last_lines(said, 1), ["two [1m"]);
    }
}
