//! What a seed with `--replicate-from` needs on the source and on the recipient, and what a replica says of itself.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use tempfile::TempDir;
use testkit::mysqld::{Mysqld, Vendor, mariadb11_root, mysql9_root};
use testkit::poll;

use crate::world::PATIENCE;

/// The replication account's password: it must reach the server as it is and appear nowhere else.
pub const PASSWORD: &str = "it's \\ a \"secret\"; --";

/// The servers that a whole seed is tried with: their names, and where one is missing the loud reason.
///
/// # Panics
/// For an unknown name.
#[must_use]
pub fn vendor(name: &str) -> Option<Vendor> {
    let found = match name {
        "mariadb" => Ok(Vendor::Mariadb),
        "mariadb11" => mariadb11_root().map(|root| Vendor::Mariadb11 { root }),
        "mysql9" => mysql9_root().map(|root| Vendor::Mysql9 { root }),
        other => panic!("no server {other}"),
    };
    found.map_err(|why| testkit::skip::odd(format_args!("there is no {name} here: {why:#}"))).ok()
}

/// The account on the source and its credentials in a file of their own.
#[derive(Debug)]
pub struct Account {
    dir: TempDir,
}

impl Account {
    /// Writes the file that a recipient is configured with.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("oa-repl-").tempdir().unwrap();
        let account = Self { dir };
        // An option file knows escapes.
        let password = PASSWORD.replace('\\', "\\\\").replace('"', "\\\"");
        fs::write(account.file(), format!("[client]\nuser=repl\npassword=\"{password}\"\n")).unwrap();
        fs::set_permissions(account.file(), fs::Permissions::from_mode(0o600)).unwrap();
        account
    }

    /// Where the file is, for `seed.replication_credentials`.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.dir.path().join("replication.cnf")
    }

    /// Makes the account on a source.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn create(source: &Mysqld) {
        let escaped = PASSWORD.replace('\\', "\\\\").replace('\'', "\\'");
        for statement in [
            format!("CREATE USER repl@'127.0.0.1' IDENTIFIED BY '{escaped}'"),
            "GRANT REPLICATION SLAVE ON *.* TO repl@'127.0.0.1'".to_owned(),
        ] {
            source.exec(statement).await.unwrap();
        }
    }
}

impl Default for Account {
    fn default() -> Self {
        Self::new()
    }
}

/// Number and checksum of all rows of the writer.
///
/// # Panics
/// When the server refuses.
pub async fn all_writes(server: &Mysqld) -> Vec<Vec<String>> {
    server.query("SELECT COUNT(*), BIT_XOR(CRC32(CONCAT_WS('#', id, note))) FROM shop.writes").await.unwrap()
}

/// Where the server's own history stands, as a GTID; empty where it keeps none.
///
/// # Panics
/// When the server refuses.
pub async fn gtid(server: &Mysqld) -> String {
    let variable = if server.vendor().is_mysql() { "gtid_executed" } else { "gtid_current_pos" };
    server.scalar(format!("SELECT @@GLOBAL.{variable}")).await.unwrap()
}

/// Waits until the replica has every row of a source that nobody writes to any more, and stands at its GTID.
///
/// # Panics
/// When it does not come to that.
pub async fn caught_up(replica: &Mysqld, source: &Mysqld) {
    let (rows, position) = (all_writes(source).await, gtid(source).await);
    poll::until_async(PATIENCE, "the replica to have all rows of its source", || async {
        (all_writes(replica).await == rows && gtid(replica).await == position).then_some(())
    })
    .await;
}
