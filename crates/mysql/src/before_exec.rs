//! The one home of `unsafe` in this crate: what a child does between fork and exec.
#![allow(unsafe_code)]

use std::os::unix::process::CommandExt;
use std::process::Command;

use landlock::RulesetCreated;

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

/// Lets the child restrict itself by rules that were made beforehand.
pub(crate) fn restricted(command: &mut Command, rules: RulesetCreated) {
    let mut rules = Some(rules);
    let restrict = move || match rules.take() {
        Some(rules) => {
            rules.restrict_self().map(drop).map_err(|_| std::io::ErrorKind::PermissionDenied.into())
        }
        None => Ok(()),
    };
    // SAFETY: it makes two system calls on a descriptor that the child has inherited, and frees a few bytes, which the C library
    // allows after fork; it takes no lock of ours.
    unsafe { command.pre_exec(restrict) };
}
