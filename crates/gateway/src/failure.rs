//! Why something could not be done, as it is told to orchestrator and in the log.

use std::sync::Arc;

use bus::BusError;
use protocol::error::ErrorCode;
use protocol::ids::AgentId;
use protocol::job::JobView;

/// A failure in words: what, on which host, why, what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    message: String,
    /// Answered although the command is one whose failure otherwise breaks the connection.
    is_mistake: bool,
    code: Option<ErrorCode>,
}

impl Failure {
    /// What went wrong.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), is_mistake: false, code: None }
    }

    /// The request names something that is not there, as only a person's can.
    pub(crate) fn mistake(message: impl Into<String>) -> Self {
        Self { is_mistake: true, ..Self::new(message) }
    }

    /// Whether the request itself is at fault.
    pub(crate) fn is_mistake(&self) -> bool {
        self.is_mistake
    }

    /// A command that got no good answer.
    pub(crate) fn command(host: &AgentId, command: &str, error: &BusError) -> Self {
        let code = match error {
            BusError::Agent(error) => Some(error.code),
            _ => None,
        };
        Self { code, ..Self::new(format!("{command} on {host}: {}", sys::error::line(error))) }
    }

    /// Whether an agent refused or failed for this reason.
    pub(crate) fn is(&self, code: ErrorCode) -> bool {
        self.code == Some(code)
    }

    /// A job that did not succeed.
    pub(crate) fn job(host: &AgentId, view: &JobView) -> Self {
        let why = view.error.as_ref().map_or_else(|| format!("it was {:?}", view.state), ToString::to_string);
        Self::new(format!("{} on {host} (job {}): {why}", view.kind, view.id))
    }
}

impl From<Arc<Failure>> for Failure {
    fn from(failure: Arc<Failure>) -> Self {
        (*failure).clone()
    }
}
