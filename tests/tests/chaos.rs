//! Chaos: seeds from one donor to two recipients, each on a network of its own, under kills, partitions, aborts and restarts
//! of the bus that follow from a number. `make chaos SEED=n MINUTES=m` runs it; the same number does the same again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests: a failure here fails the test"
)]

use std::process::Output;
use std::time::{Duration, Instant};

use e2e::faults::arena::{Arena, ArenaOptions, Before};
use e2e::faults::chaos::{Action, DONOR, HOSTS, Round, Rounds, Strike};
use e2e::faults::table::Outcome;
use e2e::world::{Configure, Host, PATIENCE};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protocol::ids::JobId;
use protocol::job::JobState;
use protocol::params::*;
use testkit::agent::{Agent, AgentOptions};
use testkit::mysqld::{Mysqld, MysqldOptions};
use testkit::netns::{self, Network};
use testkit::poll;
use tokio::task::JoinHandle;

/// A person types this; the same plan comes of it.
struct Run {
    seed: u64,
    minutes: f64,
    played: Vec<String>,
}

impl Run {
    fn from_environment() -> Self {
        let number = |name, otherwise: f64| {
            std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
        };
        let seed = std::env::var("OA_CHAOS_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
        Self { seed, minutes: number("OA_CHAOS_MINUTES", 5.0), played: Vec::new() }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!(
                "\nchaos has failed in the last of these rounds; `make chaos SEED={}` does the same:",
                self.seed
            );
            for (index, round) in self.played.iter().enumerate() {
                println!("{:>4}: {round}", index + 1);
            }
        }
    }
}

/// A seed of the round that is played.
struct Seed {
    at: usize,
    job: JobId,
    before: Before,
    ctl: Pid,
    said: JoinHandle<Output>,
}

/// `db1` gives, `db2` is the arena's recipient at first, `db3` waits to take its place.
struct Chaos {
    arena: Arena,
    other: Host,
    network: Network,
    places: Vec<netns::Host>,
}

impl Chaos {
    async fn start() -> Self {
        let network = Network::new().unwrap();
        let bus_address = Some(network.attach_test().unwrap());
        let places: Vec<netns::Host> = HOSTS.map(|name| network.host(name).unwrap()).into();
        let of = places.clone();
        let configure: Configure = Box::new(move |id, agent| place(&of, id, agent));
        let options =
            ArenaOptions { data_mib: 2, configure: Some(configure), bus_address, ..ArenaOptions::default() };
        let arena = Arena::start(options).await;
        let mut db = Mysqld::start(MysqldOptions::default()).await.unwrap();
        db.hand_over();
        let mut agent = AgentOptions::new(HOSTS[2], &arena.world.nats.url());
        agent.mysql(&db).snapshots("directory", &db.base().join("snapshots"));
        agent.env("OA_FAULT", arena.points.faults()).set("seed.stall_s", 40);
        place(&places, HOSTS[2], &mut agent);
        let other = Host { agent: Agent::start(agent).unwrap(), db };
        arena.world.serving(&other.id()).await;
        Self { arena, other, network, places }
    }

    /// Makes this recipient the arena's.
    fn look_at(&mut self, recipient: usize) {
        if self.arena.world.recipient.id().as_str() != HOSTS[recipient] {
            std::mem::swap(&mut self.arena.world.recipient, &mut self.other);
        }
    }

    fn host(&mut self, at: usize) -> &mut Host {
        if at == DONOR {
            return &mut self.arena.world.donor;
        }
        self.look_at(at);
        &mut self.arena.world.recipient
    }

    async fn play(&mut self, round: &Round) {
        for strike in &round.strikes {
            self.arena.points.close(strike.point);
        }
        let mut seeds = Vec::new();
        for at in &round.recipients {
            seeds.push(self.begin(*at, round.bytes_per_s).await);
        }
        for strike in &round.strikes {
            let stands = self.stands(strike, &seeds).await;
            if stands && strike.after.is_zero() {
                self.strike(strike.action, &seeds).await;
            }
            self.arena.points.open(strike.point);
            if stands && !strike.after.is_zero() {
                // sleeps because the plan says how far the seed gets
                tokio::time::sleep(strike.after).await;
                self.strike(strike.action, &seeds).await;
            }
        }
        for seed in &seeds {
            self.look_at(seed.at);
            self.arena.world.hurry(seed.job).await;
            self.arena.world.ended(&self.arena.world.recipient, seed.job).await;
        }
        for seed in seeds {
            self.judge(round, seed).await;
        }
    }

    /// Has a ctl begin the seed of a recipient.
    async fn begin(&mut self, at: usize, bytes_per_s: u64) -> Seed {
        self.look_at(at);
        let before = self.arena.before().await;
        let world = &self.arena.world;
        let known = || world.call(&world.recipient, JobsListParams { limit: 1000, unfinished: false });
        let earlier: Vec<JobId> = known().await.iter().map(|job| job.id).collect();
        let throttle = format!("{bytes_per_s}B");
        let mut words =
            vec!["seed", "start", HOSTS[at], "--from", HOSTS[DONOR], "--stop-mysql", "--allow-primary"];
        words.extend(["--compression", "none", "--transport", "tcp"]);
        if bytes_per_s > 0 {
            words.extend(["--throttle", &throttle]);
        }
        let ctl = world.ctl_command(&words).spawn().unwrap();
        let pid = Pid::from_raw(ctl.id().unwrap().cast_signed());
        let said = tokio::spawn(async { ctl.wait_with_output().await.unwrap() });
        let job = poll::until_async(PATIENCE, "ctl to begin the seed", || async {
            let jobs = known().await;
            jobs.iter().find(|job| job.kind == "seed.start" && !earlier.contains(&job.id)).map(|job| job.id)
        })
        .await;
        Seed { at, job, before, ctl: pid, said }
    }

