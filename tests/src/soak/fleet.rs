//! Five hosts: each with a network, a file system, a clock, an agent and a MariaDB of its own, and the bus between them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bus::Client;
use protocol::command::Call;
use protocol::job::{JobState, JobView};
use testkit::agent::{Agent, AgentOptions};
use testkit::mysqld::{Mysqld, MysqldOptions};
use testkit::nats::{NatsOptions, NatsServer};
use testkit::netns::{self, Network};

use super::plan::{Fault, HOSTS, TRUE_CLOCK};
use super::resources::Reading;
use crate::faults::clock::Clock;
use crate::volume::{Ballast, Kind, Volume};
use crate::world::{self, Host, PATIENCE};
use crate::{rows, tree};

/// Room for the data, a second copy of them on their way in, an old one that is kept, and snapshots.
const VOLUME_MIB: u64 = 1024;
/// MiB of rows that the first donor has.
const DATA_MIB: u32 = 16;
/// A jumped clock is told within this.
const TICK: Duration = Duration::from_millis(50);

/// The data that a host has at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Data {
    /// Checksums of the tables.
    pub rows: Vec<Vec<String>>,
    /// What was written last, which no other host has of itself.
    pub generation: String,
    /// The datadir's own inode.
    pub inode: u64,
    /// Its files with their inodes.
    pub names: BTreeMap<PathBuf, u64>,
}

/// All of it. Fields are dropped in this order: agents before the networks and volumes that they are on.
#[derive(Debug)]
pub struct Fleet {
    /// By their place in [`HOSTS`].
    pub hosts: Vec<Host>,
    /// Asks in the tester's name.
    pub client: Client,
    /// The bus.
    pub nats: NatsServer,
    network: Network,
    places: Vec<netns::Host>,
    clocks: Vec<Option<Clock>>,
    volumes: Vec<Volume>,
    generation: u64,
}

impl Fleet {
    /// Five hosts with rows of their own, whose agents serve.
    ///
    /// # Panics
    /// When anything does not come up.
    pub async fn start() -> Self {
        let network = Network::new().unwrap();
        let address = Some(network.attach_test().unwrap());
        let nats = NatsServer::start(&NatsOptions { address, ..NatsOptions::jetstream() }).unwrap();
        let places: Vec<netns::Host> = HOSTS.map(|name| network.host(name).unwrap()).into();
        let client = world::client(&nats.url()).await;
        let (hosts, volumes) = (Vec::new(), Vec::new());
        let mut fleet =
            Self { hosts, client, nats, network, places, clocks: Vec::new(), volumes, generation: 0 };
        for at in 0..HOSTS.len() {
            fleet.add(at).await;
        }
        fleet
    }

    async fn add(&mut self, at: usize) {
        let volume = Volume::make(Kind::Xfs, VOLUME_MIB);
        let lines =
            ["performance_schema=OFF", "innodb-buffer-pool-size=16M", "binlog_expire_logs_seconds=900"];
        let mut db = Mysqld::start(MysqldOptions {
            parent: Some(volume.path().to_owned()),
            lines: lines.map(str::to_owned).into(),
            ..MysqldOptions::default()
        })
        .await
        .unwrap();
        rows::fill(&db, if at == 0 { DATA_MIB } else { 1 }).await;
        db.exec("SET sql_log_bin=0; CREATE TABLE shop.generation (g BIGINT); INSERT INTO shop.generation VALUES (0)")
            .await
            .unwrap();
        db.hand_over();
        let mut agent = AgentOptions::new(HOSTS[at], &self.nats.url());
        agent.mysql(&db).snapshots("reflink", &volume.path().join("snapshots"));
        let place = &self.places[at];
        // All processes of a real host have the same mounts.
        agent.prefix(place.argv_prefix_of_network()).set("seed.listen", format!("{}:0", place.address()));
        // Long enough for an agent to be started again on a busy machine.
        agent.set("seed.stall_s", 40);
        // An abort that no donor hears, because its agent is just being started, leaves the offer to lapse.
        agent.set("seed.offer_s", 60);
        // What a start prunes is all but the newest journals.
        agent.set("agent.keep_jobs_days", 0);
        let clock = if at == TRUE_CLOCK { None } else { Clock::new() };
        if let Some(clock) = &clock {
            clock.show_to(&mut agent);
        }
        let mut agent = Agent::start(agent).unwrap();
        // The store of a snapshot is the host's own disk, which these runs fill.
        agent.expect_error("must not be read any further");
        self.hosts.push(Host { agent, db });
        self.clocks.push(clock);
        self.volumes.push(volume);
        world::serving(&self.client, &self.hosts[at].id()).await;
    }

