//! The one home of `unsafe` in this crate: what a child does between fork and exec.
#![allow(unsafe_code)]

use std::os::unix::process::CommandExt;
use std::process::Command;

/// Lets the child lead a session of its own, so that it outlives the agent and its terminal.
pub(crate) fn in_own_session(mut command: Command) -> Command {
    // SAFETY: setsid is async-signal-safe and touches no memory of the parent; nothing else runs in the closure.
    unsafe { command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(std::io::Error::from)) };
    command
}

/// Lets nothing that the child executes give it rights that it has not.
pub(crate) fn without_new_privileges(command: &mut Command) {
    // SAFETY: prctl is async-signal-safe and touches no memory of the parent; nothing else runs in the closure.
    unsafe { command.pre_exec(|| nix::sys::prctl::set_no_new_privs().map_err(std::io::Error::from)) };
}
