//! Which files of a datadir are not cloned with it, and their removal from a copy.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use sys::dir::Dir;

use crate::error::{Error, Result};

/// What becomes of the files that a copy may or may not want.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClonePolicy {
    /// Keep the donor's binary logs. A copy that was not taken at rest needs the last one: its crash recovery finds there
    /// which prepared transactions were committed, and the server refuses to start without it.
    pub keep_binlogs: bool,
    /// Keep `ib_buffer_pool`, so that the copy warms up with the donor's pages.
    pub keep_buffer_pool: bool,
    /// Keep relay logs and the replication settings of the donor. Only for a copy that takes the donor's place.
    pub keep_relay_logs: bool,
}

impl Default for ClonePolicy {
    fn default() -> Self {
        Self { keep_binlogs: true, keep_buffer_pool: true, keep_relay_logs: false }
    }
}

/// Why a file does not belong in a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The identity of the server (`auto.cnf`): two servers must not share it.
    Identity,
    /// Belongs to a running process: pid file, socket, lock.
    Runtime,
    /// Error, slow or general log of the other host.
    HostLog,
    /// Relay log, or the settings of a replica.
    RelayLog,
    /// Binary log, by policy.
    BinaryLog,
    /// Buffer pool dump, by policy.
    BufferPool,
    /// Temporary tablespace or file, made anew at each start.
    Temporary,
    /// No part of the data of any server: keys, settings, histories, cores, what people and programs left there.
    NotData,
}

/// Base names of the donor's logs inside its datadir, beside those that every server's defaults give.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogNames {
    /// Of the binary log.
    pub log_bin: BTreeSet<String>,
    /// Of the relay log. Those of named connections begin with one of them and `-`.
    pub relay_log: BTreeSet<String>,
    /// Names of InnoDB's system tablespace, where `innodb_data_file_path` gives other ones than the servers' defaults.
    pub data_files: BTreeSet<String>,
}

impl LogNames {
    /// With the files that an `innodb_data_file_path` names.
    #[must_use]
    pub fn with_data_files(mut self, spec: Option<&str>) -> Self {
        let files =
            spec.into_iter().flat_map(|spec| spec.split(';')).filter_map(|part| part.split(':').next());
        self.data_files.extend(files.filter(|name| !name.is_empty()).map(str::to_owned));
        self
    }
}

/// Decides on a file or directory at the top of a datadir; `None`: it is cloned. Pure.
///
/// What is not known to be a part of a server's data is not cloned: a server makes a schema of any directory, and a file
/// that no server wrote may be somebody's secret.
#[must_use]
pub fn unwanted(name: &str, is_dir: bool, policy: &ClonePolicy, names: &LogNames) -> Option<Reason> {
    if is_dir {
        return unwanted_dir(name);
    }
    // A log may be called anything.
    let is_data = log_base(name).is_some()
        || is_replica_file(name)
        || names.data_files.contains(name)
        || is_data_file(name);
    unwanted_file(name, policy, names).or_else(|| (!is_data).then_some(Reason::NotData))
}

fn unwanted_dir(name: &str) -> Option<Reason> {
    match name {
        "#innodb_temp" => Some(Reason::Temporary),
        "lost+found" | "#clone" | "#ib_archive" => Some(Reason::NotData),
        _ => name.starts_with('.').then_some(Reason::NotData),
    }
}

/// Files at the top of a datadir that hold data or what recovers them: InnoDB's, Aria's, TokuDB's, the servers' own logs of
/// transactions and DDL, and the marks of a version.
fn is_data_file(name: &str) -> bool {
    const BEGIN: [&str; 12] = [
        "ibdata",
        "ib_logfile",
        "ib_buffer_pool",
        "undo",
        "aria_log",
        "tokudb",
        "_tokudb",
        "xb_doublewrite",
        "ddl_recovery",
        "ddl_log",
        "mysql_upgrade_",
        "mariadb_upgrade_",
    ];
    const END: [&str; 6] = [".ibd", ".ibu", ".dblwr", ".bdblwr", ".isl", ".flag"];
    name == "tc.log"
        || BEGIN.iter().any(|begin| name.starts_with(begin))
        || END.iter().any(|end| name.ends_with(end))
        || name.contains(".tokulog")
}

/// Whether something at the top of a datadir is a server's own, whatever its data: its identity, what it was told to keep set,
/// its keys and the private files of its user. Nothing that testifies about the data is.
pub(crate) fn is_own(name: &str) -> bool {
    const EXACT: [&str; 4] = ["auto.cnf", "mysqld-auto.cnf", "mysqld.my", "my.cnf"];
    const END: [&str; 5] = [".pem", ".key", ".crt", ".cert", ".cnf"];
    EXACT.contains(&name)
        || END.iter().any(|end| name.ends_with(end))
        || name.contains("keyring")
        || name.starts_with('.') && !name.starts_with(".orch-")
}

