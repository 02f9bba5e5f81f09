//! The data directory: what is not cloned with it, whose it is, and emptying it without a mistake.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Component, Path, PathBuf};

use nix::unistd::User;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::find::{self, DataLock};

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

/// Base names that the donor's options give to its logs, where they differ from the defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogNames {
    /// Base name of the binary log inside the datadir.
    pub log_bin: Option<String>,
    /// Base name of the relay log inside the datadir.
    pub relay_log: Option<String>,
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
    if is_replica_file(name) || is_log_of(name, names.relay_log.as_deref(), "-relay-bin") {
        return (!policy.keep_relay_logs).then_some(Reason::RelayLog);
    }
    if is_log_of(name, names.log_bin.as_deref(), "-bin") || is_log_of(name, Some("binlog"), "-bin") {
        return (!policy.keep_binlogs).then_some(Reason::BinaryLog);
    }
    None
}

/// Files that hold a replica's settings: `master.info`, `relay-log.info`, `master-conn.info`, `multi-master.info`.
fn is_replica_file(name: &str) -> bool {
    let is_info = |base: &str| {
        name.strip_prefix(base).is_some_and(|r| r == ".info" || r.starts_with('-') && r.ends_with(".info"))
    };
    name == "multi-master.info" || is_info("master") || is_info("relay-log")
}

/// `base.000001`, `base.index`, `base.state`, `base.index_crash_safe`, `base.~rec~`; without a base: anything in that
/// pattern whose base ends with `default_suffix`.
fn is_log_of(name: &str, base: Option<&str>, default_suffix: &str) -> bool {
    let Some((stem, extension)) = name.rsplit_once('.') else { return false };
    let is_number = extension.len() >= 6 && extension.bytes().all(|b| b.is_ascii_digit());
    let is_kin = matches!(extension, "index" | "state" | "index_crash_safe" | "~rec~" | "idx");
    // MariaDB's GTID index: `base.000001.idx`.
    let stem = if extension == "idx" { stem.rsplit_once('.').map_or(stem, |(base, _)| base) } else { stem };
    // A relay log of a named connection: `base-connection.000001`.
    let matches_base = match base {
        Some(base) => {
            stem == base
                || default_suffix == "-relay-bin"
                    && stem.strip_prefix(base).is_some_and(|r| r.starts_with('-'))
        }
        None => {
            stem.ends_with(default_suffix) || default_suffix == "-relay-bin" && stem.contains("-relay-bin-")
        }
    };
    (is_number || is_kin) && matches_base && !(default_suffix == "-bin" && stem.ends_with("-relay-bin"))
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

/// The names at the top of a directory that are text.
///
/// # Errors
/// [`Error::Io`] when it cannot be listed.
pub fn top_entries(datadir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(datadir).map_err(Error::io("list", datadir))?;
    Ok(entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect())
}

/// Removes a file or a whole directory, never following a link. False when it was not there.
fn remove(path: &Path) -> Result<bool> {
    let done = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match done {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io("remove", path)(e)),
    }
}

/// Uid and gid that own a datadir's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// Whose a datadir must be: the old one's owner, else the user that the options name, else `mysql`.
///
/// # Errors
/// [`Error::NotFound`] when there is neither a datadir nor such a user.
pub fn owner(old_datadir: Option<&Path>, user_option: Option<&str>) -> Result<Owner> {
    if let Some(meta) = old_datadir.and_then(|d| fs::metadata(d).ok()) {
        return Ok(Owner { uid: meta.uid(), gid: meta.gid() });
    }
    let user = User::from_name(user_option.unwrap_or("mysql")).ok().flatten();
    let user = user.ok_or(Error::NotFound { what: "the operating system user" })?;
    Ok(Owner { uid: user.uid.as_raw(), gid: user.gid.as_raw() })
}

/// Gives a whole tree to its owner, links themselves and not what they point at. Blocking.
///
/// # Errors
/// [`Error::Io`] for the first file that cannot be given away.
pub fn give_to(root: &Path, owner: Owner) -> Result<()> {
    for entry in walkdir::WalkDir::new(root) {
        let entry = entry.map_err(|e| {
            let path = e.path().unwrap_or(root).to_owned();
            Error::Io { action: "walk", path, source: e.into() }
        })?;
        let meta = entry.metadata().map_err(|e| Error::Io {
            action: "read",
            path: entry.path().to_owned(),
            source: e.into(),
        })?;
        if (meta.uid(), meta.gid()) != (owner.uid, owner.gid) {
            std::os::unix::fs::lchown(entry.path(), Some(owner.uid), Some(owner.gid))
                .map_err(Error::io("change the owner of", entry.path()))?;
        }
    }
    Ok(())
}

/// Makes an empty datadir of the servers' usual mode for its owner.
///
/// # Errors
/// [`Error::Io`].
pub fn create_empty(path: &Path, owner: Owner) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    match fs::DirBuilder::new().mode(0o750).create(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(Error::io("create", path)(e)),
        _ => {}
    }
    chown(path, Some(owner.uid), Some(owner.gid)).map_err(Error::io("change the owner of", path))
}

