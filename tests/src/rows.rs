//! Rows to seed: a fixed set with BLOBs, and a writer that goes on while the seed runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use testkit::mysqld::Mysqld;
use testkit::mysqld::mysql_async::prelude::Queryable as _;
use tokio::task::JoinHandle;

/// Makes the tables of the shop with about so many MiB of BLOBs that no compression shrinks.
///
/// # Panics
/// When the server refuses.
pub async fn fill(server: &Mysqld, mib: u32) {
    let mut conn = server.connect().await.unwrap();
    let is_mysql = server.vendor().is_mysql();
    let engine = if is_mysql { "InnoDB" } else { "Aria" };
    if is_mysql {
        conn.query_drop("SET cte_max_recursion_depth = 100000").await.unwrap();
    }
    for statement in [
        "CREATE DATABASE shop",
        "USE shop",
        "CREATE TABLE shop.items (id INT PRIMARY KEY, name VARCHAR(64) NOT NULL, photo MEDIUMBLOB NOT NULL)",
        "CREATE TABLE shop.customers (id INT PRIMARY KEY, name VARCHAR(64) NOT NULL, KEY (name)) ENGINE=InnoDB",
        &format!("CREATE TABLE shop.notes (id INT PRIMARY KEY, body TEXT) ENGINE={engine}"),
        "CREATE TABLE shop.writes (id INT PRIMARY KEY AUTO_INCREMENT, note VARCHAR(64) NOT NULL)",
        "SET sql_log_bin=0",
        &format!(
            "INSERT INTO shop.customers SELECT seq, CONCAT('customer ', LEFT(SHA2(seq, 256), 32)) FROM {}",
            sequence(is_mysql, 1, 2000)
        ),
        &format!(
            "INSERT INTO shop.notes SELECT seq, REPEAT(SHA2(seq, 256), 5) FROM {}",
            sequence(is_mysql, 1, 200)
        ),
    ] {
        conn.query_drop(statement).await.unwrap();
    }
    // 16 pieces of random bytes make a row of 16 KiB.
    let photo = vec!["RANDOM_BYTES(1024)"; 16].join(",");
    for megabyte in 0..mib {
        let (first, last) = (megabyte * 64 + 1, (megabyte + 1) * 64);
        let from = sequence(is_mysql, first, last);
        let insert =
            format!("INSERT INTO shop.items SELECT seq, CONCAT('item ', seq), CONCAT({photo}) FROM {from}");
        conn.query_drop(insert).await.unwrap();
    }
    conn.disconnect().await.unwrap();
}

/// A table of numbers: MariaDB has an engine for it, MySQL counts by itself.
fn sequence(is_mysql: bool, first: u32, last: u32) -> String {
    if !is_mysql {
        return format!("seq_{first}_to_{last}");
    }
    let count = format!("SELECT {first} AS seq UNION ALL SELECT seq + 1 FROM s WHERE seq < {last}");
    format!("(WITH RECURSIVE s AS ({count}) SELECT seq FROM s) AS s")
}

/// Checksums of the tables that nobody writes to.
///
/// # Panics
/// When the server refuses.
pub async fn checksums(server: &Mysqld) -> Vec<Vec<String>> {
    server.query("CHECKSUM TABLE shop.items, shop.customers, shop.notes EXTENDED").await.unwrap()
}

/// Number and checksum of the writer's rows up to this id.
///
/// # Panics
/// When the server refuses.
pub async fn writes_up_to(server: &Mysqld, id: u64) -> Vec<Vec<String>> {
    let sql = format!(
        "SELECT COUNT(*), BIT_XOR(CRC32(CONCAT_WS('#', id, note))) FROM shop.writes WHERE id <= {id}"
    );
    server.query(sql).await.unwrap()
}

/// The writer's last row on this server.
///
/// # Panics
/// When the server refuses.
pub async fn last_write(server: &Mysqld) -> u64 {
    server.scalar("SELECT COALESCE(MAX(id), 0) FROM shop.writes").await.unwrap().parse().unwrap()
}

/// Writes one row after the other, each a transaction, and remembers the GTID of each.
#[derive(Debug)]
pub struct Writer {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Vec<(u64, u64)>>,
}

impl Writer {
    /// Begins.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn start(server: &Mysqld) -> Self {
        let mut conn = server.connect().await.unwrap();
        let position = match server.vendor().is_mysql() {
            true => "SELECT LAST_INSERT_ID(), @@GLOBAL.gtid_executed",
            false => "SELECT LAST_INSERT_ID(), @@last_gtid",
        };
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut written = Vec::new();
            let mut pace = tokio::time::interval(Duration::from_millis(4));
            while !stopped.load(Ordering::Relaxed) {
                pace.tick().await;
                conn.query_drop("INSERT INTO shop.writes (note) VALUES (UUID())").await.unwrap();
                let row: Option<(u64, String)> = conn.query_first(position).await.unwrap();
                let (id, gtid) = row.unwrap();
                written.push((id, sequence_of(&gtid)));
            }
            written
        });
        Self { stop, task }
    }

    /// Ends; the id and the GTID's sequence number of every row.
    ///
    /// # Panics
    /// When a write had failed.
    pub async fn stop(self) -> Vec<(u64, u64)> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

/// The last part of a GTID (`0-1-42`, `…:1-42`), of the last one of a list; 0 where there is none.
///
/// # Panics
/// When it is none.
#[must_use]
pub fn sequence_of(gtid: &str) -> u64 {
    if gtid.is_empty() { 0 } else { gtid.rsplit(['-', ':']).next().unwrap().trim().parse().unwrap() }
}
