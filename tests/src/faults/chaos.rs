//! What a run of chaos does, drawn from its seed alone before anything begins, so that the same seed does the same again.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;
use protocol::seed::SeedStage;

use super::points::{Moment, Point};

/// What strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// kill -9 of the agent of a recipient, by its place among them; it is started again.
    KillRecipient(usize),
    /// kill -9 of the donor's agent; it is started again.
    KillDonor,
    /// kill -9 of nats-server; it is started again after this long.
    KillBus(Duration),
    /// kill -9 of a recipient's server.
    KillServer(usize),
    /// The donor and a recipient lose one another for this long.
    CutFromDonor(usize, Duration),
    /// A recipient loses everybody for this long.
    CutOff(usize, Duration),
    /// Somebody aborts the seed of a recipient.
    Abort(usize),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KillRecipient(at) => write!(f, "kill -9 of agent db{}", at + 2),
            Self::KillDonor => f.write_str("kill -9 of agent db1"),
            Self::KillBus(away) => write!(f, "kill -9 of nats-server, away for {} ms", away.as_millis()),
            Self::KillServer(at) => write!(f, "kill -9 of the server of db{}", at + 2),
            Self::CutFromDonor(at, away) => {
                write!(f, "db1 and db{} cut apart for {} ms", at + 2, away.as_millis())
            }
            Self::CutOff(at, away) => write!(f, "db{} cut off for {} ms", at + 2, away.as_millis()),
            Self::Abort(at) => write!(f, "abort on db{}", at + 2),
        }
    }
}

/// When the first seed of a round stands there, this happens.
#[derive(Debug, Clone, Copy)]
pub struct Strike {
    /// Where.
    pub point: Point,
    /// What.
    pub action: Action,
}

/// One or two seeds at once, and what they have to bear.
#[derive(Debug, Clone)]
pub struct Round {
    /// The recipients, by their place: 0 is `db2`.
    pub recipients: Vec<usize>,
    /// Limit of each seed, bytes per second; 0 is none.
    pub bytes_per_s: u64,
    /// In the order of the stages.
    pub strikes: Vec<Strike>,
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.recipients.iter().map(|at| format!("db{}", at + 2)).collect();
        write!(f, "seed {}", names.join(" and "))?;
        if self.bytes_per_s > 0 {
            write!(f, " at {} MiB/s", self.bytes_per_s >> 20)?;
        }
        self.strikes.iter().try_for_each(|strike| write!(f, "; {}: {}", strike.point, strike.action))
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

    fn action(&mut self, recipients: &[usize]) -> Action {
        let at = recipients[self.random.usize(..recipients.len())];
        let away = Duration::from_millis(self.random.u64(100..1_500));
        match self.random.u8(..10) {
            0..=2 => Action::KillRecipient(at),
            3..=4 => Action::KillDonor,
            5 => Action::KillBus(away),
            6 => Action::KillServer(at),
            7 => Action::CutFromDonor(at, away),
            8 => Action::CutOff(at, away),
            _ => Action::Abort(at),
        }
    }
}

impl Iterator for Rounds {
    type Item = Round;

    fn next(&mut self) -> Option<Round> {
        let recipients = match self.random.u8(..4) {
            0 => vec![0],
            1 => vec![1],
            _ => vec![0, 1],
        };
        let mut places: Vec<(usize, Moment)> = (0..self.random.usize(1..=4))
            .map(|_| {
                let moment = if self.random.bool() { Moment::Begin } else { Moment::End };
                (self.random.usize(..SeedStage::ALL.len()), moment)
            })
            .collect();
        places.sort_unstable();
        places.dedup();
        let strikes = places
            .into_iter()
            .map(|(stage, moment)| Strike {
                point: Point::stage(SeedStage::ALL[stage], moment),
                action: self.action(&recipients),
            })
            .collect();
        let bytes_per_s = [0, 0, 16 << 20][self.random.usize(..3)];
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
}
