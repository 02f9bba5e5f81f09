//! Whether a replica can follow a source from recorded coordinates, and would then have every row of it.
//!
//! A name is no identity: a log of the recorded name may be another one, a GTID set of the recorded form another history, and
//! what the recipient itself once wrote would be skipped when it comes back to it.

pub mod filters;
pub mod init_file;
mod logs;
mod own;

use std::time::Duration;

use jiff::Timestamp;
use protocol::mysql::{Coordinates, Flavor, LogIdentity};

use crate::client::{Address, Session};
use crate::error::{Error, Result};
use crate::gtid::{self, Gtid};
use crate::position::{self, server_code};
use crate::replicate::{Source, account};
use crate::server;
use crate::sql::quote;

pub use logs::identity;

/// What a source was found to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Availability {
    /// Everything from the coordinates on.
    Available,
    /// What is needed is gone, or would not arrive; says what.
    Gone(String),
    /// It could not be told; says why and what to do.
    Unknown(String),
}

/// Where the data stand, and what was recorded with them.
#[derive(Debug, Clone, Copy)]
pub struct Recorded<'a> {
    /// The coordinates.
    pub from: &'a Coordinates,
    /// Which log they are of; absent with snapshots of older agents.
    pub log: Option<&'a LogIdentity>,
    /// When the data were frozen, by the donor's clock.
    pub at: Option<Timestamp>,
}

/// The server that is to follow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Follower {
    /// Its `server_id`, under which it skips events.
    pub server_id: u32,
    /// Its `server_uuid` (MySQL), by which the source may still know it as a replica.
    pub server_uuid: Option<String>,
    /// It may follow a source that leaves schemas out of its log.
    pub takes_filtered: bool,
    /// It may follow a source that logs statements only.
    pub takes_statements: bool,
}

/// Asks a source, as the replication account, whether a replica could follow it and would have every row.
///
/// # Errors
/// [`Error::Connect`] when the source cannot be reached or keeps the account out: a replica could not follow it either.
pub async fn check_source(
    source: &Source,
    recorded: &Recorded<'_>,
    follower: &Follower,
    limit: Duration,
) -> Result<Availability> {
    let from = recorded.from;
    let mut session = connect(source, limit).await?;
    let version = server::version(&mut session).await?;
    if version.flavor != from.flavor {
        session.close().await;
        let text = format!("the source runs another vendor's server ({})", version.text);
        return Ok(Availability::Gone(text));
    }
    let mut doubts = Vec::new();
    let mut asked = Asked { session, source, recorded, follower, limit };
    // What each account may see comes first: it needs no rights on the logs.
    for question in
        [Question::Ids, Question::Relays, Question::Filters, Question::History, Question::Logs, Question::Own]
    {
        match asked.ask(question).await {
            Ok(Availability::Available) => {}
            Ok(Availability::Unknown(why)) => doubts.push(why),
            Ok(gone) => return Ok(gone),
            Err(error) if is_denied(&error) => {
                let right = match from.flavor {
                    Flavor::Mariadb => "BINLOG MONITOR",
                    Flavor::Mysql => "REPLICATION CLIENT",
                };
                let why = format!(
                    "the replication account may not list the source's binary logs; grant it {right}"
                );
                // Without GTIDs nothing but the log's position could prove the end of the seed.
                if from.gtid.is_none() {
                    return Ok(Availability::Gone(why));
                }
                doubts.push(why);
            }
            Err(error) => return Err(error),
        }
    }
    asked.session.close().await;
    doubts.dedup();
    Ok(if doubts.is_empty() { Availability::Available } else { Availability::Unknown(doubts.join("; ")) })
}

#[derive(Debug, Clone, Copy)]
enum Question {
    /// No two servers of one id.
    Ids,
    /// The source logs what it applies itself.
    Relays,
    /// The source logs all schemas.
    Filters,
    /// The data's history is the source's.
    History,
    /// The logs from there on are there, and are the recorded ones.
    Logs,
    /// The recipient wrote nothing of what is to come.
    Own,
}

/// A source that is being asked.
struct Asked<'a> {
    session: Session,
    source: &'a Source,
    recorded: &'a Recorded<'a>,
    follower: &'a Follower,
    limit: Duration,
}

