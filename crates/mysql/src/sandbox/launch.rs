//! What a private server is started with: its run directory, its arguments, and the binary log that it may recover with.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use protocol::mysql::{BinlogPosition, Flavor};

use super::{RUN_PREFIX, SandboxOptions};
use crate::error::{Error, Result};

/// Longest path of a Unix socket, bytes.
pub(crate) const MAX_SOCKET_PATH: usize = 107;

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

/// The directory of one private server, removed with everything in it on drop.
#[derive(Debug)]
pub(super) struct RunDir(pub(super) PathBuf);

impl Drop for RunDir {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

impl RunDir {
    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

/// The binary log is used only where every file of its index lies in this very datadir: an absolute path would lead to the
/// live server's logs.
pub(super) fn usable_log_bin(datadir: &Path, base: &str) -> Option<LogEnd> {
    let plain = |name: &str| !name.is_empty() && !name.contains('/');
    if !plain(base) {
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
    files.iter().all(|f| plain(f) && datadir.join(f).is_file()).then(|| LogEnd { path: datadir.join(last) })
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

pub(super) fn run_dir(root: &Path, (uid, gid): (u32, u32)) -> Result<RunDir> {
    use std::os::unix::fs::DirBuilderExt;
    // Unique among agents and restarts, and short.
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = root.join(format!("{RUN_PREFIX}{}-{number}", std::process::id()));
    if path.as_os_str().len() + "/s".len() > MAX_SOCKET_PATH {
        let reason =
            format!("{} is too long for a Unix socket; choose a shorter run directory", path.display());
        return Err(Error::Refused { reason });
    }
    // What an agent with this pid left behind before a restart of the host.
    drop(fs::remove_dir_all(&path));
    fs::DirBuilder::new().mode(0o700).create(&path).map_err(Error::io("create", &path))?;
    let run = RunDir(path);
    fs::create_dir(run.join("tmp")).map_err(Error::io("create", &run.0))?;
    for path in [&run.0, &run.join("tmp")] {
        chown(path, Some(uid), Some(gid)).map_err(Error::io("change the owner of", path))?;
    }
    Ok(run)
}

pub(super) fn arguments(
    options: &SandboxOptions,
    datadir: &Path,
    run: &RunDir,
    flavor: Flavor,
    uid: u32,
    with_log_bin: bool,
) -> Vec<String> {
    let path = |name: &str, path: &Path| format!("--{name}={}", path.display());
    let mut args = vec![
        "--no-defaults".to_owned(),
        path("datadir", datadir),
        path("socket", &run.join("s")),
        path("pid-file", &run.join("pid")),
        path("tmpdir", &run.join("tmp")),
        path("log-error", &run.join("error.log")),
        "--skip-networking".to_owned(),
        "--skip-grant-tables".to_owned(),
        "--event-scheduler=OFF".to_owned(),
        "--performance-schema=OFF".to_owned(),
        format!("--innodb-buffer-pool-size={}", options.buffer_pool_bytes),
        "--innodb-buffer-pool-load-at-startup=OFF".to_owned(),
        "--innodb-buffer-pool-dump-at-shutdown=OFF".to_owned(),
        "--general-log=OFF".to_owned(),
        "--slow-query-log=OFF".to_owned(),
    ];
    args.push(match flavor {
        Flavor::Mariadb => "--skip-slave-start".to_owned(),
        Flavor::Mysql => "--skip-replica-start".to_owned(),
    });
    if flavor == Flavor::Mysql {
        args.extend(
            ["--mysqlx=OFF", "--secure-file-priv=NULL", "--log-error-verbosity=3"].map(str::to_owned),
        );
    }
    // mysqld does not run as root; the data's owner it is, and root only where the data are root's.
    match nix::unistd::User::from_uid(uid.into()) {
        Ok(Some(user)) if nix::unistd::Uid::effective().is_root() => {
            args.push(format!("--user={}", user.name));
        }
        _ => {}
    }
    match (with_log_bin, options.log_bin.as_deref()) {
        (true, Some(base)) => {
            // The logs are evidence: nothing may expire them.
            let expire = if flavor == Flavor::Mariadb {
                "--expire-logs-days=0"
            } else {
                "--binlog-expire-logs-seconds=0"
            };
            args.extend([format!("--log-bin={base}"), "--server-id=1".to_owned(), expire.to_owned()]);
            if flavor == Flavor::Mysql {
                args.extend(["--gtid-mode=ON_PERMISSIVE".to_owned()]);
            }
        }
        _ => args.push("--skip-log-bin".to_owned()),
    }
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
