//! The connections that pull: how many there are, when each is made, and when another joins.
//!
//! On a long path a connection takes four round trips to make and as many again to get up to speed, and what it moves is bounded by its own
//! window and its own lost packets. So they are made while the manifest still travels, and more join for as long as that makes the whole faster.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::RecipientOptions;
use super::connect::{Connected, connect};
use super::pull::Begin;
use super::shared::Shared;
use crate::{Cancel, Result};

/// From this round trip on a path is long.
const LONG: Duration = Duration::from_millis(2);
/// Answers that take so long come through the bus.
const SLOW: Duration = Duration::from_millis(10);
/// Connections at first on a long path whose donor paces itself: each keeps its share of the path full.
const PACED: usize = 4;
/// The same where each lost packet halves a connection's window.
const UNPACED: usize = 8;
/// Most that come by themselves: each costs both ends a thread and some hundred KiB.
const MOST: usize = 32;
/// The rate is looked at this often, or after so many answer times, whichever is longer.
const LOOK: Duration = Duration::from_millis(500);
const LOOK_ANSWERS: u32 = 4;

/// What decides how many there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Path {
    #[default]
    Short,
    Long,
    /// Somebody has said how many.
    Asked,
}

/// Those that pull beside the first.
#[derive(Default)]
pub(super) struct Crew {
    /// With the first.
    count: usize,
    connecting: Vec<JoinHandle<Result<Connected>>>,
    path: Path,
    growth: Option<(Growth, Duration)>,
}

impl Crew {
    /// Chooses how many, by the round trip of the first connection; on a long path the others are being made from now on.
    pub(super) fn gather(
        options: &RecipientOptions,
        session: [u8; 16],
        stop: &Arc<Cancel>,
        rtt: Duration,
    ) -> Self {
        let is_long = rtt >= LONG;
        let count = match options.connections {
            0 if is_long => PACED,
            0 => thread::available_parallelism().map_or(2, usize::from).clamp(2, 4),
            asked => asked,
        };
        let connecting = (1..count).filter(|_| is_long).filter_map(|number| {
            let (options, stop) = (options.clone(), Arc::clone(stop));
            let body = move || connect(&options, session, &stop, number);
            thread::Builder::new().name(format!("seed-dial-{number}")).spawn(body).ok()
        });
        let connecting = connecting.collect();
        let path = match options.connections {
            0 if is_long => Path::Long,
            0 => Path::Short,
            _ => Path::Asked,
        };
        Self { count, connecting, path, growth: None }
    }

    /// Chooses anew, by what the donor has said on the first connection. How many they are at first.
    pub(super) fn suit(&mut self, first: &Connected) -> usize {
        match self.path {
            Path::Long => {
                self.count = if first.is_paced { PACED } else { UNPACED };
                let look = LOOK.max(first.delay.saturating_mul(LOOK_ANSWERS));
                self.growth = Some((Growth::new(self.count, first.is_paced), look));
            }
            // A short way to somebody who carries it on: each connection waits for answers of its own.
            Path::Short if first.delay >= SLOW => self.count = 2 * UNPACED,
            Path::Short if first.delay >= LONG => self.count = UNPACED,
            Path::Short | Path::Asked => {}
        }
        self.count
    }

    /// How each of the first ones begins.
    pub(super) fn begin(&mut self, first: Connected) -> Vec<Begin> {
        let mut all = vec![Begin::With(Box::new(first))];
        all.extend(self.connecting.drain(..).map(Begin::Soon));
        all.resize_with(self.count, || Begin::Anew);
        all
    }

    /// Lets more join until the transfer is over.
    pub(super) fn grow(self, shared: &Shared<'_>, mut join: impl FnMut(usize)) {
        let Some((mut growth, look)) = self.growth else { return };
        // What others hand on says nothing about the path to the donor, which all of them share.
        if shared.with_swarm(|_, _| ()).is_some() {
            return;
        }
        let mut before = shared.options.progress.snapshot().bytes_wire;
        while !shared.is_over_within(look) {
            let now = shared.options.progress.snapshot().bytes_wire;
            let came = now.saturating_sub(before);
            before = now;
            // What somebody has limited more of them do not hasten.
            if shared.options.throttle.bytes_per_s() != 0 {
                continue;
            }
            let count = growth.count;
            for number in count..count + growth.look(came) {
                join(number);
            }
        }
    }
}

