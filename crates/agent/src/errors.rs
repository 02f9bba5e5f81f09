//! Failures as they go on the wire, beyond what the crates below say of their own.

use job::{Cause, Outcome, State, StepError, Undo};
use protocol::error::{ErrorCode, WireError};

/// The failure of a step, kept in the journal, on the wire.
pub(crate) fn from_step(step: &str, error: &StepError) -> WireError {
    let message = if step.is_empty() { error.message.clone() } else { format!("{step}: {}", error.message) };
    WireError {
        code: error.code.on_the_wire(),
        message,
        retryable: error.retryable,
        causes: error.causes.clone(),
        guard: None,
    }
}

/// A failure of the operating system.
pub(crate) fn system(message: impl Into<String>, error: &(dyn std::error::Error + 'static)) -> WireError {
    WireError::caused(ErrorCode::System, message, error)
}

/// Why the job failed or is being undone.
pub(crate) fn error_of(state: &State) -> Option<WireError> {
    match state {
        State::Undoing { cause, .. } => Some(error_of_cause(cause)),
        State::Finished(outcome) => error_of_outcome(outcome),
        State::Created | State::Running { .. } => None,
    }
}

fn error_of_cause(cause: &Cause) -> WireError {
    match cause {
        Cause::Failed(failure) => from_step(&failure.step, &failure.error),
        Cause::Aborted { reason } => WireError::new(ErrorCode::Aborted, format!("aborted: {reason}")),
    }
}

/// Why the job failed, and what its undo left behind.
pub(crate) fn error_of_outcome(outcome: &Outcome) -> Option<WireError> {
    let (mut error, left) = match outcome {
        Outcome::Done { .. } => return None,
        Outcome::Failed { failure, left } => (from_step(&failure.step, &failure.error), left),
        Outcome::Aborted { reason, left } => {
            (WireError::new(ErrorCode::Aborted, format!("aborted: {reason}")), left)
        }
    };
    if let Undo::Incomplete { failures } = left {
        for failure in failures {
            error
                .message
                .push_str(&format!("; {} could not be undone: {}", failure.step, failure.error.message));
        }
    }
    Some(error)
}
