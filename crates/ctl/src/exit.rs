//! Exit codes: what a script may rely on. They change only with a new major version.

use protocol::error::{ErrorCode, WireError};

/// How the program ended, in the order of [`Exit::worst`]: the later one wins when several hosts took part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// All that was asked for is done.
    Ok,
    /// The job was aborted on request.
    Aborted,
    /// Left by Ctrl-C; what was started goes on.
    Interrupted,
    /// The same command may succeed later: a time-out, an agent that is stopping.
    Retry,
    /// Something else holds what the command needs.
    Busy,
    /// A guard or the plan refused; nothing was touched.
    Refused,
    /// The snapshot, job, path or file named does not exist.
    NotFound,
    /// Unsigned, wrongly signed, or not allowed by the signer's roles.
    Denied,
    /// The arguments make no sense.
    Usage,
    /// The bus or the agent cannot be reached.
    Unreachable,
    /// The command or its job failed.
    Failed,
}

/// The table of exit codes for `--help`.
pub const TABLE: &str = "\
Exit codes:
  0    done
  1    the command or its job failed, or stdout could not be written
  2    the arguments make no sense
  3    refused by a guard or the plan; nothing was touched
  4    the bus or the host cannot be reached, or no such host is known
  5    the snapshot, job, path or file named does not exist
  6    busy: something else holds what the command needs
  7    the job was aborted
  75   the same command may succeed later (time-out, agent stopping)
  77   not permitted: unsigned, wrongly signed, or a role is missing
  130  left by Ctrl-C; what was started goes on
With several hosts the worst one counts.";

impl Exit {
    /// The process's exit status.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Refused => 3,
            Self::Unreachable => 4,
            Self::NotFound => 5,
            Self::Busy => 6,
            Self::Aborted => 7,
            Self::Retry => 75,
            Self::Denied => 77,
            Self::Interrupted => 130,
        }
    }

    /// The status that speaks for several hosts; all well when there are none.
    pub fn worst(all: impl IntoIterator<Item = Self>) -> Self {
        all.into_iter().max().unwrap_or(Self::Ok)
    }

    /// The status that an agent's error stands for.
    #[must_use]
    pub fn of(error: &WireError) -> Self {
        match error.code {
            ErrorCode::Refused | ErrorCode::PlanChanged => Self::Refused,
            ErrorCode::NotFound => Self::NotFound,
            ErrorCode::BadRequest => Self::Usage,
            ErrorCode::Busy => Self::Busy,
            ErrorCode::Aborted => Self::Aborted,
            ErrorCode::Unauthenticated | ErrorCode::Forbidden => Self::Denied,
            ErrorCode::Expired | ErrorCode::TimedOut | ErrorCode::ShuttingDown => Self::Retry,
            _ if error.retryable => Self::Retry,
            _ => Self::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_table_names_every_code() {
        for exit in [
            Exit::Ok,
            Exit::Aborted,
            Exit::Interrupted,
            Exit::Retry,
            Exit::Busy,
            Exit::Refused,
            Exit::NotFound,
            Exit::Denied,
            Exit::Usage,
            Exit::Unreachable,
            Exit::Failed,
        ] {
            let start = format!("  {:<5}", exit.code());
            assert!(TABLE.lines().any(|line| line.starts_with(&start)), "{exit:?} is not in the table");
        }
    }

    #[test]
    fn a_failure_outweighs_a_refusal_outweighs_success() {
        assert_eq!(Exit::worst([Exit::Ok, Exit::Refused, Exit::Ok]), Exit::Refused);
        assert_eq!(Exit::worst([Exit::Failed, Exit::Refused]), Exit::Failed);
        assert_eq!(Exit::worst([]), Exit::Ok);
    }

    #[test]
    fn a_retryable_error_says_so_only_when_its_code_says_nothing_better() {
        assert_eq!(Exit::of(&WireError::new(ErrorCode::Mysql, "x").retryable()), Exit::Retry);
        assert_eq!(Exit::of(&WireError::new(ErrorCode::Busy, "x").retryable()), Exit::Busy);
        assert_eq!(Exit::of(&WireError::new(ErrorCode::Mysql, "x")), Exit::Failed);
    }
}
