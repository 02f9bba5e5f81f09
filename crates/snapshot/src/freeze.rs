//! Holding a process still for the milliseconds in which its files are copied one by one.
//!
//! The threads are stopped as a debugger does it, not with SIGSTOP: when the agent dies in the middle, the kernel lets them run on.
//!
//! Why such a copy is one instant of that process: no thread runs, so no write begins; a write that a thread was in the middle of has
//! ended, since threads stop on their way out of the kernel; and asynchronous direct I/O that was submitted before is waited for by the
//! clone of its own file (XFS and btrfs both do so before they share blocks). The copies of all files thus hold every write that was
//! issued before the pause and none after it, which is what a power cut would have left, and what crash recovery is made for.

use std::collections::BTreeMap;
use std::fs;
use std::marker::PhantomData;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::Error;

/// A process all of whose threads stand still until this is dropped, on the thread that made it.
#[derive(Debug)]
pub struct PausedProcess {
    pid: i32,
    since: Instant,
    /// Each stopped thread, with a signal that was on its way and must be passed on.
    threads: BTreeMap<i32, Option<Signal>>,
    /// The kernel ties a traced thread to the thread that traces it.
    _not_send: PhantomData<*const ()>,
}

impl PausedProcess {
    /// How long it has been standing still.
    #[must_use]
    pub fn paused_for(&self) -> Duration {
        self.since.elapsed()
    }

    /// Number of threads that stand still.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads.len()
    }
}

impl Drop for PausedProcess {
    fn drop(&mut self) {
        for (&thread, &signal) in &self.threads {
            match ptrace::detach(Pid::from_raw(thread), signal) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => tracing::error!(thread, %error, "a thread of the server could not be let go"),
            }
        }
        tracing::debug!(
            pid = self.pid,
            threads = self.threads.len(),
            held_ms = self.since.elapsed().as_millis(),
            "let go"
        );
    }
}

/// Stops every thread of the process, or none.
///
/// # Errors
/// [`Error::Pause`] when there is no such process, no leave to trace it, or when its threads do not all come to rest within `limit`.
pub fn pause(pid: i32, limit: Duration) -> Result<PausedProcess, Error> {
    let failed = |reason: String| Error::Pause { pid, reason };
    let started = Instant::now();
    let mut paused = PausedProcess { pid, since: started, threads: BTreeMap::new(), _not_send: PhantomData };
    // A thread that was listed may have started another one before it was stopped: look again until none is new.
    loop {
        let new: Vec<i32> =
            threads_of(pid)?.into_iter().filter(|t| !paused.threads.contains_key(t)).collect();
        if new.is_empty() {
            break;
        }
        for thread in new {
            if seize(thread).map_err(|e| failed(e.to_owned()))? {
                paused.threads.insert(thread, None);
            }
        }
        let waiting: Vec<i32> = paused.threads.keys().copied().collect();
        for thread in waiting {
            match await_stop(thread, started + limit).map_err(|e| failed(e.to_owned()))? {
                Stop::Stopped(signal) => _ = paused.threads.entry(thread).and_modify(|s| *s = s.or(signal)),
                Stop::AlreadyStopped => {}
                Stop::Gone => _ = paused.threads.remove(&thread),
            }
        }
    }
    if paused.threads.is_empty() {
        return Err(failed("it has ended".to_owned()));
    }
    paused.since = Instant::now();
    Ok(paused)
}

fn threads_of(pid: i32) -> Result<Vec<i32>, Error> {
    let gone = |_| Error::Pause { pid, reason: "there is no such process".to_owned() };
    let dir = format!("/proc/{pid}/task");
    let entries = fs::read_dir(Path::new(&dir)).map_err(gone)?;
    Ok(entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect())
}

/// True when the thread is ours to wait for now; false when it has ended.
fn seize(thread: i32) -> Result<bool, &'static str> {
    let thread = Pid::from_raw(thread);
    match ptrace::seize(thread, ptrace::Options::empty()) {
        Ok(()) => {}
        Err(Errno::ESRCH) => return Ok(false),
        Err(Errno::EPERM) => {
            return Err(
                "no leave to stop it: the agent needs root or CAP_SYS_PTRACE, and no debugger may be attached",
            );
        }
        Err(_) => return Err("the kernel refused to stop one of its threads"),
    }
    match ptrace::interrupt(thread) {
        Ok(()) | Err(Errno::ESRCH) => Ok(true),
        Err(_) => Err("the kernel refused to stop one of its threads"),
    }
}

