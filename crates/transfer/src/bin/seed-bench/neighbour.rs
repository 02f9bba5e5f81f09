//! A file of the donor that others work with, to see whether a seed pushes it out of the page cache.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::process::{Outcome, failed};

const LEN: usize = 256 << 20;
const USED_EVERY: Duration = Duration::from_secs(1);

/// Read again and again, as what a server needs is.
pub(crate) struct Neighbour {
    pages: u64,
    seed_is_over: Sender<()>,
    user: JoinHandle<Lost>,
}

/// Pages that had to be read from the disk again.
#[derive(Debug, Default)]
struct Lost {
    all: u64,
    /// Those that went while the kernel gave up pages for want of memory. Others went without anybody's need: a kernel with
    /// DAMON pages out by itself what it takes for idle, on a machine with most of its memory free too.
    pushed_out: u64,
}

impl Neighbour {
    pub(crate) fn make(dir: &Path) -> Outcome<Self> {
        let path = dir.join("neighbour");
        let made = fs::write(&path, vec![7; LEN]).and_then(|()| File::open(&path)?.sync_all());
        made.and_then(|()| fs::read(&path)).map_err(failed("cannot make a file"))?;
        let pages = cached_pages(&path).ok_or("fincore does not tell what is in the page cache")?;
        let (seed_is_over, over) = mpsc::channel();
        let user = thread::spawn(move || {
            let mut lost = Lost::default();
            let mut reclaimed = reclaimed_pages();
            loop {
                let is_last = over.recv_timeout(USED_EVERY) != Err(RecvTimeoutError::Timeout);
                let (gone, now) = (pages.saturating_sub(cached_pages(&path).unwrap_or(0)), reclaimed_pages());
                lost.all += gone;
                lost.pushed_out += gone.min(now - reclaimed);
                reclaimed = now;
                if is_last || fs::read(&path).is_err() {
                    return lost;
                }
            }
        });
        Ok(Self { pages, seed_is_over, user })
    }

    /// The share of its pages that was not pushed out.
    pub(crate) fn still_cached(self) -> Option<f64> {
        drop(self.seed_is_over);
        let lost = self.user.join().ok()?;
        eprintln!(
            "the neighbour's {} pages: {} were read from the disk again, {} of them pushed out for want of memory",
            self.pages, lost.all, lost.pushed_out
        );
        Some(1.0 - lost.pushed_out as f64 / self.pages.max(1) as f64)
    }
}

/// By util-linux's fincore.
fn cached_pages(path: &Path) -> Option<u64> {
    let output = Command::new("fincore").args(["-n", "-o", "PAGES"]).arg(path).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

/// Pages that the kernel has given up for want of memory since it started.
fn reclaimed_pages() -> u64 {
    let counters = fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let of = |line: &str| -> Option<u64> {
        line.strip_prefix("pgsteal_kswapd ").or(line.strip_prefix("pgsteal_direct "))?.parse().ok()
    };
    counters.lines().filter_map(of).sum::<u64>()
}
