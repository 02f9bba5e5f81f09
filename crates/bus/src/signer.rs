//! Keys that sign what this side says, and the keys that the other side must have signed with.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use async_nats::HeaderMap;
use nkeys::KeyPair;
use protocol::envelope::{HEADER_KEY, HEADER_SIGNATURE};
use protocol::ids::AgentId;
use protocol::signature::{self, Verifier};
use protocol::subject::Subject;

use crate::error::{BusError, Result};

/// What the headers of a signature take of a message, in bytes, at most: both names, a public key, a signature.
pub(crate) const HEADERS_MAX: usize = 256;

/// A key pair and its public half, which is costly to derive for each message.
pub struct Signer {
    key: KeyPair,
    public: String,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Signer").field(&self.public).finish()
    }
}

impl Signer {
    /// Of a pair that has its seed.
    #[must_use]
    pub fn new(key: KeyPair) -> Self {
        Self { public: key.public_key(), key }
    }

    /// The public half, as others know it.
    #[must_use]
    pub fn public(&self) -> &str {
        &self.public
    }

    pub(crate) fn sign_request(&self, subject: &Subject, body: &[u8]) -> Result<HeaderMap> {
        Ok(self.headers(&signature::sign(&self.key, subject, body)?))
    }

    pub(crate) fn sign_reply(&self, subject: &Subject, request: &[u8], reply: &[u8]) -> Result<HeaderMap> {
        Ok(self.headers(&signature::sign_reply(&self.key, subject, request, reply)?))
    }

    fn headers(&self, signature: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER_SIGNATURE, signature);
        headers.insert(HEADER_KEY, self.public.as_str());
        headers
    }
}

/// The keys by which hosts' replies are known, from a file with a line `HOST KEY` for each host.
#[derive(Debug, Clone)]
pub struct HostKeys {
    file: PathBuf,
    keys: HashMap<AgentId, (String, Verifier)>,
}

impl HostKeys {
    /// None yet, for a file that is to be made.
    #[must_use]
    pub fn none(file: &Path) -> Self {
        Self { file: file.to_owned(), keys: HashMap::new() }
    }

    /// Reads such a file; empty lines and those that begin with `#` say nothing.
    ///
    /// # Errors
    /// [`BusError::File`] when it cannot be read or others may write to it, [`BusError::Config`] with the line that is no such line.
    pub fn read(file: &Path) -> Result<Self> {
        let text = sys::file::read_trusted(file)?;
        let bad = |line: usize, why: String| BusError::Config {
            key: "host-keys",
            why: format!("{}:{line}: {why}", file.display()),
        };
        let mut keys = Self::none(file);
        for (at, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let Some((host, key)) = line.split_once(char::is_whitespace) else {
                return Err(bad(
                    at,
                    "a line is a host and its key (reply_key of `orchestrator-ctl host HOST info`)".into(),
                ));
            };
            let host: AgentId = host.parse().map_err(|error| bad(at, format!("{error}")))?;
            let key = key.trim();
            if keys.of(&host).is_some() {
                return Err(bad(at, format!("{host} stands there twice")));
            }
            keys = keys
                .with(&host, key)
                .map_err(|_| bad(at, format!("the key of {host} is no public nkey (U…)")))?;
        }
        Ok(keys)
    }

    /// These and one more, or another in its place.
    ///
    /// # Errors
    /// [`BusError::Config`] when it is no public nkey.
    pub fn with(mut self, host: &AgentId, key: &str) -> Result<Self> {
        let verifier = Verifier::new(key).map_err(|_| BusError::Config {
            key: "host-keys",
            why: format!("the key of {host} is no public nkey (U…)"),
        })?;
        self.keys.insert(host.clone(), (key.to_owned(), verifier));
        Ok(self)
    }

    /// The key by which a host is known.
    #[must_use]
    pub fn of(&self, host: &AgentId) -> Option<&str> {
        self.keys.get(host).map(|(key, _)| key.as_str())
    }

    /// Checks that the host signed this reply to this request.
    pub(crate) fn check(
        &self,
        host: &AgentId,
        (subject, request): (&Subject, &[u8]),
        headers: Option<&HeaderMap>,
        reply: &[u8],
    ) -> Result<()> {
        let refuse =
            |why: String| Err(BusError::NotFromHost { host: host.clone(), file: self.file.clone(), why });
        let Some((key, verifier)) = self.keys.get(host) else {
            return refuse("no key of this host stands there".into());
        };
        let header = |name| headers.and_then(|h| h.get(name)).map(async_nats::HeaderValue::as_str);
        let (Some(by), Some(signature)) = (header(HEADER_KEY), header(HEADER_SIGNATURE)) else {
            return refuse("it is not signed (an older agent, or not the host)".into());
        };
        if by != key {
            return refuse("it is signed by another key: was the host rebuilt, or is it another?".into());
        }
        match verifier.verify_reply(signature, subject, request, reply) {
            Ok(()) => Ok(()),
            Err(error) => refuse(error.to_string()),
        }
    }
}