/// True for a directory with InnoDB's system tablespace or a grant-table directory in it.
#[must_use]
pub fn looks_like_datadir(path: &Path) -> bool {
    ["ibdata1", "mysql.ibd", "aria_log_control"].iter().any(|f| path.join(f).is_file())
        || path.join("mysql").is_dir() && path.join("performance_schema").is_dir()
}

/// True for a file at the top of a datadir that belongs to the server itself.
pub(crate) fn is_system_file(name: &str) -> bool {
    ["ibdata", "ib_logfile", "undo", "mysql.ibd", "#innodb_redo", "aria_log", "#ib_"]
        .iter()
        .any(|p| name.starts_with(p))
}

/// Checks that a directory may be emptied.
///
/// # Errors
/// [`Error::Refused`] with the reason: not absolute, `/` or a system directory, a link, a mount point that holds more than
/// a datadir, anything that does not look like a datadir, or one that a server uses.
pub fn check_clearable(datadir: &Path) -> Result<()> {
    let refuse = |why: &str| Err(Error::Refused { reason: format!("{} {why}", datadir.display()) });
    if !datadir.is_absolute() || datadir.components().any(|c| matches!(c, Component::ParentDir)) {
        return refuse("is not an absolute path without ..");
    }
    if datadir.components().count() < 3 {
        return refuse("is too near the root of the file system to be a datadir of its own");
    }
    let meta = fs::symlink_metadata(datadir).map_err(Error::io("read", datadir))?;
    if meta.is_symlink() {
        return refuse("is a link; name the directory itself");
    }
    if !meta.is_dir() {
        return refuse("is not a directory");
    }
    let is_empty = fs::read_dir(datadir).map_err(Error::io("list", datadir))?.next().is_none();
    if !is_empty && !looks_like_datadir(datadir) {
        return refuse("does not look like a MySQL datadir");
    }
    if ["etc", "usr", "bin", "proc", "home"].iter().filter(|d| datadir.join(d).is_dir()).count() >= 3 {
        return refuse("holds a whole system");
    }
    if find::servers().iter().any(|s| s.owns(datadir)) || find::data_lock(datadir) == DataLock::Held {
        return refuse("is in use by a running server");
    }
    Ok(())
}

/// Empties a datadir and keeps the directory itself, which may be a mount point. Blocking; stays on one file system.
/// Returns the number of entries removed from its top.
///
/// # Errors
/// As [`check_clearable`], and [`Error::Io`] for what cannot be removed.
pub fn clear(datadir: &Path) -> Result<usize> {
    check_clearable(datadir)?;
    let device = fs::metadata(datadir).map_err(Error::io("read", datadir))?.dev();
    let entries = fs::read_dir(datadir).map_err(Error::io("list", datadir))?;
    let paths: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    for path in &paths {
        let meta = fs::symlink_metadata(path).map_err(Error::io("read", path))?;
        if meta.dev() != device {
            let reason = format!("{} is a mount of its own; unmount it first", path.display());
            return Err(Error::Refused { reason });
        }
    }
    let mut removed = 0;
    for path in paths {
        // A file system's own directory belongs to its mount point, not to the data.
        if path.file_name().is_some_and(|n| n == "lost+found") {
            continue;
        }
        removed += usize::from(remove(&path)?);
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
    fn configured_log_names_are_recognised() {
        let names = LogNames { log_bin: Some("audit".into()), relay_log: Some("feed".into()) };
        let policy = ClonePolicy { keep_binlogs: false, ..ClonePolicy::default() };
        assert_eq!(unwanted("audit.000042", &policy, &names), Some(Reason::BinaryLog));
        assert_eq!(unwanted("feed.000042", &policy, &names), Some(Reason::RelayLog));
        assert_eq!(unwanted("feed-eu.000042", &policy, &names), Some(Reason::RelayLog));
        assert_eq!(unwanted("auditing", &policy, &names), None);
    }

    #[test]
    fn dangerous_directories_are_not_cleared() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "x").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        for path in [
            Path::new("/"),
            Path::new("/var"),
            Path::new("/usr/lib"),
            Path::new("relative"),
            Path::new("/tmp/../etc"),
            dir.path(),
            &link,
        ] {
            let error = clear(path).unwrap_err();
            assert!(matches!(error, Error::Refused { .. }), "{}: {error}", path.display());
        }
        assert!(dir.path().join("thesis.tex").exists());
    }

    #[test]
    fn a_stopped_datadir_is_cleared_and_stays_as_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let datadir = dir.path().join("mysql");
        fs::create_dir_all(datadir.join("shop")).unwrap();
        fs::write(datadir.join("ibdata1"), "x").unwrap();
        fs::create_dir(datadir.join("lost+found")).unwrap();
        let outside = dir.path().join("outside");
        fs::write(&outside, "precious").unwrap();
        std::os::unix::fs::symlink(&outside, datadir.join("shop/link")).unwrap();
        assert_eq!(clear(&datadir).unwrap(), 2);
        assert!(datadir.join("lost+found").exists() && outside.exists());
        assert!(!datadir.join("ibdata1").exists());
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
