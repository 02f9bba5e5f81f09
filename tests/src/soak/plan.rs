//! What a long run does, drawn from its seed alone before anything begins.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;

/// The hosts by their place; each may give and take.
pub const HOSTS: [&str; 5] = ["db1", "db2", "db3", "db4", "db5"];
/// The agents of these are never killed: what they hold at the end they have held on to for the whole run.
pub const STEADY: [usize; 2] = [3, 4];
/// The clock of this one always tells the truth.
pub const TRUE_CLOCK: usize = 4;
/// A rate at which a transfer takes seconds, in bytes per second.
const SLOW: u64 = 12 << 20;

/// What becomes of the old datadir of a seed that ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Old {
    /// It goes at once.
    Gone,
    /// It is kept and put back.
    PutBack,
    /// It is kept for some seconds and goes by itself.
    Lapses,
}

/// One donor's seeds, begun by one ctl.
#[derive(Debug, Clone)]
pub struct SeedPlan {
    /// Who gives.
    pub donor: usize,
    /// Who takes.
    pub recipients: Vec<usize>,
    /// Only what differs travels.
    pub delta: bool,
    /// Through the object store of the bus.
    pub store: bool,
    /// Limit of each seed, bytes per second; 0 is none.
    pub bytes_per_s: u64,
    /// What becomes of the old data.
    pub old: Old,
}

/// What a person does on one host meanwhile, by ctl.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chore {
    /// A snapshot is made, proven and removed.
    Prove,
    /// A snapshot is made, mounted, unmounted and removed.
    Mount,
    /// A snapshot is made, and a second server runs on it for a moment.
    Serve,
    /// A snapshot is made and left.
    Leave,
    /// The server is restarted.
    Restart,
}

/// What strikes; hosts are named by their place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// kill -9 of an agent; it is started again.
    KillAgent(usize),
    /// kill -9 of a MySQL server.
    KillServer(usize),
    /// kill -9 of the ctl that has begun the seed of this recipient.
    KillCtl(usize),
    /// kill -9 of nats-server; it is started again after this long.
    KillBus(Duration),
    /// Two hosts lose one another.
    CutApart(usize, usize, Duration),
    /// A host loses everybody.
    CutOff(usize, Duration),
    /// A host's network has a tenth of its speed and less.
    Slow(usize, Duration),
    /// The file system of a host's data is full.
    Fill(usize, Duration),
    /// The clock of a host, for its agent and its server, is wrong by so many seconds.
    Jump(usize, i64, Duration),
    /// Somebody aborts the seed of a recipient.
    Abort(usize),
}

impl Fault {
    /// Its kind, for the report.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::KillAgent(_) => "kill -9 of an agent",
            Self::KillServer(_) => "kill -9 of a MySQL server",
            Self::KillCtl(_) => "kill -9 of ctl",
            Self::KillBus(_) => "kill -9 of nats-server",
            Self::CutApart(..) => "two hosts cut apart",
            Self::CutOff(..) => "a host cut off",
            Self::Slow(..) => "a slow network",
            Self::Fill(..) => "a full disk",
            Self::Jump(..) => "a clock that jumps",
            Self::Abort(_) => "an abort",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KillAgent(at) => write!(f, "kill -9 of agent {}", HOSTS[*at]),
            Self::KillServer(at) => write!(f, "kill -9 of the server of {}", HOSTS[*at]),
            Self::KillCtl(at) => write!(f, "kill -9 of the ctl that seeds {}", HOSTS[*at]),
            Self::KillBus(away) => write!(f, "kill -9 of nats-server for {} ms", away.as_millis()),
            Self::CutApart(one, other, away) => {
                write!(f, "{} and {} cut apart for {} ms", HOSTS[*one], HOSTS[*other], away.as_millis())
            }
            Self::CutOff(at, away) => write!(f, "{} cut off for {} ms", HOSTS[*at], away.as_millis()),
            Self::Slow(at, away) => write!(f, "{} slow for {} ms", HOSTS[*at], away.as_millis()),
            Self::Fill(at, away) => write!(f, "disk of {} full for {} ms", HOSTS[*at], away.as_millis()),
            Self::Jump(at, by, away) => {
                write!(f, "clock of {} wrong by {by} s for {} ms", HOSTS[*at], away.as_millis())
            }
            Self::Abort(at) => write!(f, "abort on {}", HOSTS[*at]),
        }
    }
}

/// What happens at once, and what it has to bear.
#[derive(Debug, Clone)]
pub struct Round {
    /// Hosts of one are in no other.
    pub seeds: Vec<SeedPlan>,
    /// On these hosts, seeded or not.
    pub chores: Vec<(usize, Chore)>,
    /// One after the other, each so long after the one before.
    pub faults: Vec<(Duration, Fault)>,
}

impl Round {
    /// A round with one quiet seed.
    #[must_use]
    pub fn quiet(donor: usize, recipient: usize) -> Self {
        let recipients = vec![recipient];
        let plain =
            SeedPlan { donor, recipients, delta: false, store: false, bytes_per_s: 0, old: Old::Gone };
        Self { seeds: vec![plain], chores: Vec::new(), faults: Vec::new() }
    }

    /// Whether one of its faults is such a one.
    #[must_use]
    pub fn has(&self, wanted: impl Fn(Fault) -> bool) -> bool {
        self.faults.iter().any(|(_, fault)| wanted(*fault))
    }

    /// Whether this host's disk is full for a while.
    #[must_use]
    pub fn fills(&self, host: usize) -> bool {
        self.has(|fault| matches!(fault, Fault::Fill(at, _) if at == host))
    }

