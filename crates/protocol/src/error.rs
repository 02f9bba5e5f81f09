//! The error that travels in a reply: enough for the person at the other end to act without logging in.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What kind of failure it is; stable, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The body is no valid request: malformed JSON, a wrong type, an unknown field, a value out of range.
    BadRequest,
    /// No command of that name.
    UnknownCommand,
    /// The request's protocol version is not spoken here.
    UnsupportedVersion,
    /// The body is over the limit.
    TooLarge,
    /// The deadline had passed before the command began.
    Expired,
    /// Unsigned where a signature is demanded, or the signature does not hold.
    Unauthenticated,
    /// The signer's roles do not allow the command.
    Forbidden,
    /// The same request id with another body.
    Replayed,
    /// The thing named does not exist.
    NotFound,
    /// Something else holds what the command needs; the message names the holder.
    Busy,
    /// A guard refused; nothing was touched. `guard` says which.
    Refused,
    /// The plan that the request names no longer holds.
    PlanChanged,
    /// This host cannot do that; the message says what is missing.
    MissingCapability,
    /// The agent is stopping.
    ShuttingDown,
    /// The job was aborted on request.
    Aborted,
    /// It made no progress within its limit.
    TimedOut,
    /// The MySQL server failed or refused.
    Mysql,
    /// A snapshot operation failed.
    Snapshot,
    /// The seed's data could not be moved or proven.
    Transfer,
    /// An operating system call or program failed.
    System,
    /// A fault of the agent itself.
    Internal,
    /// A code that this reader does not know.
    #[serde(other)]
    Unknown,
}

impl ErrorCode {
    /// The code as it is written on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::UnknownCommand => "unknown_command",
            Self::UnsupportedVersion => "unsupported_version",
            Self::TooLarge => "too_large",
            Self::Expired => "expired",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::Replayed => "replayed",
            Self::NotFound => "not_found",
            Self::Busy => "busy",
            Self::Refused => "refused",
            Self::PlanChanged => "plan_changed",
            Self::MissingCapability => "missing_capability",
            Self::ShuttingDown => "shutting_down",
            Self::Aborted => "aborted",
            Self::TimedOut => "timed_out",
            Self::Mysql => "mysql",
            Self::Snapshot => "snapshot",
            Self::Transfer => "transfer",
            Self::System => "system",
            Self::Internal => "internal",
            Self::Unknown => "unknown",
        }
    }
}

/// A failure with its causes, outermost first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[error("{message}{}", render_causes(.causes))]
pub struct WireError {
    /// What kind of failure.
    pub code: ErrorCode,
    /// What failed and what to do, in a sentence.
    pub message: String,
    /// True when the same request may succeed later.
    #[serde(default)]
    pub retryable: bool,
    /// Why, each entry the cause of the one before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// The guard that refused, for `refused`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<String>,
}

fn render_causes(causes: &[String]) -> String {
    causes.iter().map(|cause| format!(": {cause}")).collect()
}

impl WireError {
    /// A failure without causes that a retry does not mend.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retryable: false, causes: Vec::new(), guard: None }
    }

    /// A failure with the source chain of `error` as its causes.
    pub fn caused(
        code: ErrorCode,
        message: impl Into<String>,
        error: &(dyn std::error::Error + 'static),
    ) -> Self {
        let mut failure = Self::new(code, message);
        let mut next = Some(error);
        while let Some(cause) = next {
            failure.causes.push(cause.to_string());
            next = cause.source();
        }
        failure
    }

    /// The failure that `error` is: its own words as the message, its sources as the causes.
    pub fn from_error(code: ErrorCode, error: &(dyn std::error::Error + 'static)) -> Self {
        match error.source() {
            Some(source) => Self::caused(code, error.to_string(), source),
            None => Self::new(code, error.to_string()),
        }
    }

    /// Marks that the same request may succeed later.
    #[must_use]
    pub fn retryable(mut self) -> Self {
        self.retryable = true;
        self
    }
}