    /// Waits until a seed stands there; false when all have ended before.
    async fn stands(&mut self, strike: &Strike, seeds: &[Seed]) -> bool {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if self.arena.points.is_reached(strike.point) {
                return true;
            }
            let mut ended = 0;
            for seed in seeds {
                self.look_at(seed.at);
                let show = JobsShowParams { job: seed.job };
                let view = self.arena.world.call(&self.arena.world.recipient, show).await;
                ended += usize::from(view.state.is_final());
            }
            if ended == seeds.len() {
                return false;
            }
            assert!(Instant::now() < deadline, "no seed comes to {}", strike.point);
            // sleeps because this is a poll with a deadline
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn strike(&mut self, action: Action, seeds: &[Seed]) {
        let of = |at: usize| seeds.iter().find(|seed| seed.at == at).unwrap();
        match action {
            Action::KillAgent(at) => {
                let agent = &mut self.host(at).agent;
                agent.kill9().and_then(|()| agent.boot()).unwrap();
            }
            Action::KillServer(at) => {
                let db = &mut self.host(at).db;
                db.kill9().await.unwrap();
                if at == DONOR {
                    db.boot().await.unwrap();
                    db.hand_over();
                }
            }
            Action::KillCtl(at) => {
                // It may have ended with its seed.
                if !of(at).said.is_finished() {
                    kill(of(at).ctl, Signal::SIGKILL).unwrap();
                }
            }
            Action::KillBus(away) => {
                self.arena.world.nats.kill9();
                last(away).await;
                self.arena.world.nats.restart().unwrap();
            }
            Action::CutApart(at, away) => {
                self.network.cut_between(&self.places[DONOR], &self.places[at]).unwrap();
                last(away).await;
                self.network.heal_between(&self.places[DONOR], &self.places[at]).unwrap();
            }
            Action::CutOff(at, away) => {
                self.places[at].cut().unwrap();
                last(away).await;
                self.places[at].heal().unwrap();
            }
            Action::Abort(at) => {
                self.look_at(at);
                let abort = JobsAbortParams { job: of(at).job };
                // It may be past its end, or past the point of no return.
                let _ = self.arena.world.try_call(&self.arena.world.recipient, abort).await;
            }
        }
        for host in [&self.arena.world.donor, &self.arena.world.recipient, &self.other] {
            self.arena.world.serving(&host.id()).await;
        }
    }

    /// The same check as after every other fault, and a fresh seed.
    async fn judge(&mut self, round: &Round, seed: Seed) {
        self.look_at(seed.at);
        let view = self.arena.world.ended(&self.arena.world.recipient, seed.job).await;
        let error = view.error.as_ref().map(ToString::to_string).unwrap_or_default();
        println!("      {}: {:?} {error}", HOSTS[seed.at], view.state);
        let kills_server = round.kills_server(seed.at);
        let outcome = match view.state {
            JobState::Succeeded => Outcome::Seeded,
            JobState::Aborted if round.aborts(seed.at) => Outcome::Aborted,
            JobState::Failed if kills_server => Outcome::Undone,
            other => panic!("{other:?}, though nothing in this round ends a seed: {error}"),
        };
        assert!(outcome == Outcome::Seeded || !error.is_empty(), "the cause is not named");
        let db = &mut self.arena.world.recipient.db;
        if kills_server && db.pid().is_none() {
            // Killed here, and nobody's business but a person's.
            db.boot().await.unwrap();
            db.hand_over();
        }
        self.arena.judge(&seed.before, seed.job, outcome, "").await;
        let said = tokio::time::timeout(PATIENCE, seed.said).await.expect("ctl does not end").unwrap();
        if !round.kills_ctl(seed.at) {
            assert_eq!(said.status.success(), outcome == Outcome::Seeded, "{said:?}");
        }
        self.arena.again().await;
    }
}

fn place(places: &[netns::Host], id: &str, agent: &mut AgentOptions) {
    let host = places.iter().find(|host| host.name() == id).unwrap();
    agent.prefix(host.argv_prefix()).set("seed.listen", format!("{}:0", host.address()));
}

async fn last(outage: Duration) {
    // sleeps because the plan says how long the outage lasts
    tokio::time::sleep(outage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_loses_nothing() {
    if let Some(reason) = netns::unavailable_reason() {
        testkit::skip!("{reason}");
    }
    let mut run = Run::from_environment();
    let mut chaos = Chaos::start().await;
    let end = Instant::now() + Duration::from_secs_f64(run.minutes * 60.0);
    for round in Rounds::of(run.seed) {
        if Instant::now() > end {
            break;
        }
        run.played.push(round.to_string());
        println!("{:>4}: {round}", run.played.len());
        chaos.play(&round).await;
    }
    println!("SEED={}: {} rounds in {} minutes, nothing lost", run.seed, run.played.len(), run.minutes);
}
