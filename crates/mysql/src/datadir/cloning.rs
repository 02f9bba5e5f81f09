//! Which files of a datadir are not cloned with it, and their removal from a copy.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::remove;
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
}

/// Base names of the donor's logs inside its datadir, beside those that every server's defaults give.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogNames {
    /// Of the binary log.
    pub log_bin: BTreeSet<String>,
    /// Of the relay log. Those of named connections begin with one of them and `-`.
    pub relay_log: BTreeSet<String>,
}

/// Decides on a file at the top of a datadir; `None`: it is cloned. Pure.
#[must_use]
pub fn unwanted(name: &str, policy: &ClonePolicy, names: &LogNames) -> Option<Reason> {
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
    if name == "ibtmp1"
        || name == "#innodb_temp"
        || name.starts_with("#sql-temptable")
        || name.starts_with("#ib_") && ends(".tmp")
    {
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

/// Whether a file at the top of a datadir is never seeded, whatever the donor's logs are called, so that it may lie anywhere.
pub(crate) fn stays_at_home(name: &OsStr) -> bool {
    let unwanted = |name| unwanted(name, &ClonePolicy::default(), &LogNames::default());
    name.to_str().is_some_and(|name| unwanted(name).is_some())
}

/// Files that hold a replica's settings: `master.info`, `relay-log.info`, `master-conn.info`, `multi-master.info`.
fn is_replica_file(name: &str) -> bool {
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
    entries: impl IntoIterator<Item = &'a str>,
    policy: &ClonePolicy,
    names: &LogNames,
) -> Vec<Removal> {
    let mut plan: Vec<Removal> = entries
        .into_iter()
        .filter_map(|name| Some(Removal { path: name.into(), reason: unwanted(name, policy, names)? }))
        .collect();
    plan.sort_by(|a, b| a.path.cmp(&b.path));
    plan
}

/// Carries out a [`cleanup_plan`]; doing it twice is no error. Returns what was removed.
///
/// # Errors
/// [`Error::Io`] for a file that cannot be removed, [`Error::Refused`] for a path that leaves the datadir.
pub fn clean(datadir: &Path, plan: &[Removal]) -> Result<Vec<PathBuf>> {
    let mut removed = Vec::new();
    for Removal { path, .. } in plan {
        if path.components().count() != 1 || !matches!(path.components().next(), Some(Component::Normal(_))) {
            return Err(Error::Refused {
                reason: format!("{} is not a file of the datadir", path.display()),
            });
        }
        let full = datadir.join(path);
        if remove(&full)? {
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
    ];

    fn removed(policy: ClonePolicy) -> Vec<String> {
        let plan = cleanup_plan(TOP.iter().copied(), &policy, &LogNames::default());
        plan.into_iter().map(|r| r.path.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn identity_runtime_and_logs_of_the_other_host_go() {
        assert_eq!(
            removed(ClonePolicy { keep_binlogs: false, ..ClonePolicy::default() }),
            [
                "#innodb_temp",
                "auto.cnf",
                "binlog.000001",
                "binlog.index",
                "binlog.state",
                "db1-relay-bin.000003",
                "db1-relay-bin.index",
                "db1.err",
                "db1.pid",
                "ibtmp1",
                "master.info",
                "mysql.sock",
                "mysql.sock.lock",
                "relay-log.info",
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
        let names = LogNames { log_bin, relay_log: ["feed".into()].into() };
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
            ("auditing", None),
            ("audit.ibd", None),
        ] {
            assert_eq!(unwanted(name, &policy, &names), reason, "{name}");
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