fn unwanted_file(name: &str, policy: &ClonePolicy, names: &LogNames) -> Option<Reason> {
    let ends = |suffix: &str| name.ends_with(suffix);
    if name == "auto.cnf" {
        return Some(Reason::Identity);
    }
    if ends(".pid") || ends(".sock") || ends(".sock.lock") || name == "mysqld_safe.pid" {
        return Some(Reason::Runtime);
    }
    if ends(".err") || ends("-slow.log") || ends("-error.log") {
        return Some(Reason::HostLog);
    }
    if name == "ibtmp1" || name.starts_with("#sql-temptable") || name.starts_with("#ib_") && ends(".tmp") {
        return Some(Reason::Temporary);
    }
    if name == "ib_buffer_pool" || name == "ib_buffer_pool.incomplete" {
        return (!policy.keep_buffer_pool).then_some(Reason::BufferPool);
    }
    let log = log_base(name);
    // `db1-bin` is no relay log of a connection `bin` where the relay log is called `db1`.
    let is_binary = log.is_some_and(|base| names.log_bin.contains(base));
    if is_replica_file(name) || !is_binary && log.is_some_and(|base| is_relay_base(base, &names.relay_log)) {
        return (!policy.keep_relay_logs).then_some(Reason::RelayLog);
    }
    if is_binary || log.is_some_and(|base| base == "binlog" || base.ends_with("-bin")) {
        return (!policy.keep_binlogs).then_some(Reason::BinaryLog);
    }
    None
}

/// Whether a log with this base name is a relay log.
pub(crate) fn is_relay_log(base: &str, names: &LogNames) -> bool {
    is_relay_base(base, &names.relay_log)
}

/// Whether a file at the top of a datadir is never seeded, whatever the donor's logs are called, so that it may lie anywhere.
pub(crate) fn stays_at_home(name: &OsStr) -> bool {
    let unwanted = |name| unwanted_file(name, &ClonePolicy::default(), &LogNames::default());
    name.to_str().is_some_and(|name| unwanted(name).is_some())
}

/// Files that hold a replica's settings: `master.info`, `relay-log.info`, `master-conn.info`, `multi-master.info`.
pub(crate) fn is_replica_file(name: &str) -> bool {
    let is_info = |base: &str| {
        name.strip_prefix(base).is_some_and(|r| r == ".info" || r.starts_with('-') && r.ends_with(".info"))
    };
    name == "multi-master.info" || is_info("master") || is_info("relay-log")
}

/// The base name of what is named like a part of a log: `base.000001`, `base.index`, `base.state`,
/// `base.index_crash_safe`, `base.~rec~`, and MariaDB's GTID index `base.000001.idx`.
fn log_base(name: &str) -> Option<&str> {
    let (stem, extension) = name.rsplit_once('.')?;
    let is_number = extension.len() >= 6 && extension.bytes().all(|b| b.is_ascii_digit());
    match extension {
        "idx" => Some(stem.rsplit_once('.').map_or(stem, |(base, _)| base)),
        "index" | "state" | "index_crash_safe" | "~rec~" => Some(stem),
        _ => is_number.then_some(stem),
    }
}

/// Whether a log with this base name is a relay log, also that of a named connection.
fn is_relay_base(base: &str, named: &BTreeSet<String>) -> bool {
    let is_of =
        |name: &str| base.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
    base.ends_with("-relay-bin")
        || base.contains("-relay-bin-")
        || is_of("relay-bin")
        || named.iter().any(|name| is_of(name))
}

/// What must go from a copied datadir before its first start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// Path relative to the datadir.
    pub path: PathBuf,
    /// Why.
    pub reason: Reason,
}

/// Plans the clean-up of a copied datadir from the names at its top. Pure.
#[must_use]
pub fn cleanup_plan<'a>(
    entries: impl IntoIterator<Item = (&'a str, bool)>,
    policy: &ClonePolicy,
    names: &LogNames,
) -> Vec<Removal> {
    let mut plan: Vec<Removal> = entries
        .into_iter()
        .filter_map(|(name, is_dir)| {
            Some(Removal { path: name.into(), reason: unwanted(name, is_dir, policy, names)? })
        })
        .collect();
    plan.sort_by(|a, b| a.path.cmp(&b.path));
    plan
}

