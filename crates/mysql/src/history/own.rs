//! What the recipient itself once wrote: a server skips the events that bear its own id, wherever they come from.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use protocol::mysql::Flavor;

use super::{Asked, Availability};
use crate::error::Result;
use crate::gtid;
use crate::position::one_line;
use crate::sql::quote;

/// Reading a source's logs for who wrote what ends after this long.
const BUDGET: Duration = Duration::from_secs(8);
/// Events that are asked for at once.
const PAGE: usize = 10_000;

/// No two servers with one id: a source refuses or drops one of two replicas, and each skips what the other wrote.
pub(super) async fn ids(asked: &mut Asked<'_>) -> Result<Availability> {
    let ours = asked.follower.server_id;
    let theirs = asked.scalar("show its server_id", "SELECT @@GLOBAL.server_id").await?;
    if theirs == ours.to_string() {
        return Ok(Availability::Gone(format!(
            "the source and this server have the same server_id {ours}: give this one another in its option file"
        )));
    }
    if let Some(own) = &asked.follower.server_uuid
        && asked.recorded.from.flavor == Flavor::Mysql
        && *own == asked.scalar("show its server_uuid", "SELECT @@GLOBAL.server_uuid").await?
    {
        return Ok(Availability::Gone(cloned("the source", own)));
    }
    let mut replicas = Err(crate::error::Error::NotFound { what: "the replicas" });
    for sql in ["SHOW REPLICAS", "SHOW SLAVE HOSTS"] {
        replicas = asked.session.records("show its replicas", sql).await;
        if replicas.is_ok() {
            break;
        }
    }
    // Not every account may see them; the source itself refuses one of two later.
    for replica in replicas.unwrap_or_default() {
        let column =
            |name: &str| replica.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, v)| v);
        let uuid = column("Replica_UUID").or_else(|| column("Slave_UUID")).filter(|uuid| !uuid.is_empty());
        let is_this_one = match (uuid, &asked.follower.server_uuid) {
            (Some(theirs), Some(ours)) => theirs == ours,
            // It may be this one.
            _ => true,
        };
        let is_under_our_id = column("Server_id").is_none_or(|id| *id == ours.to_string());
        if let Some(uuid) = uuid.filter(|_| is_this_one && !is_under_our_id)
            && asked.follower.server_uuid.is_some()
        {
            return Ok(Availability::Gone(cloned("another replica of the source", uuid)));
        }
        if is_under_our_id && !is_this_one {
            return Ok(Availability::Gone(format!(
                "another replica of the source has the server_id {ours} of this server: give one of them another"
            )));
        }
    }
    Ok(Availability::Available)
}

fn cloned(who: &str, uuid: &str) -> String {
    format!(
        "{who} and this server have the same server_uuid {uuid}, as hosts that were cloned have: remove auto.cnf from this one's \
         datadir and start it again"
    )
}

/// Whether this server wrote anything of what is to come.
pub(super) async fn check(asked: &mut Asked<'_>) -> Result<Availability> {
    let from = asked.recorded.from;
    match (from.flavor, &from.gtid) {
        (Flavor::Mariadb, Some(position)) => {
            let state = asked.scalar("show gtid_binlog_state", "SELECT @@GLOBAL.gtid_binlog_state").await?;
            let own = gtid::written_after(&state, asked.follower.server_id, position);
            Ok(if own.is_empty() { Availability::Available } else { skipped(asked, &gtid::list(&own)) })
        }
        (Flavor::Mysql, Some(set)) => {
            let sql = format!("SELECT GTID_SUBTRACT(@@GLOBAL.gtid_executed, {})", quote(set));
            let to_come =
                one_line(&asked.scalar("compare its gtid_executed", sql).await?).unwrap_or_default();
            by_uuid(asked, &to_come).await
        }
        (_, None) => by_scan(asked).await,
    }
}

fn skipped(asked: &Asked<'_>, what: &str) -> Availability {
    Availability::Gone(format!(
        "this server itself wrote {what} after the data were frozen, and a replica skips what bears its own server_id {}: these \
         rows would be missing for ever; take a fresh snapshot of the source",
        asked.follower.server_id
    ))
}

