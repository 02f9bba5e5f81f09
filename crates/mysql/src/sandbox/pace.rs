//! Holds a private server to a rate of reading and writing, so that the live server's disk has time for queries.
//!
//! Scheduling alone does not: where the kernel hands requests to the device in the order in which they come (`none`, the default for NVMe and
//! virtual disks) an I/O class counts for nothing. What counts everywhere is how much is asked for.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Between two looks: what it may ask for at once beyond its rate is what the disk gives in this time.
const LOOK: Duration = Duration::from_millis(2);
/// Unused allowance is kept for so long, so that a server that has just been waiting need not be stopped at once.
const KEPT: Duration = Duration::from_millis(20);

/// Stops the server whenever it is ahead of its rate, and lets it go on when it is not. Dropped, it lets it go on for good.
#[derive(Debug)]
pub(super) struct Pace {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Pace {
    /// Of a process that is ours and has not been waited for. `None` where the system gives no account of it, or no thread: it runs
    /// unpaced then.
    pub(super) fn keep(server: u32, bytes_per_s: u64) -> Option<Self> {
        let pid = Pid::from_raw(i32::try_from(server).ok()?)?;
        // Both mean this process for ever, whoever has its number later.
        let held = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        let io = File::open(format!("/proc/{server}/io")).ok()?;
        disk_bytes(&io)?;
        let (end, ended) = mpsc::channel::<()>();
        let work = move || {
            let (mut account, mut is_stopped) = (Account::new(bytes_per_s, Instant::now()), false);
            while ended.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                let Some(total) = disk_bytes(&io) else { break };
                let is_ahead = account.is_ahead(total, Instant::now());
                // Again at each look: whoever else lets it go on does not lift its rate.
                if is_ahead || is_stopped {
                    let signal = if is_ahead { Signal::STOP } else { Signal::CONT };
                    if pidfd_send_signal(&held, signal).is_err() {
                        break;
                    }
                    is_stopped = is_ahead;
                }
            }
            if is_stopped {
                let _ = pidfd_send_signal(&held, Signal::CONT);
            }
        };
        let thread = thread::Builder::new().name("pace".to_owned()).spawn(work).ok()?;
        Some(Self { end: Some(end), thread: Some(thread) })
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// What has been used of a rate.
#[derive(Debug)]
struct Account {
    bytes_per_s: f64,
    /// Bytes; below 0 it is ahead.
    allowance: f64,
    seen: Option<u64>,
    at: Instant,
}

impl Account {
    #[expect(clippy::cast_precision_loss, reason = "a rate need not be exact to the byte")]
    fn new(bytes_per_s: u64, at: Instant) -> Self {
        Self { bytes_per_s: bytes_per_s as f64, allowance: 0.0, seen: None, at }
    }

    /// Whether so many bytes in all are more than the rate allows by now.
    #[expect(clippy::cast_precision_loss, reason = "a rate need not be exact to the byte")]
    fn is_ahead(&mut self, total: u64, now: Instant) -> bool {
        let earned = now.duration_since(self.at).as_secs_f64() * self.bytes_per_s;
        let used = total.saturating_sub(self.seen.unwrap_or(total)) as f64;
        let kept = KEPT.as_secs_f64() * self.bytes_per_s;
        self.allowance = (self.allowance + earned).min(kept) - used;
        (self.seen, self.at) = (Some(total), now);
        self.allowance < 0.0
    }
}

/// Bytes that a process has had the disk read and write (proc(5), `/proc/pid/io`); `None` when there is no telling.
fn disk_bytes(io: &File) -> Option<u64> {
    let mut text = [0; 512];
    let length = io.read_at(&mut text, 0).ok()?;
    let text = std::str::from_utf8(text.get(..length)?).ok()?;
    let field =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    Some(field("read_bytes:")? + field("write_bytes:")?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    use std::sync::atomic::AtomicBool;
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn who_is_ahead_waits_as_long_as_the_bytes_take_at_the_rate() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut account = Account::new(10 * MIB, start);
        // What was moved before is not counted.
        assert!(!account.is_ahead(500 * MIB, at(0)));
        assert!(account.is_ahead(501 * MIB, at(2)));
        assert!(account.is_ahead(501 * MIB, at(99)));
        assert!(!account.is_ahead(501 * MIB, at(101)));
    }

    #[test]
    fn a_long_rest_earns_no_burst() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut account = Account::new(10 * MIB, start);
        assert!(!account.is_ahead(0, at(60_000)));
        assert!(account.is_ahead(MIB, at(60_002)));
    }

    #[test]
    fn a_program_moves_no_more_than_its_rate_and_goes_on_once_nobody_paces_it() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str| {
            let to = format!("of={}", dir.path().join(name).display());
            Command::new("dd")
                .args(["if=/dev/zero", &to, "bs=64k", "count=512", "status=none"])
                .spawn()
                .unwrap()
        };
        let began = Instant::now();
        let mut paced = write("paced");
        let pace = Pace::keep(paced.id(), 32 * MIB).expect("no account of a child of ours");
        assert!(paced.wait().unwrap().success());
        // 32 MiB take a second; what was written before the first look, and one allowance, are not in it.
        assert!(began.elapsed() > Duration::from_millis(500), "{:?}", began.elapsed());
        drop(pace);
        // It is fed for as long as it is not stopped: whatever comes to its end by itself may do so before it is looked at.
        let to = format!("of={}", dir.path().join("let-go").display());
        let mut slow =
            Command::new("dd").args([&to, "bs=64k", "status=none"]).stdin(Stdio::piped()).spawn().unwrap();
        let (mut food, hungry) = (slow.stdin.take().unwrap(), AtomicBool::new(true));
        let pace = Pace::keep(slow.id(), 1);
        let stopped = || fs::read_to_string(format!("/proc/{}/stat", slow.id())).unwrap().contains(") T ");
        let deadline = Instant::now() + Duration::from_secs(20);
        thread::scope(|scope| {
            let hungry = &hungry;
            scope.spawn(move || while hungry.load(Relaxed) && food.write_all(&[0; 64 << 10]).is_ok() {});
            while !stopped() && Instant::now() < deadline {
                thread::yield_now();
            }
            // Somebody else lets it go on.
            pidfd_send_signal(pidfd_open(Pid::from_child(&slow), PidfdFlags::empty()).unwrap(), Signal::CONT)
                .unwrap();
            while !stopped() && Instant::now() < deadline {
                thread::yield_now();
            }
            let was_stopped = stopped();
            hungry.store(false, Relaxed);
            drop(pace);
            assert!(was_stopped, "it is not stopped");
        });
        assert!(slow.wait().unwrap().success());
    }
}
