//! Whether a source still has the binary logs that a replica needs to follow it from recorded coordinates.

use std::collections::BTreeMap;

use protocol::mysql::{Coordinates, Flavor};

use crate::client::{Address, Login, Session};
use crate::error::{Error, Result};
use crate::position::{first_that_works, server_code};
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
    let (user, password) = account(&source.credentials)?;
    let login = Login { user, password: Some(password) };
    let address = Address::Remote(source.host.clone(), source.port);
    let mut session = Session::open(&address, &login, limit).await?;
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
            Ok(match before.map(|before| missing_domain(&before, gtid)) {
                Some(None) => Availability::Available,
                Some(Some(domain)) => Availability::Gone(format!(
                    "the source's oldest binary log {oldest} begins after GTID {gtid} in domain {domain}: take a newer snapshot"
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

/// The first domain in which the history before the oldest log goes further than `from`.
fn missing_domain(before: &str, from: &str) -> Option<u32> {
    let (before, from) = (domains(before), domains(from));
    before
        .into_iter()
        .find(|(domain, sequence)| from.get(domain).is_none_or(|ours| ours < sequence))
        .map(|(d, _)| d)
}

/// The highest sequence number of each domain in a list of MariaDB's GTIDs.
fn domains(list: &str) -> BTreeMap<u32, u64> {
    let mut found = BTreeMap::new();
    for gtid in list.split(',').map(str::trim) {
        let mut parts = gtid.split('-');
        let domain: Option<u32> = parts.next().and_then(|d| d.parse().ok());
        let sequence: Option<u64> = parts.nth(1).and_then(|s| s.parse().ok());
        if let (Some(domain), Some(sequence)) = (domain, sequence) {
            let highest = found.entry(domain).or_insert(0);
            *highest = sequence.max(*highest);
        }
    }
    found
}

fn is_denied(error: &Error) -> bool {
    /// Access denied to a database, a table, for want of a privilege.
    const DENIED: [u16; 3] = [1044, 1142, 1227];
    server_code(error).is_some_and(|code| DENIED.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_before_the_oldest_log_lacks_its_domain() {
        assert_eq!(missing_domain("0-1-42", "0-1-42"), None);
        assert_eq!(missing_domain("0-1-42,0-2-50", "0-2-50"), None);
        assert_eq!(missing_domain("0-1-42,0-2-50", "0-1-49"), Some(0));
        assert_eq!(missing_domain("0-1-42,7-1-1", "0-1-42"), Some(7), "nothing is known of that domain");
        assert_eq!(missing_domain("", "0-1-42"), None, "the first log of all");
        assert_eq!(missing_domain("0-1-42", "nonsense"), Some(0));
    }
}
