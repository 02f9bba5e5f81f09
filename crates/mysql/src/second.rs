//! A second server on a copy of the instance's data, beside it: with files, socket and port of its own, reachable from
//! this host only.
//!
//! It is an [`Instance`] like any other, made by an option file of its own, so that it starts, recovers and stops by the
//! same rules, and outlives the agent. It takes nothing from the host's option files: a log or directory that they name
//! may be the live server's.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::Uid;
use protocol::mysql::Layout;

use crate::config::{DirectService, MysqlConfig, ServiceConfig};
use crate::error::{Error, Result};
use crate::find;
use crate::instance::Instance;
use crate::process::User;
use crate::rundir::{self, OPTION_FILE};
use crate::sandbox::has_usable_log_bin;

/// A server for looking at data and copying them out, beside one that needs the memory.
const BUFFER_POOL_BYTES: u64 = 256 << 20;

/// What a second server runs on.
#[derive(Debug, Clone)]
pub struct SecondOptions {
    /// Datadir, writable: crash recovery runs on it.
    pub datadir: PathBuf,
    /// Its TCP port on the loopback.
    pub port: u16,
    /// Layout of the copy, where it is not the default.
    pub layout: Option<Layout>,
    /// Base name of the binary log inside the datadir, without which crash recovery may not know what was committed.
    pub log_bin: Option<String>,
    /// Arguments for the keys of encrypted tablespaces, with their `--`.
    pub key_arguments: Vec<String>,
}

/// The second server whose files lie in `run_dir`, whether it runs or not; it answers to the same accounts as `host`.
/// `None` where nothing was prepared.
///
/// # Errors
/// [`Error::NotFound`] without a server binary, [`Error::Io`].
pub async fn find(host: &Instance, run_dir: &Path) -> Result<Option<Instance>> {
    let option_file = run_dir.join(OPTION_FILE);
    let text = match fs::read_to_string(&option_file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(Error::io("read", &option_file))?,
    };
    // Named here once more: an instance without a datadir would be taken for the host's own.
    let Some(datadir) = text.lines().find_map(|l| l.strip_prefix("datadir=")) else { return Ok(None) };
    let binary = host.settings().await.binary.or_else(find::binary);
    let binary = binary.ok_or(Error::NotFound { what: "the server binary" })?;
    let argv = vec![binary.display().to_string(), format!("--defaults-file={}", option_file.display())];
    let owner = fs::metadata(datadir).ok();
    let config = host.config();
    Ok(Some(Instance::new(MysqlConfig {
        defaults_file: Some(option_file),
        datadir: Some(PathBuf::from(datadir)),
        server_binary: Some(binary),
        user: config.user.clone(),
        password_file: config.password_file.clone(),
        client_option_file: config.client_option_file.clone(),
        service: ServiceConfig::Direct(DirectService { argv }),
        run_as: owner.as_ref().and_then(User::owner_of),
        connect_timeout_ms: config.connect_timeout_ms,
        start_patience_ms: config.start_patience_ms,
        stop_patience_ms: config.stop_patience_ms,
        command_timeout_ms: config.command_timeout_ms,
        ..MysqlConfig::default()
    })))
}

/// Writes the option file of a second server into `run_dir`, which is made for it. Can be repeated.
///
/// # Errors
/// [`Error::Refused`] for a path that an option file or a socket cannot have, [`Error::Io`].
pub fn prepare(run_dir: &Path, options: &SecondOptions) -> Result<()> {
    let owner = fs::metadata(&options.datadir).map_err(Error::io("read", &options.datadir))?;
    let text = option_file(run_dir, options, owner.uid())?;
    rundir::make(run_dir, &owner, true)?;
    rundir::write_options(run_dir, &text, &owner)
}

