//! The truth on disk: one append-only file of hash-chained records per job, and the pure fold that reads it.

mod file;
mod fold;
mod record;
mod upgrade;

pub(crate) use file::Writer;
pub use file::{JournalError, Parsed, parse, read};
pub use fold::{History, Illegal, Next};
pub use record::{
    AfterFailure, AfterUndoFailure, Cause, Digest, Event, JobSpec, Outcome, PlannedStep, Record, State,
    StepFailure, Undo,
};
pub use upgrade::FORMAT;

/// The longest record, in bytes; a step's output or note beyond it is refused before it is written.
pub const MAX_RECORD_BYTES: usize = 4 << 20;
