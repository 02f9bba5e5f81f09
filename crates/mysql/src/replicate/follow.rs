//! The end of a seed that makes a replica: a proof that what the source had *after* the start has been applied here.
//!
//! Threads that say `Yes` and a lag of 0 are an instant's state: both are there before the source has accepted the dump or
//! sent a single event.

use std::time::{Duration, Instant};

use protocol::mysql::{Coordinates, Flavor};

use super::{Source, set_read_only};
use crate::client::{Record, Session};
use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::power::Progress;
use crate::sql::quote;
use crate::{gtid, history, position, server};

mod applier;
mod status;

use applier::Effort;
use status::{Health, health, is_accepted, standing};

const POLL: Duration = Duration::from_millis(200);
/// A source that does not answer within this time would not serve a replica either.
const SOURCE_LIMIT: Duration = Duration::from_secs(5);
/// Without an event that came through, the dump counts as accepted when its thread has waited for one this long, and …
const LEAST_SETTLE: Duration = Duration::from_secs(1);
/// … this many times as long as the source takes to answer a question on a new connection.
const SETTLE_ROUND_TRIPS: u32 = 8;

/// What counts as a replica that follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CatchUp {
    /// It follows when it is at most this far behind, seconds.
    pub max_lag_seconds: u64,
    /// Given up after this long without any progress of its position or of what it applies.
    pub patience: Duration,
    /// Leave the replica writable afterwards.
    pub writable: bool,
}

impl Default for CatchUp {
    fn default() -> Self {
        Self { max_lag_seconds: 5, patience: Duration::from_secs(60), writable: false }
    }
}

/// A replica that follows, with the proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Following {
    /// Seconds behind its source.
    pub lag_seconds: u64,
    /// How long it took to get there.
    pub took: Duration,
    /// What the source had after the start of replication.
    pub source: Coordinates,
    /// What has been applied here, in the source's terms; it holds all of `source`.
    pub applied: Coordinates,
    /// Where its own history stands.
    pub coordinates: Option<Coordinates>,
}

/// Waits until all that the source had after the start has been applied, both threads run and the lag is small.
///
/// There is no limit but the patience: it counts while neither a position moves nor the applier gets on with a transaction.
///
/// # Errors
/// [`Error::Replication`] with what the threads say when they stop on an error or nothing moves any more, and when the
/// replica has transactions that the source has not, which are named.
pub async fn wait(
    instance: &Instance,
    source: &Source,
    from: &Coordinates,
    goal: CatchUp,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Following> {
    let began = Instant::now();
    let mut session = instance.connect().await?;
    let flavor = server::version(&mut session).await?.flavor;
    let mut watch = Watch::new(source, from, goal, flavor);
    let lag_seconds = loop {
        if let Some(lag) = watch.look(&mut session, progress).await? {
            break lag;
        }
        tokio::time::sleep(POLL).await;
    };
    let (source_had, applied) = watch.proof(&mut session).await?;
    if goal.writable {
        set_read_only(&mut session, flavor, false).await?;
    }
    let coordinates = position::read(&mut session, flavor).await.ok();
    session.close().await;
    Ok(Following { lag_seconds, took: began.elapsed(), source: source_had, applied, coordinates })
}

/// What has been seen so far.
struct Watch<'a> {
    source: &'a Source,
    from: &'a Coordinates,
    goal: CatchUp,
    flavor: Flavor,
    /// What the source had after the start, and how long it took to answer.
    target: Option<(Coordinates, Duration)>,
    /// Since when the I/O thread waits for an event.
    accepted: Option<Instant>,
    /// Since when nothing has moved.
    still: Instant,
    last: Option<(Vec<String>, Effort)>,
    words: String,
}

impl<'a> Watch<'a> {
    fn new(source: &'a Source, from: &'a Coordinates, goal: CatchUp, flavor: Flavor) -> Self {
        let (target, accepted, last) = (None, None, None);
        Self {
            source,
            from,
            goal,
            flavor,
            target,
            accepted,
            still: Instant::now(),
            last,
            words: String::new(),
        }
    }

