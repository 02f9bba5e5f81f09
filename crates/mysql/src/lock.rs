//! Blocks commits for the instant of a snapshot, with a bounded wait and coordinates read under the lock.
//!
//! Only needed where data and binary log lie on different volumes; on one volume crash recovery does it without a lock.

use std::time::{Duration, Instant};

use protocol::mysql::{Coordinates, Flavor};

use crate::client::Session;
use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::{position, server};

/// How long the lock may be waited for and held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockLimits {
    /// Each step of taking the lock gives up after this long; production never hangs behind it. At least 1 s.
    pub wait: Duration,
    /// The server itself takes the lock away after this long, whatever becomes of the agent. At least 1 s.
    pub hold: Duration,
}

impl Default for LockLimits {
    fn default() -> Self {
        Self { wait: Duration::from_secs(5), hold: Duration::from_secs(60) }
    }
}

/// What the lock keeps still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockScope {
    /// Files do not change their set (no DDL), commits go on: enough when the binary log is on the same volume.
    Ddl,
    /// No commit happens: data and a binary log elsewhere stand at the same transaction.
    Commits,
}

/// A held lock. Dropping it disconnects, and the server releases the lock.
#[derive(Debug)]
pub struct InstanceLock {
    session: Session,
    flavor: Flavor,
    limits: LockLimits,
    taken_at: Instant,
    coordinates: Coordinates,
    scope: LockScope,
    open_tables: u64,
}

impl InstanceLock {
    /// Takes the lock and reads the coordinates under it.
    ///
    /// MariaDB: `BACKUP STAGE` up to `BLOCK_DDL` or `BLOCK_COMMIT`. MySQL: `LOCK INSTANCE FOR BACKUP`, and for
    /// [`LockScope::Commits`] also `FLUSH TABLES WITH READ LOCK`, since MySQL has nothing narrower. With [`LockScope::Commits`]
    /// the engines' logs are flushed then: what was committed is committed in the data alone, not merely prepared there and
    /// committed by a binary log that a copy of the datadir may lack (mariabackup and xtrabackup do the same).
    ///
    /// # Errors
    /// [`Error::Lock`] when a step did not succeed within `limits.wait`; nothing is held then.
    pub async fn take(instance: &Instance, scope: LockScope, limits: LockLimits) -> Result<Self> {
        // The server's own limit ends first; this one is for a server that does not answer at all.
        let mut session = instance.connect().await?.with_limit(limits.wait + Duration::from_secs(5));
        let version = server::version(&mut session).await?;
        let wait_s = limits.wait.as_secs().max(1);
        let hold_s = limits.hold.as_secs().max(1);
        let settings = format!("SET SESSION lock_wait_timeout = {wait_s}, SESSION wait_timeout = {hold_s}");
        session.exec("bound the wait for the backup lock", settings).await?;
        let taken_at = Instant::now();
        if version.flavor == Flavor::Mysql && scope == LockScope::Commits {
            nothing_in_the_way(&mut session, limits.wait).await?;
        }
        for statement in statements(version.flavor, scope) {
            session
                .exec("take the backup lock", statement)
                .await
                .map_err(|e| not_taken(statement, &e, limits.wait))?;
        }
        let coordinates = position::read(&mut session, version.flavor).await?;
        let open_tables = temporary_tables_of_appliers(&mut session).await?;
        Ok(Self { session, flavor: version.flavor, limits, taken_at, coordinates, scope, open_tables })
    }

    /// What it keeps still.
    #[must_use]
    pub fn scope(&self) -> LockScope {
        self.scope
    }

    /// Where the data stand for as long as the lock is held (with [`LockScope::Ddl`]: stood when it was taken).
    #[must_use]
    pub fn coordinates(&self) -> &Coordinates {
        &self.coordinates
    }

    /// Temporary tables that the server's replication has open for sessions of its source. They are in no copy, and a statement
    /// that comes for one of them would end the replication of a server that goes on from here.
    #[must_use]
    pub fn temporary_tables_of_appliers(&self) -> u64 {
        self.open_tables
    }

