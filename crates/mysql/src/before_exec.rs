//! The one home of `unsafe` in this crate: what a child does between fork and exec.
#![allow(unsafe_code)]

use std::os::unix::process::CommandExt;
use std::process::Command;

use landlock::RulesetCreated;
use nix::libc;

/// Lets the child lead a session of its own, so that it outlives the agent and its terminal.
pub(crate) fn in_own_session(mut command: Command) -> Command {
    // SAFETY: setsid is async-signal-safe and touches no memory of the parent; nothing else runs in the closure.
    unsafe { command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(std::io::Error::from)) };
    command
}

/// Lets the child have only processor and disk time that nobody else wants (sched(7), ioprio_set(2)). Best effort: where it is
/// forbidden, the child runs as others do.
///
/// A policy counts only within a session ("The autogroup feature", sched(7)): whoever wakes in another one waits until the slice of who runs is
/// over, 1.4 ms and more, whatever the policies. The shortest slice that Linux has (since 6.12; sched_setattr(2), `sched_runtime`) is asked for
/// with the ordinary policy and kept under the idle one: beside one busy thread the 99th percentile of a server's statements
/// was 1.07 times that without it, and 1.4 to 2.1 times with the usual slice.
pub(crate) fn only_idle_time(command: &mut Command) {
    const IO_CLASS_IDLE: libc::c_int = 3 << 13;
    const SHORTEST_SLICE_NS: u64 = 100_000;
    let yielding = || {
        let none = libc::sched_param { sched_priority: 0 };
        // SAFETY: all zeroes are a valid value of a struct of numbers.
        let mut briefly: libc::sched_attr = unsafe { std::mem::zeroed() };
        briefly.size = size_of::<libc::sched_attr>() as u32;
        briefly.sched_nice = 19;
        briefly.sched_runtime = SHORTEST_SLICE_NS;
        // SAFETY: system calls on plain numbers and live structs; 0 is the calling thread, and who it starts inherits all.
        unsafe {
            libc::syscall(libc::SYS_sched_setattr, 0, &raw const briefly, 0);
            libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const none);
            libc::syscall(libc::SYS_ioprio_set, 1, 0, IO_CLASS_IDLE);
        }
        Ok(())
    };
    // SAFETY: system calls are async-signal-safe, and nothing else runs in the closure.
    unsafe { command.pre_exec(yielding) };
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