/// Carries out a [`cleanup_plan`]; doing it twice is no error. Returns what was removed.
///
/// # Errors
/// [`Error::Io`] for a file that cannot be removed, [`Error::Refused`] for a path that leaves the datadir.
pub fn clean(datadir: &Path, plan: &[Removal]) -> Result<Vec<PathBuf>> {
    let dir = Dir::open(datadir).map_err(Error::io("open", datadir))?;
    let mut removed = Vec::new();
    for Removal { path, .. } in plan {
        if path.components().count() != 1 || !matches!(path.components().next(), Some(Component::Normal(_))) {
            return Err(Error::Refused {
                reason: format!("{} is not a file of the datadir", path.display()),
            });
        }
        let full = datadir.join(path);
        if dir.remove(path).map_err(Error::io("remove", &full))? {
            removed.push(full);
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOP: &[&str] = &[
        "auto.cnf",
        "ibdata1",
        "ib_logfile0",
        "#innodb_redo",
        "undo_001",
        "mysql.ibd",
        "mysql",
        "sys",
        "shop",
        "ib_buffer_pool",
        "ibtmp1",
        "#innodb_temp",
        "db1.pid",
        "mysql.sock",
        "mysql.sock.lock",
        "db1.err",
        "binlog.000001",
        "binlog.index",
        "binlog.state",
        "db1-relay-bin.000003",
        "db1-relay-bin.index",
        "relay-log.info",
        "master.info",
        "ca.pem",
        "server-key.pem",
        "aria_log_control",
        "aria_log.00000001",
        "tc.log",
        "ddl_recovery.log",
        "mysql_upgrade_info",
        "master-data.ibd",
        "sandbox-bin",
        "lost+found",
        ".ssh",
        ".my.cnf",
        "core.4711",
        "mysqld-auto.cnf",
        "#ib_16384_0.dblwr",
    ];

    fn removed(policy: ClonePolicy) -> Vec<String> {
        let is_dir = |name: &str| {
            ["mysql", "sys", "shop", "sandbox-bin", "#innodb_redo", "#innodb_temp", "lost+found", ".ssh"]
                .contains(&name)
        };
        let plan = cleanup_plan(TOP.iter().map(|name| (*name, is_dir(name))), &policy, &LogNames::default());
        plan.into_iter().map(|r| r.path.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn identity_runtime_and_logs_of_the_other_host_go() {
        assert_eq!(
            removed(ClonePolicy { keep_binlogs: false, ..ClonePolicy::default() }),
            [
                "#innodb_temp",
                ".my.cnf",
                ".ssh",
                "auto.cnf",
                "binlog.000001",
                "binlog.index",
                "binlog.state",
                "ca.pem",
                "core.4711",
                "db1-relay-bin.000003",
                "db1-relay-bin.index",
                "db1.err",
                "db1.pid",
                "ibtmp1",
                "lost+found",
                "master.info",
                "mysql.sock",
                "mysql.sock.lock",
                "mysqld-auto.cnf",
                "relay-log.info",
                "server-key.pem",
            ]
        );
    }

    #[test]
    fn policy_keeps_what_it_is_told_to() {
        let policy = ClonePolicy { keep_binlogs: true, keep_buffer_pool: false, keep_relay_logs: true };
        let gone = removed(policy);
        assert!(gone.contains(&"ib_buffer_pool".to_owned()));
        assert!(!gone.iter().any(|n| n.starts_with("binlog") || n.contains("relay") || n == "master.info"));
        assert!(gone.contains(&"auto.cnf".to_owned()), "an identity is never kept");
    }

    #[test]
    fn data_and_redo_are_never_planned_away() {
        let policies =
            [ClonePolicy::default(), ClonePolicy { keep_buffer_pool: false, ..ClonePolicy::default() }];
        for policy in policies {
            let gone = removed(policy);
            for keep in [
                "ibdata1",
                "ib_logfile0",
                "#innodb_redo",
                "undo_001",
                "mysql.ibd",
                "aria_log.00000001",
                "shop",
                "tc.log",
            ] {
                assert!(!gone.contains(&keep.to_owned()), "{keep}");
            }
        }
    }

    #[test]
    fn configured_log_names_are_recognised_beside_the_usual_ones() {
        let log_bin = ["audit".into(), "feed-bin".into()].into();
        let names = LogNames { log_bin, relay_log: ["feed".into()].into(), ..LogNames::default() };
        let names = names.with_data_files(Some("data1:12M;data2:10M:autoextend"));
        let policy = ClonePolicy { keep_binlogs: false, ..ClonePolicy::default() };
        for (name, reason) in [
            ("audit.000042", Some(Reason::BinaryLog)),
            ("audit.000042.idx", Some(Reason::BinaryLog)),
            ("old-bin.000001", Some(Reason::BinaryLog)),
            ("feed.000042", Some(Reason::RelayLog)),
            ("feed-bin.000042", Some(Reason::BinaryLog)),
            ("feed-eu.index", Some(Reason::RelayLog)),
            ("db1-relay-bin-eu.000001", Some(Reason::RelayLog)),
            ("relay-bin.000001", Some(Reason::RelayLog)),
            ("feeder.000001", None),
            ("auditing", Some(Reason::NotData)),
            ("audit.ibd", None),
            ("data2", None),
        ] {
            assert_eq!(unwanted(name, false, &policy, &names), reason, "{name}");
        }
    }

    #[test]
    fn clean_refuses_paths_that_leave_the_datadir() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["../x", "/etc/passwd", "a/b"] {
            let plan = [Removal { path: path.into(), reason: Reason::Runtime }];
            assert!(matches!(clean(dir.path(), &plan), Err(Error::Refused { .. })), "{path}");
        }
    }
}
