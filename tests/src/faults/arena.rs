//! A world whose jobs stand still where the test wants it, and the one check after each fault.

use std::collections::BTreeMap;
use std::path::PathBuf;

use protocol::ids::JobId;
use protocol::job::JobView;
use protocol::params::MysqlStartParams;
use protocol::seed::SeedOptions;

use super::host;
use super::ledger::Ledger;
use super::points::Points;
use super::table::Outcome;
use crate::rows;
use crate::tree;
use crate::volume::Volume;
use crate::world::{Configure, PATIENCE, Provider, World, WorldOptions, swiftly};

/// What a test wants of it.
#[derive(Default)]
pub struct ArenaOptions {
    /// Snapshots of the donor.
    pub provider: Provider,
    /// MiB of BLOBs on the donor.
    pub data_mib: u32,
    /// Where the recipient lies; absent: in the temporary directory.
    pub recipient_volume: Option<Volume>,
    /// Called for `db1` and `db2`.
    pub configure: Option<Configure>,
    /// Where agents reach the bus, when not on the loopback.
    pub bus_address: Option<std::net::Ipv4Addr>,
}

impl std::fmt::Debug for ArenaOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArenaOptions").field("provider", &self.provider).finish_non_exhaustive()
    }
}

/// The recipient as it was when a cell began.
#[derive(Debug)]
pub struct Before {
    inode: u64,
    names: BTreeMap<PathBuf, u64>,
    mark: u32,
    /// Its server.
    pub pid: Option<i32>,
}

/// The world, its places, and what it must look like.
#[derive(Debug)]
pub struct Arena {
    /// Dropped before the places that its jobs stand at.
    pub world: World,
    /// Where jobs can be stopped.
    pub points: Points,
    ledger: Ledger,
    donor_rows: Vec<Vec<String>>,
    mark: u32,
}

impl Arena {
    /// Two hosts, a snapshot on the donor, and every place open.
    pub async fn start(options: ArenaOptions) -> Self {
        let points = Points::new();
        let (faults, configure) = (points.faults(), options.configure);
        let configure: Configure = Box::new(move |id, agent| {
            agent.env("OA_FAULT", &faults);
            // Long enough for an agent to be started again on a busy machine.
            agent.set("seed.stall_s", 40);
            if let Some(configure) = &configure {
                configure(id, agent);
            }
        });
        let world = World::start(WorldOptions {
            provider: options.provider,
            data_mib: options.data_mib,
            recipient_volume: options.recipient_volume,
            configure: Some(configure),
            bus_address: options.bus_address,
            ..WorldOptions::default()
        })
        .await;
        world.snapshot().await;
        let donor_rows = rows::checksums(&world.donor.db).await;
        Self { world, points, ledger: Ledger::default(), donor_rows, mark: 0 }
    }

    /// Marks the recipient's data as the old ones of this cell.
    ///
    /// # Panics
    /// When its server does not answer.
    pub async fn before(&mut self) -> Before {
        self.mark += 1;
        let db = &self.world.recipient.db;
        let statement = format!(
            "SET sql_log_bin=0; CREATE DATABASE IF NOT EXISTS own; CREATE OR REPLACE TABLE own.marker (id INT PRIMARY KEY); \
             INSERT INTO own.marker VALUES ({})",
            self.mark
        );
        db.exec(statement).await.unwrap();
        Before {
            inode: tree::inode(db.datadir()),
            names: tree::lasting(db.datadir()),
            mark: self.mark,
            pid: db.pid(),
        }
    }

    /// What [`Self::has_new_data`] compares with where there are no old data and no server.
    #[must_use]
    pub fn before_without_data(&self) -> Before {
        let datadir = self.world.recipient.db.datadir();
        Before { inode: tree::inode(datadir), names: BTreeMap::new(), mark: 0, pid: None }
    }

    /// Begins a seed from the newest snapshot, with leave to stop MySQL.
    pub async fn seed(&self) -> JobId {
        self.seed_with(swiftly()).await
    }