/// Who wrote the transactions to come: known of the source and of this server, read from the logs of everybody else.
async fn by_uuid(asked: &mut Asked<'_>, to_come: &str) -> Result<Availability> {
    let mut writers: BTreeSet<String> =
        to_come.split(',').filter_map(|one| Some(one.split_once(':')?.0.to_ascii_lowercase())).collect();
    if let Some(own) = &asked.follower.server_uuid
        && writers.contains(&own.to_ascii_lowercase())
    {
        return Ok(skipped(asked, to_come));
    }
    writers.remove(
        &asked.scalar("show its server_uuid", "SELECT @@GLOBAL.server_uuid").await?.to_ascii_lowercase(),
    );
    if writers.is_empty() {
        return Ok(Availability::Available);
    }
    let own_id = asked.follower.server_id.to_string();
    let mut logs = names(asked).await?;
    let until = Instant::now() + BUDGET;
    // What is to come lies in the newest logs.
    while let Some(log) = logs.pop() {
        let mut found = None;
        let ended = scan(asked, &log, 4, until, &mut |event: &Event| {
            let Some(writer) = event.writer() else { return true };
            if event.server_id == own_id && writers.contains(&writer) {
                found = Some(writer);
                return false;
            }
            writers.remove(&writer);
            !writers.is_empty()
        })
        .await?;
        if let Some(writer) = found {
            return Ok(skipped(asked, &format!("transactions of {writer} (as the server that it was then)")));
        }
        if writers.is_empty() {
            return Ok(Availability::Available);
        }
        if !ended {
            break;
        }
    }
    let writers: Vec<String> = writers.into_iter().collect();
    Ok(Availability::Unknown(format!(
        "under which server_id {} wrote what is to come could not be read from the source's logs in time: if it was this \
         server, its rows would be missing",
        writers.join(", ")
    )))
}

/// Without GTIDs: every event behind the position.
async fn by_scan(asked: &mut Asked<'_>) -> Result<Availability> {
    let Some(at) = asked.recorded.from.binlog.clone() else { return Ok(Availability::Available) };
    let own_id = asked.follower.server_id.to_string();
    let until = Instant::now() + BUDGET;
    let logs = names(asked).await?.into_iter().skip_while(|log| *log != at.file);
    for log in logs.collect::<Vec<_>>() {
        let from = if log == at.file { at.position } else { 4 };
        let mut own = None;
        let ended = scan(asked, &log, from, until, &mut |event: &Event| {
            if event.server_id == own_id {
                own = Some(event.position.clone());
            }
            own.is_none()
        })
        .await?;
        if let Some(position) = own {
            return Ok(skipped(asked, &format!("{log}:{position}")));
        }
        if !ended {
            return Ok(Availability::Unknown(
                "whether this server itself wrote something of what is to come could not be read from the source's logs in \
                 time: if so, its rows would be missing"
                    .to_owned(),
            ));
        }
    }
    Ok(Availability::Available)
}

async fn names(asked: &mut Asked<'_>) -> Result<Vec<String>> {
    let rows = asked.session.records("show its binary logs", "SHOW BINARY LOGS").await?;
    Ok(rows.into_iter().filter_map(|mut row| row.remove("Log_name")).collect())
}

/// One line of `SHOW BINLOG EVENTS`.
struct Event {
    position: String,
    kind: String,
    server_id: String,
    info: String,
}

impl Event {
    /// The UUID of the server that a GTID is of.
    fn writer(&self) -> Option<String> {
        if self.kind != "Gtid" {
            return None;
        }
        let (_, gtid) = self.info.split_once('\'')?;
        Some(gtid.split(':').next()?.to_ascii_lowercase())
    }
}

/// Reads the events of a log from a position on, until `look` says that it has seen enough. False when the time was over.
async fn scan(
    asked: &mut Asked<'_>,
    log: &str,
    from: u64,
    until: Instant,
    look: &mut (dyn FnMut(&Event) -> bool + Send),
) -> Result<bool> {
    let mut from = from;
    loop {
        if Instant::now() >= until {
            return Ok(false);
        }
        let sql = format!("SHOW BINLOG EVENTS IN {} FROM {from} LIMIT {PAGE}", quote(log));
        let mut rows = asked.session.records("show the events of a binary log", sql).await?;
        let page = rows.len();
        let end = rows.last().and_then(|row| row.get("End_log_pos")?.parse().ok());
        for row in &mut rows {
            let mut take = |name: &str| row.remove(name).unwrap_or_default();
            let event = Event {
                position: take("Pos"),
                kind: take("Event_type"),
                server_id: take("Server_id"),
                info: take("Info"),
            };
            if !look(&event) {
                return Ok(true);
            }
        }
        match end {
            Some(end) if page == PAGE && end > from => from = end,
            _ => return Ok(true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_writer_of_a_gtid_event_is_read_as_both_forms_have_it() {
        let event = |kind: &str, info: &str| Event {
            position: "4".into(),
            kind: kind.into(),
            server_id: "1".into(),
            info: info.into(),
        };
        let uuid = "3E11FA47-71CA-11E1-9E33-C80AA9429562";
        for info in
            [format!("SET @@SESSION.GTID_NEXT= '{uuid}:7'"), format!("SET @@SESSION.GTID_NEXT= '{uuid}:x:7'")]
        {
            assert_eq!(event("Gtid", &info).writer(), Some(uuid.to_ascii_lowercase()));
        }
        assert_eq!(event("Query", "BEGIN").writer(), None);
    }
}
