//! What can go wrong on the bus, told so that the caller knows what to do.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use protocol::error::WireError;
use protocol::ids::{AgentId, InvalidId};

/// What keeps a connection from being made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unconnected {
    /// The server wants credentials, or does not know these.
    Login,
    /// TLS could not be agreed on.
    Tls,
    /// The server's name is unknown to the resolver.
    Name,
    /// Nobody answers at that address, or it is not known why.
    Away,
}

impl Unconnected {
    /// The settings of the connection to look at, as they are called in a configuration file.
    #[must_use]
    pub fn settings(self) -> &'static str {
        match self {
            Self::Login => "bus.credentials, and the user's public key in the server's accounts",
            Self::Tls => "bus.tls.ca, bus.tls.cert, bus.tls.key and the server's certificate",
            Self::Name => "bus.servers and the resolver of this host",
            Self::Away => "bus.servers, the server itself and the way there",
        }
    }
}

/// A failure of the bus or of the agent asked.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// A setting cannot be used.
    #[error("bus setting {key}: {why}")]
    Config {
        /// The key, for example `credentials.nkey_file`.
        key: &'static str,
        /// What is wrong and what is expected.
        why: String,
    },
    /// A file of the bus (credentials, spool, reply cache) could not be used.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried, for example `read`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The client could not be set up at all; a server that is down is not such a failure.
    #[error("cannot set up the NATS client")]
    Setup(#[source] async_nats::ConnectError),
    /// There is no connection now; the client goes on trying.
    #[error("not connected to the bus at {servers}: {why}")]
    NotConnected {
        /// The servers of the config.
        servers: String,
        /// Why, as far as it is known.
        why: String,
        /// What kind of trouble it is.
        trouble: Unconnected,
    },
    /// Answers cannot be heard: the permissions of this user know another inbox.
    #[error(
        "the bus does not let this user hear answers below {inbox}: its inbox prefix is another one, which `orchestrator-ctl bus \
         config` told when it made the account"
    )]
    InboxRefused {
        /// The inbox prefix of this connection.
        inbox: String,
    },
    /// Nobody listens on the agent's command subject.
    #[error(
        "agent {0} is not on the bus; see `orchestrator-ctl fleet`, or queue the command until it is back"
    )]
    NoAgent(AgentId),
    /// Nobody serves this subject: JetStream is off, or the stream or consumer is missing.
    #[error("nobody serves {subject}; is JetStream enabled and set up for this account?")]
    NoResponders {
        /// The subject asked.
        subject: String,
    },
    /// No answer in time. A command may still run: ask again with the same request id to learn its reply.
    #[error("no answer to {what} within {} ms; it may still run", after.as_millis())]
    TimedOut {
        /// What was asked.
        what: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// The server refused by the permissions of this user.
    #[error("the bus does not permit this user to {action} {subject}; see the permissions of its account")]
    NotPermitted {
        /// `publish to` or `subscribe to`.
        action: &'static str,
        /// The subject.
        subject: String,
    },
    /// The agent refused or failed.
    #[error(transparent)]
    Agent(#[from] WireError),
    /// The answer is not what the protocol says.
    #[error("the answer of {from} is not understood: {why}")]
    BadReply {
        /// Who answered.
        from: String,
        /// What is wrong with it.
        why: String,
    },
    /// A reply that is not proven to come from the host that was asked. What was asked may have been done all the same.
    #[error("this reply is not {host}'s by the keys in {}: {why}", file.display())]
    NotFromHost {
        /// Who was asked.
        host: AgentId,
        /// The file that hosts' keys are read from.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A value cannot be sent: too large, or not JSON.
    #[error("{what} cannot be sent: {why}")]
    Unsendable {
        /// What.
        what: String,
        /// Why.
        why: String,
    },
    /// The signing key cannot sign.
    #[error("cannot sign the command")]
    Sign(#[from] protocol::signature::SignatureError),
    /// A name is no valid id.
    #[error(transparent)]
    InvalidId(#[from] InvalidId),
    /// A stream, consumer or object request failed.
    #[error("JetStream: {what}")]
    JetStream {
        /// What was tried, and on what.
        what: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// JetStream as a whole does not answer, or has lost too many of its servers.
    #[error(
        "JetStream does not work now: {why}. Events, queued commands and seeds through the bus wait for it; commands, heartbeats \
         and direct seeds go on"
    )]
    NoJetStream {
        /// What is known of the reason.
        why: String,
    },
    /// The server has no room for the stream.
    #[error(
        "JetStream has no room for stream {stream} of {max_bytes} bytes; raise jetstream.max_file_store of the server, or \
         configure a smaller stream"
    )]
    NoRoom {
        /// Name of the stream.
        stream: String,
        /// Bytes that it was to hold.
        max_bytes: i64,
        /// What the server said.
        source: async_nats::jetstream::Error,
    },
    /// The server made the stream otherwise than asked (old servers drop what they do not know).
    #[error("stream {stream} is not as asked: {difference}; mend it with `nats stream edit` or remove it")]
    StreamDiffers {
        /// Name of the stream.
        stream: String,
        /// The settings that differ.
        difference: String,
    },
    /// There is no bucket for a seed's data, and this user may not make one.
    #[error(
        "there is no object store bucket {bucket} and this user may not make it; a controller must make it first"
    )]
    NoBucket {
        /// Its name.
        bucket: String,
    },
    /// The other end of a connection through the object store does not go on.
    #[error("{by} refused to carry a connection through the object store: {why}")]
    Refused {
        /// Who.
        by: String,
        /// Why.
        why: String,
    },
    /// A local socket could not be used.
    #[error("cannot {action}")]
    Local {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The client was closed.
    #[error("the connection to the bus was closed")]
    Closed,
}

impl From<sys::file::Error> for BusError {
    fn from(error: sys::file::Error) -> Self {
        Self::File { action: error.action, path: error.path, source: error.source }
    }
}

impl BusError {
    /// True when the same call may succeed later without anybody's doing.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NotConnected { .. }
            | Self::NoAgent(_)
            | Self::NoResponders { .. }
            | Self::NoJetStream { .. }
            | Self::TimedOut { .. } => true,
            Self::Agent(error) => error.retryable,
            _ => false,
        }
    }

    /// What kind of failure it is, in a word: the agent's own code where it is the agent's.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Agent(error) => error.code.as_str(),
            Self::NoAgent(_) | Self::NoResponders { .. } => "no_agent",
            Self::TimedOut { .. } => "timed_out",
            Self::NotConnected { .. } | Self::Closed => "not_connected",
            Self::NotPermitted { .. } => "not_permitted",
            Self::BadReply { .. } | Self::NotFromHost { .. } => "bad_reply",
            _ => "bus",
        }
    }

    pub(crate) fn jetstream(
        what: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::JetStream { what: what.into(), source: source.into() }
    }
}

/// Result of this crate.
pub type Result<T, E = BusError> = std::result::Result<T, E>;
