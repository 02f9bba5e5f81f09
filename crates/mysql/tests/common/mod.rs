//! Shared by the tests with real servers.
#![allow(dead_code, unreachable_pub, reason = "each test file is a program of its own and uses a part")]

pub mod replica;

use std::path::Path;

use mysql::Instance;
use mysql::config::{DirectService, MysqlConfig, ServiceConfig};
use testkit::mysqld::{Mysqld, MysqldOptions, Vendor, mariadb11_root, mysql9_root};

/// An agent's view of a test server: only its option file is configured.
pub fn config(server: &Mysqld) -> MysqlConfig {
    MysqlConfig {
        defaults_file: Some(server.option_file()),
        user: Some("root".to_owned()),
        service: ServiceConfig::Direct(DirectService { argv: server.argv() }),
        ..MysqlConfig::default()
    }
}

pub fn instance(server: &Mysqld) -> Instance {
    Instance::new(config(server))
}

pub async fn mariadb() -> Mysqld {
    Mysqld::start(MysqldOptions::default()).await.unwrap()
}

/// Options for MySQL 9, or the loud reason why there is none.
pub fn mysql9() -> Option<MysqldOptions> {
    match mysql9_root() {
        Ok(root) => Some(MysqldOptions { vendor: Vendor::Mysql9 { root }, ..MysqldOptions::default() }),
        Err(why) => {
            testkit::skip::odd(format_args!("there is no MySQL 9 here: {why:#}"));
            None
        }
    }
}

/// A copy of a datadir as a snapshot would give it: at one instant only if the server stands still or is stopped.
pub fn copy_datadir(from: &Path, to: &Path) {
    let status =
        std::process::Command::new("cp").args(["-a", "--reflink=auto"]).arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

/// Options for MariaDB 11.8, or the loud reason why there is none.
pub fn mariadb11() -> Option<MysqldOptions> {
    match mariadb11_root() {
        Ok(root) => Some(MysqldOptions { vendor: Vendor::Mariadb11 { root }, ..MysqldOptions::default() }),
        Err(why) => {
            testkit::skip::odd(format_args!("there is no MariaDB 11.8 here: {why:#}"));
            None
        }
    }
}
