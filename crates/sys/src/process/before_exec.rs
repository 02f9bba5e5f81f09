//! The one home of `unsafe` in this crate: what a child does between fork and exec.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::Arc;

use nix::sys::stat::{Mode, umask};
use nix::unistd::{fchdir, setgroups, setresgid, setresuid, setsid};

use super::User;

/// What the child becomes before it is the program. Everything is made ready before the fork: in between nothing may allocate.
#[derive(Debug, Clone, Default)]
pub(super) struct Become {
    pub(super) session: bool,
    pub(super) directory: Option<Arc<OwnedFd>>,
    pub(super) umask: Option<Mode>,
    pub(super) user: Option<User>,
}

impl Become {
    /// Without anything to do the command stays one that can be started without a copy of the agent.
    pub(super) fn apply_to(self, command: &mut Command) {
        if !self.session && self.directory.is_none() && self.umask.is_none() && self.user.is_none() {
            return;
        }
        let agent_is_root = nix::unistd::geteuid().is_root();
        // SAFETY: the closure makes system calls only (setsid, fchdir, umask, setgroups, setresgid, setresuid, prctl), all
        // async-signal-safe; it reads what was allocated before the fork, allocates nothing and takes no lock.
        unsafe { command.pre_exec(move || self.in_child(agent_is_root).map_err(io::Error::from)) };
    }

    fn in_child(&self, agent_is_root: bool) -> nix::Result<()> {
        if self.session {
            setsid()?;
        }
        if let Some(directory) = &self.directory {
            fchdir(directory.as_fd())?;
        }
        if let Some(mask) = self.umask {
            umask(mask);
        }
        let Some(user) = &self.user else { return Ok(()) };
        // Without privileges the groups cannot be set: they are those of the agent's own user.
        if agent_is_root {
            setgroups(&user.groups)?;
            setresgid(user.gid, user.gid, user.gid)?;
        }
        // From root to another user the kernel clears all capabilities; anybody but root is refused for another user than itself.
        setresuid(user.uid, user.uid, user.uid)?;
        if !user.uid.is_root() {
            nix::sys::prctl::set_no_new_privs()?;
        }
        Ok(())
    }
}
