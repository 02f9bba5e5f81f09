//! Secrets, read from files that are closed to others and shown to nobody.

use std::fmt;
use std::path::{Path, PathBuf};

use nkeys::KeyPair;
use protocol::ids::AgentId;
use subtle::ConstantTimeEq as _;

/// What separates our tokens from all else that is ever derived from the same secret.
const CONTEXT: &str = "orchestrator-gateway 2026 token of a host";

/// Shorter secrets could be guessed from a token.
const MIN_SECRET: usize = 32;

/// A secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file is not there, or open to others.
    #[error(transparent)]
    File(#[from] sys::file::Error),
    /// It holds something else; what, is not told.
    #[error("{}: {expected}", path.display())]
    Contents {
        /// The file.
        path: PathBuf,
        /// What was expected.
        expected: &'static str,
    },
}

/// A text compared in constant time, whose `Debug` shows nothing.
#[derive(Clone)]
pub(crate) struct Hidden(String);

impl Hidden {
    /// Whether `given` is it, in a time that tells nothing of where they differ.
    pub(crate) fn is(&self, given: &str) -> bool {
        self.0.as_bytes().ct_eq(given.as_bytes()).into()
    }

    /// The text, for where it must go.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("****")
    }
}

/// Makes the tokens of hosts: the same secret and host give the same token, whenever the gateway starts.
#[derive(Clone)]
pub(crate) struct Tokens {
    key: [u8; blake3::KEY_LEN],
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens")
    }
}

impl Tokens {
    /// The token of a host: 64 hexadecimal digits.
    pub(crate) fn of(&self, agent: &AgentId) -> Hidden {
        Hidden(sys::hex::encode(blake3::keyed_hash(&self.key, agent.as_str().as_bytes()).as_bytes()))
    }
}

/// Reads the secret that all tokens follow from.
///
/// # Errors
/// The file, and what is wrong with it.
pub(crate) fn token_secret(path: &Path) -> Result<Tokens, SecretError> {
    let text = sys::file::read_secret(path)?;
    let secret = text.trim();
    if secret.len() < MIN_SECRET {
        let expected = "expected at least 32 characters, for example from `openssl rand -hex 32`";
        return Err(SecretError::Contents { path: path.to_owned(), expected });
    }
    Ok(Tokens { key: blake3::derive_key(CONTEXT, secret.as_bytes()) })
}

/// Reads the key that signs commands.
///
/// # Errors
/// As [`token_secret`].
pub(crate) fn sign_key(path: &Path) -> Result<KeyPair, SecretError> {
    let text = sys::file::read_secret(path)?;
    let seed = text.lines().map(str::trim).find(|line| line.starts_with('S'));
    let expected =
        "expected an nkey seed (SU…), for example from `orchestrator-ctl key generate FILE --for signing`";
    let wrong = || SecretError::Contents { path: path.to_owned(), expected };
    KeyPair::from_seed(seed.ok_or_else(wrong)?).map_err(|_| wrong())
}

/// Reads `user:password` and gives it as the value of an `Authorization` header.
///
/// # Errors
/// As [`token_secret`].
pub(crate) fn login(path: &Path) -> Result<Hidden, SecretError> {
    let text = sys::file::read_secret(path)?;
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    match line.split_once(':') {
        Some((user, password)) if !user.is_empty() && !password.is_empty() => {
            Ok(Hidden(format!("Basic {}", base64(line.as_bytes()))))
        }
        _ => Err(SecretError::Contents { path: path.to_owned(), expected: "expected a line user:password" }),
    }
}

fn base64(bytes: &[u8]) -> String {
    data_encoding::BASE64.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_each_hosts_own_and_outlive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            sys::file::create(&path, text.as_bytes(), 0o600).unwrap();
            path
        };
        let secret = file("secret", "0123456789abcdef0123456789abcdef\n");
        let (db1, db2) = ("db1".parse().unwrap(), "db2".parse().unwrap());
        let token = token_secret(&secret).unwrap().of(&db1);
        assert_eq!(token.expose().len(), 64);
        assert!(token_secret(&secret).unwrap().of(&db1).is(token.expose()));
        assert!(!token_secret(&secret).unwrap().of(&db2).is(token.expose()));
        let other = file("other", "0123456789abcdef0123456789abcdeF\n");
        assert!(!token_secret(&other).unwrap().of(&db1).is(token.expose()));
        assert!(!token.is("") && !format!("{token:?}").contains(token.expose()));
        assert_eq!(login(&file("login", "dba:s3cret\n")).unwrap().expose(), "Basic ZGJhOnMzY3JldA==");
        assert!(login(&file("no-login", "dba\n")).is_err());
    }
}
