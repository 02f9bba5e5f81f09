//! Encrypted tablespaces, and what gives a server their keys: a copy without the keys does not start.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use protocol::mysql::Flavor;

use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::server;
use crate::settings::Settings;

/// A page of the usual size: the first one is never encrypted and says whether the others are.
const HEAD_BYTES: u64 = 16 << 10;
/// `FSP_SPACE_FLAGS` in the first page, big-endian.
const FLAGS_AT: usize = 54;
/// MySQL's flag for an encrypted tablespace.
const MYSQL_ENCRYPTED: u32 = 1 << 13;
/// Begins MariaDB's description of how a tablespace is encrypted; the scheme follows, 0 for none.
const MARIADB_MAGIC: &[u8] = b"s\x0e\x0cREt";

/// Tablespaces (and logs) of the instance that need a key: asked of the server where it answers, else read from the
/// files' first pages.
///
/// # Errors
/// When the server refuses to tell and the files cannot be read.
pub async fn encrypted_tablespaces(instance: &Instance) -> Result<u64> {
    let settings = instance.settings().await;
    if let Ok(mut session) = instance.connect().await {
        let version = server::version(&mut session).await?;
        let sql = match version.flavor {
            Flavor::Mariadb => {
                "SELECT (SELECT COUNT(*) FROM information_schema.INNODB_TABLESPACES_ENCRYPTION \
                 WHERE ENCRYPTION_SCHEME <> 0) + @@GLOBAL.innodb_encrypt_log + @@GLOBAL.encrypt_binlog"
            }
            Flavor::Mysql => {
                "SELECT (SELECT COUNT(*) FROM information_schema.INNODB_TABLESPACES WHERE ENCRYPTION = 'Y') \
                 + @@GLOBAL.innodb_redo_log_encrypt + @@GLOBAL.innodb_undo_log_encrypt"
            }
        };
        let told = session.scalar("count encrypted tablespaces", sql).await;
        session.close().await;
        if let Ok(Some(count)) = told
            && let Ok(count) = count.parse()
        {
            return Ok(count);
        }
    }
    let datadir = settings.datadir.ok_or(Error::NotFound { what: "the datadir" })?;
    let counted = tokio::task::spawn_blocking(move || count_files(&datadir)).await;
    counted.map_err(|_| Error::NotFound { what: "the tablespaces" })?
}

/// Encrypted tablespaces below a datadir, by their first pages. Blocking.
///
/// # Errors
/// [`Error::Io`] when the directory cannot be read.
pub fn count_files(datadir: &Path) -> Result<u64> {
    std::fs::read_dir(datadir).map_err(Error::io("list", datadir))?;
    let is_tablespace = |path: &Path| {
        path.extension().is_some_and(|e| e == "ibd" || e == "ibu")
            || path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with("ibdata"))
    };
    let files = walkdir::WalkDir::new(datadir).same_file_system(true).into_iter().filter_map(Result::ok);
    Ok(files.filter(|entry| is_tablespace(entry.path()) && is_encrypted(entry.path())).count() as u64)
}

fn is_encrypted(path: &Path) -> bool {
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(HEAD_BYTES).read_to_end(&mut head));
    read.is_ok() && says_encrypted(&head)
}

fn says_encrypted(head: &[u8]) -> bool {
    let scheme = head.windows(MARIADB_MAGIC.len() + 1).find(|w| w.starts_with(MARIADB_MAGIC));
    if let Some(scheme) = scheme {
        return scheme[MARIADB_MAGIC.len()] != 0;
    }
    let flags = head.get(FLAGS_AT..FLAGS_AT + 4).and_then(|bytes| bytes.try_into().ok());
    flags.is_some_and(|flags| u32::from_be_bytes(flags) & MYSQL_ENCRYPTED != 0)
}

/// What gives a server the keys of encrypted tablespaces, by its option files: the option, or the manifest of a component.
#[must_use]
pub fn key_source(settings: &Settings) -> Option<String> {
    const OPTIONS: [&str; 4] =
        ["file-key-management-filename", "hashicorp-key-management", "aws-key-management", "keyring"];
    let is_loader = |name: &str| name.starts_with("plugin-load") || name.starts_with("early-plugin-load");
    let gives_keys = |value: &str| value.contains("key_management") || value.contains("keyring");
    let option = settings.options.iter().find(|(name, value)| {
        OPTIONS.iter().any(|prefix| name.starts_with(prefix))
            || is_loader(name) && value.is_some_and(gives_keys)
    });
    if let Some((name, _)) = option {
        return Some(name.to_owned());
    }
    let beside_binary = settings.binary.as_deref().and_then(Path::parent);
    [beside_binary, settings.datadir.as_deref()].into_iter().flatten().find_map(|directory| {
        let manifest = directory.join("mysqld.my");
        let text = std::fs::read_to_string(&manifest).ok()?;
        text.contains("keyring").then(|| manifest.display().to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_pages_tell_what_is_encrypted() {
        let mut plain = vec![0; 16 << 10];
        assert!(!says_encrypted(&plain) && !says_encrypted(&[]));
        plain[FLAGS_AT..FLAGS_AT + 4].copy_from_slice(&(0x4021_u32 | MYSQL_ENCRYPTED).to_be_bytes());
        assert!(says_encrypted(&plain), "MySQL's flag");
        let mut described = vec![0; 16 << 10];
        described[12_000..12_006].copy_from_slice(MARIADB_MAGIC);
        assert!(!says_encrypted(&described), "MariaDB describes tables that are not encrypted too");
        described[12_006] = 1;
        assert!(says_encrypted(&described));
    }
}
