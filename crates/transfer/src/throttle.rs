//! A limit in bytes per second that can change while a transfer runs.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::Cancel;

/// Bounds the average rate, and the peak rate with which unused time may be caught up.
///
/// One throttle may be shared by all connections of a seed, or by several seeds. Unlimited costs one atomic load.
#[derive(Debug)]
pub struct Throttle {
    average: AtomicU64,
    peak: AtomicU64,
    /// What the host's health allows; 0: everything.
    healthy: AtomicU64,
    moved: AtomicU64,
    bucket: Mutex<Bucket>,
    health: Mutex<Health>,
}

/// How a host that shall not be hurt has fared.
#[derive(Debug)]
struct Health {
    judged_at: Instant,
    moved: u64,
    /// The rate at which the host became busy.
    harmful: u64,
}

#[derive(Debug)]
struct Bucket {
    /// Bytes that leave was asked for so far.
    taken: f64,
    /// How many of them may have gone by now; little more than were taken.
    average_allowed: f64,
    peak_allowed: f64,
    at: Instant,
}

impl Bucket {
    /// Counts the time that has passed.
    fn refill(&mut self, average: f64, peak: f64) {
        let elapsed = self.at.elapsed().as_secs_f64();
        self.at = Instant::now();
        let unused = if peak > average { average * AVERAGE_WINDOW_S } else { 0.0 };
        self.average_allowed = (self.average_allowed + elapsed * average).min(self.taken + unused);
        self.peak_allowed = (self.peak_allowed + elapsed * peak).min(self.taken + peak * PEAK_WINDOW_S);
    }
}

/// The average may be caught up over this long; the peak over a tenth of it.
const AVERAGE_WINDOW_S: f64 = 2.0;
const PEAK_WINDOW_S: f64 = 0.1;
/// No wait is longer, so that a new limit takes hold at once.
const LONGEST_WAIT: Duration = Duration::from_millis(100);
const HEED_INTERVAL: Duration = Duration::from_secs(1);
/// A seed goes on at least this fast, in bytes per second, on a host that suffers: it would else never end.
const HEALTHY_LEAST: u64 = 4 << 20;

impl Default for Throttle {
    fn default() -> Self {
        Self::unlimited()
    }
}

impl Throttle {
    /// No limit until [`Throttle::set`].
    pub fn unlimited() -> Self {
        Self::limited(0)
    }

    /// A limit of `bytes_per_s`, both average and peak; 0 is no limit.
    pub fn limited(bytes_per_s: u64) -> Self {
        Self {
            average: AtomicU64::new(bytes_per_s),
            peak: AtomicU64::new(0),
            healthy: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            bucket: Mutex::new(Bucket {
                taken: 0.0,
                average_allowed: 0.0,
                peak_allowed: 0.0,
                at: Instant::now(),
            }),
            health: Mutex::new(Health { judged_at: Instant::now(), moved: 0, harmful: 0 }),
        }
    }

    /// Changes the average limit (0: none) and sets the peak to the same. Takes hold within 0.1 s.
    pub fn set(&self, bytes_per_s: u64) {
        self.set_with_peak(bytes_per_s, 0);
    }

    /// Changes both limits; a peak of 0 is the average, and a peak below the average counts as the average.
    pub fn set_with_peak(&self, average_bytes_per_s: u64, peak_bytes_per_s: u64) {
        self.average.store(average_bytes_per_s, Relaxed);
        self.peak.store(peak_bytes_per_s, Relaxed);
    }

    /// The average limit in force, 0 if none.
    pub fn bytes_per_s(&self) -> u64 {
        match (self.average.load(Relaxed), self.healthy.load(Relaxed)) {
            (0, limit) | (limit, 0) => limit,
            (set, healthy) => set.min(healthy),
        }
    }

    /// Says whether the host suffers. While it does, what moves is halved with each word, down to 4 MiB/s; afterwards it may
    /// grow by a quarter with each, until it is well above what did harm. Words that come within a second of the last
    /// count for nothing. Gives the limit that results, 0 for none, when this word has changed it.
    pub fn heed(&self, is_busy: bool) -> Option<u64> {
        self.heed_at(is_busy, Instant::now())
    }

