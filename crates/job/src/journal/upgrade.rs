//! Journals outlive the program that began them: each record carries its format, and older ones are lifted here.

use serde_json::Value;

use super::JournalError;

/// The format that this program writes. One journal may hold records of several formats, in rising order.
pub const FORMAT: u32 = 1;

/// Lifts the record on line `line` (from 1) from format `from` to [`FORMAT`], one format at a time.
pub(super) fn upgrade(from: u32, record: Value, line: usize) -> Result<Value, JournalError> {
    match from {
        FORMAT => Ok(record),
        0 => Err(JournalError::Corrupt { line, why: "format 0 never existed".to_owned() }),
        newer => Err(JournalError::NewerFormat { found: newer, supported: FORMAT }),
    }
}
