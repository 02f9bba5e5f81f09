//! Finds the server's process in `/proc`, its binary and its version, without a connection.
//!
//! Anybody may run a program of a server's name with any arguments: what a process says counts only once [`proof`] has it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use nix::unistd::Uid;
use protocol::mysql::{Flavor, ServerVersion};
use regex::Regex;

use crate::datadir::shape::looks_like_datadir;
use crate::options::{OptionFiles, server_groups};
use crate::process::{self, Limits, User};

mod proof;
mod trust;

pub(crate) use self::proof::{DataLock, Occupant, data_lock, end_servers, is_in_use, occupant, signal};
pub(crate) use self::trust::is_trusted_program;

/// Names of server programs.
pub(crate) const SERVER_NAMES: [&str; 4] = ["mariadbd", "mysqld", "mariadbd-debug", "mysqld-debug"];
/// Directories of server programs that `PATH` of a daemon may lack.
const BINARY_DIRS: [&str; 5] =
    ["/usr/sbin", "/usr/libexec", "/usr/local/mysql/bin", "/usr/bin", "/usr/local/sbin"];

/// A running server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerProcess {
    pub(crate) pid: i32,
    pub(crate) args: Vec<String>,
    /// Its binary as seen from here; absent without the right to see it.
    pub(crate) binary: Option<PathBuf>,
    /// Its working directory, which is its datadir once it has come so far; absent without the right to see it.
    pub(crate) cwd: Option<PathBuf>,
    /// Its root directory as seen from here.
    pub(crate) root: PathBuf,
}

impl ServerProcess {
    /// An argument `--name=value`, with `-` and `_` the same.
    pub(crate) fn arg(&self, name: &str) -> Option<&str> {
        self.args
            .iter()
            .filter_map(|a| a.strip_prefix("--")?.split_once('='))
            .rev()
            .find_map(|(key, value)| (key.replace('_', "-") == name).then_some(value))
    }

    /// True when this server's datadir is `datadir`.
    pub(crate) fn owns(&self, datadir: &Path) -> bool {
        is_same_dir(&self.working_dir(), datadir)
            || self.told().is_some_and(|told| is_same_dir(&told, datadir))
    }

    /// Its datadir: the directory that it works in once that is one; before, it works wherever it was started, often in `/`,
    /// and what it was told counts.
    pub(crate) fn datadir(&self) -> Option<PathBuf> {
        if looks_like_datadir(&self.working_dir()) { self.cwd.clone() } else { self.told() }
    }

    /// Through /proc the link works across mount namespaces too.
    fn working_dir(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/cwd", self.pid))
    }

    /// The datadir that it was started with, as seen from here.
    fn told(&self) -> Option<PathBuf> {
        let told = match self.arg("datadir") {
            Some(datadir) => PathBuf::from(datadir),
            // It has not come as far as its datadir, and may hang before it ever does.
            None if !looks_like_datadir(&self.working_dir()) => self.configured_datadir()?,
            None => return None,
        };
        Some(told.strip_prefix("/").map_or_else(|_| told.clone(), |rest| self.root.join(rest)))
    }

    /// The datadir of the option file that it was started with.
    fn configured_datadir(&self) -> Option<PathBuf> {
        let file = self.arg("defaults-file")?;
        let files = OptionFiles::load_under(&self.root, Some(Path::new(file)));
        files.effective(&server_groups(None, None, self.arg("defaults-group-suffix"))).path("datadir")
    }
}

/// One directory under two names; by name where one of them cannot be read.
pub(crate) fn is_same_dir(a: &Path, b: &Path) -> bool {
    match (fs::metadata(a), fs::metadata(b)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => a.components().eq(b.components()),
    }
}

/// All servers that run on this host.
pub(crate) fn servers() -> Vec<ServerProcess> {
    let Ok(proc) = fs::read_dir("/proc") else { return Vec::new() };
    proc.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok()).filter_map(server).collect()
}

/// The datadir of the one server that the system runs: as root or as the packages' own user. Others are people's own.
pub(crate) fn only_system_server() -> Option<PathBuf> {
    let mysql = nix::unistd::User::from_name("mysql").ok().flatten().map(|user| user.uid.as_raw());
    let owner = mysql.unwrap_or_else(|| Uid::effective().as_raw());
    let mut found = servers().into_iter().filter(|s| proof::is_of(s.pid, owner));
    let only = found.next().filter(|_| found.next().is_none())?;
    only.datadir()
}

/// A process of a server's name.
fn server(pid: i32) -> Option<ServerProcess> {
    let dir = PathBuf::from(format!("/proc/{pid}"));
    let is_server = |path: &Path| {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        SERVER_NAMES.contains(&name.trim_end_matches(" (deleted)"))
    };
    let binary = fs::read_link(dir.join("exe")).ok();
    if binary.as_deref().is_some_and(|b| !is_server(b)) {
        return None;
    }
    let cmdline = fs::read(dir.join("cmdline")).ok()?;
    let args: Vec<String> = cmdline
        .split(|b| *b == 0)
        .map(|a| String::from_utf8_lossy(a).into_owned())
        .filter(|a| !a.is_empty())
        .collect();
    // Another user's process hides its binary: its first argument names it.
    let named = binary.is_some() || args.first().is_some_and(|a| is_server(Path::new(a)));
    (named && is_alive(pid)).then(|| ServerProcess {
        pid,
        args,
        binary,
        cwd: fs::read_link(dir.join("cwd")).ok(),
        root: fs::read_link(dir.join("root")).unwrap_or_else(|_| PathBuf::from("/")),
    })
}