    fn heed_at(&self, is_busy: bool, now: Instant) -> Option<u64> {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = now.saturating_duration_since(health.judged_at);
        if elapsed < HEED_INTERVAL {
            return None;
        }
        let moved = self.moved.load(Relaxed);
        let rate = ((moved - health.moved) as f64 / elapsed.as_secs_f64()) as u64;
        (health.judged_at, health.moved) = (now, moved);
        let before = self.healthy.load(Relaxed);
        let limit = if is_busy {
            health.harmful = if before == 0 { rate } else { health.harmful };
            let from = if before == 0 { rate } else { before.min(rate.max(before / 2)) };
            (from / 2).max(HEALTHY_LEAST)
        } else {
            match before + before / 4 {
                limit if limit > health.harmful.max(HEALTHY_LEAST) * 2 => 0,
                limit => limit,
            }
        };
        self.healthy.store(limit, Relaxed);
        (limit != before).then_some(limit)
    }

    /// How much each of so many connections moves at once so that all of them keep dripping under a low limit: whole
    /// 64 KiB, at most `most`.
    pub(crate) fn piece_len(&self, connections: usize, most: usize) -> usize {
        const STEP: usize = 64 * 1024;
        let per_s = 8.max(2 * connections as u64);
        match self.bytes_per_s() {
            0 => most,
            limit => ((limit / per_s) as usize / STEP * STEP).max(STEP).min(most),
        }
    }

    /// Takes leave to move `bytes`, waiting as long as the limit asks: who asked first goes first. Returns early when cancelled.
    pub(crate) fn acquire(&self, bytes: usize, cancel: &Cancel) {
        self.moved.fetch_add(bytes as u64, Relaxed);
        if self.bytes_per_s() == 0 {
            return;
        }
        let mut turn = None;
        loop {
            let average = self.bytes_per_s() as f64;
            if average == 0.0 {
                return;
            }
            let set = self.average.load(Relaxed) as f64;
            // A peak may be had for a limit that was set, not for one that spares the host.
            let peak = if set == average { (self.peak.load(Relaxed) as f64).max(average) } else { average };
            let wait_s = {
                let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
                bucket.refill(average, peak);
                let turn = *turn.get_or_insert_with(|| {
                    bucket.taken += bytes as f64;
                    bucket.taken
                });
                ((turn - bucket.average_allowed) / average).max((turn - bucket.peak_allowed) / peak)
            };
            if wait_s <= 0.0 || cancel.sleep(Duration::from_secs_f64(wait_s).min(LONGEST_WAIT)) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_suffers_is_spared_and_one_that_recovers_is_not() {
        let throttle = Throttle::unlimited();
        let mut now = Instant::now();
        let mut second = |busy: bool| {
            // It moves what it may, at most 400 MB/s.
            let moves = match throttle.bytes_per_s() {
                0 => 400_000_000,
                limit => limit.min(400_000_000),
            };
            throttle.moved.fetch_add(moves, Relaxed);
            now += Duration::from_secs(1);
            throttle.heed_at(busy, now);
            throttle.bytes_per_s()
        };
        assert_eq!(second(false), 0);
        let first = second(true);
        assert!((190_000_000..=210_000_000).contains(&first), "half of what it moved: {first}");
        let mut low = first;
        for _ in 0..20 {
            low = second(true);
        }
        assert_eq!(low, HEALTHY_LEAST, "but never nothing");
        let better = second(false);
        assert!(better > low && better < 2 * low, "slowly: {better}");
        let calm = (0..40).map(|_| second(false)).position(|limit| limit == 0);
        assert!(calm.is_some_and(|seconds| (10..40).contains(&seconds)), "lifted after {calm:?}");
    }

    #[test]
    fn the_lower_of_both_limits_holds() {
        let throttle = Throttle::limited(10 << 20);
        throttle.moved.fetch_add(200 << 20, Relaxed);
        let healthy = throttle.heed_at(true, Instant::now() + Duration::from_secs(1)).unwrap();
        assert!((90 << 20..=100 << 20).contains(&healthy), "half of 200 MiB/s: {healthy}");
        assert_eq!(throttle.bytes_per_s(), 10 << 20);
        throttle.set(0);
        assert_eq!(throttle.bytes_per_s(), healthy);
        assert_eq!(throttle.heed_at(true, Instant::now() + Duration::from_millis(1500)), None, "too soon");
    }
}
