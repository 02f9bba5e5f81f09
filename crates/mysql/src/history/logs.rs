//! The logs of a source: whether those that are needed are there, and are the recorded ones and not others of their names.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt as _;
use mysql_async::BinlogStreamRequest;
use protocol::mysql::{BinlogPosition, Coordinates, Flavor, LogIdentity, ServerInfo};

use super::{Asked, Availability, connect};
use crate::error::{Error, Result};
use crate::gtid;
use crate::position::{first_that_works, log_number, server_code};
use crate::replicate::Source;
use crate::sql::quote;

/// An unencrypted binary log begins so; the header of its first event follows.
const MAGIC: [u8; 4] = [0xfe, b'b', b'i', b'n'];
/// The first event of each log (`FORMAT_DESCRIPTION_EVENT`), whose time is that of the log's creation.
const FORMAT_DESCRIPTION: u8 = 15;
/// Events before the first of the log itself: the server tells its name.
const MOST_BEFORE: usize = 4;

/// A log as the source lists it.
pub(super) struct Log {
    pub(super) name: String,
    pub(super) bytes: Option<u64>,
}

/// What tells the log of these coordinates from another one of its name, as far as server and file say.
#[must_use]
pub fn identity(server: &ServerInfo, coordinates: &Coordinates) -> LogIdentity {
    let directory = server.layout.as_ref().and_then(|layout| layout.log_bin.as_deref()?.parent());
    let created = |at: &BinlogPosition| first_event_of_file(&directory?.join(&at.file));
    LogIdentity {
        server_uuid: server.server_uuid.clone(),
        server_id: server.server_id,
        created_s: coordinates.binlog.as_ref().and_then(created),
    }
}

/// When the log in a file was begun; absent where it is encrypted or none.
fn first_event_of_file(path: &Path) -> Option<u32> {
    let mut head = [0; 9];
    File::open(path).ok()?.read_exact(&mut head).ok()?;
    let (magic, header) = head.split_at(MAGIC.len());
    (magic == MAGIC && header[4] == FORMAT_DESCRIPTION)
        .then(|| u32::from_le_bytes([header[0], header[1], header[2], header[3]]))
}

/// When the log of this name was begun on the source, asked as a replica asks for its events.
async fn first_event(source: &Source, name: &str, limit: Duration) -> Result<Option<u32>> {
    let conn = connect(source, limit).await?.into_conn();
    // As a program that reads logs, of no server's id: no replica is taken for this one and loses its connection.
    let request = BinlogStreamRequest::new(0).with_filename(name.as_bytes()).with_pos(4).with_non_blocking();
    let action = || "read the first event of a binary log".to_owned();
    let refused = |source| Error::Query { action: action(), source: Box::new(source) };
    let read = async {
        let mut events = conn.get_binlog_stream(request).await.map_err(refused)?;
        let mut created = None;
        for _ in 0..MOST_BEFORE {
            let Some(event) = events.next().await else { break };
            let header = event.map_err(refused)?.header();
            if header.event_type_raw() == FORMAT_DESCRIPTION {
                created = Some(header.timestamp());
                break;
            }
        }
        drop(events.close().await);
        Ok(created)
    };
    match tokio::time::timeout(limit, read).await {
        Ok(created) => created,
        Err(_) => Err(Error::Timeout { action: action(), limit }),
    }
}

/// Whether the logs from the coordinates on are there.
pub(super) async fn check(asked: &mut Asked<'_>) -> Result<Availability> {
    let from = asked.recorded.from;
    if let (Flavor::Mysql, Some(gtid)) = (from.flavor, &from.gtid) {
        let sql = format!("SELECT GTID_SUBSET(@@GLOBAL.gtid_purged, {})", quote(gtid));
        if asked.scalar("compare its gtid_purged", sql).await? != "1" {
            let purged = asked.scalar("show gtid_purged", "SELECT @@GLOBAL.gtid_purged").await?;
            return Ok(Availability::Gone(format!(
                "the source has purged transactions that the data lack (gtid_purged is {}): take a newer snapshot",
                purged.replace('\n', "")
            )));
        }
    }
    let logs = list(asked).await?;
    let Some(oldest) = logs.first() else {
        return Ok(Availability::Gone("the source writes no binary log".to_owned()));
    };
    match (from.flavor, &from.gtid, &from.binlog) {
        (_, None, None) => {
            return Ok(Availability::Gone("no position was recorded with the data".to_owned()));
        }
        (_, None, Some(at)) => {
            if let Some(problem) = position_problem(&logs, at) {
                return Ok(Availability::Gone(problem));
            }
        }
        (Flavor::Mariadb, Some(gtid), _) => match before(asked, &oldest.name).await? {
            None => {
                let text = format!("{} on the source does not say where it begins", oldest.name);
                return Ok(Availability::Unknown(text));
            }
            Some(before) => {
                if let Some(missing) = gtid::missing(&before, gtid).first() {
                    return Ok(Availability::Gone(format!(
                        "the source's oldest binary log {} begins after {missing}, and the data stand at {gtid}: take a newer \
                         snapshot",
                        oldest.name
                    )));
                }
            }
        },
        (Flavor::Mysql, Some(_), _) => {}
    }
    same_log(asked, &logs).await
}

