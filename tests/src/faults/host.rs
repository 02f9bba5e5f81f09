//! What an agent's host may hold of a seed: processes, listening sockets, mounts.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use testkit::poll;

use crate::world::{Host, PATIENCE};

/// A process that was killed is gone a moment later.
const LET_GO: Duration = Duration::from_secs(20);

/// Waits until none of these hosts holds a process, a socket or a mount of a seed.
///
/// # Panics
/// With what is held.
pub async fn let_go(hosts: &[&Host]) {
    for host in hosts {
        let Some(agent) = host.agent.pid() else { continue };
        let left = || {
            let strays = stray_processes(agent, host.db.pid(), &[host.db.base(), host.agent.dir()]);
            [strays, listening(agent), mounts_below(agent, &host.agent.mount_root())].concat()
        };
        let gone =
            poll::until_async(PATIENCE, "the host to let go", || async { left().is_empty().then_some(()) });
        if tokio::time::timeout(LET_GO, gone).await.is_err() {
            panic!("{} holds: {}", host.id(), left().join(", "));
        }
    }
}

/// Processes that name one of these directories, or were started by the agent, and are neither it nor its server.
#[must_use]
pub fn stray_processes(agent: u32, server: Option<i32>, directories: &[&Path]) -> Vec<String> {
    let Ok(proc) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = proc.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let known = |pid: u32| pid == agent || server.is_some_and(|server| i64::from(server) == i64::from(pid));
    let ours = |text: &str| directories.iter().any(|dir| text.contains(&*dir.to_string_lossy()));
    let stray = |pid: u32| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        // A zombie has no command line; its parent reaps it when it likes.
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        (!command.is_empty() && (ours(&command) || parent_of(pid) == Some(agent)))
            .then(|| format!("{pid}: {command}"))
    };
    pids.filter(|pid| !known(*pid)).filter_map(stray).collect()
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name may hold spaces and parentheses; after the last one: state, parent.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Local addresses on which the process accepts connections, as the kernel writes them.
#[must_use]
pub fn listening(pid: u32) -> Vec<String> {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let sockets: HashSet<String> = descriptors
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|link| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']').map(str::to_owned))
        .collect();
    let mut found = Vec::new();
    for table in ["tcp", "tcp6"] {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let columns: Vec<&str> = line.split_whitespace().collect();
            // Local address, remote address, state; 0A is LISTEN. The inode is the tenth.
            if columns.get(3) == Some(&"0A") && columns.get(9).is_some_and(|inode| sockets.contains(*inode)) {
                found.push(columns[1].to_owned());
            }
        }
    }
    found
}

/// Mounts below a directory, as the process sees them: one in a network namespace has mounts of its own.
#[must_use]
pub fn mounts_below(pid: u32, directory: &Path) -> Vec<String> {
    let below = directory.display().to_string();
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|t| t.starts_with(&below))
        .map(str::to_owned)
        .collect()
}

/// How long, since it booted, work on this machine has waited for a processor or a disk, as the kernel counts it.
#[must_use]
pub fn stalled() -> Duration {
    let waited = |what| {
        let text = fs::read_to_string(format!("/proc/pressure/{what}")).ok()?;
        let some = text.lines().find(|line| line.starts_with("some"))?;
        some.split_once("total=")?.1.trim().parse().ok()
    };
    Duration::from_micros(["cpu", "io"].into_iter().filter_map(waited).max().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_listening_socket_and_a_child_are_seen() {
        let me = std::process::id();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = format!(":{:04X}", listener.local_addr().unwrap().port());
        assert!(listening(me).iter().any(|address| address.ends_with(&port)));
        drop(listener);
        assert!(!listening(me).iter().any(|address| address.ends_with(&port)));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let mine = format!("{}: ", child.id());
        // It has no command line in the first moment after its exec.
        poll::until_true(Duration::from_secs(10), "the child", || {
            stray_processes(me, None, &[]).iter().any(|stray| stray.starts_with(&mine))
        });
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
