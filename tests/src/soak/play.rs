//! Plays rounds on the fleet, and checks all of it after each.

use std::time::{Duration, Instant};

use protocol::params::JobsListParams;
use testkit::poll;

use super::fleet::{Data, Fleet};
use super::plan::{Fault, HOSTS, Round};
use super::report::Report;
use super::resources::{KEPT_JOURNALS, Reading};
use super::seeds::Seeds;
use super::works::{self, Done};
use crate::faults::ledger::Ledger;
use crate::world::PATIENCE;

/// Jobs of a host whose ends are looked for on the bus after a round: more than a round has.
const JOBS: u32 = 40;

/// The fleet, what it has shown so far, and what it is measured by.
#[derive(Debug)]
pub struct Player {
    fleet: Fleet,
    ledger: Ledger,
    /// The first look at each agent's process after a round.
    first: Vec<Reading>,
    /// What is told in the end.
    pub report: Report,
}

impl Player {
    /// A fleet in which each host has given and taken once, so that what is held from then on is held for good.
    pub async fn start(seed: u64) -> Self {
        let fleet = Fleet::start().await;
        let report = Report::new(seed);
        let mut player = Self { fleet, ledger: Ledger::default(), first: Vec::new(), report };
        for donor in 0..HOSTS.len() {
            player.play(&Round::quiet(donor, (donor + 1) % HOSTS.len())).await;
        }
        player.fleet.is_quiet().await;
        player.first = player.fleet.readings();
        player.report.reading("at the beginning", &player.first);
        player
    }

    /// One round and the checks after it.
    ///
    /// # Panics
    /// With what does not hold.
    pub async fn play(&mut self, round: &Round) {
        let began = Instant::now();
        self.report.begin(round);
        let mut expected = Vec::new();
        for at in 0..HOSTS.len() {
            expected.push(self.fleet.data(at).await);
        }
        let mut begun = Vec::new();
        for plan in &round.seeds {
            begun.push(Seeds::begin(&mut self.fleet, plan).await);
        }
        for seeds in &round.seeds {
            expected[seeds.donor].generation = self.fleet.data(seeds.donor).await.generation;
        }
        let url = self.fleet.nats.url();
        let chores: Vec<_> =
            round.chores.iter().map(|(at, chore)| works::begin(url.clone(), *at, *chore)).collect();
        for (after, fault) in &round.faults {
            // sleeps because the plan says when what strikes
            tokio::time::sleep(*after).await;
            self.fleet.strike(*fault).await;
            for seeds in &begun {
                seeds.strike(&self.fleet, *fault).await;
            }
        }
        self.ends(round, begun, chores, expected).await;
        self.report.end(began.elapsed(), &self.fleet.readings());
    }

    async fn ends(
        &mut self,
        round: &Round,
        begun: Vec<Seeds>,
        chores: Vec<tokio::task::JoinHandle<Done>>,
        mut expected: Vec<Data>,
    ) {
        for host in &self.fleet.hosts {
            crate::world::serving(&self.fleet.client, &host.id()).await;
        }
        let mut ends = Vec::new();
        for seeds in &begun {
            ends.push(seeds.end(&self.fleet).await);
        }
        for chore in chores {
            let done = chore.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
            let (host, failure) = (HOSTS[done.at], done.failure.as_ref());
            let excused = done.was_refused() || !round.faults.is_empty();
            assert!(failure.is_none() || excused, "{:?} on {host}: {failure:?}", done.chore);
            self.report.chore(&done);
        }
        self.fleet.comes_to_rest(round).await;
        for (seeds, ends) in begun.into_iter().zip(&ends) {
            for (begun, view) in seeds.begun.iter().zip(ends) {
                let told = self.ledger.end_of(&self.fleet.client, begun.job).await;
                assert_eq!((told.state, &told.error), (view.state, &view.error), "the bus tells another end");
                self.report.seed(&seeds.plan, view);
            }
            for (at, data) in seeds.judge(&mut self.fleet, round, ends).await {
                expected[at] = data;
            }
        }
        self.fleet.sweep().await;
        for (at, expected) in expected.iter().enumerate() {
            let now = self.fleet.data(at).await;
            assert!(now == *expected, "{} has other data: {}", HOSTS[at], differences(&now, expected));
        }
        self.fleet.nothing_left().await;
        self.told(&round.faults).await;
    }

    /// The end of each job is on the bus; no event is lost or there twice.
    async fn told(&mut self, faults: &[(Duration, Fault)]) {
        for (_, fault) in faults {
            self.report.fault(*fault);
        }
        for at in 0..HOSTS.len() {
            for job in self.fleet.call(at, JobsListParams { limit: JOBS, unfinished: false }).await {
                self.ledger.end_of(&self.fleet.client, job.id).await;
            }
        }
        self.report.events = self.ledger.count();
    }

    /// A look at all agents while nothing is going on, beside those of their beginning; an agent that was killed counts from
    /// its first look after that.
    ///
    /// # Panics
    /// When an agent holds more than it should.
    pub async fn measure(&mut self, when: &str) {
        self.fleet.is_quiet().await;
        let now = self.fleet.readings();
        self.report.reading(when, &now);
        let mut leaks = Vec::new();
        for (at, now) in now.iter().enumerate() {
            let begin = &self.first[at];
            leaks.extend(now.leaks(begin).into_iter().map(|leak| format!("{}: {leak}", HOSTS[at])));
        }
        assert!(leaks.is_empty(), "{when} more than at the beginning: {}", leaks.join("; "));
    }

    /// Agents end and start in good order, and have forgotten all but the newest journals.
    ///
    /// # Panics
    /// When one keeps more.
    pub async fn prune(&mut self) {
        for host in &mut self.fleet.hosts {
            host.agent.restart().unwrap();
        }
        for host in &self.fleet.hosts {
            crate::world::serving(&self.fleet.client, &host.id()).await;
            poll::until_true(PATIENCE, format!("{} to prune its journals", host.id()), || {
                Reading::of(&host.agent).journals <= KEPT_JOURNALS
            });
        }
        self.report.reading("after a restart", &self.fleet.readings());
    }
}

fn differences(now: &Data, expected: &Data) -> String {
    let names = |one: &Data, other: &Data| {
        let only = one.names.iter().filter(|(path, inode)| other.names.get(*path) != Some(inode));
        only.map(|(path, _)| path.display().to_string()).collect::<Vec<_>>().join(" ")
    };
    format!(
        "rows {:?} {:?}, generation {} {}, inode {} {}, files now [{}], before [{}]",
        now.rows,
        expected.rows,
        now.generation,
        expected.generation,
        now.inode,
        expected.inode,
        names(now, expected),
        names(expected, now)
    )
}
