//! What a run of chaos does, drawn from its seed alone before anything begins, so that the same seed does the same again.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;
use protocol::seed::SeedStage;

use super::points::{Moment, Point};

/// The hosts by their place: the first gives, the others take.
pub const HOSTS: [&str; 3] = ["db1", "db2", "db3"];
/// The place of the one that gives.
pub const DONOR: usize = 0;
/// A rate at which a transfer takes seconds, in bytes per second.
const SLOW: u64 = 12 << 20;

/// What strikes; hosts are named by their place in [`HOSTS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// kill -9 of an agent; it is started again.
    KillAgent(usize),
    /// kill -9 of a MySQL server; the donor's is started again.
    KillServer(usize),
    /// kill -9 of the ctl that has begun the seed of this recipient.
    KillCtl(usize),
    /// kill -9 of nats-server; it is started again after this long.
    KillBus(Duration),
    /// The donor and a recipient lose one another for this long.
    CutApart(usize, Duration),
    /// A host loses everybody for this long.
    CutOff(usize, Duration),
    /// Somebody aborts the seed of a recipient.
    Abort(usize),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KillAgent(at) => write!(f, "kill -9 of agent {}", HOSTS[*at]),
            Self::KillServer(at) => write!(f, "kill -9 of the server of {}", HOSTS[*at]),
            Self::KillCtl(at) => write!(f, "kill -9 of the ctl that seeds {}", HOSTS[*at]),
            Self::KillBus(away) => write!(f, "kill -9 of nats-server, away for {} ms", away.as_millis()),
            Self::CutApart(at, away) => {
                write!(f, "{} and {} cut apart for {} ms", HOSTS[DONOR], HOSTS[*at], away.as_millis())
            }
            Self::CutOff(at, away) => write!(f, "{} cut off for {} ms", HOSTS[*at], away.as_millis()),
            Self::Abort(at) => write!(f, "abort on {}", HOSTS[*at]),
        }
    }
}

/// When the first seed of a round stands there, this happens.
#[derive(Debug, Clone, Copy)]
pub struct Strike {
    /// Where.
    pub point: Point,
    /// How long after the seed was let go from there; zero: while it stands.
    pub after: Duration,
    /// What.
    pub action: Action,
}

/// One or two seeds at once, and what they have to bear.
#[derive(Debug, Clone)]
pub struct Round {
    /// The recipients, by their place.
    pub recipients: Vec<usize>,
    /// Limit of each seed, bytes per second; 0 is none.
    pub bytes_per_s: u64,
    /// In the order of the stages.
    pub strikes: Vec<Strike>,
}

impl Round {
    /// Whether somebody aborts this recipient's seed.
    #[must_use]
    pub fn aborts(&self, recipient: usize) -> bool {
        self.has(|action| action == Action::Abort(recipient))
    }

    /// Whether this recipient's server is killed: it may be just the one that had to prove itself.
    #[must_use]
    pub fn kills_server(&self, recipient: usize) -> bool {
        self.has(|action| action == Action::KillServer(recipient))
    }

    /// Whether the ctl of this recipient's seed is killed.
    #[must_use]
    pub fn kills_ctl(&self, recipient: usize) -> bool {
        self.has(|action| action == Action::KillCtl(recipient))
    }

    fn has(&self, wanted: impl Fn(Action) -> bool) -> bool {
        self.strikes.iter().any(|strike| wanted(strike.action))
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.recipients.iter().map(|at| HOSTS[*at]).collect();
        write!(f, "seed {}", names.join(" and "))?;
        if self.bytes_per_s > 0 {
            write!(f, " at {} MiB/s", self.bytes_per_s >> 20)?;
        }
        self.strikes.iter().try_for_each(|strike| {
            write!(f, "; {}", strike.point)?;
            if !strike.after.is_zero() {
                write!(f, " +{} ms", strike.after.as_millis())?;
            }
            write!(f, ": {}", strike.action)
        })
    }
}

/// The rounds of a seed, without end.
#[derive(Debug)]
pub struct Rounds {
    random: Rng,
}

impl Rounds {
    /// Those of this seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        Self { random: Rng::with_seed(seed) }
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.random.usize(..all.len())]
    }

    fn outage(&mut self) -> Duration {
        // Some last longer than a silent connection is believed in.
        let longest_ms = if self.random.u8(..5) == 0 { 12_000 } else { 1_500 };
        Duration::from_millis(self.random.u64(100..longest_ms))
    }

    fn action(&mut self, recipients: &[usize]) -> Action {
        let at = self.one_of(recipients);
        let host = self.one_of(&[DONOR, at]);
        match self.random.u8(..14) {
            0..=4 => Action::KillAgent(host),
            5 => Action::KillServer(host),
            6 => Action::KillCtl(at),
            7..=8 => Action::KillBus(self.outage()),
            9..=10 => Action::CutApart(at, self.outage()),
            11 => Action::CutOff(host, self.outage()),
            _ => Action::Abort(at),
        }
    }

    fn strike(&mut self, (stage, moment): (SeedStage, Moment), recipients: &[usize]) -> Strike {
        let after_ms = if self.random.bool() { 0 } else { self.random.u64(1..600) };
        Strike {
            point: Point::stage(stage, moment),
            after: Duration::from_millis(after_ms),
            action: self.action(recipients),
        }
    }
}

impl Iterator for Rounds {
    type Item = Round;

    fn next(&mut self) -> Option<Round> {
        let recipients = [vec![1], vec![2], vec![1, 2], vec![1, 2]][self.random.usize(..4)].clone();
        let mut places: Vec<(usize, Moment)> = (0..self.random.usize(2..=5))
            .map(|_| {
                let stage = self.random.usize(..SeedStage::ALL.len());
                (stage, self.one_of(&[Moment::Begin, Moment::End]))
            })
            .collect();
        places.sort_unstable();
        places.dedup();
        let strikes = places
            .into_iter()
            .map(|(stage, moment)| self.strike((SeedStage::ALL[stage], moment), &recipients))
            .collect();
        let bytes_per_s = self.one_of(&[0, SLOW]);
        Some(Round { recipients, bytes_per_s, strikes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(seed: u64) -> Vec<String> {
        Rounds::of(seed).take(20).map(|round| round.to_string()).collect()
    }

    #[test]
    fn the_same_seed_does_the_same_and_another_one_something_else() {
        assert_eq!(told(7), told(7));
        assert_ne!(told(7), told(8));
    }

    #[test]
    fn a_long_run_does_everything() {
        let plan = Rounds::of(1).take(100).map(|round| round.to_string()).collect::<Vec<_>>().join("\n");
        for what in
            ["agent db1", "agent db3", "server of db1", "server of db2", "ctl", "nats", "apart", "off"]
        {
            assert!(plan.contains(what), "{what}");
        }
    }
}