fn option_file(run_dir: &Path, options: &SecondOptions, uid: u32) -> Result<String> {
    let in_run = |name: &str| rundir::own(run_dir, name);
    let mut lines = vec!["[mysqld]".to_owned()];
    let mut paths = vec![
        ("datadir", options.datadir.clone()),
        ("socket", rundir::socket(run_dir)),
        ("pid-file", in_run("pid")),
        ("tmpdir", in_run("tmp")),
        ("log-error", in_run("error.log")),
    ];
    if let Some(layout) = &options.layout {
        lines.push(format!("innodb-page-size={}", layout.innodb_page_size));
        lines.push(format!("lower-case-table-names={}", layout.lower_case_table_names));
        lines.extend(layout.innodb_data_file_path.iter().map(|p| format!("innodb-data-file-path={p}")));
        let named = |name, path: &Option<PathBuf>| path.clone().map(|path| (name, path));
        paths.extend(named("innodb-data-home-dir", &layout.innodb_data_home_dir));
        paths.extend(named("innodb-log-group-home-dir", &layout.innodb_log_group_home_dir));
        paths.extend(named("innodb-undo-directory", &layout.innodb_undo_directory));
    }
    lines.extend(paths.into_iter().map(|(name, path)| format!("{name}={}", path.display())));
    lines.extend([
        format!("port={}", options.port),
        // Of an id of its own, should a person make it a primary for a while.
        format!("server-id={}", options.port),
        format!("innodb-buffer-pool-size={BUFFER_POOL_BYTES}"),
    ]);
    lines.extend(
        [
            "bind-address=127.0.0.1",
            // Neither the events nor the replication of the original are its own.
            "event-scheduler=OFF",
            "loose-skip-slave-start",
            "loose-skip-replica-start",
            "loose-mysqlx=OFF",
            "loose-secure-file-priv=",
            "innodb-buffer-pool-load-at-startup=OFF",
            "innodb-buffer-pool-dump-at-shutdown=OFF",
        ]
        .map(str::to_owned),
    );
    match options.log_bin.as_deref().filter(|base| has_usable_log_bin(&options.datadir, base)) {
        Some(base) => lines.push(format!("log-bin={base}")),
        None => lines.push("skip-log-bin".to_owned()),
    }
    if uid == 0 && Uid::effective().is_root() {
        // Servers refuse to be root's unless they are told.
        lines.push("user=root".to_owned());
    }
    lines.extend(options.key_arguments.iter().map(|a| a.trim_start_matches("--").to_owned()));
    // An option file knows comments and escapes; a line with one would say something else than was meant.
    if let Some(bad) = lines.iter().find(|l| l.contains(['\n', '\r', '#', '\\', '"', '\''])) {
        return Err(Error::Refused { reason: format!("{bad:?} cannot be written in an option file") });
    }
    Ok(lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(datadir: &Path) -> SecondOptions {
        SecondOptions {
            datadir: datadir.to_owned(),
            port: 3307,
            layout: None,
            log_bin: Some("binlog".to_owned()),
            key_arguments: vec!["--plugin-load-add=file_key_management".to_owned()],
        }
    }

    #[test]
    fn its_option_file_keeps_it_apart_from_the_live_server() {
        let dir = tempfile::tempdir().unwrap();
        let text = option_file(Path::new("/run/x/3307"), &options(dir.path()), 0).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for line in
            ["port=3307", "bind-address=127.0.0.1", "socket=/run/x/3307/own/s", "loose-skip-slave-start"]
        {
            assert!(lines.contains(&line), "{line} in {text}");
        }
        assert!(lines.contains(&"skip-log-bin"), "the log's index is not in this datadir: {text}");
        assert!(lines.contains(&"plugin-load-add=file_key_management"), "{text}");
    }

    #[test]
    fn a_path_that_would_say_something_else_is_refused() {
        let error =
            option_file(Path::new("/run/x"), &options(Path::new("/srv/a\nuser=root")), 0).unwrap_err();
        assert!(error.to_string().contains("option file"), "{error}");
        let long = PathBuf::from("/").join("x".repeat(120));
        assert!(prepare(&long, &options(Path::new("/tmp"))).is_err());
    }
}
