//! The keys that are this host's own: made at its first start, kept in its state directory, never shown.
//!
//! A host that is rebuilt without its state directory has other keys, which those who pinned them are told.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use bus::Signer;
use nkeys::{KeyPair, XKey};

use crate::seal::SealKey;

/// This host's keys.
#[derive(Debug)]
pub(crate) struct Keys {
    /// Opens secrets that were sealed to this host.
    pub(crate) seal: SealKey,
    /// Signs replies. Not the key of the log-in: a server lets that one sign a text of the server's choice.
    pub(crate) reply: Arc<Signer>,
}

impl Keys {
    /// Reads them; makes those that are not there.
    ///
    /// # Errors
    /// A file that cannot be read or written, is open to others, or holds no key.
    pub(crate) fn open_or_make(state_dir: &Path) -> anyhow::Result<Self> {
        let reply = kept(&state_dir.join("reply.nk"), || KeyPair::new_user().seed(), KeyPair::from_seed)?;
        let seal = kept(&state_dir.join("seal.xk"), || XKey::new().seed(), XKey::from_seed)?;
        Ok(Self { seal: SealKey::new(seal), reply: Arc::new(Signer::new(reply)) })
    }
}

/// The key whose seed is in this file; a new one, written there, when there is no file.
fn kept<K, E: std::error::Error + Send + Sync + 'static>(
    path: &Path,
    make: impl FnOnce() -> Result<String, E>,
    read: impl FnOnce(&str) -> Result<K, E>,
) -> anyhow::Result<K> {
    let seed = if path.exists() {
        sys::file::read_secret(path)?
    } else {
        let seed = make().context("a new key has no seed")?;
        sys::file::write(path, seed.as_bytes(), 0o600)?;
        seed
    };
    read(seed.trim())
        .with_context(|| format!("{} holds no key: remove it, and a new one is made", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_keys_are_the_same_after_a_restart_and_closed_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let first = Keys::open_or_make(dir.path()).unwrap();
        let again = Keys::open_or_make(dir.path()).unwrap();
        assert_eq!(first.reply.public(), again.reply.public());
        assert_eq!(first.seal.public(), again.seal.public());
        std::fs::write(dir.path().join("reply.nk"), "nonsense").unwrap();
        let error = format!("{:#}", Keys::open_or_make(dir.path()).unwrap_err());
        assert!(error.contains("reply.nk holds no key"), "{error}");
        let file = std::fs::File::open(dir.path().join("seal.xk")).unwrap();
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        std::fs::remove_file(dir.path().join("reply.nk")).unwrap();
        let error = format!("{:#}", Keys::open_or_make(dir.path()).unwrap_err());
        assert!(error.contains("seal.xk"), "{error}");
    }
}
