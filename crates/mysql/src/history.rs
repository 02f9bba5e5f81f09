//! Whether a source still has the binary logs that a replica needs to follow it from recorded coordinates.

use protocol::mysql::{Coordinates, Flavor};

use crate::client::{Address, Session};
use crate::error::{Error, Result};
use crate::gtid::{self, Gtid};
use crate::position::{self, first_that_works, server_code};
use crate::replicate::{Source, account, quote};
use crate::server;

/// What a source was found to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Availability {
    /// Everything from the coordinates on.
    Available,
    /// What is needed is gone; says what.
    Gone(String),
    /// It could not be told; says why and what to do.
    Unknown(String),
}

/// Asks a source, as the replication account, whether a replica could follow it from `from`.
///
/// # Errors
/// [`Error::Connect`] when the source cannot be reached or keeps the account out: a replica could not follow it either.
pub async fn check_source(
    source: &Source,
    from: &Coordinates,
    limit: std::time::Duration,
) -> Result<Availability> {
    let mut session = connect(source, limit).await?;
    let version = server::version(&mut session).await?;
    let found = if version.flavor == from.flavor {
        ask(&mut session, from).await
    } else {
        Ok(Availability::Gone(format!("the source runs another vendor's server ({})", version.text)))
    };
    session.close().await;
    match found {
        Err(error) if is_denied(&error) => Ok(Availability::Unknown(format!(
            "the replication account may not list the source's binary logs; grant it {}",
            match from.flavor {
                Flavor::Mariadb => "BINLOG MONITOR",
                Flavor::Mysql => "REPLICATION CLIENT",
            }
        ))),
        other => other,
    }
}

/// A connection to a source as the replication account has it.
pub(crate) async fn connect(source: &Source, limit: std::time::Duration) -> Result<Session> {
    let login = account(&source.credentials)?;
    Session::open(&Address::Remote(source.host.clone(), source.port), &login, limit).await
}

/// What a source has now, by GTID where `from` has one, else by its log's position.
///
/// # Errors
/// [`Error::Connect`], and [`Error::Query`] where the account may not see the log's position.
pub(crate) async fn standing(
    source: &Source,
    from: &Coordinates,
    limit: std::time::Duration,
) -> Result<Coordinates> {
    let mut session = connect(source, limit).await?;
    let gtid = match (from.flavor, &from.gtid) {
        (_, None) => None,
        (Flavor::Mariadb, Some(_)) => Some(mariadb_standing(&mut session).await?),
        (Flavor::Mysql, Some(_)) => {
            session.scalar("show gtid_executed", "SELECT @@GLOBAL.gtid_executed").await?
        }
    };
    let binlog = match (position::binlog_status(&mut session).await, &gtid) {
        (Err(_), Some(_)) => None,
        (binlog, _) => binlog?,
    };
    session.close().await;
    Ok(Coordinates { flavor: from.flavor, binlog, gtid: gtid.as_deref().and_then(position::one_line) })
}

/// The last transaction of each domain. A server that was seeded itself has in its log only what came since.
async fn mariadb_standing(session: &mut Session) -> Result<String> {
    let sql =
        "SELECT CONCAT_WS(',', NULLIF(@@GLOBAL.gtid_binlog_pos, ''), NULLIF(@@GLOBAL.gtid_slave_pos, ''))";
    let both = session.scalar("show its GTID position", sql).await?.unwrap_or_default();
    let last: Vec<Gtid> = gtid::last_of_domains(&both).into_values().collect();
    Ok(gtid::list(&last))
}

async fn ask(session: &mut Session, from: &Coordinates) -> Result<Availability> {
    match (from.flavor, &from.gtid, &from.binlog) {
        (Flavor::Mysql, Some(gtid), _) => {
            let sql = format!("SELECT GTID_SUBSET(@@GLOBAL.gtid_purged, {})", quote(gtid));
            let covered = session.scalar("compare its gtid_purged", sql).await?;
            if covered.as_deref() == Some("1") {
                return Ok(Availability::Available);
            }
            let purged = session.scalar("show gtid_purged", "SELECT @@GLOBAL.gtid_purged").await?;
            Ok(Availability::Gone(format!(
                "the source has purged transactions that the data lack (gtid_purged is {}): take a newer snapshot",
                purged.unwrap_or_default().replace('\n', "")
            )))
        }
        (Flavor::Mariadb, Some(gtid), _) => {
            let Some(oldest) = binary_logs(session).await?.into_iter().next() else { return Ok(no_logs()) };
            let sql = format!("SHOW BINLOG EVENTS IN {} LIMIT 8", quote(&oldest));
            let events = session.records("show the first events of its oldest binary log", sql).await?;
            let list = events.iter().find(|e| e.get("Event_type").is_some_and(|kind| kind == "Gtid_list"));
            let before =
                list.and_then(|e| e.get("Info")).map(|info| info.trim_matches(['[', ']']).to_owned());
            Ok(match before.map(|before| gtid::missing(&before, gtid).first().copied()) {
                Some(None) => Availability::Available,
                Some(Some(missing)) => Availability::Gone(format!(
                    "the source's oldest binary log {oldest} begins after {missing}, and the data stand at {gtid}: take a newer \
                     snapshot"
                )),
                None => Availability::Unknown(format!("{oldest} on the source does not say where it begins")),
            })
        }
        (_, None, Some(at)) => {
            let logs = binary_logs(session).await?;
            Ok(match logs.contains(&at.file) {
                true => Availability::Available,
                false => Availability::Gone(format!(
                    "the source has no binary log {} any more: take a newer snapshot",
                    at.file
                )),
            })
        }
        (_, None, None) => Ok(Availability::Gone("no position was recorded with the data".to_owned())),
    }
}

fn no_logs() -> Availability {
    Availability::Gone("the source writes no binary log".to_owned())
}

/// Names of the source's binary logs, oldest first.
async fn binary_logs(session: &mut Session) -> Result<Vec<String>> {
    let spellings = ["SHOW BINARY LOGS"];
    let rows = first_that_works(session, "show its binary logs", &spellings).await?;
    Ok(rows.into_iter().filter_map(|mut row| row.remove("Log_name")).collect())
}

fn is_denied(error: &Error) -> bool {
    /// Access denied to a database, a table, for want of a privilege.
    const DENIED: [u16; 3] = [1044, 1142, 1227];
    server_code(error).is_some_and(|code| DENIED.contains(&code))
}
