//! Why the engine itself refuses or fails; a failing step is not among these.

use std::io;
use std::path::PathBuf;

use protocol::error::{ErrorCode, WireError};
use protocol::ids::JobId;

use crate::crashsafe;
use crate::journal::JournalError;

/// What a call to the [`Runner`](crate::Runner) can fail with.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// There is no such job.
    #[error("there is no job {0}")]
    Unknown(JobId),
    /// The id is taken.
    #[error("the job {0} exists already")]
    Exists(JobId),
    /// It is running in this process.
    #[error("the job {0} is running already")]
    Running(JobId),
    /// It has come to its end.
    #[error("the job {0} is finished")]
    Finished(JobId),
    /// The runner was parked and starts nothing any more.
    #[error("the program is shutting down and starts no job")]
    Parked,
    /// The steps given do not fit the ones that the job began with.
    #[error("the steps of job {id} do not fit the ones it began with: {why}")]
    Plan {
        /// Which job.
        id: JobId,
        /// What does not fit.
        why: &'static str,
    },
    /// Another process has the directory of journals.
    #[error("another process uses the job directory {path}: stop it first")]
    Locked {
        /// Which directory.
        path: PathBuf,
    },
    /// The directory of journals cannot be used.
    #[error("cannot {action} the job directory {path}")]
    Root {
        /// What was tried.
        action: &'static str,
        /// Which directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The directory of a job cannot be made or removed.
    #[error("cannot keep the directory of job {id} safe on disk")]
    Directory {
        /// Which job.
        id: JobId,
        /// Why.
        source: crashsafe::Error,
    },
    /// Its journal cannot be read or written.
    #[error("the journal of job {id} cannot be used")]
    Journal {
        /// Which job.
        id: JobId,
        /// Why.
        source: JournalError,
    },
}

impl From<JobError> for WireError {
    fn from(error: JobError) -> Self {
        let code = match error {
            JobError::Unknown(_) => ErrorCode::NotFound,
            JobError::Running(_) => ErrorCode::Busy,
            JobError::Finished(_) => ErrorCode::Refused,
            JobError::Parked => ErrorCode::ShuttingDown,
            _ => ErrorCode::Internal,
        };
        let retryable = matches!(error, JobError::Running(_) | JobError::Parked);
        Self { retryable, ..Self::from_error(code, &error) }
    }
}
