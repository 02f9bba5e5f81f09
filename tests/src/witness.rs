//! What an attack must not change: files, processes and listening ports of an agent and its server.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use testkit::agent::Agent;
use testkit::mysqld::Mysqld;
use testkit::poll;

use crate::tree;
use crate::world::PATIENCE;

/// What there is at one moment.
#[derive(Debug, PartialEq, Eq)]
pub struct Witness {
    /// Whom the server is.
    server: Option<i32>,
    /// Programs that the agent has started and that run.
    children: BTreeSet<String>,
    /// Where agent and server listen, as the kernel writes addresses.
    listening: BTreeSet<String>,
    /// Files of datadir, snapshots and agent with their modes and owners.
    files: BTreeSet<(PathBuf, u32, (u32, u32))>,
}

impl Witness {
    /// Looks now.
    ///
    /// # Panics
    /// When `/proc` or a directory cannot be read.
    #[must_use]
    pub fn look(agent: &Agent, server: &Mysqld) -> Self {
        let pids = [agent.pid().and_then(|pid| i32::try_from(pid).ok()), server.pid()];
        let mut files = BTreeSet::new();
        for root in [server.base(), agent.dir()] {
            // What is told of the attack itself waits there to be sent.
            let told = |path: &Path| root == agent.dir() && path.starts_with("state/events");
            for (path, entry) in tree::names(root).into_iter().filter(|(path, _)| !told(path)) {
                files.insert((root.join(path), entry.mode, entry.owner));
            }
        }
        Self {
            server: server.pid(),
            children: agent.pid().map(children).unwrap_or_default(),
            listening: pids.into_iter().flatten().flat_map(listening).collect(),
            files,
        }
    }

    /// Fails unless all is as it was; what agent and server do by themselves meanwhile, such as a look at a version, may end first.
    ///
    /// # Panics
    /// When something is not, with what it is.
    pub async fn still_holds(&self, agent: &Agent, server: &Mysqld, after: &str) {
        let Some(difference) = self.difference(agent, server) else { return };
        poll::until_async(PATIENCE, format!("{after}: {difference}"), || async {
            self.difference(agent, server).is_none().then_some(())
        })
        .await;
    }

    fn difference(&self, agent: &Agent, server: &Mysqld) -> Option<String> {
        let now = Self::look(agent, server);
        let made: Vec<_> = now.files.difference(&self.files).collect();
        let gone: Vec<_> = self.files.difference(&now.files).collect();
        let rest = |it: &Self| format!("{:?} {:?} {:?}", it.server, it.children, it.listening);
        (*self != now).then(|| format!("{made:?} new, {gone:?} gone; {} was {}", rest(&now), rest(self)))
    }
}

fn children(parent: u32) -> BTreeSet<String> {
    let listed = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    let name = |pid: &str| fs::read_to_string(format!("/proc/{pid}/comm")).ok();
    listed.split_whitespace().filter_map(name).map(|name| name.trim().to_owned()).collect()
}

fn listening(pid: i32) -> BTreeSet<String> {
    /// `TCP_LISTEN` of the kernel's `tcp_states.h`.
    const LISTEN: &str = "0A";
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten();
    let sockets: BTreeSet<String> = fds
        .filter_map(|fd| fs::read_link(fd.ok()?.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.trim_end_matches(']').to_owned()))
        .collect();
    let mut found = BTreeSet::new();
    for table in ["tcp", "tcp6"] {
        let path = Path::new("/proc").join(pid.to_string()).join("net").join(table);
        for line in fs::read_to_string(path).unwrap_or_default().lines().skip(1) {
            let columns: Vec<&str> = line.split_whitespace().collect();
            if let [_, address, _, LISTEN, _, _, _, _, _, inode, ..] = columns.as_slice()
                && sockets.contains(*inode)
            {
                found.insert(format!("{table} {address}"));
            }
        }
    }
    found
}