    /// The check: the job's end, what is on the bus, what is left, and whose data the recipient has.
    pub async fn judge(&mut self, before: &Before, job: JobId, outcome: Outcome, cause: &str) -> JobView {
        let view = self.world.ended(&self.world.recipient, job).await;
        assert!(
            outcome.states().contains(&view.state),
            "{:?}: {:?} in {:?}",
            view.state,
            view.error,
            view.stage
        );
        let told = self.ledger.end_of(&self.world.client, job).await;
        assert_eq!((told.state, &told.error), (view.state, &view.error), "the bus tells another end");
        let said = told.error.map(|error| error.to_string() + &error.causes.join(": ")).unwrap_or_default();
        assert!(said.contains(cause), "the cause {cause:?} is not in: {said}");
        self.nothing_left().await;
        match outcome {
            Outcome::Seeded => self.has_new_data(before).await,
            Outcome::SeededDown => {
                if self.world.recipient.db.pid().is_none() {
                    self.world.recipient.db.boot().await.unwrap();
                    self.world.recipient.db.hand_over();
                }
                self.has_new_data(before).await;
            }
            Outcome::Undone | Outcome::Aborted | Outcome::Refused => self.is_as_it_was(before).await,
            Outcome::NewDataKept => {
                assert_eq!(self.world.recipient.db.pid(), None, "MySQL is left to a person");
                let job = self.world.call(&self.world.recipient, MysqlStartParams {}).await.job;
                self.world.succeeded(&self.world.recipient, job).await;
                self.has_new_data(before).await;
            }
            Outcome::NoData => {
                assert_eq!(self.world.recipient.db.pid(), None, "there is nothing to run on");
                let left = tree::lasting(self.world.recipient.db.datadir());
                assert!(left.keys().all(|path| path.as_os_str().is_empty()), "not empty: {left:?}");
            }
        }
        view
    }

    /// A fresh seed succeeds.
    pub async fn again(&mut self) {
        self.points.open_all();
        let before = match self.world.recipient.db.pid() {
            Some(_) => self.before().await,
            None => self.before_without_data(),
        };
        let job = self.seed().await;
        self.world.succeeded(&self.world.recipient, job).await;
        self.has_new_data(&before).await;
        self.nothing_left().await;
    }

    /// Waits until neither host holds anything of a seed.
    ///
    /// # Panics
    /// With what is left.
    pub async fn nothing_left(&self) {
        self.world.nothing_left(PATIENCE).await;
        host::let_go(&[&self.world.donor, &self.world.recipient]).await;
    }

    /// The recipient has the donor's data, all of them and nothing else, and its server runs on them.
    ///
    /// # Panics
    /// With what differs.
    pub async fn has_new_data(&self, before: &Before) {
        let db = &self.world.recipient.db;
        assert_eq!(rows::checksums(db).await, self.donor_rows, "other rows than the donor's");
        assert!(!db.datadir().join("own").exists(), "the old data are mixed with the new ones");
        assert_ne!(tree::inode(db.datadir()), before.inode, "the datadir was not swapped");
        let donors = tree::lasting(self.world.donor.db.datadir());
        let (names, donors): (Vec<_>, Vec<_>) =
            (tree::lasting(db.datadir()).into_keys().collect(), donors.into_keys().collect());
        assert_eq!(names, donors, "other files than the donor's");
    }

    /// The recipient has its own data, every file of them, and its server runs on them.
    ///
    /// # Panics
    /// With what differs.
    pub async fn is_as_it_was(&self, before: &Before) {
        let db = &self.world.recipient.db;
        assert_eq!(tree::inode(db.datadir()), before.inode, "another datadir");
        assert_eq!(tree::lasting(db.datadir()), before.names, "other files");
        let mark = db.scalar("SELECT id FROM own.marker").await;
        assert_eq!(mark.expect("the old server answers"), before.mark.to_string());
    }

    /// The recipient's server ran on all the time.
    ///
    /// # Panics
    /// When it is another one.
    pub fn server_ran_on(&self, before: &Before) {
        assert_eq!(self.world.recipient.db.pid(), before.pid, "MySQL was stopped");
    }

    /// As [`Self::seed`] with other options.
    pub async fn seed_with(&self, options: SeedOptions) -> JobId {
        // The arena has just written to the recipient, to know its data again.
        self.world.seed(SeedOptions { allow_primary: true, ..options }).await
    }
}
