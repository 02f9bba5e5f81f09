//! What a program left, and what can go wrong with it.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Duration;

use super::kept::last_lines;

/// A program that did not do what it was started for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The argv is empty.
    #[error("an empty command names no program")]
    Empty,
    /// It is not there, may not be run, or may not be run as that user.
    #[error("{program} could not be started")]
    NotStarted {
        /// What it is called.
        program: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The system does not tell how it ended.
    #[error("{program} could not be waited for")]
    Lost {
        /// What it is called.
        program: String,
        /// The system's reason.
        source: io::Error,
    },
    /// It was killed with its whole group.
    #[error("{program} was stopped after its limit of {} ms", limit.as_millis())]
    TimedOut {
        /// What it is called.
        program: String,
        /// The limit.
        limit: Duration,
    },
    /// It ended with a failure.
    #[error("{program} failed ({}): {last_words}", told(*status))]
    Failed {
        /// What it is called.
        program: String,
        /// Exit status or signal.
        status: ExitStatus,
        /// The last lines that it wrote, joined by ` | `.
        last_words: String,
    },
    /// It runs, and does not do what it should.
    #[error("{program} {problem}")]
    Misbehaved {
        /// What it is called.
        program: String,
        /// What it does instead, after its name.
        problem: String,
    },
}

/// What a program left that was run to its end.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// The first bytes of its standard output.
    pub stdout: Vec<u8>,
    /// The last bytes of its standard error.
    pub stderr: Vec<u8>,
    pub(super) program: String,
}

impl Output {
    /// The last line that it wrote, standard error first.
    #[must_use]
    pub fn last_line(&self) -> String {
        last_words(&self.stderr, &self.stdout, 1)
    }

    /// The failure that its status stands for.
    #[must_use]
    pub fn failure(&self) -> Error {
        Error::Failed { program: self.program.clone(), status: self.status, last_words: self.last_line() }
    }

    /// Itself, if the program ended with success.
    ///
    /// # Errors
    /// [`Error::Failed`] with its last line.
    pub fn success(self) -> Result<Self, Error> {
        if self.status.success() { Ok(self) } else { Err(self.failure()) }
    }
}

fn told(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown status".to_owned(),
    }
}

/// The last lines of standard error, or of standard output when there is none.
pub(super) fn last_words(stderr: &[u8], stdout: &[u8], lines: usize) -> String {
    let told = [stderr, stdout].into_iter().map(|said| last_lines(said, lines)).find(|l| !l.is_empty());
    told.map_or_else(|| "it said nothing".to_owned(), |lines| lines.join(" | "))
}
