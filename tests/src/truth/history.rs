//! What happened on the servers before the seed and while it ran.

use protocol::mysql::ServerState;
use protocol::params::MysqlInfoParams;
use testkit::mysqld::mysql_async::prelude::Queryable as _;
use testkit::mysqld::{Mysqld, MysqldOptions};
use testkit::poll;

use super::stage::Stage;
use crate::replication::{Account, PASSWORD, caught_up};
use crate::rows;
use crate::world::PATIENCE;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each has its title below")]
pub enum History {
    UnderWrites,
    LogsRotated,
    DonorIsReplica,
    DonorIsDelayed,
    DonorHasChannels,
    DonorCrashed,
    DonorWasStopped,
    RecipientWasPrimary,
    RecipientWasReplica,
    SourceReset,
    LogsPurged,
    GtidsOff,
    EventsOn,
    XaPrepared,
    OpenTransaction,
    Ddl,
    EqualServerIds,
    NonTransactional,
    SourceFilters,
    MixedFormat,
    LongTransaction,
    LongStatement,
    Settings,
}

impl History {
    /// Every one.
    pub const ALL: [Self; 23] = [
        Self::UnderWrites,
        Self::LogsRotated,
        Self::DonorIsReplica,
        Self::DonorIsDelayed,
        Self::DonorHasChannels,
        Self::DonorCrashed,
        Self::DonorWasStopped,
        Self::RecipientWasPrimary,
        Self::RecipientWasReplica,
        Self::SourceReset,
        Self::LogsPurged,
        Self::GtidsOff,
        Self::EventsOn,
        Self::XaPrepared,
        Self::OpenTransaction,
        Self::Ddl,
        Self::EqualServerIds,
        Self::NonTransactional,
        Self::SourceFilters,
        Self::MixedFormat,
        Self::LongTransaction,
        Self::LongStatement,
        Self::Settings,
    ];