/// True while the process exists and is no zombie.
pub(crate) fn is_alive(pid: i32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // The state follows the name, which may itself hold brackets.
    !matches!(stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()), Some('Z' | 'X'))
}

/// The parent of a process, with its command.
pub(crate) fn parent(pid: i32) -> Option<(i32, String)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let parent: i32 = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()?;
    let command = fs::read_to_string(format!("/proc/{parent}/cmdline")).unwrap_or_default();
    Some((parent, command.replace('\0', " ").trim().to_owned()))
}

/// The file that a process's standard error goes to, if it goes to one and not to the journal or a terminal.
pub(crate) fn stderr_file(pid: i32) -> Option<PathBuf> {
    let path = PathBuf::from(format!("/proc/{pid}/fd/2"));
    fs::metadata(&path).is_ok_and(|meta| meta.is_file()).then_some(path)
}

/// Bytes that the process has read and written so far: a sign of progress where it writes no line.
pub(crate) fn io_bytes(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    text.lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(": ")?;
            matches!(name, "rchar" | "wchar").then(|| value.parse::<u64>().ok())?
        })
        .reduce(u64::wrapping_add)
}

/// The user ids of a process: real, effective, saved, of the file system.
pub(crate) fn uids(pid: i32) -> Option<[u32; 4]> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    let ids: Vec<u32> = line.split_whitespace().map_while(|id| id.parse().ok()).collect();
    ids.try_into().ok()
}

/// The installed server binary in the usual places, where only root could have put it.
pub(crate) fn binary() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(BINARY_DIRS.iter().map(PathBuf::from)).collect::<Vec<_>>();
    ["mariadbd", "mysqld"]
        .iter()
        .find_map(|name| dirs.iter().map(|d| d.join(name)).find(|p| is_trusted_program(p)))
}

/// Asks a binary, behind the words that the host puts before it, for its version; as the user whose data it serves, where root is
/// not needed for those words.
pub(crate) async fn version_by(
    program: &[String],
    limits: &Limits,
    user: Option<User>,
) -> Option<ServerVersion> {
    let argv = [program, &["--no-defaults".to_owned(), "--version".to_owned()]].concat();
    let output = process::run_as(&argv, limits, user).await.ok()?.success("the server's --version").ok()?;
    parse_version_line(&String::from_utf8_lossy(&output.stdout))
}

/// `…/mariadbd  Ver 10.11.6-MariaDB-0+deb12u1 for …`, `…/mysqld  Ver 9.7.4 for …`.
fn parse_version_line(line: &str) -> Option<ServerVersion> {
    let (_, rest) = line.split_once("Ver ")?;
    let text = rest.split_whitespace().next()?;
    let flavor = if line.contains("MariaDB") { Flavor::Mariadb } else { Flavor::Mysql };
    parse_version(text, Some(flavor))
}

/// Reads a version as servers write it. Old MariaDB servers hide behind a `5.5.5-` prefix.
pub(crate) fn parse_version(text: &str, flavor: Option<Flavor>) -> Option<ServerVersion> {
    #[expect(clippy::expect_used, reason = "the pattern is a constant that a test compiles")]
    static NUMBER: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"^(\d+)\.(\d+)(?:\.(\d+))?").expect("valid"));
    let is_mariadb = text.contains("MariaDB");
    let plain = if is_mariadb { text.strip_prefix("5.5.5-").unwrap_or(text) } else { text };
    let found = NUMBER.captures(plain)?;
    let part = |i| found.get(i).map_or(Some(0), |m| m.as_str().parse().ok());
    let flavor = if is_mariadb { Flavor::Mariadb } else { flavor.unwrap_or(Flavor::Mysql) };
    Some(ServerVersion { flavor, number: [part(1)?, part(2)?, part(3)?], text: plain.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_both_vendors() {
        let line = "mariadbd  Ver 10.11.6-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64 (Debian 12)";
        let got = parse_version_line(line).unwrap();
        assert_eq!((got.flavor, got.number), (Flavor::Mariadb, [10, 11, 6]));
        let got = parse_version_line("/usr/sbin/mysqld  Ver 9.7.4 for Linux on x86_64 ((Debian))").unwrap();
        assert_eq!((got.flavor, got.number, got.text.as_str()), (Flavor::Mysql, [9, 7, 4], "9.7.4"));
        let got = parse_version("5.5.5-10.4.2-MariaDB-log", None).unwrap();
        assert_eq!((got.flavor, got.number), (Flavor::Mariadb, [10, 4, 2]));
        assert_eq!(parse_version("8.0.36-28", None).unwrap().number, [8, 0, 36]);
    }

    #[test]
    fn an_odd_version_is_no_version() {
        for text in ["", "x", "999999.1.1", "Ver"] {
            assert_eq!(parse_version(text, None), None, "{text}");
        }
        assert_eq!(parse_version_line("command not found"), None);
    }

    #[test]
    fn this_process_is_alive_and_no_server() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(is_alive(pid));
        assert!(server(pid).is_none());
        assert!(!is_alive(i32::MAX));
    }
}
