//! Where the server's history stands: file:pos and GTID, read together.

use protocol::mysql::{BinlogPosition, Coordinates, Flavor};
use serde::Deserialize;

use crate::client::{Record, Session};
use crate::error::{Error, Result};
use crate::sql::quote;

/// How often a moving pair is read again before it is computed by the server.
const STABLE_READS: usize = 3;

/// As above, where the server cannot compute the pair.
const UNSTABLE_READS: usize = 50;

/// The server's coordinates at one instant.
///
/// # Errors
/// When the account may not read them (`REPLICATION CLIENT`/`BINLOG MONITOR`, MySQL also `BACKUP_ADMIN`).
pub(crate) async fn read(session: &mut Session, flavor: Flavor) -> Result<Coordinates> {
    match flavor {
        Flavor::Mariadb => mariadb(session).await,
        Flavor::Mysql => mysql(session).await,
    }
}

async fn mariadb(session: &mut Session) -> Result<Coordinates> {
    let mut before = binlog_status(session).await?;
    for _ in 0..STABLE_READS {
        let gtid = mariadb_gtid(session).await?;
        let after = binlog_status(session).await?;
        if before == after {
            return Ok(Coordinates { flavor: Flavor::Mariadb, binlog: after, gtid });
        }
        before = after;
    }
    // Commits keep coming: let the server derive the GTID of exactly this position.
    let gtid = match &before {
        Some(at) => {
            let sql = format!("SELECT BINLOG_GTID_POS({}, {})", quote(&at.file), at.position);
            session.scalar("derive the GTID of a binary log position", sql).await?
        }
        None => mariadb_gtid(session).await?,
    };
    Ok(Coordinates { flavor: Flavor::Mariadb, binlog: before, gtid: gtid.filter(|g| !g.is_empty()) })
}

/// A replica that does not log what it applies has its source's GTIDs in `gtid_slave_pos` only.
async fn mariadb_gtid(session: &mut Session) -> Result<Option<String>> {
    let sql = "SELECT IF(@@log_bin AND (@@log_slave_updates OR @@gtid_slave_pos = ''), \
               @@gtid_binlog_pos, @@gtid_current_pos)";
    Ok(session.scalar("show its GTID position", sql).await?.filter(|gtid| !gtid.is_empty()))
}

#[derive(Deserialize)]
struct LogStatusLocal {
    #[serde(default)]
    gtid_executed: String,
    #[serde(default)]
    binary_log_file: String,
    #[serde(default)]
    binary_log_position: u64,
}

async fn mysql(session: &mut Session) -> Result<Coordinates> {
    let action = "show performance_schema.log_status";
    if let Ok(Some(json)) = session.scalar(action, "SELECT LOCAL FROM performance_schema.log_status").await {
        return parse_log_status(&json);
    }
    // Without BACKUP_ADMIN: two statements, repeated until nothing moved between them.
    let mut before = binlog_status(session).await?;
    for _ in 0..UNSTABLE_READS {
        let gtid = session.scalar("show gtid_executed", "SELECT @@GLOBAL.gtid_executed").await?;
        let after = binlog_status(session).await?;
        if before == after {
            let gtid = gtid.as_deref().and_then(one_line);
            return Ok(Coordinates { flavor: Flavor::Mysql, binlog: after, gtid });
        }
        before = after;
    }
    let problem = "commits came between its position and its GTIDs each time; grant BACKUP_ADMIN".to_owned();
    Err(Error::Answer { action: "SHOW BINARY LOG STATUS", problem })
}

pub(crate) fn parse_log_status(json: &str) -> Result<Coordinates> {
    let local: LogStatusLocal = serde_json::from_str(json)
        .map_err(|e| Error::Answer { action: "performance_schema.log_status", problem: e.to_string() })?;
    let binlog = (!local.binary_log_file.is_empty())
        .then_some(BinlogPosition { file: local.binary_log_file, position: local.binary_log_position });
    Ok(Coordinates { flavor: Flavor::Mysql, binlog, gtid: one_line(&local.gtid_executed) })
}

/// MySQL breaks long GTID sets into lines.
pub(crate) fn one_line(gtid: &str) -> Option<String> {
    let gtid: String = gtid.split_whitespace().collect();
    (!gtid.is_empty()).then_some(gtid)
}

