//! The way of one cell from a snapshot to a verdict.

use std::time::Duration;

use testkit::mysqld::Mysqld;
use testkit::mysqld::mysql_async::Row;
use testkit::mysqld::mysql_async::prelude::Queryable as _;
use testkit::poll;

use super::cell::Cell;
use super::history::History;
use super::stage::Stage;
use crate::replication::caught_up;
use crate::rows::{self, Writer};
use crate::tree;
use crate::world::{PATIENCE, Said};

/// Exit code of ctl for what was refused.
const REFUSED: i32 = 3;
/// Rows that are written before and after the snapshot.
const SOME: u64 = 30;

/// Runs a cell. `None` where its server is not to be had; else what came of it, or what was wrong.
///
/// # Errors
/// What is not as it must be: a refusal without the words, a seed that was begun and failed, a row that is missing.
///
/// # Panics
/// When the hosts cannot be set up.
pub async fn run(cell: &Cell) -> Option<Result<(), String>> {
    let mut stage = Stage::start(cell.vendor, &cell.layout, cell.history.lines(cell.is_mysql())).await?;
    Some(judged(cell, &mut stage).await)
}

async fn judged(cell: &Cell, stage: &mut Stage) -> Result<(), String> {
    cell.history.begin(stage).await;
    let is_up = !matches!(cell.history, History::DonorCrashed | History::DonorWasStopped);
    // The last writes of the former primary are counted.
    let writes = cell.history != History::RecipientWasPrimary;
    let mut writer = None;
    if is_up && writes {
        writer = Some(Writer::start(stage.source()).await);
        some_writes(stage.source()).await;
    }
    stage.world.snapshot().await;
    if cell.history.ends_source()
        && let Some(writer) = writer.take()
    {
        writer.stop().await;
    }
    cell.history.go_on(stage).await;
    if writes {
        if writer.is_none() {
            writer = Some(Writer::start(stage.source()).await);
        }
        some_writes(stage.source()).await;
    }
    let before = tree::names(stage.world.recipient.db.datadir());
    let said = seed(stage).await;
    let verdict = match (cell.refused(), said.status.code()) {
        (Some(words), Some(REFUSED)) => refused(stage, &said, words, &before),
        (Some(words), _) => Err(format!("not refused with {words:?}: {}", short(&said))),
        (None, Some(0)) => Ok(()),
        (None, _) => Err(format!("not seeded: {}", short(&said))),
    };
    cell.history.end(stage).await;
    if let Some(writer) = writer {
        writer.stop().await;
    }
    verdict?;
    if cell.refused().is_none() {
        equal(stage).await?;
    }
    Ok(())
}

async fn seed(stage: &Stage) -> Said {
    let source = format!("127.0.0.1:{}", stage.source().port());
    // A former primary, or a server without a log, cannot be told from one in use.
    let arguments = [
        "--timeout",
        "80s",
        "seed",
        "start",
        "db2",
        "--stop-mysql",
        "--allow-primary",
        "--replicate-from",
        &source,
    ];
    stage.world.ctl(&arguments).await
}

fn refused(stage: &Stage, said: &Said, words: &str, before: &tree::Tree) -> Result<(), String> {
    let text = format!("{}{}", said.stdout, said.stderr);
    if !text.contains(words) {
        return Err(format!("refused, but not with {words:?}: {}", short(said)));
    }
    if *before != tree::names(stage.world.recipient.db.datadir()) {
        return Err("refused, and the recipient's datadir was touched".to_owned());
    }
    Ok(())
}

/// The plan's refusals, or else the end of what was said.
fn short(said: &Said) -> String {
    let text = format!("{:?} {} {}", said.status.code(), said.stdout.trim(), said.stderr.trim());
    let refusals: Vec<&str> = text.lines().filter(|line| line.to_lowercase().contains("refuse")).collect();
    let text = if refusals.is_empty() { text } else { refusals.join("\n") };
    let skipped = text.chars().count().saturating_sub(900);
    text.chars().skip(skipped).collect()
}

async fn some_writes(source: &Mysqld) {
    let begun = rows::last_write(source).await;
    poll::until_async(PATIENCE, "some writes", || async {
        (rows::last_write(source).await > begun + SOME).then_some(())
    })
    .await;
}

/// Every row of the source is there, at its position, and both threads still run a moment later.
async fn equal(stage: &Stage) -> Result<(), String> {
    let (source, replica) = (stage.source(), &stage.world.recipient.db);
    let caught = tokio::time::timeout(Duration::from_secs(60), caught_up(replica, source)).await;
    if caught.is_err() {
        return Err(format!("never caught up: {}", threads(replica).await));
    }
    let (theirs, ours) = (checksums(source).await, checksums(replica).await);
    if theirs != ours {
        return Err(format!("other rows: {theirs:?} on the source, {ours:?} here"));
    }
    let threads = threads(replica).await;
    if threads != "Yes Yes" { Err(format!("threads: {threads}")) } else { Ok(()) }
}

async fn checksums(server: &Mysqld) -> Vec<Vec<String>> {
    let names = "SELECT CONCAT('`', table_schema, '`.`', table_name, '`') FROM information_schema.tables \
                 WHERE (table_schema LIKE 'shop%' OR table_schema = 'hidden') AND table_type = 'BASE TABLE' ORDER BY 1";
    let mut found = Vec::new();
    for name in server.query(names).await.unwrap() {
        found.extend(server.query(format!("CHECKSUM TABLE {} EXTENDED", name[0])).await.unwrap());
    }
    found
}

/// Whether both threads run, with the last errors of theirs.
async fn threads(replica: &Mysqld) -> String {
    let mut session = replica.connect().await.unwrap();
    let is_mysql = replica.vendor().is_mysql();
    let status = if is_mysql { "SHOW REPLICA STATUS" } else { "SHOW SLAVE STATUS" };
    let rows: Vec<Row> = session.query(status).await.unwrap();
    let names = if is_mysql {
        ["Replica_IO_Running", "Replica_SQL_Running", "Last_IO_Error", "Last_SQL_Error"]
    } else {
        ["Slave_IO_Running", "Slave_SQL_Running", "Last_IO_Error", "Last_SQL_Error"]
    };
    let Some(row) = rows.first() else { return "it follows nobody".to_owned() };
    let values = names.map(|name| row.get::<String, _>(name).unwrap_or_default());
    session.disconnect().await.unwrap();
    values.join(" ").trim().to_owned()
}
