//! Two hosts, each an agent beside its MariaDB, and the bus between them.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use bus::Client;
use protocol::command::Call;
use protocol::error::WireError;
use protocol::ids::{AgentId, JobId, SnapshotId};
use protocol::job::{JobState, JobView};
use protocol::params::*;
use protocol::seed::{Compression, Offer, SeedOptions, Transport};
use testkit::agent::{Agent, AgentOptions};
use testkit::mysqld::{Mysqld, Shape, Vendor};
use testkit::nats::{NatsOptions, NatsServer};
use testkit::poll;

use crate::rows;
use crate::volume::Volume;

mod ask;
mod crash;
mod ctl;
mod ground;
mod left;

pub use ask::{call, client, serving, try_call};
pub use crash::{Party, assert_resumed, transferred};
pub use ctl::{Said, ctl_at, ctl_command};
use ground::{Site, bus, ground, mark, server};
pub use left::nothing_left;

/// Whatever is awaited comes in seconds; a noisy machine gets much more.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// An agent and its server.
#[derive(Debug)]
pub struct Host {
    /// Dropped first: it must not look after a server that is being removed.
    pub agent: Agent,
    /// Its server; the agent starts and stops it.
    pub db: Mysqld,
}

impl Host {
    /// Its id on the bus.
    #[must_use]
    pub fn id(&self) -> AgentId {
        self.agent.id().clone()
    }
}

/// Which provider makes the donor's snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Provider {
    /// Reflinked trees on XFS.
    #[default]
    Reflink,
    /// Subvolumes; the datadirs of both hosts are subvolumes too.
    Btrfs,
    /// Plain copies.
    Directory,
    /// LVM snapshots of the volume that the test has mounted here.
    Lvm(&'static str),
}

/// What changes an agent's configuration before its first start.
pub type Configure = Box<dyn Fn(&str, &mut AgentOptions)>;

/// Where a world's bus is.
#[derive(Debug, Clone)]
pub enum BusPlace {
    /// A server of its own.
    Server(NatsOptions),
    /// Servers of the test's, by their addresses; [`World::nats`] stays down.
    At(Vec<String>),
}

/// What kind of world a test wants.
#[derive(Default)]
pub struct WorldOptions {
    /// Snapshots of the donor.
    pub provider: Provider,
    /// Whose servers.
    pub vendor: Vendor,
    /// Lines for the option files of both servers.
    pub server_lines: Vec<String>,
    /// Further lines for the donor's.
    pub donor_lines: Vec<String>,
    /// Where the donor keeps what.
    pub donor_shape: Shape,
    /// Where the recipient keeps what.
    pub recipient_shape: Shape,
    /// The donor begins without the shop.
    pub is_empty: bool,
    /// MiB of BLOBs on the donor.
    pub data_mib: u32,
    /// Size of the volume that the donor lies on, MiB, where the provider wants one; 0: 1 GiB.
    pub donor_volume_mib: u64,
    /// Where the recipient lies; absent: in the temporary directory.
    pub recipient_volume: Option<Volume>,
    /// Its mount point is the recipient's datadir.
    pub recipient_on_mount_point: bool,
    /// Called for `db1` and `db2`.
    pub configure: Option<Configure>,
    /// Where agents reach the bus, when not on the loopback.
    pub bus_address: Option<Ipv4Addr>,
    /// The bus; absent: one server with JetStream.
    pub bus: Option<Box<BusPlace>>,
    /// How long a job and ctl may take on a slow machine; absent: [`PATIENCE`].
    pub patience: Option<Duration>,
}

impl std::fmt::Debug for WorldOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorldOptions").field("provider", &self.provider).finish_non_exhaustive()
    }
}

/// The world: `db1` gives, `db2` takes.
#[derive(Debug)]
pub struct World {
    /// `db1`, with the shop's rows.
    pub donor: Host,
    /// `db2`, running, with one row of its own in `own.marker`.
    pub recipient: Host,
    /// Asks in the tester's name.
    pub client: Client,
    /// The bus.
    pub nats: NatsServer,
    patience: Duration,
    _volumes: Vec<Volume>,
}