    /// In a cell's key.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::UnderWrites => "under-writes",
            Self::LogsRotated => "logs-rotated",
            Self::DonorIsReplica => "donor-is-replica",
            Self::DonorIsDelayed => "donor-is-delayed",
            Self::DonorHasChannels => "donor-has-channels",
            Self::DonorCrashed => "donor-crashed",
            Self::DonorWasStopped => "donor-was-stopped",
            Self::RecipientWasPrimary => "recipient-was-primary",
            Self::RecipientWasReplica => "recipient-was-replica",
            Self::SourceReset => "source-reset",
            Self::LogsPurged => "logs-purged",
            Self::GtidsOff => "gtids-off",
            Self::EventsOn => "events-on",
            Self::XaPrepared => "xa-prepared",
            Self::OpenTransaction => "open-transaction",
            Self::Ddl => "ddl",
            Self::EqualServerIds => "equal-server-ids",
            Self::NonTransactional => "non-transactional",
            Self::SourceFilters => "source-filters",
            Self::MixedFormat => "mixed-format",
            Self::LongTransaction => "long-transaction",
            Self::LongStatement => "long-statement",
            Self::Settings => "settings",
        }
    }

    /// For the page.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::UnderWrites => "the source is written to all the time",
            Self::LogsRotated => "the source changed its log file several times after the snapshot",
            Self::DonorIsReplica => "the donor is a replica; the new one follows its source",
            Self::DonorIsDelayed => "the donor is a replica that is delayed on purpose",
            Self::DonorHasChannels => "the donor has another channel, whose source is away",
            Self::DonorCrashed => "the donor's server was killed before the snapshot, and came back",
            Self::DonorWasStopped => "the donor's server was stopped cleanly for the snapshot",
            Self::RecipientWasPrimary => "the recipient was the primary, and wrote after the snapshot",
            Self::RecipientWasReplica => "the recipient was a replica of the same source before",
            Self::SourceReset => "the source forgot its history after the snapshot",
            Self::LogsPurged => "the source purged the logs that are needed",
            Self::GtidsOff => "GTIDs are off",
            Self::EventsOn => "events run on both hosts",
            Self::XaPrepared => "an XA transaction is prepared in the snapshot and committed later",
            Self::OpenTransaction => "a transaction is open in the snapshot and committed later",
            Self::Ddl => "tables are made, changed and dropped after the snapshot",
            Self::EqualServerIds => "donor and recipient have the same server_id",
            Self::NonTransactional => "a MyISAM table is written to",
            Self::SourceFilters => "the source leaves a schema out of its log",
            Self::MixedFormat => "the source logs statements where they are safe (MIXED)",
            Self::LongTransaction => "one transaction of 20,000 rows after the snapshot",
            Self::LongStatement => "a statement that reads for minutes runs on the donor during the snapshot",
            Self::Settings => "the donor has a time zone, a collation and a read-only state of its own",
        }
    }

    /// Whether a server can have it.
    #[must_use]
    pub fn is_possible(self, is_mysql: bool) -> bool {
        self != Self::GtidsOff || is_mysql
    }

    /// The plan's words where it must refuse.
    #[must_use]
    pub fn refused(self, is_mysql: bool) -> Option<&'static str> {
        match self {
            Self::RecipientWasPrimary => Some(if is_mysql { "itself wrote" } else { "server_id" }),
            Self::SourceReset => Some("was reset since"),
            Self::DonorCrashed | Self::DonorWasStopped => Some("no recorded position"),
            Self::LogsPurged => Some("take a newer snapshot"),
            Self::EqualServerIds => Some("server_id"),
            Self::SourceFilters => Some("binlog-ignore-db"),
            _ => None,
        }
    }

    /// Lines for both option files, and more for the donor's.
    pub(super) fn lines(self) -> (Vec<String>, Vec<String>) {
        let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
        match self {
            Self::GtidsOff => (lines(&["gtid-mode=OFF", "enforce-gtid-consistency=OFF"]), Vec::new()),
            Self::EventsOn => (lines(&["event-scheduler=ON"]), Vec::new()),
            Self::EqualServerIds => (lines(&["server-id=77"]), Vec::new()),
            Self::SourceFilters => (Vec::new(), lines(&["binlog-ignore-db=hidden"])),
            Self::MixedFormat => (Vec::new(), lines(&["binlog-format=MIXED"])),
            Self::Settings => (
                Vec::new(),
                lines(&[
                    "default-time-zone=+05:30",
                    "character-set-server=utf8mb4",
                    "collation-server=utf8mb4_bin",
                ]),
            ),
            _ => (Vec::new(), Vec::new()),
        }
    }

    /// Whether the source is a third server.
    fn has_primary(self) -> bool {
        matches!(self, Self::DonorIsReplica | Self::DonorIsDelayed)
    }

    /// Before the snapshot: who follows whom, and rows.
    pub(super) async fn begin(self, stage: &mut Stage) {
        if self.has_primary() {
            let vendor = stage.world.donor.db.vendor().clone();
            stage.primary =
                Some(Mysqld::start(MysqldOptions { vendor, ..MysqldOptions::default() }).await.unwrap());
        }
        let source =
            if self == Self::RecipientWasPrimary { &stage.world.recipient.db } else { stage.source() };
        Account::create(source).await;
        source.exec("GRANT REPLICATION CLIENT ON *.* TO repl@'127.0.0.1'").await.unwrap();
        stock(source).await;
        let donor = &stage.world.donor.db;
        match self {
            Self::DonorIsReplica | Self::DonorIsDelayed => {
                follow(donor, stage.source()).await;
                caught_up(donor, stage.source()).await;
            }
            Self::RecipientWasPrimary => {
                follow(donor, &stage.world.recipient.db).await;
                caught_up(donor, &stage.world.recipient.db).await;
            }
            Self::RecipientWasReplica => {
                // Its own schema is an errant one, which a former replica may have too.
                follow(&stage.world.recipient.db, donor).await;
            }
            _ => {}
        }
        self.prepare(stage).await;
    }

    async fn prepare(self, stage: &mut Stage) {
        let donor = &stage.world.donor.db;
        let is_mysql = donor.vendor().is_mysql();
        let statements: &[&str] = match self {
            Self::DonorIsDelayed if is_mysql => &[
                "STOP REPLICA SQL_THREAD",
                "CHANGE REPLICATION SOURCE TO SOURCE_DELAY = 3600",
                "START REPLICA SQL_THREAD",
            ],
            Self::DonorIsDelayed => &["STOP SLAVE", "CHANGE MASTER TO MASTER_DELAY = 3600", "START SLAVE"],
            Self::DonorHasChannels if is_mysql => &[
                "CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = 9, SOURCE_USER = 'x', SOURCE_PASSWORD = 'y' FOR CHANNEL 'b'",
                "START REPLICA FOR CHANNEL 'b'",
            ],
            Self::DonorHasChannels => &[
                "CHANGE MASTER 'b' TO MASTER_HOST = '127.0.0.1', MASTER_PORT = 9, MASTER_USER = 'x', MASTER_PASSWORD = 'y'",
                "START SLAVE 'b'",
            ],
            Self::EventsOn => &[
                "CREATE EVENT shop.tick ON SCHEDULE EVERY 1 SECOND DO INSERT INTO shop.ticks (note) VALUES (UUID())",
            ],
            Self::NonTransactional => &[
                "CREATE TABLE shop.old (id INT PRIMARY KEY AUTO_INCREMENT, note VARCHAR(64)) ENGINE=MyISAM",
                "INSERT INTO shop.old (note) SELECT note FROM shop.ticks",
            ],
            Self::SourceFilters => &["CREATE DATABASE hidden", "CREATE TABLE hidden.t (id INT PRIMARY KEY)"],
            Self::Settings => &[
                "CREATE TABLE shop.times (id INT PRIMARY KEY, at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, word VARCHAR(20))",
            ],
            _ => &[],
        };
        for statement in statements {
            donor.exec(statement).await.unwrap();
        }
        match self {
            Self::XaPrepared => {
                stage
                    .xa(
                        "XA START 'a'",
                        &["INSERT INTO shop.ticks (note) VALUES ('xa')", "XA END 'a'", "XA PREPARE 'a'"],
                    )
                    .await;
            }
            Self::OpenTransaction => stage.open("INSERT INTO shop.ticks (note) VALUES ('open')").await,
            Self::LongStatement => read_for_minutes(&stage.world.donor.db).await,
            Self::DonorCrashed => stage.world.donor.db.kill9().await.unwrap(),
            Self::DonorWasStopped => stage.world.donor.db.stop().await.unwrap(),
            _ => {}
        }
        if matches!(self, Self::DonorCrashed | Self::DonorWasStopped) {
            poll::until_async(PATIENCE, "the donor's server to be seen as stopped", || async {
                let info = stage.world.call(&stage.world.donor, MysqlInfoParams {}).await;
                (info.state == ServerState::Stopped).then_some(())
            })
            .await;
        }
    }

    /// After the snapshot.
    pub(super) async fn go_on(self, stage: &mut Stage) {
        match self {
            Self::DonorCrashed | Self::DonorWasStopped => {
                stage.world.donor.db.boot().await.unwrap();
                stage.world.donor.db.hand_over();
            }
            Self::RecipientWasPrimary => return fail_over(stage).await,
            _ => {}
        }
        let source = stage.source();
        let is_mysql = source.vendor().is_mysql();
        let statements: Vec<&str> = match self {
            Self::LogsRotated => vec!["FLUSH BINARY LOGS"; 3],
            Self::SourceReset if is_mysql => vec!["RESET BINARY LOGS AND GTIDS"],
            Self::SourceReset => vec!["RESET MASTER"],
            Self::Ddl => vec![
                "CREATE TABLE shop.made (id INT PRIMARY KEY, word VARCHAR(20))",
                "INSERT INTO shop.made VALUES (1, 'x')",
                "ALTER TABLE shop.made ADD COLUMN more INT DEFAULT 7, ADD KEY (word)",
                "RENAME TABLE shop.ticks TO shop.tocks",
                "CREATE TABLE shop.gone (id INT)",
                "DROP TABLE shop.gone",
                "TRUNCATE TABLE shop.items",
            ],
            Self::NonTransactional => vec!["INSERT INTO shop.old (note) SELECT note FROM shop.items"],
            Self::SourceFilters => vec!["INSERT INTO hidden.t VALUES (1)"],
            Self::MixedFormat => vec![
                "UPDATE shop.items SET note = CONCAT(note, '!')",
                "DELETE FROM shop.items WHERE id % 7 = 0 ORDER BY id LIMIT 10",
                "INSERT INTO shop.ticks (note) SELECT note FROM shop.items ORDER BY id",
            ],
            Self::Settings => vec!["INSERT INTO shop.times (id, word) VALUES (1, 'a'), (2, 'A')"],
            _ => Vec::new(),
        };
        for statement in statements {
            source.exec(statement).await.unwrap();
        }
        match self {
            Self::LogsPurged => purge(source).await,
            Self::LongTransaction => items(source, 20_000).await,
            _ => {}
        }
    }

    /// While the new replica follows: what was open ends, and what writes by itself stops.
    pub(super) async fn end(self, stage: &mut Stage) {
        match self {
            Self::XaPrepared => stage.finish("XA COMMIT 'a'").await,
            Self::OpenTransaction => stage.finish("COMMIT").await,
            Self::EventsOn => stage.source().exec("ALTER EVENT shop.tick DISABLE").await.unwrap(),
            _ => {}
        }
    }
}

