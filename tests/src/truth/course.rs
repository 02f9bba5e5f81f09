//! How each history comes about: what is done before the snapshot, after it, and once the new replica follows.

use protocol::mysql::ServerState;
use protocol::params::MysqlInfoParams;
use testkit::mysqld::mysql_async::prelude::Queryable as _;
use testkit::mysqld::{Mysqld, MysqldOptions};
use testkit::poll;

use super::history::History;
use super::stage::Stage;
use crate::replication::{Account, PASSWORD, caught_up};
use crate::rows;
use crate::world::PATIENCE;

impl History {
    /// Before the snapshot: who follows whom, and rows.
    pub(super) async fn begin(self, stage: &mut Stage) {
        if self.has_primary() || self == Self::DonorWasPromoted {
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
            _ if stage.primary.is_some() => {
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
        if self == Self::DonorWasPromoted {
            promote(stage).await;
        }
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
            Self::LogsWrapped if is_mysql => &["RESET BINARY LOGS AND GTIDS TO 999998", "FLUSH BINARY LOGS"],
            Self::LogsWrapped => &["RESET MASTER TO 999998", "FLUSH BINARY LOGS"],
            Self::MemoryTable => &[
                "CREATE TABLE shop.volatile (id INT PRIMARY KEY) ENGINE=MEMORY",
                "INSERT INTO shop.volatile VALUES (1), (2)",
            ],
            Self::DiscardedTable => &[
                "CREATE DATABASE spare",
                "CREATE TABLE spare.gone (id INT PRIMARY KEY)",
                "ALTER TABLE spare.gone DISCARD TABLESPACE",
            ],
            Self::OddNames => ODD,
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
            Self::TemporaryTable => {
                let (make, fill) = (
                    "CREATE TEMPORARY TABLE shop.kept (note VARCHAR(64))",
                    "INSERT INTO shop.kept VALUES ('kept')",
                );
                stage.xa(make, &[fill]).await;
            }
            Self::ReplicasTemporaryTable => {
                let statements = [
                    "SET SESSION binlog_format = STATEMENT",
                    "CREATE TEMPORARY TABLE shop.kept (note VARCHAR(64))",
                ];
                stage.xa(statements[0], &statements[1..]).await;
                caught_up(&stage.world.donor.db, stage.source()).await;
            }
            Self::SeveralDomains => in_other_domain(stage.source()).await,
            Self::DonorIsMember => begin_group(&stage.world.donor.db).await,
            Self::EqualUuids => clone_uuid(stage).await,
            Self::Persisted => {
                let recipient = &stage.world.recipient.db;
                recipient.exec("SET PERSIST replica_exec_mode = 'IDEMPOTENT'").await.unwrap();
            }
            Self::DonorCrashed => stage.world.donor.db.kill9().await.unwrap(),
            Self::DonorWasStopped => {
                // A log that begins behind transactions of every kind.
                in_other_domain(&stage.world.donor.db).await;
                stage.world.donor.db.exec("FLUSH BINARY LOGS").await.unwrap();
                stage.world.donor.db.exec("INSERT INTO shop.items (note) VALUES ('last')").await.unwrap();
                stage.world.donor.db.stop().await.unwrap();
            }
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
            Self::SourceCrashed => {
                stage.world.donor.db.kill9().await.unwrap();
                stage.world.donor.db.boot().await.unwrap();
                stage.world.donor.db.hand_over();
            }
            Self::TemporaryTable => {
                stage.finish("DELETE FROM shop.ticks WHERE note IN (SELECT note FROM shop.kept)").await;
            }
            _ => {}
        }
        let source = stage.source();
        let is_mysql = source.vendor().is_mysql();
        let statements: Vec<&str> = match self {
            Self::LogsRotated | Self::LogsWrapped => vec!["FLUSH BINARY LOGS"; 3],
            Self::OddNames => ODD_LATER.to_vec(),
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
            Self::SeveralDomains => in_other_domain(source).await,
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
    in_one_session(source, &["USE shop", &insert]).await;
}

async fn in_one_session(server: &Mysqld, statements: &[&str]) {
    let mut session = server.connect().await.unwrap();
    for statement in statements {
        session.query_drop(*statement).await.unwrap();
    }
    session.disconnect().await.unwrap();
}

/// A transaction under a GTID that is not of the server's usual ones.
async fn in_other_domain(source: &Mysqld) {
    let other = match source.vendor().is_mysql() {
        true => "SET SESSION gtid_next = 'AUTOMATIC:load'",
        false => "SET SESSION gtid_domain_id = 7",
    };
    in_one_session(source, &[other, "INSERT INTO shop.items (note) VALUES ('of another domain')"]).await;
}

/// The donor's source dies, and the donor is written to from now on.
async fn promote(stage: &mut Stage) {
    stage.primary.take().unwrap().kill9().await.unwrap();
    let donor = &stage.world.donor.db;
    let statements = match donor.vendor().is_mysql() {
        true => ["STOP REPLICA", "RESET REPLICA ALL"],
        false => ["STOP SLAVE", "RESET SLAVE ALL"],
    };
    for statement in statements {
        donor.exec(statement).await.unwrap();
    }
    if !donor.vendor().is_mysql() {
        donor.exec("GRANT REPLICA MONITOR ON *.* TO repl@'127.0.0.1'").await.unwrap();
    }
    donor.exec("INSERT INTO shop.writes (note) VALUES ('the first of its own')").await.unwrap();
}

/// The donor becomes the only member of a group.
async fn begin_group(donor: &Mysqld) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for statement in [
        format!("SET GLOBAL group_replication_local_address = '127.0.0.1:{port}'").as_str(),
        "SET GLOBAL group_replication_bootstrap_group = ON",
        "START GROUP_REPLICATION",
    ] {
        donor.exec(statement).await.unwrap();
    }
    poll::until_async(PATIENCE, "the donor to be a group's primary", || async {
        let writes = donor.scalar("SELECT @@GLOBAL.super_read_only").await.unwrap();
        (writes == "0").then_some(())
    })
    .await;
}

/// The recipient gets the donor's identity, as a host that was cloned has it.
async fn clone_uuid(stage: &mut Stage) {
    let name = "auto.cnf";
    let theirs = std::fs::read(stage.world.donor.db.datadir().join(name)).unwrap();
    let recipient = &mut stage.world.recipient.db;
    recipient.stop().await.unwrap();
    // Written over, not made anew: it stays its server's.
    std::fs::write(recipient.datadir().join(name), theirs).unwrap();
    recipient.boot().await.unwrap();
    recipient.hand_over();
}

const ODD: &[&str] = &[
    "CREATE TABLE shop.`naïve #1 / é` (id INT PRIMARY KEY, word VARCHAR(20), FULLTEXT (word))",
    "CREATE TABLE shop.parts (id INT, y INT, PRIMARY KEY (id, y)) PARTITION BY RANGE (y) \
     (PARTITION `a b` VALUES LESS THAN (10), PARTITION c VALUES LESS THAN MAXVALUE)",
    "INSERT INTO shop.parts VALUES (1, 1), (2, 20)",
    "CREATE TABLE shop.child (id INT PRIMARY KEY, item INT, twice INT AS (id * 2) STORED, \
     FOREIGN KEY (item) REFERENCES shop.items (id))",
    "CREATE TABLE shop.nothing (id INT)",
    "CREATE VIEW shop.seen AS SELECT id FROM shop.nothing",
    "DROP TABLE shop.nothing",
    "CREATE TRIGGER shop.told AFTER INSERT ON shop.child FOR EACH ROW INSERT INTO shop.ticks (note) VALUES ('told')",
    "CREATE DATABASE `shop-2 ü`",
    "CREATE TABLE `shop-2 ü`.`t.ibd` (id INT PRIMARY KEY)",
];

const ODD_LATER: [&str; 5] = [
    "INSERT INTO shop.`naïve #1 / é` VALUES (1, 'word')",
    "ALTER TABLE shop.parts TRUNCATE PARTITION `a b`",
    "INSERT INTO shop.child (id, item) SELECT 1, MIN(id) FROM shop.items",
    "INSERT INTO `shop-2 ü`.`t.ibd` VALUES (1)",
    "DROP VIEW shop.seen",
];

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