    fn failed(&self, problem: String) -> Error {
        Error::Replication { source_host: format!("{}:{}", self.source.host, self.source.port), problem }
    }

    /// One look; the lag once all is proven.
    async fn look(
        &mut self,
        session: &mut Session,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Option<u64>> {
        self.ask_once().await;
        let status = server::replica_status(session).await?;
        let status = status.ok_or_else(|| self.failed("it is not configured".to_owned()))?;
        let applied = self.applied(session, &status).await?;
        self.notice_acceptance(&status);
        match health(&status) {
            Health::Failed(problem) => return Err(self.failed(problem)),
            Health::Connecting(words) => self.words = words,
            Health::Running(lag) => {
                let missing = self.missing(session, &applied).await?;
                self.words = match (&self.target, missing) {
                    (None, _) => format!("its source cannot be asked what it has: {}", self.words),
                    (Some(_), Some(missing)) => format!("{missing} of its source is not applied yet"),
                    (Some(_), None) if lag > self.goal.max_lag_seconds => {
                        format!("{lag} s behind its source")
                    }
                    (Some((_, answer)), None) if !self.is_settled(&applied, *answer) => {
                        "whether its source accepts it is not proven yet".to_owned()
                    }
                    (Some(_), None) => return Ok(Some(lag)),
                };
                progress(Progress { percent: None, message: self.words.clone() });
            }
        }
        self.be_patient(session, &status).await?;
        Ok(None)
    }

    /// Asks the source what it has now, which is after the start, until it has answered.
    async fn ask_once(&mut self) {
        if self.target.is_some() {
            return;
        }
        let began = Instant::now();
        match history::standing(self.source, self.from, SOURCE_LIMIT).await {
            Ok(target) => self.target = Some((target, began.elapsed())),
            Err(error) => self.words = said(&error),
        }
    }

    /// What has been applied here, in the terms of the source.
    async fn applied(&self, session: &mut Session, status: &Record) -> Result<Coordinates> {
        let gtid = match (self.flavor, &self.from.gtid) {
            (_, None) => None,
            (Flavor::Mariadb, Some(_)) => {
                session.scalar("show gtid_slave_pos", "SELECT @@GLOBAL.gtid_slave_pos").await?
            }
            (Flavor::Mysql, Some(_)) => {
                session.scalar("show gtid_executed", "SELECT @@GLOBAL.gtid_executed").await?
            }
        };
        let gtid = gtid.as_deref().and_then(position::one_line);
        Ok(Coordinates { flavor: self.flavor, binlog: status::executed(status), gtid })
    }

    /// What of the target has not been applied, in words.
    async fn missing(&self, session: &mut Session, applied: &Coordinates) -> Result<Option<String>> {
        let Some((target, _)) = &self.target else { return Ok(None) };
        let here = applied.gtid.as_deref().unwrap_or_default();
        match (self.flavor, &self.from.gtid, &target.gtid) {
            (_, Some(_), None) => Ok(None),
            (Flavor::Mysql, Some(_), Some(there)) => subtract(session, there, here).await,
            (Flavor::Mariadb, Some(_), Some(there)) => {
                if let Some((theirs, ours)) = gtid::fork(there, here) {
                    let text = format!(
                        "the source has {theirs} where this replica has {ours}: their histories differ"
                    );
                    return Err(self.failed(text));
                }
                Ok(Some(gtid::list(&gtid::missing(there, here))).filter(|missing| !missing.is_empty()))
            }
            (_, None, _) => {
                let (there, here) = (target.binlog.as_ref(), applied.binlog.as_ref());
                let reached =
                    there.zip(here).is_some_and(|(there, here)| position::is_at_or_after(here, there));
                Ok(there
                    .filter(|_| !reached)
                    .map(|at| format!("what lies before {}:{}", at.file, at.position)))
            }
        }
    }

    fn notice_acceptance(&mut self, status: &Record) {
        match is_accepted(status) {
            true => _ = self.accepted.get_or_insert_with(Instant::now),
            false => self.accepted = None,
        }
    }

    /// Events came through, or the dump has been accepted for a while without any.
    fn is_settled(&self, applied: &Coordinates, answer: Duration) -> bool {
        let came_through = match &self.from.gtid {
            Some(gtid) => applied.gtid.as_ref() != Some(gtid),
            None => applied.binlog != self.from.binlog,
        };
        let settle =
            if came_through { Duration::ZERO } else { LEAST_SETTLE.max(answer * SETTLE_ROUND_TRIPS) };
        self.accepted.is_some_and(|since| since.elapsed() >= settle)
    }

    async fn be_patient(&mut self, session: &mut Session, status: &Record) -> Result<()> {
        let now = (standing(status), applier::effort(session).await?);
        if self.last.as_ref().is_none_or(|last| last.0 != now.0 || now.1.is_more_than(&last.1)) {
            self.still = Instant::now();
        }
        self.last = Some(now);
        if self.still.elapsed() <= self.goal.patience {
            return Ok(());
        }
        let patience = self.goal.patience.as_secs();
        Err(self.failed(format!("no progress for {patience} s: {}", self.words)))
    }

    /// Both sets, once more and side by side: nothing is here that the source has not.
    async fn proof(&self, session: &mut Session) -> Result<(Coordinates, Coordinates)> {
        let status = server::replica_status(session).await?.unwrap_or_default();
        let applied = self.applied(session, &status).await?;
        let Some((target, _)) = self.target.clone() else {
            return Err(self.failed("the source was never asked".to_owned()));
        };
        // Asked after what is applied here was read: whatever came from the source is in its answer.
        let now = history::standing(self.source, self.from, SOURCE_LIMIT).await?;
        let there = now.gtid.as_deref().unwrap_or_default();
        let errant = match &applied.gtid {
            None => None,
            Some(here) if self.flavor == Flavor::Mysql => subtract(session, here, there).await?,
            Some(here) => {
                let (mut errant, _) = gtid::errant(here, there);
                errant.extend(self.own_writes(session).await?);
                Some(gtid::list(&errant)).filter(|errant| !errant.is_empty())
            }
        };
        match errant {
            None => Ok((target, applied)),
            Some(errant) => Err(self.failed(format!(
                "this replica has transactions that its source has not: {errant}; find out who wrote them"
            ))),
        }
    }
}

impl Watch<'_> {
    /// What MariaDB has written under its own id since the data were frozen, and its source does not know of.
    async fn own_writes(&self, session: &mut Session) -> Result<Vec<gtid::Gtid>> {
        let state = session.scalar("show gtid_binlog_state", "SELECT @@GLOBAL.gtid_binlog_state").await?;
        let id = session.scalar("show its server_id", "SELECT @@GLOBAL.server_id").await?;
        let Some(id) = id.and_then(|id| id.parse().ok()) else { return Ok(Vec::new()) };
        let frozen = self.from.gtid.as_deref().unwrap_or_default();
        let mut own = gtid::written_after(&state.unwrap_or_default(), id, frozen);
        if !own.is_empty() {
            let known =
                gtid::written_after(&history::binlog_state(self.source, SOURCE_LIMIT).await?, id, frozen);
            own.retain(|gtid| !known.iter().any(|k| k.domain == gtid.domain && k.sequence >= gtid.sequence));
        }
        Ok(own)
    }
}

/// What of one of MySQL's sets is not in another.
async fn subtract(session: &mut Session, whole: &str, part: &str) -> Result<Option<String>> {
    let sql = format!("SELECT GTID_SUBTRACT({}, {})", quote(whole), quote(part));
    let left = session.scalar("compare GTID sets", sql).await?;
    Ok(left.as_deref().and_then(position::one_line))
}

fn said(error: &Error) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}")
}
