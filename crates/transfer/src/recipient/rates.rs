//! Whether the donor gives faster than other recipients hand on.

use std::time::{Duration, Instant};

/// How fast the donor has given at its best, and how fast others hand on now.
#[derive(Debug)]
pub(super) struct Rates {
    since: Instant,
    from_donor: u64,
    from_others: u64,
    donor_best: f64,
    others_now: f64,
}

impl Rates {
    const WINDOW: Duration = Duration::from_secs(1);

    pub(super) fn new() -> Self {
        Self { since: Instant::now(), from_donor: 0, from_others: 0, donor_best: 0.0, others_now: 0.0 }
    }

    /// So much has come.
    pub(super) fn came(&mut self, is_from_donor: bool, len: u32) {
        self.turn();
        let sum = if is_from_donor { &mut self.from_donor } else { &mut self.from_others };
        *sum += u64::from(len);
    }

    /// Takes the rates anew once a second.
    pub(super) fn turn(&mut self) {
        let elapsed = self.since.elapsed();
        if elapsed >= Self::WINDOW {
            self.donor_best = self.donor_best.max(self.from_donor as f64 / elapsed.as_secs_f64());
            self.others_now = self.from_others as f64 / elapsed.as_secs_f64();
            (self.since, self.from_donor, self.from_others) = (Instant::now(), 0, 0);
        }
    }

    /// Also when nothing is known of the donor: it is tried.
    pub(super) fn is_donor_faster(&self) -> bool {
        self.others_now <= self.donor_best || self.donor_best == 0.0
    }
}