/// Whether more connections have made a transfer faster.
#[derive(Debug)]
struct Growth {
    count: usize,
    /// What was moved between two looks before the last ones joined.
    before: Option<u64>,
    /// So many looks are passed over.
    pause: u32,
    /// What was moved in the looks since then, and how many they are: a single one says little.
    moved: u64,
    looks: u32,
    /// So many are passed over after the next attempt that was in vain: a path changes.
    rest: u32,
}

impl Growth {
    /// Until those that joined are up to speed.
    const SETTLE: u32 = 2;
    /// Looks that are judged together.
    const JUDGED: u32 = 4;
    const REST: u32 = 60;
    const REST_MOST: u32 = 3_600;

    fn new(count: usize, is_paced: bool) -> Self {
        let pause = if is_paced { 6 * Self::SETTLE } else { 0 };
        Self { count, before: None, pause, moved: 0, looks: 0, rest: Self::REST }
    }

    /// How many join, when so many bytes have come since the last look.
    fn look(&mut self, bytes: u64) -> usize {
        if self.pause > 0 {
            self.pause -= 1;
            return 0;
        }
        (self.moved, self.looks) = (self.moved + bytes, self.looks + 1);
        if self.looks < Self::JUDGED {
            return 0;
        }
        let rate = std::mem::take(&mut self.moved) / u64::from(std::mem::take(&mut self.looks));
        match self.before.take() {
            Some(before) if rate < before + before / 10 => {
                self.pause = self.rest;
                self.rest = (2 * self.rest).min(Self::REST_MOST);
                return 0;
            }
            Some(_) => self.rest = Self::REST,
            None => {}
        }
        // Where nothing moves, more of them move no more.
        let more = (self.count / 2).max(2).min(MOST.saturating_sub(self.count));
        if more == 0 || rate == 0 {
            return 0;
        }
        self.count += more;
        (self.before, self.pause) = (Some(rate), Self::SETTLE);
        more
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many there are after so many looks at a path that gives `rate(count)`.
    fn after(looks: usize, mut growth: Growth, rate: impl Fn(usize) -> u64) -> usize {
        for _ in 0..looks {
            growth.look(rate(growth.count));
        }
        growth.count
    }

    #[test]
    fn more_join_while_each_adds_its_own() {
        let each_its_own = |count: usize| 100 * count as u64;
        assert_eq!(after(40, Growth::new(8, false), each_its_own), MOST);
        assert_eq!(after(1_000, Growth::new(8, false), each_its_own), MOST);
    }

    #[test]
    fn on_a_full_path_one_attempt_is_made_and_then_rarely_another() {
        let full = |_: usize| 5_000;
        assert_eq!(after(20, Growth::new(8, false), full), 12);
        assert_eq!(after(70, Growth::new(8, false), full), 12);
        assert_eq!(after(100, Growth::new(8, false), full), 18);
        let up_to_ten = |count: usize| 100 * count.min(10) as u64;
        assert_eq!(after(60, Growth::new(8, false), up_to_ten), 18, "the last step was in vain");
    }

    #[test]
    fn a_limited_rate_that_comes_in_bursts_is_no_gain() {
        let mut growth = Growth::new(4, false);
        // Nothing, or two pieces: what a look finds of a trickle.
        for look in 0..200 {
            growth.look(if look % 2 == 0 { 0 } else { 128 << 10 });
        }
        assert!(growth.count <= 9, "two attempts in vain: {}", growth.count);
        let mut silent = Growth::new(4, false);
        assert_eq!((0..200).map(|_| silent.look(0)).sum::<usize>(), 0);
    }

    #[test]
    fn a_paced_donor_has_the_time_to_show_that_few_are_enough() {
        let each_its_own = |count: usize| 100 * count as u64;
        assert_eq!(after(15, Growth::new(4, true), each_its_own), 4);
        assert_eq!(after(16, Growth::new(4, true), each_its_own), 6);
    }
}
