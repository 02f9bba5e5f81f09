//! Statements that make copied data a server of its own: no replication of the donor's, no events that run here.

use protocol::mysql::{Coordinates, Flavor};

use crate::client::Session;
use crate::error::{Error, Result};
use crate::position::{first_that_works, is_at_or_after, server_code};
use crate::sql::{quote, quote_identifier};

/// MySQL's tables of channels: whom a replica follows, with which password, and how far it came.
const CHANNEL_TABLES: [&str; 5] = [
    "slave_master_info",
    "slave_relay_log_info",
    "slave_worker_info",
    "replication_asynchronous_connection_failover",
    "replication_asynchronous_connection_failover_managed",
];
/// No such table: of another version.
const ER_NO_SUCH_TABLE: u16 = 1146;

/// Nothing that follows may be written to a log: it is no part of the history.
pub(super) async fn be_silent(session: &mut Session) -> Result<()> {
    session.exec("log nothing", "SET SESSION sql_log_bin = 0").await
}

/// Proves that recovered data have what they must have at least. A server whose log did not come along with them would tell
/// a set that lacks transactions whose rows are there.
pub(super) async fn hold(session: &mut Session, recovered: &Coordinates, least: &Coordinates) -> Result<()> {
    let holds = match (&least.gtid, &least.binlog, &recovered.binlog) {
        (Some(gtid), _, _) => {
            let sql = format!("SELECT GTID_SUBSET({}, @@GLOBAL.gtid_executed)", quote(gtid));
            session.scalar("compare its gtid_executed", sql).await?.as_deref() == Some("1")
        }
        (None, Some(least), Some(recovered)) => is_at_or_after(recovered, least),
        (None, ..) => false,
    };
    let told = |at: &Coordinates| {
        let binlog = at.binlog.as_ref().map(|at| format!("{}:{}", at.file, at.position));
        at.gtid.clone().or(binlog).unwrap_or_else(|| "nowhere".to_owned())
    };
    if holds {
        return Ok(());
    }
    Err(Error::Refused {
        reason: format!(
            "recovered, the data stand at {}, and the donor stood at {} before they were frozen",
            told(recovered),
            told(least)
        ),
    })
}

/// Forgets every channel with its passwords, and proves it. Returns how many there were.
pub(super) async fn forget_channels(session: &mut Session, flavor: Flavor) -> Result<u64> {
    match flavor {
        Flavor::Mariadb => mariadb_channels(session).await,
        Flavor::Mysql => mysql_channels(session).await,
    }
}

/// MariaDB keeps them in files, which do not come along; what the server knows all the same goes here.
async fn mariadb_channels(session: &mut Session) -> Result<u64> {
    let action = "list its replication connections";
    let known = session.records(action, "SHOW ALL SLAVES STATUS").await?;
    for channel in &known {
        let name = channel.get("Connection_name").map_or("", String::as_str);
        session.exec("forget a source", format!("RESET SLAVE {} ALL", quote(name))).await?;
    }
    match session.records(action, "SHOW ALL SLAVES STATUS").await?.is_empty() {
        true => Ok(known.len() as u64),
        false => Err(left()),
    }
}

async fn mysql_channels(session: &mut Session) -> Result<u64> {
    let action = "count its channels";
    let count = "SELECT COUNT(*) FROM mysql.slave_master_info";
    let known = session.scalar(action, count).await?.and_then(|count| count.parse().ok()).unwrap_or(0);
    // It knows no channel whose relay log did not come along, and refuses: then only the tables tell of it.
    drop(first_that_works(session, "forget its sources", &["RESET REPLICA ALL", "RESET SLAVE ALL"]).await);
    for table in CHANNEL_TABLES {
        match session.exec("forget its channels", format!("DELETE FROM mysql.{table}")).await {
            Err(error) if server_code(&error) != Some(ER_NO_SUCH_TABLE) => return Err(error),
            _ => {}
        }
    }
    match session.scalar(action, count).await?.as_deref() {
        Some("0") => Ok(known),
        _ => Err(left()),
    }
}

fn left() -> Error {
    Error::Refused { reason: "the donor's replication could not be taken out of the copy".to_owned() }
}

/// Marks the events that run on the donor as a replica has them. Returns how many.
pub(super) async fn disable_events(session: &mut Session, flavor: Flavor) -> Result<u64> {
    match flavor {
        Flavor::Mariadb => {
            let count = "SELECT COUNT(*) FROM mysql.event WHERE status = 'ENABLED'";
            let running = session.scalar("count its events", count).await?;
            let sql = "UPDATE mysql.event SET status = 'SLAVESIDE_DISABLED' WHERE status = 'ENABLED'";
            session.exec("switch its events off", sql).await?;
            Ok(running.and_then(|count| count.parse().ok()).unwrap_or(0))
        }
        Flavor::Mysql => mysql_events(session).await,
    }
}

async fn mysql_events(session: &mut Session) -> Result<u64> {
    let sql =
        "SELECT event_schema, event_name, definer FROM information_schema.events WHERE status = 'ENABLED'";
    let events = session.rows("list its events", sql).await?;
    for event in &events {
        let [Some(schema), Some(name), Some(definer)] = event.as_slice() else { continue };
        let (user, host) = definer.rsplit_once('@').unwrap_or((definer, ""));
        // Without its definer the event would become that of whoever alters it.
        let alter = format!(
            "ALTER DEFINER = {}@{} EVENT {}.{} DISABLE ON",
            account_part(user)?,
            account_part(host)?,
            quote_identifier(schema)?,
            quote_identifier(name)?
        );
        let spellings = [format!("{alter} REPLICA"), format!("{alter} SLAVE")];
        let spellings: Vec<&str> = spellings.iter().map(String::as_str).collect();
        first_that_works(session, "switch an event off", &spellings).await?;
    }
    Ok(events.len() as u64)
}

/// User and host are names; an empty one cannot be quoted as an identifier.
fn account_part(text: &str) -> Result<String> {
    if text.is_empty() { Ok("''".to_owned()) } else { Ok(format!("`{}`", text.replace('`', "``"))) }
}

/// Tables whose engine keeps them here and that are looked at.
const TABLES: &str = "SELECT table_schema, table_name FROM information_schema.tables \
     WHERE table_type = 'BASE TABLE' AND (engine = 'InnoDB' OR engine IS NULL) \
     AND table_schema NOT IN ('information_schema', 'performance_schema', 'sys')";
/// What a server says of a table whose file is not there or is not its own: no such table (in the engine), its file is wrong,
/// its tablespace is missing.
const MISSING: [u16; 4] = [ER_NO_SUCH_TABLE, 1033, 1812, 1932];

/// Opens one table after another within the time; how many were looked at, and of how many.
///
/// # Errors
/// [`Error::Refused`] that names a table which the dictionary has and the data have not.
pub(super) async fn look(session: &mut Session, until: std::time::Instant) -> Result<(usize, usize)> {
    let tables = session.rows("list its tables", TABLES).await?;
    for (at, table) in tables.iter().enumerate() {
        if std::time::Instant::now() >= until {
            return Ok((at, tables.len()));
        }
        let [Some(schema), Some(name)] = table.as_slice() else { continue };
        let sql = format!("SELECT 1 FROM {}.{} LIMIT 1", quote_identifier(schema)?, quote_identifier(name)?);
        if let Err(error) = session.rows("look at a table", sql).await
            && server_code(&error).is_some_and(|code| MISSING.contains(&code))
        {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            return Err(Error::Refused { reason: format!("{schema}.{name} did not come whole: {cause}") });
        }
    }
    Ok((tables.len(), tables.len()))
}
