//! What a process costs, read from `/proc`.

use std::fs;
use std::time::{Duration, Instant};

/// Processor time that a process has used so far, user and system, in hundredths of a second.
///
/// # Panics
/// When there is no such process.
#[must_use]
pub fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    [11, 12].map(|at| fields[at].parse::<u64>().unwrap()).iter().sum()
}

/// Memory that a process holds, KiB.
///
/// # Panics
/// When there is no such process.
#[must_use]
pub fn rss_kib(pid: u32) -> u64 {
    status_kib(pid, "VmRSS:")
}

/// The most memory that a process held since [`forget_peak`], KiB.
///
/// # Panics
/// When there is no such process.
#[must_use]
pub fn peak_kib(pid: u32) -> u64 {
    status_kib(pid, "VmHWM:")
}

/// From now on the peak is counted anew (`5` in proc_pid_clear_refs(5)).
///
/// # Panics
/// When there is no such process, or it is another user's.
pub fn forget_peak(pid: u32) {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
}

fn status_kib(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Part of one core that a process uses while it is watched for so long, in percent.
pub async fn cpu_percent(pid: u32, watched: Duration) -> f64 {
    let (before, began) = (cpu_ticks(pid), Instant::now());
    tokio::time::sleep(watched).await;
    (cpu_ticks(pid) - before) as f64 / began.elapsed().as_secs_f64()
}

/// The times at the 50th and the 99th of a hundred.
#[must_use]
pub fn p50_p99(times: &mut [Duration]) -> (Duration, Duration) {
    times.sort_unstable();
    let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or_default();
    (at(50), at(99))
}
