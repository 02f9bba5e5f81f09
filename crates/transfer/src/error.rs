//! What can go wrong on the way, told once and at its own layer.

use std::io;
use std::path::PathBuf;

use protocol::error::{ErrorCode, WireError};

/// The result of everything fallible here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a transfer, or one connection of it, failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A local file operation.
    #[error("cannot {what} {}", path.display())]
    File {
        /// The operation, as a verb phrase.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A network operation.
    #[error("cannot {what}")]
    Network {
        /// The operation, as a verb phrase.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The TLS layer refused.
    #[error("TLS failed; check that both ends use TLS and that the offer is the donor's latest")]
    Tls(#[from] rustls::Error),
    /// The donor's certificate is not the offered one.
    #[error(
        "the donor's certificate is not the one in the offer; ask for a new offer, or look who answers there"
    )]
    Fingerprint,
    /// The other end sent what no honest end sends.
    #[error("the other end broke the protocol: {0}")]
    Protocol(&'static str),
    /// No common protocol version.
    #[error("no common data protocol version: here {ours}, there {theirs}; update the older agent")]
    Version {
        /// Our range.
        ours: String,
        /// Theirs.
        theirs: String,
    },
    /// The token does not open this offer, or was used already.
    #[error("the donor does not know this token, or it was used already; ask for a new offer")]
    Token,
    /// A manifest that must not be followed.
    #[error("the manifest is not acceptable")]
    Manifest(#[from] crate::manifest::ManifestError),
    /// A file of the source is not what the manifest says.
    #[error("the source changed under the transfer: {}: {detail}", path.display())]
    SourceChanged {
        /// The file.
        path: PathBuf,
        /// What differs.
        detail: String,
    },
    /// The source holds something that cannot be seeded.
    #[error("{} cannot be seeded: {detail}", path.display())]
    Unfit {
        /// The entry.
        path: PathBuf,
        /// What is wrong with it.
        detail: &'static str,
    },
    /// An InnoDB page whose checksum is wrong, under the policy to fail.
    #[error("page {page} of {} has a wrong checksum; check the donor's disk and tables, or let pages be warned about only", path.display())]
    BadPage {
        /// The tablespace, relative to the root.
        path: PathBuf,
        /// The page's number.
        page: u64,
    },
    /// The guard said that the snapshot is no longer good.
    #[error("the snapshot is no longer valid: {0}")]
    SourceInvalid(String),
    /// The donor gave up, and said why.
    #[error("the donor failed: {0}")]
    DonorFailed(String),
    /// The recipient gave up, and said why.
    #[error("the recipient failed: {0}")]
    RecipientFailed(String),
    /// No recipient came, or it went away for too long.
    #[error("no recipient for {seconds} s")]
    RecipientGone {
        /// How long the donor waited.
        seconds: u64,
    },
    /// No byte arrived for too long.
    #[error("no progress for {seconds} s")]
    Stalled {
        /// The limit that was reached.
        seconds: u64,
        /// The last failure seen meanwhile.
        #[source]
        last: Option<Box<Error>>,
    },
    /// A chunk kept arriving damaged.
    #[error("{} at offset {offset} arrives damaged every time; check memory and network of both hosts", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where its chunk starts, in bytes.
        offset: u64,
    },
    /// Another recipient has handed on what is not the donor's.
    #[error("what it hands on is not what the donor has read")]
    Forged,
    /// All chunks were proven, their sum was not.
    #[error(
        "the received tree is not the donor's: root digests differ; start again with an empty staging directory"
    )]
    RootDigest,
    /// The staging directory holds something that this transfer did not put there.
    #[error("the staging directory {} is not usable: {detail}", path.display())]
    Staging {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// Options that cannot work.
    #[error("bad options: {0}")]
    Options(&'static str),
    /// A certificate could not be made.
    #[error("cannot make a certificate")]
    Certificate(#[from] rcgen::Error),
    /// Stopped by [`crate::Cancel`].
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    /// True when the other end went away in the middle of a word, or without one: a plan tries whether it reaches the donor, and a
    /// monitor whether somebody listens.
    pub(crate) fn is_hangup(&self) -> bool {
        matches!(self, Self::Network { source, .. } if source.kind() == io::ErrorKind::UnexpectedEof)
    }

    pub(crate) fn file(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { what, path, source }
    }

    pub(crate) fn network(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Network { what, source }
    }

    /// Whether this end's files are not what they should be, whatever the reason.
    pub(crate) fn is_about_files(&self) -> bool {
        matches!(
            self,
            Self::File { .. } | Self::SourceChanged { .. } | Self::Unfit { .. } | Self::BadPage { .. }
        )
    }

    /// Whether what is served is not what it was, for whomever it is served.
    pub(crate) fn is_about_the_source(&self) -> bool {
        matches!(self, Self::SourceChanged { .. } | Self::SourceInvalid(_) | Self::BadPage { .. })
    }

    /// Whether another connection may do better.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Network { .. }
                | Self::Tls(_)
                | Self::Protocol(_)
                | Self::Stalled { .. }
                | Self::RecipientGone { .. }
        )
    }
}

impl From<Error> for WireError {
    fn from(error: Error) -> Self {
        Self::from_error(ErrorCode::Transfer, &error)
    }
}