/// Begins a statement that ends with its server.
async fn read_for_minutes(donor: &Mysqld) {
    let mut session = donor.connect().await.unwrap();
    tokio::spawn(async move { drop(session.query_drop("SELECT SLEEP(600) FROM shop.ticks").await) });
    let running = "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP%' AND command <> 'Sleep'";
    poll::until_async(PATIENCE, "the statement to run", || async {
        (donor.scalar(running).await.unwrap() == "1").then_some(())
    })
    .await;
}

/// Tables of the shop, all of which the log has.
async fn stock(source: &Mysqld) {
    for statement in [
        "CREATE DATABASE shop",
        "CREATE TABLE shop.writes (id INT PRIMARY KEY AUTO_INCREMENT, note VARCHAR(64) NOT NULL)",
        "CREATE TABLE shop.ticks (id INT PRIMARY KEY AUTO_INCREMENT, note VARCHAR(64) NOT NULL)",
        "CREATE TABLE shop.items (id INT PRIMARY KEY AUTO_INCREMENT, note VARCHAR(64) NOT NULL)",
        "INSERT INTO shop.ticks (note) VALUES ('first')",
    ] {
        source.exec(statement).await.unwrap();
    }
    items(source, 500).await;
}

/// So many items by one statement.
async fn items(source: &Mysqld, count: u32) {
    let insert = if source.vendor().is_mysql() {
        format!(
            "INSERT INTO items (note) SELECT LEFT(SHA2(CONCAT(a.column_name, b.ordinal_position), 256), 32) \
             FROM information_schema.columns a JOIN information_schema.columns b LIMIT {count}"
        )
    } else {
        format!("INSERT INTO items (note) SELECT MD5(seq) FROM seq_1_to_{count}")
    };
    // A connection with a schema of its own: MySQL wants one for what it materialises.
    let mut session = source.connect().await.unwrap();
    for statement in ["USE shop", &insert] {
        session.query_drop(statement).await.unwrap();
    }
    session.disconnect().await.unwrap();
}