    /// Whether this host's clock jumps.
    #[must_use]
    pub fn jumps(&self, host: usize) -> bool {
        self.has(|fault| matches!(fault, Fault::Jump(at, ..) if at == host))
    }

    /// Whether a seed of this recipient may end without its data: nobody but these faults may take them.
    #[must_use]
    pub fn excuses(&self, donor: usize, recipient: usize) -> bool {
        self.has(|fault| fault == Fault::KillServer(recipient)) || self.fills(donor) || self.fills(recipient)
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, seed) in self.seeds.iter().enumerate() {
            let names: Vec<&str> = seed.recipients.iter().map(|at| HOSTS[*at]).collect();
            let comma = if index > 0 { "; " } else { "" };
            write!(f, "{comma}{} seeds {}", HOSTS[seed.donor], names.join(" and "))?;
            for (is, word) in [(seed.delta, " (delta)"), (seed.store, " (store)")] {
                f.write_str(if is { word } else { "" })?;
            }
            match seed.old {
                Old::Gone => {}
                Old::PutBack => f.write_str(" (put back)")?,
                Old::Lapses => f.write_str(" (kept)")?,
            }
        }
        self.chores.iter().try_for_each(|(at, chore)| write!(f, "; {} {chore:?}", HOSTS[*at]))?;
        self.faults.iter().try_for_each(|(after, fault)| write!(f, "; +{} ms {fault}", after.as_millis()))
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

    fn one_in(&mut self, times: u8) -> bool {
        self.random.u8(..times) == 0
    }

    fn outage(&mut self) -> Duration {
        // Some last longer than a silent connection is believed in.
        let longest_ms = if self.one_in(5) { 12_000 } else { 2_000 };
        Duration::from_millis(self.random.u64(100..longest_ms))
    }

    fn seed(&mut self, donor: usize, recipients: &[usize]) -> SeedPlan {
        let delta = self.one_in(3);
        SeedPlan {
            donor,
            recipients: recipients.to_vec(),
            delta,
            // A donor gives one seed at a time through the bus.
            store: self.one_in(3) && recipients.len() == 1,
            bytes_per_s: self.one_of(&[0, SLOW, SLOW]),
            old: self.one_of(&[Old::Gone, Old::Gone, Old::Gone, Old::PutBack, Old::Lapses]),
        }
    }

    fn chore(&mut self) -> (usize, Chore) {
        let all = [Chore::Prove, Chore::Mount, Chore::Serve, Chore::Leave, Chore::Restart];
        (self.random.usize(..HOSTS.len()), self.one_of(&all))
    }

    fn fault(&mut self, seeds: &[SeedPlan]) -> Fault {
        let seed = self.random.usize(..seeds.len());
        let recipient = self.one_of(&seeds[seed].recipients);
        // Mostly where something is going on.
        let anywhere = self.random.usize(..HOSTS.len());
        let host = self.one_of(&[seeds[seed].donor, recipient, recipient, anywhere]);
        match self.random.u8(..16) {
            0..=3 if STEADY.contains(&host) => Fault::CutOff(host, self.outage()),
            0..=3 => Fault::KillAgent(host),
            4 => Fault::KillServer(host),
            5 => Fault::KillCtl(recipient),
            6..=7 => Fault::KillBus(self.outage()),
            8 => Fault::CutApart(seeds[seed].donor, recipient, self.outage()),
            9 => Fault::CutOff(host, self.outage()),
            10 => Fault::Slow(host, self.outage()),
            11..=12 => Fault::Fill(host, self.outage()),
            13..=14 if host == TRUE_CLOCK => Fault::Slow(host, self.outage()),
            13..=14 => {
                let by = self.one_of(&[86_400, -86_400, 3_600, -3_600, 90, -90]);
                Fault::Jump(host, by, self.outage())
            }
            _ => Fault::Abort(recipient),
        }
    }
}

impl Iterator for Rounds {
    type Item = Round;

    fn next(&mut self) -> Option<Round> {
        let mut order: Vec<usize> = (0..HOSTS.len()).collect();
        self.random.shuffle(&mut order);
        let several = self.random.usize(1..=2);
        let mut seeds = vec![self.seed(order[0], &order[1..=several])];
        if self.random.bool() {
            seeds.push(self.seed(order[3], &order[4..]));
        }
        let chores = (0..self.random.usize(0..=2)).map(|_| self.chore()).collect();
        let faults = (0..self.random.usize(1..=4))
            .map(|_| (Duration::from_millis(self.random.u64(..1_500)), self.fault(&seeds)))
            .collect();
        Some(Round { seeds, chores, faults })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_same_seed_does_the_same_and_another_one_something_else() {
        let told = |seed| Rounds::of(seed).take(20).map(|round| round.to_string()).collect::<Vec<_>>();
        assert_eq!(told(7), told(7));
        assert_ne!(told(7), told(8));
    }

    #[test]
    fn a_long_run_does_everything_and_spares_who_is_measured() {
        let rounds: Vec<Round> = Rounds::of(1).take(200).collect();
        let kinds: BTreeSet<&str> =
            rounds.iter().flat_map(|round| round.faults.iter().map(|(_, fault)| fault.kind())).collect();
        assert_eq!(kinds.len(), 10, "{kinds:?}");
        for round in &rounds {
            for steady in STEADY {
                assert!(!round.has(|fault| fault == Fault::KillAgent(steady)), "{round}");
            }
            assert!(!round.jumps(TRUE_CLOCK), "{round}");
            let hosts: Vec<usize> =
                round.seeds.iter().flat_map(|seed| [&[seed.donor], &seed.recipients[..]].concat()).collect();
            assert_eq!(hosts.iter().collect::<BTreeSet<_>>().len(), hosts.len(), "{round}");
        }
    }
}