    /// All hosts.
    #[must_use]
    pub fn all(&self) -> Vec<&Host> {
        self.hosts.iter().collect()
    }

    /// The result of a command.
    pub async fn call<C: Call>(&self, at: usize, params: C) -> C::Reply {
        world::call(&self.client, &self.hosts[at], params).await
    }

    /// Waits for the end of a job.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn ended(&self, at: usize, job: protocol::ids::JobId) -> JobView {
        let id = self.hosts[at].id();
        let ended = tokio::time::timeout(2 * PATIENCE, self.client.wait_job(&id, job, |_| {})).await;
        ended.unwrap_or_else(|_| panic!("job {job} of {id} does not end")).unwrap()
    }

    /// Waits for the good end of a job.
    ///
    /// # Panics
    /// When it ends otherwise.
    pub async fn succeeded(&self, at: usize, job: protocol::ids::JobId) -> JobView {
        let view = self.ended(at, job).await;
        let host = HOSTS[at];
        assert_eq!(
            view.state,
            JobState::Succeeded,
            "{host}: {}: {:?} in {:?}",
            view.kind,
            view.error,
            view.stage
        );
        view
    }

    /// Writes on a host what no other host has.
    ///
    /// # Panics
    /// When its server does not answer.
    pub async fn mark(&mut self, at: usize) {
        self.generation += 1;
        let statement = format!("SET sql_log_bin=0; UPDATE shop.generation SET g = {}", self.generation);
        self.hosts[at].db.exec(statement).await.unwrap();
    }

    /// The data of a host now.
    ///
    /// # Panics
    /// When its server does not answer.
    pub async fn data(&self, at: usize) -> Data {
        let db = &self.hosts[at].db;
        Data {
            rows: rows::checksums(db).await,
            generation: db.scalar("SELECT g FROM shop.generation").await.unwrap(),
            inode: tree::inode(db.datadir()),
            names: tree::lasting(db.datadir()),
        }
    }

    /// What all agents cost now.
    #[must_use]
    pub fn readings(&self) -> Vec<Reading> {
        self.hosts.iter().map(|host| Reading::of(&host.agent)).collect()
    }

    /// Does it to the machine, and lasts as long as it does; [`Fault::KillCtl`] and [`Fault::Abort`] are the seeds'.
    ///
    /// # Panics
    /// When the machine refuses.
    pub async fn strike(&mut self, fault: Fault) {
        match fault {
            Fault::KillAgent(at) => {
                let agent = &mut self.hosts[at].agent;
                agent.kill9().and_then(|()| agent.boot()).unwrap();
            }
            Fault::KillServer(at) => self.hosts[at].db.kill9().await.unwrap(),
            Fault::KillBus(away) => {
                self.nats.kill9();
                last(away).await;
                self.nats.restart().unwrap();
            }
            Fault::CutApart(one, other, away) => {
                self.network.cut_between(&self.places[one], &self.places[other]).unwrap();
                last(away).await;
                self.network.heal_between(&self.places[one], &self.places[other]).unwrap();
            }
            Fault::CutOff(at, away) => {
                self.places[at].cut().unwrap();
                last(away).await;
                self.places[at].heal().unwrap();
            }
            Fault::Slow(at, away) => {
                self.places[at].limit_rate(40_000_000).unwrap();
                last(away).await;
                self.places[at].lift_rate().unwrap();
            }
            Fault::Fill(at, away) => {
                let ballast = Ballast::fill(self.volumes[at].path());
                last(away).await;
                drop(ballast);
            }
            Fault::Jump(at, by, away) => {
                let Some(clock) = &self.clocks[at] else { return };
                clock.show(&format!("{by:+}"));
                last(away.max(TICK)).await;
                clock.show("+0");
            }
            Fault::KillCtl(_) | Fault::Abort(_) => {}
        }
    }
}

async fn last(outage: Duration) {
    // sleeps because the plan says how long the outage lasts
    tokio::time::sleep(outage).await;
}
