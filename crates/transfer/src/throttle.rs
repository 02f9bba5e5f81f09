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
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    /// Bytes that may go now; negative while in debt.
    average_credit: f64,
    peak_credit: f64,
    at: Instant,
}

/// The average may be caught up over this long; the peak over a tenth of it.
const AVERAGE_WINDOW_S: f64 = 2.0;
const PEAK_WINDOW_S: f64 = 0.1;
/// No wait is longer, so that a new limit takes hold at once.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

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
            bucket: Mutex::new(Bucket { average_credit: 0.0, peak_credit: 0.0, at: Instant::now() }),
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
        self.average.load(Relaxed)
    }

    /// How much to move at once so that bytes keep dripping under a low limit: whole 64 KiB, at most `most`.
    pub(crate) fn piece_len(&self, most: usize) -> usize {
        const STEP: usize = 64 * 1024;
        match self.average.load(Relaxed) {
            0 => most,
            limit => ((limit / 8) as usize / STEP * STEP).max(STEP).min(most),
        }
    }

    /// Takes leave to move `bytes`, waiting as long as the limit asks. Returns early when cancelled.
    pub(crate) fn acquire(&self, bytes: usize, cancel: &Cancel) {
        if self.average.load(Relaxed) == 0 {
            return;
        }
        let mut taken = false;
        loop {
            let average = self.average.load(Relaxed) as f64;
            if average == 0.0 {
                return;
            }
            let peak = (self.peak.load(Relaxed) as f64).max(average);
            let wait_s = {
                let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
                let elapsed = bucket.at.elapsed().as_secs_f64();
                bucket.at = Instant::now();
                bucket.average_credit = (bucket.average_credit + elapsed * average)
                    .min(average * AVERAGE_WINDOW_S * (peak > average) as u8 as f64);
                bucket.peak_credit = (bucket.peak_credit + elapsed * peak).min(peak * PEAK_WINDOW_S);
                if !taken {
                    bucket.average_credit -= bytes as f64;
                    bucket.peak_credit -= bytes as f64;
                    taken = true;
                }
                (-bucket.average_credit / average).max(-bucket.peak_credit / peak)
            };
            if wait_s <= 0.0 || cancel.sleep(Duration::from_secs_f64(wait_s).min(LONGEST_WAIT)) {
                return;
            }
        }
    }
}