impl Asked<'_> {
    async fn ask(&mut self, question: Question) -> Result<Availability> {
        match question {
            Question::Ids => own::ids(self).await,
            Question::Relays => self.relays().await,
            Question::Filters => filters::check(self).await,
            Question::History => self.history().await,
            Question::Logs => logs::check(self).await,
            Question::Own => own::check(self).await,
        }
    }

    async fn scalar(&mut self, action: &str, sql: impl AsRef<str>) -> Result<String> {
        Ok(self.session.scalar(action, sql).await?.unwrap_or_default())
    }

    /// A source that is a replica and logs only its own writes would give nothing of what it applies.
    async fn relays(&mut self) -> Result<Availability> {
        // MySQL counts what it applied without logging as purged, which is looked at with the history.
        if self.recorded.from.flavor == Flavor::Mysql && self.recorded.from.gtid.is_some() {
            return Ok(Availability::Available);
        }
        let logs = self.scalar("show log_slave_updates", "SELECT @@GLOBAL.log_slave_updates").await?;
        let applies = match self.recorded.from.flavor {
            Flavor::Mariadb => match self.session.records("list its sources", "SHOW ALL SLAVES STATUS").await
            {
                Ok(sources) => !sources.is_empty(),
                // Not every account may see them; a server that was promoted remembers that it was a replica.
                Err(_) => {
                    let sql = "SELECT @@GLOBAL.gtid_slave_pos";
                    !self.scalar("show gtid_slave_pos", sql).await?.is_empty()
                }
            },
            Flavor::Mysql => server::replica_status(&mut self.session).await?.is_some(),
        };
        Ok(match logs == "0" && applies {
            true => Availability::Gone(
                "the source is a replica that does not log what it applies (log_slave_updates is OFF): replicate from its own \
                 source, or switch it on there; of a server that was promoted, only an account with REPLICA MONITOR sees that it is \
                 no replica any more"
                    .to_owned(),
            ),
            false => Availability::Available,
        })
    }

    /// What the data have and the source has not: it was reset, or the data are of another history.
    async fn history(&mut self) -> Result<Availability> {
        let Some(ours) = &self.recorded.from.gtid else { return Ok(Availability::Available) };
        let errant = match self.recorded.from.flavor {
            Flavor::Mysql => {
                let sql = format!("SELECT GTID_SUBTRACT({}, @@GLOBAL.gtid_executed)", quote(ours));
                position::one_line(&self.scalar("compare its gtid_executed", sql).await?)
            }
            Flavor::Mariadb => {
                let theirs = mariadb_standing(&mut self.session).await?;
                let (errant, stale) = gtid::errant(ours, &theirs);
                if errant.is_empty() && !stale.is_empty() {
                    return Ok(Availability::Unknown(format!(
                        "the data know of {}, of domains that the source has never heard of: remains of an earlier source, or \
                         written on the donor only",
                        gtid::list(&stale)
                    )));
                }
                Some(gtid::list(&errant)).filter(|list| !list.is_empty())
            }
        };
        Ok(match errant {
            None => Availability::Available,
            Some(errant) => Availability::Gone(format!(
                "the data have transactions that the source has not: {errant}; it was reset since, or they were written on the \
                 donor only: take a snapshot of the source's own history"
            )),
        })
    }
}

/// A connection to a source as the replication account has it.
pub(crate) async fn connect(source: &Source, limit: Duration) -> Result<Session> {
    let login = account(&source.credentials)?;
    Session::open(&Address::Remote(source.host.clone(), source.port), &login, limit).await
}

/// What a source has now, by GTID where `from` has one, else by its log's position.
///
/// # Errors
/// [`Error::Connect`], and [`Error::Query`] where the account may not see the log's position.
pub(crate) async fn standing(source: &Source, from: &Coordinates, limit: Duration) -> Result<Coordinates> {
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

/// MariaDB's memory of the last transaction of each server in each domain.
pub(crate) async fn binlog_state(source: &Source, limit: Duration) -> Result<String> {
    let mut session = connect(source, limit).await?;
    let state = session.scalar("show gtid_binlog_state", "SELECT @@GLOBAL.gtid_binlog_state").await?;
    session.close().await;
    Ok(state.unwrap_or_default())
}

/// The last transaction of each domain. A server that was seeded itself has in its log only what came since.
async fn mariadb_standing(session: &mut Session) -> Result<String> {
    let sql =
        "SELECT CONCAT_WS(',', NULLIF(@@GLOBAL.gtid_binlog_pos, ''), NULLIF(@@GLOBAL.gtid_slave_pos, ''))";
    let both = session.scalar("show its GTID position", sql).await?.unwrap_or_default();
    let last: Vec<Gtid> = gtid::last_of_domains(&both).into_values().collect();
    Ok(gtid::list(&last))
}

fn is_denied(error: &Error) -> bool {
    /// Access denied to a database, a table, for want of a privilege.
    const DENIED: [u16; 3] = [1044, 1142, 1227];
    server_code(error).is_some_and(|code| DENIED.contains(&code))
}