async fn list(asked: &mut Asked<'_>) -> Result<Vec<Log>> {
    let rows = first_that_works(&mut asked.session, "show its binary logs", &["SHOW BINARY LOGS"]).await?;
    let log = |mut row: crate::client::Record| {
        Some(Log {
            name: row.remove("Log_name")?,
            bytes: row.get("File_size").and_then(|size| size.parse().ok()),
        })
    };
    Ok(rows.into_iter().filter_map(log).collect())
}

fn position_problem(logs: &[Log], at: &BinlogPosition) -> Option<String> {
    let Some(log) = logs.iter().find(|log| log.name == at.file) else {
        return Some(format!("the source has no binary log {} any more: take a newer snapshot", at.file));
    };
    let bytes = log.bytes.filter(|bytes| *bytes < at.position)?;
    Some(format!(
        "{} on the source has {bytes} bytes and the data stand at {}: it is another log of the same name, take a new snapshot",
        at.file, at.position
    ))
}

/// What came before a log of MariaDB's, by its list of GTIDs.
async fn before(asked: &mut Asked<'_>, log: &str) -> Result<Option<String>> {
    let sql = format!("SHOW BINLOG EVENTS IN {} LIMIT 8", quote(log));
    let events = asked.session.records("show the first events of its oldest binary log", sql).await?;
    let list = events.iter().find(|e| e.get("Event_type").is_some_and(|kind| kind == "Gtid_list"));
    Ok(list.and_then(|e| e.get("Info")).map(|info| info.trim_matches(['[', ']']).to_owned()))
}

/// Whether the log of the recorded name is the recorded log; of another server than the donor, whether its history is older
/// than the data.
async fn same_log(asked: &mut Asked<'_>, logs: &[Log]) -> Result<Availability> {
    let from = asked.recorded.from;
    let by_position = from.gtid.is_none();
    let Some(recorded) = asked.recorded.log else {
        return match by_position {
            true => Ok(Availability::Unknown(
                "the snapshot does not say which server's log its position is of (an older agent made it)"
                    .to_owned(),
            )),
            false => begun_since(asked, logs).await,
        };
    };
    if !is_origin(asked, recorded).await? {
        return match by_position {
            true => Ok(Availability::Gone(
                "the data stand at a position in another server's log: replicate from the donor, or switch GTIDs on".to_owned(),
            )),
            false => begun_since(asked, logs).await,
        };
    }
    let (Some(at), Some(then)) = (&from.binlog, recorded.created_s) else {
        return Ok(Availability::Unknown(
            "when the log of the position was begun was not recorded (it is encrypted, or cannot be read)"
                .to_owned(),
        ));
    };
    let was_reset = |how: String| {
        Availability::Gone(format!(
            "{how}: the source was reset since the snapshot was taken, take a new one"
        ))
    };
    if logs.iter().any(|log| log.name == at.file) {
        if let Some(other) = another_transaction(asked, at).await {
            return Ok(was_reset(format!("at {} of {} the source has {other} now", at.position, at.file)));
        }
        return Ok(match first_event(asked.source, &at.file, asked.limit).await? {
            Some(now) if now == then => Availability::Available,
            Some(_) => was_reset(format!("{} on the source is another log than the recorded one", at.file)),
            None => {
                Availability::Unknown(format!("when {} was begun could not be read from the source", at.file))
            }
        });
    }
    let (ours, oldest) = (log_number(&at.file), logs.first().and_then(|log| log_number(&log.name)));
    Ok(match ours.zip(oldest) {
        Some(((base, ours), (other, oldest))) if base == other && oldest <= ours => {
            was_reset(format!("the source's logs have begun anew before {}", at.file))
        }
        _ => Availability::Available,
    })
}

