//! Failures as they go on the wire, beyond what the crates below say of their own.

use job::StepError;
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
