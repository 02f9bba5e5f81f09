//! A journalled step engine (a saga) that knows no domain.
//!
//! A job is a list of [`Step`]s, each idempotent and each with its undo. Every intent is on disk before it is
//! acted upon, so that a job ends in one of two ways whatever dies meanwhile: all of its steps ran, or what they
//! did is undone. This crate must not learn what a step does: of the project it knows the ids and the words for failures.
//!
//! The order of reading: [`Step`] and [`Scope`] are what the author of a job writes against, [`Runner`] is what the
//! program holds, [`journal`] is the truth on disk, and [`journal::History`] decides, purely, what comes next.
//!
//! # The promises
//! - **Before acting, on disk.** `step_started` is fsynced before [`Step::run`] is called, and `undo_started`
//!   before [`Step::undo`]. A journal that cannot be written stops the job before it acts.
//! - **At least once.** A step whose end is not in the journal is run again after a crash.
//! - **Undo is for every step that began**, in reverse order, also when its outcome is unknown.
//! - **Point of no return.** Once a step with [`Step::commits`] is journalled as finished, the work up to it stands:
//!   abort is refused, and a later failure undoes no further back than the step after it.
//! - **Abort undoes, park does not.** A parked job goes on at the next start, exactly as after a crash.

mod code;
mod drive;
mod error;
mod handle;
mod heard;
pub mod inject;
pub mod journal;
mod live;
mod observe;
mod runner;
mod scope;
mod shared;
mod step;
mod store;

pub use code::Code;
pub use error::JobError;
pub use handle::{AbortError, Aborting, Ending, JobHandle};
pub use inject::Inject;
pub use journal::{Cause, JobSpec, Outcome, Record, State, Undo};
pub use observe::{Observer, Progress};
pub use runner::Runner;
pub use scope::Scope;
pub use shared::{Options, Steps};
pub use step::{OnFailure, OnUndoFailure, Retry, Step, StepError};
pub use store::{Broken, Recovered, Recovery, Retention, Shown, Summary};
/// The writer of the journals, for who keeps files beside them.
pub use sys::file as crashsafe;