/// Whether a position lies at another one or behind it, in logs of one server: their names end in numbers that count up.
pub(crate) fn is_at_or_after(here: &BinlogPosition, there: &BinlogPosition) -> bool {
    match (log_number(&here.file), log_number(&there.file)) {
        (Some((base, ours)), Some((other, theirs))) if base == other => {
            (ours, here.position) >= (theirs, there.position)
        }
        _ => false,
    }
}

/// Base name and number of a log, such as `binlog` and 42 of `binlog.000042`.
pub(crate) fn log_number(file: &str) -> Option<(&str, u64)> {
    let (base, number) = file.rsplit_once('.')?;
    Some((base, number.parse().ok()?))
}

const STATUS: &str = "show its binary log position";

/// `SHOW BINARY LOG STATUS` under its three names; absent when the log is off.
pub(crate) async fn binlog_record(session: &mut Session) -> Result<Option<Record>> {
    let spellings = ["SHOW BINARY LOG STATUS", "SHOW BINLOG STATUS", "SHOW MASTER STATUS"];
    Ok(first_that_works(session, STATUS, &spellings).await?.into_iter().next())
}

/// File and position of it.
pub(crate) async fn binlog_status(session: &mut Session) -> Result<Option<BinlogPosition>> {
    let Some(row) = binlog_record(session).await? else { return Ok(None) };
    let file = row.get("File").cloned().unwrap_or_default();
    let position = row.get("Position").and_then(|p| p.parse().ok());
    match position {
        Some(position) if !file.is_empty() => Ok(Some(BinlogPosition { file, position })),
        _ => Err(Error::Answer { action: STATUS, problem: "no File and Position columns".to_owned() }),
    }
}

/// Runs the first of several spellings that this server's grammar knows.
pub(crate) async fn first_that_works(
    session: &mut Session,
    action: &str,
    spellings: &[&str],
) -> Result<Vec<Record>> {
    const ER_PARSE_ERROR: u16 = 1064;
    let mut last = None;
    for sql in spellings {
        match session.records(action, sql).await {
            Err(error @ Error::Query { .. }) if server_code(&error) == Some(ER_PARSE_ERROR) => {
                last = Some(error);
            }
            other => return other,
        }
    }
    Err(last.unwrap_or(Error::Answer { action: "a statement", problem: "no spelling given".to_owned() }))
}

/// The server's error number, if the server itself refused.
pub(crate) fn server_code(error: &Error) -> Option<u16> {
    match error {
        Error::Query { source, .. } | Error::Connect { source, .. } => match source.as_ref() {
            mysql_async::Error::Server(server) => Some(server.code),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_status_gives_position_and_gtid_together() {
        let json = r#"{"gtid_executed": "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5,\n4e11fa47-71ca-11e1-9e33-c80aa9429562:1", "binary_log_file": "binlog.000002", "binary_log_position": 1422}"#;
        let got = parse_log_status(json).unwrap();
        assert_eq!(got.binlog, Some(BinlogPosition { file: "binlog.000002".into(), position: 1422 }));
        assert_eq!(
            got.gtid.as_deref(),
            Some("3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5,4e11fa47-71ca-11e1-9e33-c80aa9429562:1")
        );
    }

    #[test]
    fn logs_are_ordered_by_their_numbers() {
        let at = |file: &str, position| BinlogPosition { file: file.into(), position };
        assert!(is_at_or_after(&at("binlog.1000000", 4), &at("binlog.999999", 700)));
        assert!(is_at_or_after(&at("binlog.000002", 700), &at("binlog.000002", 700)));
        assert!(!is_at_or_after(&at("binlog.000002", 4), &at("binlog.000002", 700)));
        assert!(!is_at_or_after(&at("other.000009", 4), &at("binlog.000002", 4)), "not of one server");
    }

    #[test]
    fn log_status_with_the_binary_log_off_has_no_position() {
        let got =
            parse_log_status(r#"{"gtid_executed": "", "binary_log_file": "", "binary_log_position": 0}"#)
                .unwrap();
        assert_eq!((got.binlog, got.gtid), (None, None));
    }

    #[test]
    fn a_foreign_answer_is_an_error_and_not_a_position() {
        assert!(parse_log_status("[1,2]").is_err());
    }
}