async fn follow(replica: &Mysqld, source: &Mysqld) {
    let (port, password) = (source.port(), PASSWORD.replace('\\', "\\\\").replace('\'', "\\'"));
    let statements = if replica.vendor().is_mysql() {
        [
            format!(
                "CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = {port}, SOURCE_USER = 'repl', \
                 SOURCE_PASSWORD = '{password}', SOURCE_AUTO_POSITION = 1, SOURCE_SSL = 0, GET_SOURCE_PUBLIC_KEY = 1"
            ),
            "START REPLICA".to_owned(),
        ]
    } else {
        [
            format!(
                "CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {port}, MASTER_USER = 'repl', \
                 MASTER_PASSWORD = '{password}', MASTER_USE_GTID = slave_pos, MASTER_SSL = 0"
            ),
            "START SLAVE".to_owned(),
        ]
    };
    for statement in statements {
        replica.exec(statement).await.unwrap();
    }
    poll::until_async(PATIENCE, "a replica to follow", || async {
        replica.query("SELECT 1 FROM shop.writes").await.ok()
    })
    .await;
}

/// Every log but the newest goes.
async fn purge(source: &Mysqld) {
    for _ in 0..2 {
        source.exec("FLUSH BINARY LOGS").await.unwrap();
    }
    let logs = source.query("SHOW BINARY LOGS").await.unwrap();
    let newest = &logs.last().unwrap()[0];
    source.exec(format!("PURGE BINARY LOGS TO '{newest}'")).await.unwrap();
}

/// The primary writes what its replica still gets, dies, and the replica goes on alone.
async fn fail_over(stage: &mut Stage) {
    let (donor, recipient) = (&stage.world.donor.db, &mut stage.world.recipient.db);
    for n in 0..100 {
        recipient.exec(format!("INSERT INTO shop.writes (note) VALUES ('late {n}')")).await.unwrap();
    }
    caught_up(donor, recipient).await;
    recipient.kill9().await.unwrap();
    let statements: &[&str] = match donor.vendor().is_mysql() {
        true => &["STOP REPLICA", "RESET REPLICA ALL"],
        false => &["STOP SLAVE", "RESET SLAVE ALL"],
    };
    for statement in statements {
        donor.exec(statement).await.unwrap();
    }
    for n in 0..10 {
        donor.exec(format!("INSERT INTO shop.writes (note) VALUES ('after {n}')")).await.unwrap();
    }
    assert!(rows::last_write(donor).await > 0);
}
