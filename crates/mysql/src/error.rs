//! What can go wrong between the agent and its MySQL instance.
//!
//! `Display` tells only this layer: what failed and what to do. The cause is in `source()`.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use protocol::error::{ErrorCode, WireError};

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory could not be used.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file that holds a secret can be read by others.
    #[error("{} can be read by others (mode {mode:o}); make it 0600", path.display())]
    SecretExposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// An option file is not one.
    #[error("{}, line {line}: {problem}", path.display())]
    OptionFile {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// A setting that the task needs was found nowhere.
    #[error(
        "{what} of the MySQL instance is not known; start MySQL, or set it in the agent's [mysql] section"
    )]
    NotFound {
        /// What was looked for.
        what: &'static str,
    },
    /// No connection to the server.
    #[error("cannot connect to MySQL at {address} as {user}")]
    Connect {
        /// Socket path or `host:port`.
        address: String,
        /// Account name.
        user: String,
        /// The client's error.
        source: Box<mysql_async::Error>,
    },
    /// Nobody listens on the server's socket.
    #[error("cannot connect to MySQL at {}", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Somebody else listens where the server should.
    #[error(
        "what listens at {place} runs as user {uid}, and MySQL runs as root or the owner of its datadir ({owner}): no login was tried"
    )]
    Stranger {
        /// Socket path or port.
        place: String,
        /// Who listens.
        uid: u32,
        /// Who owns the datadir.
        owner: String,
    },
    /// The server took longer than it may to answer.
    #[error("MySQL did not answer within {} ms while trying to {action}", limit.as_millis())]
    Timeout {
        /// What was tried, a verb.
        action: String,
        /// The limit.
        limit: Duration,
    },
    /// A statement failed.
    #[error("MySQL refused to {action}")]
    Query {
        /// What was tried, a verb.
        action: String,
        /// The client's error.
        source: Box<mysql_async::Error>,
    },
    /// The server gave an answer that could not be understood.
    #[error("MySQL gave an unexpected answer to {action}: {problem}")]
    Answer {
        /// What was asked.
        action: &'static str,
        /// What is wrong with the answer.
        problem: String,
    },
    /// A program could not be run, or ran and failed.
    #[error("{program} {problem}")]
    Program {
        /// Its name or path.
        program: String,
        /// What happened, with the program's own last line.
        problem: String,
    },
    /// Nothing tells how to start and stop the server.
    #[error("no way to control MySQL: {reason}; set [mysql.service] in the agent's configuration")]
    NoService {
        /// What was looked for.
        reason: String,
    },
    /// The server did not become ready.
    #[error("MySQL did not become ready: {reason}")]
    NotReady {
        /// Why, with the error log's last words.
        reason: String,
    },
    /// The server did not stop.
    #[error("MySQL did not stop: {reason}")]
    NotStopped {
        /// What is still there.
        reason: String,
    },
    /// The commit lock was not obtained in its time, or lost while it was held.
    #[error("the backup lock {problem}")]
    Lock {
        /// What happened.
        problem: String,
    },
    /// An action was refused to protect data.
    #[error("refused: {reason}")]
    Refused {
        /// Why.
        reason: String,
    },
    /// Replication did not come up or broke.
    #[error("replication from {source_host}: {problem}")]
    Replication {
        /// `host:port` of the source.
        source_host: String,
        /// What the threads say.
        problem: String,
    },
    /// A binary or relay log cannot be served.
    #[error("{}: {problem}", file.display())]
    Binlog {
        /// The log.
        file: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

impl Error {
    /// Wraps an I/O error with what was tried on which path.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// True when a server that was reached did not take the account's password.
    pub(crate) fn refuses_the_password(&self) -> bool {
        const ACCESS_DENIED: u16 = 1045;
        let Self::Connect { source, .. } = self else { return false };
        matches!(source.as_ref(), mysql_async::Error::Server(e) if e.code == ACCESS_DENIED)
    }

    /// True when the same call may succeed later without anyone changing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Socket { .. } | Self::Timeout { .. } | Self::Lock { .. })
    }
}

impl From<Error> for WireError {
    fn from(error: Error) -> Self {
        let code = match error {
            Error::NotFound { .. } => ErrorCode::NotFound,
            Error::NoService { .. } => ErrorCode::MissingCapability,
            Error::Timeout { .. } => ErrorCode::TimedOut,
            Error::Refused { .. } => ErrorCode::Refused,
            Error::Io { .. } | Error::Program { .. } => ErrorCode::System,
            _ => ErrorCode::Mysql,
        };
        Self { retryable: error.is_retryable(), ..Self::from_error(code, &error) }
    }
}
