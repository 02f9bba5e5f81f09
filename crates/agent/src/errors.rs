//! The errors of the crates below, as they go on the wire.

use job::{AbortError, JobError, StepError};
use protocol::error::{ErrorCode, WireError};

/// A MySQL error for the wire.
pub(crate) fn from_mysql(error: &mysql::Error) -> WireError {
    let code = match error {
        mysql::Error::NotFound { .. } => ErrorCode::NotFound,
        mysql::Error::NoService { .. } => ErrorCode::MissingCapability,
        mysql::Error::Timeout { .. } => ErrorCode::TimedOut,
        mysql::Error::Refused { .. } => ErrorCode::Refused,
        mysql::Error::Io { .. } | mysql::Error::Program { .. } => ErrorCode::System,
        _ => ErrorCode::Mysql,
    };
    wire(code, error, error.is_retryable())
}

/// A snapshot error for the wire.
pub(crate) fn from_snapshot(error: &snapshot::Error) -> WireError {
    use snapshot::Error;
    let code = match error {
        Error::Unavailable { .. } | Error::Unsupported { .. } => ErrorCode::MissingCapability,
        Error::NotListed { .. } => ErrorCode::NotFound,
        Error::Held { .. } => ErrorCode::Busy,
        Error::NotHeld { .. } => ErrorCode::NotFound,
        _ => ErrorCode::Snapshot,
    };
    wire(code, error, matches!(error, Error::Held { .. }))
}

/// A journal or engine error for the wire.
pub(crate) fn from_job(error: &JobError) -> WireError {
    let code = match error {
        JobError::Unknown(_) => ErrorCode::NotFound,
        JobError::Running(_) => ErrorCode::Busy,
        JobError::Finished(_) => ErrorCode::Refused,
        JobError::Parked => ErrorCode::ShuttingDown,
        _ => ErrorCode::Internal,
    };
    wire(code, error, matches!(error, JobError::Running(_) | JobError::Parked))
}

/// A refused abort for the wire.
pub(crate) fn from_abort(error: &AbortError) -> WireError {
    let code = match error {
        AbortError::Unknown(_) => ErrorCode::NotFound,
        AbortError::Finished(_) | AbortError::Committed(_) => ErrorCode::Refused,
        _ => ErrorCode::Internal,
    };
    wire(code, error, false)
}

/// The failure of a step, kept in the journal under a wire code, back on the wire.
pub(crate) fn from_step(step: &str, error: &StepError) -> WireError {
    let code =
        serde_json::from_value(serde_json::Value::String(error.code.clone())).unwrap_or(ErrorCode::Internal);
    let code = if code == ErrorCode::Unknown { ErrorCode::Internal } else { code };
    let message = if step.is_empty() { error.message.clone() } else { format!("{step}: {}", error.message) };
    WireError { code, message, retryable: error.retryable, causes: error.causes.clone(), guard: None }
}

/// A wire error as a step's failure.
pub(crate) fn to_step(error: WireError) -> StepError {
    StepError {
        code: error.code.as_str().to_owned(),
        message: error.message,
        retryable: error.retryable,
        causes: error.causes,
    }
}

/// A failure of the operating system.
pub(crate) fn system(message: impl Into<String>, error: &(dyn std::error::Error + 'static)) -> WireError {
    WireError::caused(ErrorCode::System, message, error)
}

fn wire(code: ErrorCode, error: &(dyn std::error::Error + 'static), retryable: bool) -> WireError {
    let mut failure = match error.source() {
        Some(source) => WireError::caused(code, error.to_string(), source),
        None => WireError::new(code, error.to_string()),
    };
    failure.retryable = retryable;
    failure
}