/// What the source has at a position where it is not what was recorded there. The time of a log's first event counts seconds, and a
/// server may be reset within one.
async fn another_transaction(asked: &mut Asked<'_>, at: &BinlogPosition) -> Option<String> {
    /// `ER_ERROR_WHEN_EXECUTING_COMMAND`: the bytes there are no event.
    const NO_EVENT: u16 = 1220;
    let checksum = asked.scalar("show binlog_checksum", "SELECT @@GLOBAL.binlog_checksum").await.ok()?;
    let mut next = None;
    // Without checksums nobody can tell an event's beginning, and MariaDB (`mysql_show_binlog_events`) walks there from the log's own
    // while commits wait.
    if checksum != "NONE" {
        let sql = format!("SHOW BINLOG EVENTS IN {} FROM {} LIMIT 1", quote(&at.file), at.position);
        match asked.session.records("show the event at a position", sql).await {
            Ok(events) => next = events.into_iter().next().and_then(|mut event| event.remove("Info")),
            Err(error) if server_code(&error) == Some(NO_EVENT) => return Some("no event".to_owned()),
            Err(_) => {}
        }
    }
    let recorded = asked.recorded.from.gtid.as_deref()?;
    match asked.recorded.from.flavor {
        Flavor::Mariadb => {
            let sql = format!("SELECT BINLOG_GTID_POS({}, {})", quote(&at.file), at.position);
            let now = asked.scalar("show the transaction at a position", sql).await.ok()?;
            let (then, now) = (gtid::last_of_domains(recorded), gtid::last_of_domains(&now));
            let other =
                now.into_iter().find(|(domain, gtid)| then.get(domain).is_some_and(|then| then != gtid));
            other.map(|(_, gtid)| gtid.to_string())
        }
        // `SET @@SESSION.GTID_NEXT= '…'`: one that comes must not be one that the data have.
        Flavor::Mysql => {
            let next = next?.split('\'').nth(1)?.to_owned();
            let sql = format!("SELECT GTID_SUBSET({}, {})", quote(&next), quote(recorded));
            (asked.scalar("compare a transaction", sql).await.ok()? == "1").then_some(next)
        }
    }
}

/// Whether the source is the server whose log was recorded.
async fn is_origin(asked: &mut Asked<'_>, recorded: &LogIdentity) -> Result<bool> {
    if let (Some(theirs), Flavor::Mysql) = (&recorded.server_uuid, asked.recorded.from.flavor) {
        return Ok(asked.scalar("show its server_uuid", "SELECT @@GLOBAL.server_uuid").await? == *theirs);
    }
    let id: Option<u32> = asked.scalar("show its server_id", "SELECT @@GLOBAL.server_id").await?.parse().ok();
    Ok(id.is_some() && id == recorded.server_id)
}

/// A history that begins with nothing, and after the data were frozen, is not theirs, though its numbers may say so.
async fn begun_since(asked: &mut Asked<'_>, logs: &[Log]) -> Result<Availability> {
    let (Some(frozen), Some(oldest)) = (asked.recorded.at, logs.first()) else {
        return Ok(Availability::Available);
    };
    let begins_with_nothing = match asked.recorded.from.flavor {
        Flavor::Mysql => asked.scalar("show gtid_purged", "SELECT @@GLOBAL.gtid_purged").await?.is_empty(),
        Flavor::Mariadb => before(asked, &oldest.name).await?.is_some_and(|before| before.trim().is_empty()),
    };
    if !begins_with_nothing {
        return Ok(Availability::Available);
    }
    Ok(match first_event(asked.source, &oldest.name, asked.limit).await? {
        Some(begun) if i64::from(begun) > frozen.as_second() => Availability::Gone(format!(
            "the source's log begins with {} after the snapshot was taken, and nothing before it: it was reset or made anew \
             since; take a new snapshot",
            oldest.name
        )),
        _ => Availability::Available,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_log_is_that_of_its_first_event() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut bytes = MAGIC.to_vec();
        bytes.extend(1_700_000_000_u32.to_le_bytes());
        bytes.extend([FORMAT_DESCRIPTION, 1, 0, 0, 0]);
        std::fs::write(file.path(), &bytes).unwrap();
        assert_eq!(first_event_of_file(file.path()), Some(1_700_000_000));
        bytes[0] = 0xfd;
        std::fs::write(file.path(), &bytes).unwrap();
        assert_eq!(first_event_of_file(file.path()), None, "an encrypted log");
        std::fs::write(file.path(), "x").unwrap();
        assert_eq!(first_event_of_file(file.path()), None);
    }
}