    /// Releases the lock and proves that it was held until now. Returns for how long.
    ///
    /// # Errors
    /// [`Error::Lock`] when the lock was lost before, or the coordinates moved under it: what was copied meanwhile is not
    /// consistent.
    pub async fn release(mut self) -> Result<Duration> {
        let lost = |problem: &str| Error::Lock { problem: format!("was lost while it was held: {problem}") };
        let now =
            position::read(&mut self.session, self.flavor).await.map_err(|_| lost("the session ended"))?;
        let held = self.taken_at.elapsed();
        if self.scope == LockScope::Commits && now != self.coordinates {
            return Err(lost("commits went on"));
        }
        if held > self.limits.hold {
            return Err(lost("it was held longer than its limit"));
        }
        let statement = match self.flavor {
            Flavor::Mariadb => "BACKUP STAGE END",
            Flavor::Mysql => "UNLOCK INSTANCE",
        };
        if self.flavor == Flavor::Mysql && self.scope == LockScope::Commits {
            self.session.exec("unlock its tables", "UNLOCK TABLES").await?;
        }
        self.session.exec("release the backup lock", statement).await?;
        self.session.close().await;
        Ok(held)
    }
}

/// The lock that is needed now where this one would do by the data's layout.
///
/// # Errors
/// [`Error::Connect`], [`Error::Query`].
pub async fn widened(instance: &Instance, scope: LockScope, limit: Duration) -> Result<LockScope> {
    if scope == LockScope::Commits {
        return Ok(scope);
    }
    let mut session = instance.connect().await?.with_limit(limit);
    let flushes = "SELECT @@GLOBAL.innodb_flush_log_at_trx_commit";
    let flushes = session.scalar("show innodb_flush_log_at_trx_commit", flushes).await?;
    session.close().await;
    // With 0 a commit is in the binary log up to a second before it is in the engine's: recovered data would claim it and lack
    // its rows.
    Ok(if matches!(flushes.as_deref(), Some("1" | "2")) { scope } else { LockScope::Commits })
}

const FLUSH: &str = "FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS";

fn statements(flavor: Flavor, scope: LockScope) -> &'static [&'static str] {
    match (flavor, scope) {
        (Flavor::Mariadb, LockScope::Ddl) => {
            &["BACKUP STAGE START", "BACKUP STAGE FLUSH", "BACKUP STAGE BLOCK_DDL"]
        }
        (Flavor::Mariadb, LockScope::Commits) => &[
            "BACKUP STAGE START",
            "BACKUP STAGE FLUSH",
            "BACKUP STAGE BLOCK_DDL",
            "BACKUP STAGE BLOCK_COMMIT",
            FLUSH,
        ],
        (Flavor::Mysql, LockScope::Ddl) => &["LOCK INSTANCE FOR BACKUP"],
        (Flavor::Mysql, LockScope::Commits) => {
            &["LOCK INSTANCE FOR BACKUP", "FLUSH TABLES WITH READ LOCK", FLUSH]
        }
    }
}

/// `FLUSH TABLES WITH READ LOCK` waits for each statement that runs, and all commits wait for it: one that has run for longer than
/// we would wait is not waited for at all. Threads of the server itself (a replica's, which "run" for as long as they wait for events)
/// give way. An account without `PROCESS` sees none, and waits.
async fn nothing_in_the_way(session: &mut Session, wait: Duration) -> Result<()> {
    let sql = "SELECT MAX(time) FROM information_schema.processlist WHERE command IN ('Query', 'Execute') \
               AND user NOT IN ('system user', 'event_scheduler') AND id <> CONNECTION_ID()";
    let longest = session.scalar("show its longest statement", sql).await.ok().flatten();
    match longest.and_then(|seconds| seconds.parse::<u64>().ok()) {
        Some(seconds) if seconds > wait.as_secs() => Err(Error::Lock {
            problem: format!(
                "was not asked for: a statement has been running for {seconds} s, and it would wait for its end"
            ),
        }),
        _ => Ok(()),
    }
}

async fn temporary_tables_of_appliers(session: &mut Session) -> Result<u64> {
    let sql =
        "SHOW GLOBAL STATUS WHERE Variable_name IN ('Slave_open_temp_tables', 'Replica_open_temp_tables')";
    let rows = session.rows("count its replication's temporary tables", sql).await?;
    let counts = rows.into_iter().filter_map(|row| row.into_iter().nth(1)??.parse::<u64>().ok());
    Ok(counts.max().unwrap_or(0))
}

/// A wait that ran out is the expected failure; anything else keeps the server's words.
fn not_taken(statement: &str, error: &Error, wait: Duration) -> Error {
    const ER_LOCK_WAIT_TIMEOUT: u16 = 1205;
    let problem = if position::server_code(error) == Some(ER_LOCK_WAIT_TIMEOUT) {
        format!(
            "was not granted within {} s at {statement}: a long statement or transaction is in its way",
            wait.as_secs()
        )
    } else {
        let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
        format!("was not granted at {statement}: {error}: {cause}")
    };
    Error::Lock { problem }
}