enum Stop {
    Stopped(Option<Signal>),
    AlreadyStopped,
    Gone,
}

fn await_stop(thread: i32, deadline: Instant) -> Result<Stop, &'static str> {
    let mut pause = Duration::from_micros(20);
    loop {
        match waitpid(Pid::from_raw(thread), Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
            Ok(WaitStatus::PtraceEvent(..)) => return Ok(Stop::Stopped(None)),
            Ok(WaitStatus::Stopped(_, signal)) => return Ok(Stop::Stopped(Some(signal))),
            Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(Errno::ECHILD) => {
                return Ok(Stop::Gone);
            }
            // Reported in an earlier round and still standing.
            Ok(WaitStatus::StillAlive) if is_trace_stopped(thread) => return Ok(Stop::AlreadyStopped),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return Err("the state of one of its threads cannot be read"),
        }
        if Instant::now() >= deadline {
            return Err("its threads did not come to rest in time; one may wait for a slow disk");
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(2));
    }
}

/// State `t` (stopped by its tracer) in `/proc/<thread>/stat`.
fn is_trace_stopped(thread: i32) -> bool {
    fs::read(format!("/proc/{thread}/stat"))
        .ok()
        .and_then(|stat| stat.iter().rposition(|&b| b == b')').and_then(|at| stat.get(at + 2).copied()))
        == Some(b't')
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    struct Busy(Child);

    impl Drop for Busy {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// Appends to a file as fast as it can.
    fn busy_writer(path: &Path) -> Busy {
        let child = Command::new("sh")
            .args(["-c", "while :; do echo x >> \"$0\"; done"])
            .arg(path)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Busy(child)
    }

    fn poll(what: &str, mut done: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !done() {
            assert!(Instant::now() < deadline, "{what} did not happen in time");
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn len(path: &Path) -> u64 {
        fs::metadata(path).map_or(0, |m| m.len())
    }

    #[test]
    fn a_writer_stands_still_while_paused_and_goes_on_after() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("grows");
        let writer = busy_writer(&file);
        let pid = i32::try_from(writer.0.id()).unwrap();
        poll("the first write", || len(&file) > 0);
        let paused = pause(pid, Duration::from_secs(10)).unwrap();
        let before = len(&file);
        // A span in which the writer would write hundreds of times, were it running.
        let until = Instant::now() + Duration::from_millis(150);
        while Instant::now() < until {
            assert_eq!(len(&file), before, "it wrote while it was paused");
        }
        assert!(paused.threads() >= 1);
        drop(paused);
        poll("a write after the pause", || len(&file) > before);
    }

    #[test]
    fn a_process_that_is_not_there_is_told() {
        let mut child = Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let error = pause(i32::try_from(child.id()).unwrap(), Duration::from_secs(1)).unwrap_err();
        assert!(error.to_string().contains("no such process"), "{error}");
    }

    #[test]
    fn every_thread_of_a_process_is_stopped() {
        // Threads of a real multi-threaded program, not of this test process: a thread cannot trace its own group.
        let child = Command::new("python3")
            .args(["-c", "import threading,time\nfor _ in range(8): threading.Thread(target=lambda:[time.sleep(0.001) for _ in iter(int,1)],daemon=True).start()\ntime.sleep(600)"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let child = Busy(child);
        let pid = i32::try_from(child.0.id()).unwrap();
        poll("eight more threads", || threads_of(pid).unwrap().len() >= 9);
        let paused = pause(pid, Duration::from_secs(10)).unwrap();
        assert!(paused.threads() >= 9);
        for thread in threads_of(pid).unwrap() {
            assert!(is_trace_stopped(thread), "thread {thread} still runs");
        }
        drop(paused);
        poll("the threads' going on", || threads_of(pid).unwrap().iter().all(|&t| !is_trace_stopped(t)));
    }
}
