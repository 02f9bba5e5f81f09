//! What a private server is started with: its run directory, its arguments, and the binary log that it may recover with.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::fcntl::{Flock, FlockArg, OFlag};
use protocol::mysql::{BinlogPosition, Flavor};
use sys::dir::Dir;

use super::{RUN_PREFIX, SandboxOptions};
use crate::error::{Error, Result};
use crate::rundir;

/// Nobody but the agent reaches it, and nothing in the data makes it act by itself.
const PRIVATE: [&str; 8] = [
    "--skip-networking",
    "--skip-grant-tables",
    "--event-scheduler=OFF",
    "--performance-schema=OFF",
    "--innodb-buffer-pool-load-at-startup=OFF",
    "--innodb-buffer-pool-dump-at-shutdown=OFF",
    "--general-log=OFF",
    "--slow-query-log=OFF",
];

/// For data that nobody keeps. `O_DIRECT` as by default, so that what is read does not push out other pages. From 30 `fdatasync`s of a
/// start, a check and a stop (MariaDB 10.11) one is left. Deprecated since MariaDB 11.0: a server without it starts all the same.
const DISCARDED: [&str; 4] = [
    "--loose-innodb-flush-method=O_DIRECT_NO_FSYNC",
    "--innodb-flush-log-at-trx-commit=0",
    "--sync-binlog=0",
    // MariaDB's, for Aria and MyISAM.
    "--loose-debug-no-sync",
];

/// MySQL alone: neither what the donor persisted counts, nor are keys made that would lie in the data.
const MYSQL_ONLY: [&str; 7] = [
    "--mysqlx=OFF",
    "--secure-file-priv=NULL",
    "--log-error-verbosity=3",
    "--persisted-globals-load=OFF",
    "--loose-auto-generate-certs=OFF",
    "--loose-sha256-password-auto-generate-rsa-keys=OFF",
    "--loose-caching-sha2-password-auto-generate-rsa-keys=OFF",
];

/// The binary log's last file before the sandbox opened a new one.
#[derive(Debug, Clone)]
pub(super) struct LogEnd {
    path: PathBuf,
}

impl LogEnd {
    pub(super) fn position(&self) -> Option<BinlogPosition> {
        let file = self.path.file_name()?.to_str()?.to_owned();
        Some(BinlogPosition { file, position: fs::metadata(&self.path).ok()?.len() })
    }
}

/// The directory of one private server, removed with everything in it on drop. Its lock is held as long as we live: what is not locked
/// was left behind.
#[derive(Debug)]
pub(super) struct RunDir {
    /// As the server is told.
    pub(super) path: PathBuf,
    /// As this process reaches it: through its parent where that is held.
    pub(super) reached: PathBuf,
    _parent: Option<Arc<Dir>>,
    _lock: Flock<File>,
}

impl Drop for RunDir {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.reached));
    }
}

impl RunDir {
    /// Where the server is told that its own file of this name lies.
    fn own(&self, name: &str) -> PathBuf {
        rundir::own(&self.path, name)
    }
}

/// Takes the lock of a run directory; `None` when its agent lives.
pub(super) fn lock(run_dir: &Path) -> io::Result<Option<Flock<File>>> {
    let path = run_dir.join("lock");
    let flags = OFlag::O_NOFOLLOW.bits();
    let file =
        File::options().read(true).append(true).create(true).mode(0o600).custom_flags(flags).open(&path)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error.into()),
    }
}

/// The binary log is used only where every file of its index lies in this very datadir: an absolute path would lead to the
/// live server's logs.
pub(super) fn usable_log_bin(datadir: &Path, base: &str) -> Option<LogEnd> {
    let inside = |name: &str| {
        !name.is_empty() && Path::new(name).components().all(|part| matches!(part, Component::Normal(_)))
    };
    if !inside(base) {
        return None;
    }
    let index = fs::read_to_string(datadir.join(format!("{base}.index"))).ok()?;
    let files: Vec<&str> = index
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .map(|l| l.strip_prefix("./").unwrap_or(l))
        .collect();
    let last = files.last()?;
    files.iter().all(|f| inside(f) && datadir.join(f).is_file()).then(|| LogEnd { path: datadir.join(last) })
}

/// `InnoDB: Last binlog file './mysql-bin.000001', position 1234`, as crash recovery tells it.
pub(super) fn logged_position(line: &str) -> Option<BinlogPosition> {
    let (_, rest) =
        line.split_once("ast binlog file '").or_else(|| line.split_once("ast MySQL binlog file '"))?;
    let (file, rest) = rest.split_once('\'')?;
    let file = file.rsplit('/').next()?.to_owned();
    let digits: String =
        rest.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    let position = digits.parse().ok()?;
    (!file.is_empty()).then_some(BinlogPosition { file, position })
}