impl World {
    /// Two hosts whose servers answer and whose agents serve.
    ///
    /// # Panics
    /// When anything does not come up.
    pub async fn start(options: WorldOptions) -> Self {
        let (nats, servers) = bus(&options);
        let mut volumes = Vec::new();
        let (parent, provider) = ground(&options, &mut volumes);
        let volume = options.recipient_volume.as_ref().map(|volume| volume.path().to_owned());
        let (recipient_datadir, recipient_parent) =
            if options.recipient_on_mount_point { (volume, None) } else { (None, volume) };
        volumes.extend(options.recipient_volume);
        let patience = options.patience.unwrap_or(PATIENCE);
        let is_btrfs = provider == "btrfs";
        let donor_lines = [options.server_lines.clone(), options.donor_lines.clone()].concat();
        let recipient_parent = recipient_parent.or_else(|| parent.clone().filter(|_| is_btrfs));
        let (donor_db, recipient_db) = tokio::join!(
            server(
                &options.vendor,
                Site {
                    lines: donor_lines,
                    shape: options.donor_shape,
                    parent: parent.clone(),
                    subvolume: is_btrfs,
                    ..Site::default()
                }
            ),
            server(
                &options.vendor,
                Site {
                    lines: options.server_lines.clone(),
                    shape: options.recipient_shape,
                    parent: recipient_parent,
                    datadir: recipient_datadir,
                    subvolume: is_btrfs,
                }
            ),
        );
        if !options.is_empty {
            rows::fill(&donor_db, options.data_mib).await;
        }
        mark(&recipient_db).await;
        let snapshots = parent.unwrap_or_else(|| donor_db.base().to_owned()).join("snapshots");
        let host = |id: &str, mut db: Mysqld, root: &Path| {
            db.hand_over();
            let mut agent = AgentOptions::new(id, &nats.url());
            agent.set("bus.servers", servers.clone()).mysql(&db);
            match provider {
                // The recipient's volume is not one.
                "lvm" if id == "db1" => _ = agent.set("snapshot.provider.provider", provider),
                "lvm" => {}
                _ => _ = agent.snapshots(provider, root),
            }
            if let Some(configure) = &options.configure {
                configure(id, &mut agent);
            }
            Host { agent: Agent::start(agent).unwrap(), db }
        };
        let recipient_root = recipient_db.base().join("snapshots");
        let donor = host("db1", donor_db, &snapshots);
        let recipient = host("db2", recipient_db, &recipient_root);
        let client = client(&servers.join(",")).await;
        let world = Self { donor, recipient, client, nats, patience, _volumes: volumes };
        world.serving(&world.donor.id()).await;
        world.serving(&world.recipient.id()).await;
        world
    }

    /// One more recipient on the same bus, with its own row too.
    ///
    /// # Panics
    /// When anything does not come up.
    pub async fn another(&self, id: &str, configure: impl FnOnce(&mut AgentOptions)) -> Host {
        let mut db = server(self.donor.db.vendor(), Site::default()).await;
        mark(&db).await;
        db.hand_over();
        let mut agent = AgentOptions::new(id, &self.nats.url());
        agent.mysql(&db);
        configure(&mut agent);
        let host = Host { agent: Agent::start(agent).unwrap(), db };
        self.serving(&host.id()).await;
        host
    }

    /// Waits until an agent answers.
    pub async fn serving(&self, host: &AgentId) {
        serving(&self.client, host).await;
    }

    /// The result of a command.
    ///
    /// # Panics
    /// When it is refused or fails.
    pub async fn call<C: Call>(&self, host: &Host, params: C) -> C::Reply {
        self.try_call(host, params).await.unwrap_or_else(|error| panic!("{}: {error}", C::SPEC.name))
    }

    /// The error of a command that must not succeed.
    ///
    /// # Panics
    /// When it succeeds.
    pub async fn refused<C: Call>(&self, host: &Host, params: C) -> WireError {
        match self.try_call(host, params).await {
            Ok(_) => panic!("{} was not refused", C::SPEC.name),
            Err(error) => error,
        }
    }

