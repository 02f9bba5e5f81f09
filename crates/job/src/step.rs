//! What the author of a job writes: steps, how often they are tried, and how they fail.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use protocol::error::WireError;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Code, Scope};

/// One step of a job over a context `C` (the handles to the world that the steps share).
///
/// # Contract
/// - `run` is idempotent: after a crash it is called again, whatever part of it had happened.
/// - `undo` is idempotent, and right for a step that never began in earnest, was cut in the middle, or finished.
/// - Both stop within seconds once [`Scope::cancelled`] fires; a step that does not is dropped where it stands. Work
///   on threads of its own must have ended when the future ends, or the undo runs beside it.
#[async_trait]
pub trait Step<C: Send + Sync + 'static>: Send + Sync + 'static {
    /// The step's name, unique in its job; journalled, so renaming it breaks jobs that are under way.
    fn name(&self) -> &'static str;

    /// Does the work. The output is journalled, and later steps and every undo read it with [`Scope::output`].
    ///
    /// # Errors
    /// A retryable error is tried again as [`Step::retry`] allows; any other, or the last, is handled as
    /// [`Step::on_failure`] says.
    async fn run(&self, ctx: &C, scope: &Scope) -> Result<Value, StepError>;

    /// Puts the world back as it was before `run`; called for each step that began, in reverse order.
    ///
    /// # Errors
    /// A retryable error is tried again as [`Step::undo_retry`] allows; then [`Step::on_undo_failure`] decides.
    async fn undo(&self, ctx: &C, scope: &Scope) -> Result<(), StepError>;

    /// How often a retryable failure of `run` is tried again. Default: not at all.
    fn retry(&self) -> Retry {
        Retry::ONCE
    }

    /// How often a retryable failure of `undo` is tried again. Default: 5 attempts, from 200 ms apart.
    fn undo_retry(&self) -> Retry {
        Retry { attempts: 5, backoff: Duration::from_millis(200), max_backoff: Duration::from_secs(5) }
    }

    /// What becomes of the job when `run` failed for good. Default: undo.
    fn on_failure(&self) -> OnFailure {
        OnFailure::Undo
    }

    /// What becomes of the earlier steps' undo when this one's failed for good. Default: stop, because an undo
    /// may rely on the later steps having been undone.
    fn on_undo_failure(&self) -> OnUndoFailure {
        OnUndoFailure::Stop
    }

    /// Whether this step's end is the job's point of no return.
    ///
    /// From the moment that its `step_finished` is on disk, neither it nor anything before it is ever undone, and
    /// abort is refused. Until then it is a step like any other, so what it does must itself be possible to undo; an
    /// abort that was journalled first wins. Several steps may commit; the last finished one counts.
    fn commits(&self) -> bool {
        false
    }
}

/// How often something is tried, and how far apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// All attempts, the first included; 0 counts as 1. Runs that a crash or a park cut short do not count.
    pub attempts: u32,
    /// The wait before the second attempt; it doubles with each further one.
    pub backoff: Duration,
    /// The longest wait.
    pub max_backoff: Duration,
}

impl Retry {
    /// One attempt, no retry.
    pub const ONCE: Self = Self { attempts: 1, backoff: Duration::ZERO, max_backoff: Duration::ZERO };

    /// The wait after `failures` failed attempts (1 or more).
    #[must_use]
    pub fn wait_after(&self, failures: u32) -> Duration {
        let doubled = 2u32.saturating_pow(failures.saturating_sub(1));
        self.backoff.saturating_mul(doubled).min(self.max_backoff.max(self.backoff))
    }
}

/// What becomes of a job when a step failed for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// The job has failed: undo what began, back to the point of no return or the beginning.
    Undo,
    /// The job goes on without this step; its failure is kept as a warning in the outcome.
    GoOn,
}

/// What becomes of the earlier steps when an undo failed for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnUndoFailure {
    /// Leave the earlier steps as they are; the job ends with an incomplete undo, to be retried by a person.
    Stop,
    /// Undo the earlier steps all the same; what this one left does them no harm.
    GoOn,
}

/// Why a step, or its undo, failed: what the journal keeps and the bus carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepError {
    /// What kind of failure it is, for programs.
    pub code: Code,
    /// What failed, on what, and what to do.
    pub message: String,
    /// Whether trying again can help.
    pub retryable: bool,
    /// The chain of causes, outermost first; the last is the root.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
}

impl StepError {
    /// A failure that trying again cannot help.
    pub fn new(code: impl Into<Code>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), retryable: false, causes: Vec::new() }
    }

    /// A failure from an error: its message, and the whole chain of its sources as causes.
    pub fn from_error(code: impl Into<Code>, error: &(dyn Error + 'static)) -> Self {
        Self::new(code, error.to_string()).with_causes(error.source())
    }

    /// What a step returns that saw [`Scope::cancelled`].
    #[must_use]
    pub fn stopped() -> Self {
        Self::new(Code::Stopped, "the step stopped because it was told to")
    }

    /// The same failure, worth another attempt.
    #[must_use]
    pub fn retryable(mut self) -> Self {
        self.retryable = true;
        self
    }

    /// The same failure with `cause` and all of its sources appended to the chain.
    #[must_use]
    pub fn caused_by(self, cause: &(dyn Error + 'static)) -> Self {
        self.with_causes(Some(cause))
    }

    fn with_causes(mut self, cause: Option<&(dyn Error + 'static)>) -> Self {
        self.causes.extend(cause.into_iter().flat_map(sys::error::chain).map(ToString::to_string));
        self
    }
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for StepError {}

/// Whatever can travel in a reply can fail a step: a step's `?` takes the errors of all crates below.
impl<E: Into<WireError>> From<E> for StepError {
    fn from(error: E) -> Self {
        let error: WireError = error.into();
        let WireError { code, message, retryable, causes, .. } = error;
        Self { code: code.into(), message, retryable, causes }
    }
}

#[cfg(test)]
mod tests {
    use protocol::error::ErrorCode;

    use super::*;

    #[test]
    fn the_wait_doubles_up_to_its_limit() {
        let retry =
            Retry { attempts: 9, backoff: Duration::from_secs(1), max_backoff: Duration::from_secs(5) };
        let waits: Vec<u64> = [1, 2, 3, 4, 99].map(|failures| retry.wait_after(failures).as_secs()).into();
        assert_eq!(waits, [1, 2, 4, 5, 5]);
        assert_eq!(Retry::ONCE.wait_after(1), Duration::ZERO);
    }

    #[test]
    fn a_failure_keeps_the_chain_down_to_the_root() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot open the socket")]
        struct Outer(#[source] std::io::Error);
        let outer = Outer(std::io::Error::other("no route"));
        let error = StepError::from_error(ErrorCode::System, &outer).retryable();
        assert_eq!(
            (error.message.as_str(), &error.causes[..]),
            ("cannot open the socket", &["no route".to_owned()][..])
        );
        let error = StepError::new(ErrorCode::System, "the donor is away").caused_by(&outer);
        assert_eq!(error.causes, ["cannot open the socket", "no route"]);
    }
}
