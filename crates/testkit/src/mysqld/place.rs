//! Where a server's program and files are, and whose.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{Uid, User};

/// Argv of a program in a tree of its own.
pub(super) fn within(root: &Path, program: &str) -> Vec<String> {
    vec!["chroot".to_owned(), root.display().to_string(), program.to_owned()]
}

pub(super) fn mariadbd() -> String {
    let places = ["/usr/sbin/mariadbd", "/usr/libexec/mariadbd", "/usr/local/sbin/mariadbd"];
    places.into_iter().find(|p| Path::new(p).exists()).unwrap_or("mariadbd").to_owned()
}

/// Servers refuse to run as root: their files are `mysql`'s then.
pub(super) fn give_to_mysql(path: &Path) -> Result<()> {
    if Uid::effective().is_root() {
        let user =
            User::from_name("mysql")?.context("no user mysql on this machine: install mariadb-server")?;
        chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
    }
    Ok(())
}

pub(super) fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    let output = Command::new("cp")
        .args(["-a", "--reflink=auto", "--sparse=always"])
        .arg(from.join("."))
        .arg(to)
        .stdin(Stdio::null())
        .output()?;
    ensure!(output.status.success(), "cp failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

pub(super) fn is_running_with(pid: i32, argument: &str) -> bool {
    let Ok(cmdline) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    // A zombie has no command line.
    cmdline.split(|b| *b == 0).any(|arg| arg == argument.as_bytes())
}

pub(super) fn lock(path: &Path) -> Result<Flock<File>> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e.into())
}