    /// The result of a command, or the agent's error.
    ///
    /// # Errors
    /// What the agent answered.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn try_call<C: Call>(&self, host: &Host, params: C) -> Result<C::Reply, WireError> {
        try_call(&self.client, host, params).await
    }

    /// Waits for the end of a job.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn ended(&self, host: &Host, job: JobId) -> JobView {
        let id = host.id();
        let ended = tokio::time::timeout(self.patience, self.client.wait_job(&id, job, |_| {}));
        ended.await.expect("the job does not end").unwrap()
    }

    /// Waits for the good end of a job.
    ///
    /// # Panics
    /// When it ends otherwise.
    pub async fn succeeded(&self, host: &Host, job: JobId) -> JobView {
        let view = self.ended(host, job).await;
        assert_eq!(view.state, JobState::Succeeded, "{:?} in {:?}", view.error, view.stage);
        view
    }

    /// A new snapshot of the donor.
    ///
    /// # Panics
    /// When there is none.
    pub async fn snapshot(&self) -> SnapshotId {
        let job = self.call(&self.donor, SnapshotCreateParams { keep_s: None, size_bytes: None }).await.job;
        self.succeeded(&self.donor, job).await;
        self.call(&self.donor, SnapshotListParams { usable: true }).await[0].id.clone()
    }

    /// An offer of the newest snapshot to the recipient.
    pub async fn offer(&self, plain: bool) -> Offer {
        let (recipient, transport) = (self.recipient.id(), Transport::Tcp);
        let seal_to = self.seal_key().await;
        let params = SeedOfferParams {
            recipient,
            snapshot: None,
            foreign: false,
            stream: None,
            plain,
            transport,
            seal_to,
        };
        self.call(&self.donor, params).await
    }

    /// What the recipient's secrets are sealed to.
    pub async fn seal_key(&self) -> Option<String> {
        self.call(&self.recipient, AgentInfoParams {}).await.seal_key
    }

    /// Begins a seed from the newest snapshot.
    pub async fn seed(&self, options: SeedOptions) -> JobId {
        self.seed_by(None, Transport::Tcp, options).await
    }

    /// Begins a seed from the newest snapshot through the object store.
    pub async fn seed_through_store(&self, options: SeedOptions) -> JobId {
        self.seed_by(None, Transport::Store, options).await
    }

    /// Begins a seed from a stream of the donor's.
    pub async fn seed_from_stream(&self, stream: &str, options: SeedOptions) -> JobId {
        self.seed_by(Some(stream.to_owned()), Transport::Tcp, options).await
    }

    async fn seed_by(&self, stream: Option<String>, transport: Transport, options: SeedOptions) -> JobId {
        let recipient = self.recipient.id();
        let seal_to = self.seal_key().await;
        let params = SeedOfferParams {
            recipient,
            snapshot: None,
            foreign: false,
            stream,
            plain: false,
            transport,
            seal_to,
        };
        let offer = self.call(&self.donor, params).await;
        self.call(&self.recipient, SeedStartParams { offer, options, plan_digest: None }).await.job
    }

    /// Waits until so many bytes of a seed have arrived, and more are to come; all bytes that travel in the end.
    ///
    /// # Panics
    /// When the transfer ended before.
    pub async fn in_transfer(&self, job: JobId, bytes: u64) -> u64 {
        poll::until_async(self.patience, format!("{bytes} bytes of the transfer"), || async {
            let view = self.call(&self.recipient, JobsShowParams { job }).await;
            assert!(!view.state.is_final(), "the seed has ended: {:?} {:?}", view.state, view.error);
            let progress = view.progress?;
            assert!(
                progress.bytes_total == 0 || progress.bytes_done < progress.bytes_total,
                "the transfer is over"
            );
            (progress.bytes_done >= bytes).then_some(progress.bytes_total)
        })
        .await
    }

    /// Lifts the limit of a seed that runs, also of one that is about to go on.
    pub async fn hurry(&self, job: JobId) {
        poll::until_async(self.patience, "the seed to take its new limit", || async {
            let faster = self.try_call(&self.recipient, SeedThrottleParams { job, bytes_per_s: 0 }).await;
            let view = self.call(&self.recipient, JobsShowParams { job }).await;
            (faster.is_ok() || view.state.is_final()).then_some(())
        })
        .await;
    }

    /// Waits until nothing of any seed is left: no unfinished job, hold, mount, staging or secret.
    pub async fn nothing_left(&self, within: Duration) {
        nothing_left(&self.client, &[&self.donor, &self.recipient], within).await;
    }

    /// Fails unless the recipient's own server runs with its own row.
    pub async fn recipient_is_as_it_was(&self) {
        assert_eq!(self.recipient.db.scalar("SELECT id FROM own.marker").await.unwrap(), "4711");
    }
}

/// Leave to stop MySQL, no compression, and a speed at which a transfer can be met half-way.
#[must_use]
pub fn slowly(bytes_per_s: u64) -> SeedOptions {
    SeedOptions {
        stop_mysql: true,
        compression: Compression::None,
        throttle_bytes_per_s: bytes_per_s,
        ..SeedOptions::default()
    }
}

/// Leave to stop MySQL.
#[must_use]
pub fn swiftly() -> SeedOptions {
    slowly(0)
}
