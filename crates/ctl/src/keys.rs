//! Seed files of nkeys: secrets that are never shown, in files closed to others.

use std::collections::HashSet;
use std::io;
use std::path::Path;

use nkeys::KeyPair;
use protocol::ids::AgentId;

use crate::error::{CtlError, Result};

/// Makes a user key, writes its seed to a new file of mode 0600 and gives the public key.
///
/// # Errors
/// The file exists or cannot be written.
pub fn generate(path: &Path) -> Result<String> {
    let failed = |source| CtlError::File { action: "make key file", path: path.to_owned(), source };
    let key = KeyPair::new_user();
    let seed = key.seed().map_err(|error| failed(io::Error::other(error)))?;
    sys::file::create(path, format!("{seed}\n").as_bytes(), 0o600).map_err(|error| failed(error.source))?;
    Ok(key.public_key())
}

/// Reads the key pair from a seed file.
///
/// # Errors
/// The file cannot be read, is open to others, or holds no seed; the message never shows what it holds.
pub fn read_seed(path: &Path) -> Result<KeyPair> {
    let failed = |source| CtlError::File { action: "read key file", path: path.to_owned(), source };
    let text = sys::file::read_secret(path).map_err(|error| failed(error.source))?;
    let no_seed = || failed(io::Error::new(io::ErrorKind::InvalidData, "it holds no nkey seed (SU…)"));
    let seed = text.lines().map(str::trim).find(|line| line.starts_with('S')).ok_or_else(no_seed)?;
    KeyPair::from_seed(seed).map_err(|_| no_seed())
}

/// Writes keys into the file of hosts' keys, each in the place of the one that its host had; other lines stay as they are.
///
/// # Errors
/// The file cannot be read or written.
pub fn pin(path: &Path, keys: &[(AgentId, String)]) -> Result<()> {
    let failed = |source| CtlError::File { action: "write keys of hosts", path: path.to_owned(), source };
    let before = match path.exists() {
        true => sys::file::read_trusted(path).map_err(|error| failed(error.source))?,
        false => String::new(),
    };
    let named: HashSet<&str> = keys.iter().map(|(host, _)| host.as_str()).collect();
    let others = before
        .lines()
        .filter(|line| !line.split_whitespace().next().is_some_and(|host| named.contains(host)));
    let new = keys.iter().map(|(host, key)| format!("{host} {key}\n"));
    let text: String = others.map(|line| format!("{line}\n")).chain(new).collect();
    sys::file::write(path, text.as_bytes(), 0o644).map_err(|error| failed(error.source))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn a_generated_key_is_closed_to_others_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alice.nk");
        let public = generate(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(read_seed(&path).unwrap().public_key(), public);
        assert!(generate(&path).is_err(), "an existing key is never overwritten");
        assert_eq!(read_seed(&path).unwrap().public_key(), public);
    }

    #[test]
    fn a_key_open_to_others_or_no_key_is_refused_without_showing_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alice.nk");
        generate(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = read_seed(&path).unwrap_err().render();
        assert!(error.contains("0640") && error.contains("chmod 600"), "{error}");
        let wrong = dir.path().join("wrong");
        generate(&wrong).unwrap();
        fs::write(&wrong, "SUPERSECRET").unwrap();
        let error = read_seed(&wrong).unwrap_err().render();
        assert!(!error.contains("SUPERSECRET") && error.contains("no nkey seed"), "{error}");
    }

    #[test]
    fn a_pinned_key_takes_the_place_of_the_one_before_and_of_no_other_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts");
        let (db1, db10): (AgentId, AgentId) = ("db1".parse().unwrap(), "db10".parse().unwrap());
        let key = || KeyPair::new_user().public_key();
        let (first, other, second) = (key(), key(), key());
        pin(&path, &[(db1.clone(), first)]).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("# rack 7\n{text}")).unwrap();
        pin(&path, &[(db10.clone(), other.clone())]).unwrap();
        pin(&path, &[(db1.clone(), second.clone())]).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("# rack 7\ndb10 {other}\ndb1 {second}\n"));
        let keys = bus::HostKeys::read(&path).unwrap();
        assert_eq!((keys.of(&db1), keys.of(&db10)), (Some(second.as_str()), Some(other.as_str())));
        for wrong in ["db1", "db1 SUSEED", "db1 nonsense", "../x U"] {
            fs::write(&path, wrong).unwrap();
            assert!(bus::HostKeys::read(&path).unwrap_err().to_string().contains("hosts:1: "), "{wrong}");
        }
    }
}