pub(super) fn run_dir(root: &Path, held: Option<&Arc<Dir>>, owner: &Metadata) -> Result<RunDir> {
    // Short, for the socket's path.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let parent = held.map_or_else(|| root.to_owned(), |held| held.by_descriptor());
    loop {
        let name = format!("{RUN_PREFIX}{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let (path, reached) = (root.join(&name), parent.join(&name));
        if reached.symlink_metadata().is_ok() {
            // Another's, or what an agent left behind.
            continue;
        }
        rundir::check_length(&path)?;
        rundir::make(&reached, owner, false)?;
        // Locked: another agent has made the same one in this moment.
        if let Some(lock) = lock(&reached).map_err(Error::io("lock", &path))? {
            return Ok(RunDir { path, reached, _parent: held.cloned(), _lock: lock });
        }
    }
}

/// The text of the private server's option file.
pub(super) fn option_file(
    options: &SandboxOptions,
    datadir: &Path,
    run: &RunDir,
    flavor: Flavor,
    uid: u32,
    with_log_bin: bool,
) -> Result<String> {
    let mut lines = vec!["[mysqld]".to_owned()];
    for argument in arguments(options, datadir, run, flavor, uid, with_log_bin) {
        lines.push(rundir::line(&argument)?);
    }
    Ok(lines.join("\n") + "\n")
}

fn arguments(
    options: &SandboxOptions,
    datadir: &Path,
    run: &RunDir,
    flavor: Flavor,
    uid: u32,
    with_log_bin: bool,
) -> Vec<String> {
    let path = |name: &str, path: &Path| format!("--{name}={}", path.display());
    let mut args = vec![
        path("datadir", datadir),
        path("socket", &rundir::socket(&run.path)),
        path("pid-file", &run.own("pid")),
        path("tmpdir", &run.own("tmp")),
        path("log-error", &run.own("error.log")),
    ];
    args.extend(PRIVATE.map(str::to_owned));
    if options.discarded {
        args.extend(DISCARDED.map(str::to_owned));
    }
    args.push(format!("--innodb-buffer-pool-size={}", options.buffer_pool_bytes));
    args.push(match flavor {
        Flavor::Mariadb => "--skip-slave-start".to_owned(),
        Flavor::Mysql => "--skip-replica-start".to_owned(),
    });
    // Whatever it makes for channels that it finds must not lie in the data.
    args.push(path("relay-log", &run.own("relay")));
    if flavor == Flavor::Mysql {
        args.extend(MYSQL_ONLY.map(str::to_owned));
    }
    if uid == 0 && nix::unistd::Uid::effective().is_root() {
        // Servers refuse to be root's unless they are told; other data's owner it is already.
        args.push("--user=root".to_owned());
    } else if !options.prefix.is_empty() && nix::unistd::Uid::effective().is_root() {
        // What the host puts before its binary ran as root: the server steps down by itself. By number, which is the same behind
        // a `chroot`, where a name may be another's.
        args.push(format!("--user={uid}"));
    }
    args.extend(log_arguments(options.log_bin.as_deref().filter(|_| with_log_bin), flavor));
    if let Some(layout) = &options.layout {
        args.push(format!("--innodb-page-size={}", layout.innodb_page_size));
        args.push(format!("--lower-case-table-names={}", layout.lower_case_table_names));
        args.extend(layout.innodb_data_file_path.iter().map(|p| format!("--innodb-data-file-path={p}")));
        args.extend(layout.innodb_data_home_dir.iter().map(|p| path("innodb-data-home-dir", p)));
        args.extend(layout.innodb_log_group_home_dir.iter().map(|p| path("innodb-log-group-home-dir", p)));
        args.extend(layout.innodb_undo_directory.iter().map(|p| path("innodb-undo-directory", p)));
    }
    args.extend(options.extra_args.iter().cloned());
    args
}

/// The logs are evidence: nothing may expire them.
fn log_arguments(log_bin: Option<&str>, flavor: Flavor) -> Vec<String> {
    let Some(base) = log_bin else { return vec!["--skip-log-bin".to_owned()] };
    let mut args = vec![format!("--log-bin={base}"), "--server-id=1".to_owned()];
    args.extend(
        match flavor {
            Flavor::Mariadb => ["--expire-logs-days=0"].as_slice(),
            Flavor::Mysql => &["--binlog-expire-logs-seconds=0", "--gtid-mode=ON_PERMISSIVE"],
        }
        .iter()
        .map(|arg| (*arg).to_owned()),
    );
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recovered_position_is_read_from_the_log_of_both_vendors() {
        let mariadb =
            "2026-11-22 22:30:00 0 [Note] InnoDB: Last binlog file './mariadb-bin.000003', position 4711";
        let mysql = "2026-11-22T22:30:00Z 1 [Note] [MY-012560] [InnoDB] Last MySQL binlog file position 0 157, file name binlog.000002";
        let got = logged_position(mariadb).unwrap();
        assert_eq!((got.file.as_str(), got.position), ("mariadb-bin.000003", 4711));
        assert_eq!(logged_position(mysql), None);
    }

    #[test]
    fn a_log_index_that_leads_outside_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("binlog.000001"), "x").unwrap();
        let index = dir.path().join("binlog.index");
        fs::write(&index, "./binlog.000001\n").unwrap();
        assert!(usable_log_bin(dir.path(), "binlog").is_some());
        for content in ["/var/log/mysql/binlog.000001\n", "./../x\n", "./binlog.000009\n", ""] {
            fs::write(&index, content).unwrap();
            assert!(usable_log_bin(dir.path(), "binlog").is_none(), "{content}");
        }
        assert!(usable_log_bin(dir.path(), "/var/log/mysql/binlog").is_none());
    }
}
