//! Which process is the server of a datadir. Evidence is the kernel's: the lock on the data's files, which only a process that may write
//! them can hold, and the user that it runs as. A name, an argument or a working directory is none.

use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};

use super::{ServerProcess, server, servers, uids};
use crate::error::{Error, Result};

/// Files at the top of a datadir that a server locks from start to end.
const LOCKED_FILES: [&str; 4] = ["ibdata1", "aria_log_control", "mysql.ibd", "undo_001"];

/// What the lock on a datadir's files says; a server holds it from start to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DataLock {
    Free,
    /// By this process, where it can be seen from here and is one alone.
    Held(Option<i32>),
    /// There is no such file, or it may not be opened.
    Unknown,
}

impl DataLock {
    pub(crate) fn is_held(self) -> bool {
        matches!(self, Self::Held(_))
    }
}

/// Who is at work on a datadir.
#[derive(Debug, Clone, Default)]
pub(crate) struct Occupant {
    /// The server: of the data's owner or root, with the lock on them.
    pub(crate) server: Option<ServerProcess>,
    /// A process of those users that was told this datadir and has no lock on it, as while it starts. Nothing of it is believed, except
    /// that one should not start another.
    pub(crate) starting: Option<i32>,
}

/// Looks for the server of a datadir.
pub(crate) fn occupant(datadir: &Path) -> Occupant {
    let Ok(owner) = fs::metadata(datadir).map(|meta| meta.uid()) else { return Occupant::default() };
    if let DataLock::Held(Some(pid)) = data_lock(datadir)
        && let Some(process) = server(pid).filter(|_| is_of(pid, owner))
        // It held the lock before and after it was looked at: the process is the one that was looked at.
        && data_lock(datadir) == DataLock::Held(Some(pid))
    {
        return Occupant { server: Some(process), starting: None };
    }
    let told = servers().into_iter().filter(|s| is_of(s.pid, owner)).find(|s| s.owns(datadir));
    Occupant { server: None, starting: told.map(|s| s.pid) }
}

/// True when a server works on a datadir, or may be about to.
pub(crate) fn is_in_use(datadir: &Path) -> bool {
    data_lock(datadir).is_held() || occupant(datadir).starting.is_some()
}

/// True for a process that runs wholly as that user or as root: what a stranger started under a program with the set-uid bit does not.
pub(super) fn is_of(pid: i32, owner: u32) -> bool {
    uids(pid).is_some_and(|ids| ids.iter().all(|id| *id == owner) || ids.iter().all(|id| *id == 0))
}

/// Signals the server of a datadir, and never a process that has its number later. False when it is not that server (any more).
///
/// One that has not come as far as its lock is only ever killed: it is a server program of the data's owner or root all the same.
pub(crate) fn signal(datadir: &Path, pid: i32, signal: Signal) -> std::io::Result<bool> {
    let Some(number) = Pid::from_raw(pid) else { return Ok(false) };
    let held = match pidfd_open(number, PidfdFlags::empty()) {
        Ok(held) => held,
        Err(rustix::io::Errno::SRCH) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    // Proven while it is held: from here on the number cannot become another's.
    let found = occupant(datadir);
    let is_starting = signal == Signal::SIGKILL && found.starting == Some(pid);
    if !is_starting && found.server.is_none_or(|server| server.pid != pid) {
        return Ok(false);
    }
    let signal = match signal {
        Signal::SIGKILL => rustix::process::Signal::KILL,
        _ => rustix::process::Signal::TERM,
    };
    match pidfd_send_signal(&held, signal) {
        Err(rustix::io::Errno::SRCH) => Ok(false),
        sent => sent.map(|()| true).map_err(Into::into),
    }
}

/// Kills each server process of this user, or of root, that was started with `argument`, and waits until they are gone. Blocking.
///
/// # Errors
/// [`Error::NotStopped`] when one is still there after `within`.
pub(crate) fn end_servers(owner: u32, argument: &str, within: Duration) -> Result<()> {
    let begun = Instant::now();
    loop {
        let told = |s: &ServerProcess| is_of(s.pid, owner) && s.args.iter().any(|a| a == argument);
        let Some(left) = servers().into_iter().find(told) else { return Ok(()) };
        if begun.elapsed() > within {
            let reason = format!("process {} ({argument}) is still there after a SIGKILL", left.pid);
            return Err(Error::NotStopped { reason });
        }
        if let Some(held) = Pid::from_raw(left.pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
            // Looked at again while it is held: its number is not another's by now.
            && server(left.pid).is_some_and(|again| told(&again))
        {
            let _ = pidfd_send_signal(&held, rustix::process::Signal::KILL);
            // Its arguments are gone before its locks are; the descriptor tells of its end when both are.
            let _ = poll(&mut [PollFd::new(held.as_fd(), PollFlags::POLLIN)], PollTimeout::from(1_000_u16));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Asks the kernel who holds the lock on the datadir's files, without taking it.
pub(crate) fn data_lock(datadir: &Path) -> DataLock {
    let mut answer = DataLock::Unknown;
    for name in LOCKED_FILES {
        // For reading only: the lock is the server's write lock, which nobody gets without the right to write.
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let file = fs::OpenOptions::new().read(true).custom_flags(flags.bits()).open(datadir.join(name));
        let Ok(file) = file else { continue };
        let mut lock = libc::flock {
            l_type: libc::F_RDLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        if fcntl(&file, FcntlArg::F_GETLK(&mut lock)).is_err() {
            return if answer.is_held() { answer } else { DataLock::Unknown };
        }
        if i32::from(lock.l_type) == libc::F_UNLCK {
            if answer == DataLock::Unknown {
                answer = DataLock::Free;
            }
            continue;
        }
        // 0 and -1 stand for a process of another pid namespace, and for a lock that belongs to no process.
        let pid = Some(lock.l_pid).filter(|pid| *pid > 0);
        answer = match answer {
            DataLock::Held(other) if other != pid => DataLock::Held(None),
            _ => DataLock::Held(pid),
        };
    }
    answer
}

#[cfg(test)]
mod tests {
    use testkit::mysqld::{Mysqld, MysqldOptions};

    use super::*;

    #[tokio::test]
    async fn a_running_server_holds_the_lock_of_its_datadir() {
        let mut server = Mysqld::prepare(MysqldOptions::default()).unwrap();
        assert_eq!(data_lock(server.datadir()), DataLock::Free);
        server.boot().await.unwrap();
        let pid = server.pid().unwrap();
        assert_eq!(data_lock(server.datadir()), DataLock::Held(Some(pid)));
        let found = occupant(server.datadir());
        assert_eq!((found.server.map(|s| s.pid), found.starting), (Some(pid), None));
        assert!(!signal(server.datadir(), 1, Signal::SIGTERM).unwrap(), "another process is not signalled");
        assert!(signal(server.datadir(), pid, Signal::SIGTERM).unwrap());
        server.stop().await.unwrap();
        assert_eq!(data_lock(server.datadir()), DataLock::Free);
        assert!(!signal(server.datadir(), pid, Signal::SIGTERM).unwrap(), "it is gone");
        assert_eq!(data_lock(Path::new("/no/such/datadir")), DataLock::Unknown);
    }
}
