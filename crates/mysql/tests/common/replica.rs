//! A primary and copies of it that become its replicas.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use mysql::datadir::{ClonePolicy, LogNames, clean, cleanup_plan, top};
use mysql::replicate::{Credentials, Source};
use testkit::mysqld::{Mysqld, MysqldOptions};

use super::copy_datadir;

pub const PASSWORD: &str = "it's \\ a \"secret\"; --";

pub fn source(primary: &Mysqld, password: &str) -> Source {
    let path: PathBuf = primary.base().join(format!("secret-{}", password.len()));
    std::fs::write(&path, password).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let credentials = Credentials::PasswordFile { user: "repl".into(), path };
    Source { host: "127.0.0.1".into(), port: primary.port(), credentials }
}

pub async fn primary(options: MysqldOptions) -> Mysqld {
    let primary = Mysqld::start(options).await.unwrap();
    let escaped = PASSWORD.replace('\\', "\\\\").replace('\'', "\\'");
    primary.exec(format!("CREATE USER repl@'127.0.0.1' IDENTIFIED BY '{escaped}'")).await.unwrap();
    primary.exec("GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO repl@'127.0.0.1'").await.unwrap();
    primary.exec("CREATE DATABASE shop").await.unwrap();
    primary
        .exec("CREATE TABLE shop.t (id INT AUTO_INCREMENT PRIMARY KEY, v INT) ENGINE=InnoDB")
        .await
        .unwrap();
    primary.exec("INSERT INTO shop.t (v) VALUES (1), (2), (3)").await.unwrap();
    primary
}

/// Copies the crashed primary's files, which is what a snapshot holds, and cleans them, as a seed does.
pub async fn clone_of(primary: &mut Mysqld, options: MysqldOptions) -> Mysqld {
    primary.kill9().await.unwrap();
    let mut replica = Mysqld::prepare(options).unwrap();
    std::fs::remove_dir_all(replica.datadir()).unwrap();
    copy_datadir(primary.datadir(), replica.datadir());
    clean_copy(replica.datadir());
    primary.boot().await.unwrap();
    replica.boot().await.unwrap();
    replica
}

fn clean_copy(datadir: &Path) {
    let names = top(datadir).unwrap();
    let names = names.iter().map(|(name, is_dir)| (name.as_str(), *is_dir));
    let plan = cleanup_plan(names, &ClonePolicy::default(), &LogNames::default());
    clean(datadir, &plan).unwrap();
}

/// As [`source`], with further lines for the `[client]` group.
pub fn source_with(primary: &Mysqld, user: &str, password: &str, port: u16, lines: &str) -> Source {
    let path: PathBuf = primary.base().join(format!("repl-{user}-{port}-{}.cnf", lines.len()));
    let password = password.replace('\\', "\\\\").replace('"', "\\\"");
    std::fs::write(&path, format!("[client]\nuser={user}\npassword=\"{password}\"\n{lines}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    Source { host: "127.0.0.1".into(), port, credentials: Credentials::OptionFile(path) }
}
