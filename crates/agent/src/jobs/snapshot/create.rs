//! `snapshot.create`: a snapshot of the live datadir.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use job::{Scope, Step, StepError, Steps};
use mysql::lock::{InstanceLock, LockLimits, LockScope};
use protocol::command::Call as _;
use protocol::error::{ErrorCode, WireError};
use protocol::mysql::{Coordinates, Flavor, LogIdentity, ServerInfo, ServerState};
use protocol::params::SnapshotCreateParams;
use protocol::snapshot::{Consistency, Freeze, ProviderKind, Snapshot};
use serde_json::Value;
use snapshot::provider::Take as TakeNow;
use snapshot::{CreateRequest, Observed, SizePolicy};
use tokio::runtime::Handle;

use crate::admission::{Claim, Claims, Resource};
use crate::host::{Host, Snapshots, blocking};
use crate::jobs::kind::Kind;
use crate::jobs::output;
use crate::state::acting::Change;

/// Makes a snapshot of the live datadir.
#[derive(Debug)]
pub(crate) struct Create;

impl Kind for Create {
    type Params = SnapshotCreateParams;
    const NAME: &'static str = SnapshotCreateParams::SPEC.name;

    fn claims(_: &SnapshotCreateParams) -> Claims {
        &[
            (Resource::Service, Claim::Shared),
            (Resource::Datadir, Claim::Shared),
            (Resource::Snapshots, Claim::Alone),
        ]
    }

    fn check(host: &Host, params: &SnapshotCreateParams) -> Result<(), WireError> {
        heeds_size(host.snapshots()?, params)
    }

    fn steps() -> Steps<Host> {
        vec![Arc::new(Self)]
    }
}

#[async_trait]
impl Step<Host> for Create {
    fn name(&self) -> &'static str {
        "take"
    }

    async fn run(&self, host: &Host, scope: &Scope) -> Result<Value, StepError> {
        let params: SnapshotCreateParams = scope.params()?;
        let acts = host.acting.begin(scope.spec().actor, Change::Making);
        let snapshot = take(host, &params).await?;
        // Seen and told before the name goes.
        host.look_now().await;
        drop(acts);
        output(&snapshot)
    }

    async fn undo(&self, _host: &Host, _scope: &Scope) -> Result<(), StepError> {
        Ok(())
    }
}

/// A size that nothing heeds would be believed: classic LVM alone sets a store aside for each snapshot.
fn heeds_size(snapshots: &Snapshots, params: &SnapshotCreateParams) -> Result<(), WireError> {
    let kind = snapshots.provider.kind();
    if params.size_bytes.is_none() || kind == ProviderKind::Lvm {
        return Ok(());
    }
    let kind = snapshot::provider::kind_name(kind);
    let why = format!("a snapshot of {kind} has no store of its own, so no size: leave --size away");
    Err(WireError::new(ErrorCode::Refused, why))
}

async fn take(host: &Host, params: &SnapshotCreateParams) -> Result<Snapshot, WireError> {
    let snapshots = host.snapshots()?.clone();
    crate::jobs::on_snapshot::refuse_while_covered(host, "a snapshot of the live data")?;
    let server = host.instance.info().await;
    let datadir = server.datadir.clone().ok_or_else(|| {
        WireError::new(
            ErrorCode::NotFound,
            "the datadir is not known: set mysql.datadir in the configuration",
        )
    })?;
    let keep = params.keep_s.map(|s| SignedDuration::from_secs(i64::try_from(s).unwrap_or(i64::MAX / 4)));
    let request = CreateRequest {
        cluster: host.config.agent.cluster.clone(),
        dc: host.config.agent.dc.clone(),
        host: host.id.clone(),
        datadir: datadir.clone(),
        size: params.size_bytes.map(SizePolicy::FixedBytes),
        expires_at: keep.and_then(|keep| Timestamp::now().checked_add(keep).ok()),
    };
    let instant = Instant::decide(host, &snapshots, server, &datadir).await?;
    blocking(move || {
        let mut at_instant = |take: TakeNow<'_>| instant.run(take);
        snapshots.provider.create(&request, &mut at_instant).map_err(WireError::from)
    })
    .await
}

/// How the data are brought to rest for one snapshot.
struct Instant {
    instance: mysql::Instance,
    settings: mysql::Settings,
    server: ServerInfo,
    /// Keep still what `scope` says and read the position, waiting this long at the most.
    lock: Option<Duration>,
    scope: LockScope,
    /// The lock is a wish only: without it crash recovery still makes the snapshot whole.
    lock_optional: bool,
    /// Hold the process still while files are copied one by one.
    pause: Option<i32>,
    runtime: Handle,
}

impl Instant {
    async fn decide(
        host: &Host,
        snapshots: &Snapshots,
        server: ServerInfo,
        datadir: &Path,
    ) -> Result<Self, WireError> {
        let atomic = snapshots.provider.probe().features.atomic;
        let stopped = server.state == ServerState::Stopped;
        let layout = server.layout.clone();
        let path = datadir.to_owned();
        let asked = server.clone();
        let (placement, scope) = blocking(move || {
            let placement = mysql::consistency::Placement::check_layout(&path, layout.as_ref())?;
            Ok((placement, mysql::consistency::scope(&asked)))
        })
        .await?;
        let must_lock = match placement.verdict() {
            mysql::consistency::Verdict::OneVolume => false,
            mysql::consistency::Verdict::BlockCommits => true,
            mysql::consistency::Verdict::Impossible(missing) => {
                let files: Vec<String> =
                    missing.iter().map(|e| format!("{} ({:?})", e.path.display(), e.part)).collect();
                return Err(WireError::new(
                    ErrorCode::Refused,
                    format!(
                        "a snapshot of {} would not hold the whole database; these lie elsewhere: {}",
                        datadir.display(),
                        files.join(", ")
                    ),
                ));
            }
        };
        let pause = (!atomic && !stopped).then_some(server.pid).flatten();
        if !atomic && !stopped && pause.is_none() {
            return Err(WireError::new(
                ErrorCode::Refused,
                "this provider copies file after file, and the server's process could not be found to hold it still",
            ));
        }
        let reachable = server.state == ServerState::Ready;
        if must_lock && !stopped && (!reachable || host.lock_wait().is_none()) {
            return Err(WireError::new(
                ErrorCode::Refused,
                "the binary log lies on another volume, so commits must be blocked for the instant: give the agent \
                 access to MySQL and set snapshot.lock_wait_s",
            ));
        }
        Ok(Self {
            instance: host.instance.clone(),
            settings: host.instance.settings().await,
            lock: host.lock_wait().filter(|_| reachable),
            scope: if must_lock { LockScope::Commits } else { scope },
            lock_optional: !must_lock,
            pause,
            server,
            runtime: Handle::current(),
        })
    }

    fn run(&self, take: TakeNow<'_>) -> Result<Observed, Box<dyn std::error::Error + Send + Sync>> {
        if self.server.state == ServerState::Stopped {
            return self.at_rest(take);
        }
        let standing = self.stand()?;
        {
            let paused =
                self.pause.map(|pid| snapshot::freeze::pause(pid, Duration::from_secs(10))).transpose()?;
            take()?;
            if let Some(paused) = paused {
                let still_ms = u64::try_from(paused.paused_for().as_millis()).unwrap_or(u64::MAX);
                drop(paused);
                tracing::info!(still_ms, "the server stood still for the instant of its snapshot");
            }
        }
        let mut observed = Observed {
            freeze: if self.pause.is_some() { Freeze::Paused } else { Freeze::Atomic },
            server_version: self.server.version.clone(),
            ..Observed::crash_consistent()
        };
        self.tell_position(standing, &mut observed)?;
        Ok(observed)
    }

    /// That nothing runs says nothing of how it ended: after a kill the logs belong to the data, and with them a server that was
    /// shut down cleanly loses nothing.
    fn at_rest(&self, take: TakeNow<'_>) -> Result<Observed, Box<dyn std::error::Error + Send + Sync>> {
        let flavor = self.server.version.as_ref().map(|version| version.flavor);
        let look = || mysql::binlog::at_rest(&self.settings, flavor?).ok().flatten();
        let before = look();
        take()?;
        let mut observed = Observed {
            consistency: Consistency::Crash,
            server_version: self.server.version.clone(),
            ..Observed::stopped()
        };
        // A server that was started meanwhile has begun another log.
        let Some(at) = look().filter(|after| before.as_ref() == Some(after)) else {
            let why = "MySQL was stopped, and its last log does not say that it was closed by a shutdown";
            observed.no_position = Some(why.to_owned());
            return Ok(observed);
        };
        observed.log = Some(LogIdentity { server_uuid: self.server.server_uuid.clone(), ..at.log });
        match at.coordinates.flavor {
            Flavor::Mariadb => observed.coordinates = Some(at.coordinates),
            Flavor::Mysql => observed.at_least = Some(at.coordinates),
        }
        Ok(observed)
    }

    fn tell_position(&self, standing: Standing, observed: &mut Observed) -> Result<(), mysql::Error> {
        let (coordinates, scope, lock) = match standing {
            Standing::Locked(lock) => (lock.coordinates().clone(), lock.scope(), Some(lock)),
            // No lock kept tables of other engines from being made meanwhile.
            Standing::AtLeast(coordinates) if mysql::consistency::scope(&self.server) == LockScope::Ddl => {
                (coordinates, LockScope::Ddl, None)
            }
            Standing::AtLeast(_) => {
                observed.no_position =
                    Some("no lock kept tables of other engines from being made".to_owned());
                return Ok(());
            }
            Standing::Unknown(why) => {
                observed.no_position = Some(why);
                return Ok(());
            }
        };
        let log = mysql::history::identity(&self.server, &coordinates);
        let open_tables = lock.as_ref().map_or(0, InstanceLock::temporary_tables_of_appliers);
        let released = lock.map(|lock| self.runtime.block_on(lock.release())).transpose();
        match (released, scope) {
            (Ok(_), scope) if open_tables > 0 => {
                let why = format!("replication had {open_tables} temporary tables open, which no copy has");
                tracing::warn!("the position of the snapshot is not recorded: {why}");
                observed.no_position = Some(why);
                if scope == LockScope::Commits {
                    observed.consistency = Consistency::Locked;
                }
                return Ok(());
            }
            (Ok(_), LockScope::Commits) => {
                observed.consistency = Consistency::Locked;
                observed.coordinates = Some(coordinates);
            }
            (Ok(_), LockScope::Ddl) => observed.at_least = Some(coordinates),
            // Longer than the server holds a lock: still one instant, only its position is not known.
            (Err(error), _) if self.lock_optional => {
                tracing::warn!(%error, "the lock was lost during the snapshot; its position is not recorded");
                observed.no_position = Some(format!("the lock was lost: {error}"));
                return Ok(());
            }
            (Err(error), _) => return Err(error),
        }
        observed.log = Some(log);
        Ok(())
    }

    fn stand(&self) -> Result<Standing, mysql::Error> {
        let Some(wait) = self.lock else {
            let why = "snapshot.lock_wait_s was 0, or MySQL did not let the agent log in";
            return Ok(Standing::Unknown(why.to_owned()));
        };
        let limits = LockLimits { wait, hold: Duration::from_secs(600) };
        let take = |scope| self.runtime.block_on(InstanceLock::take(&self.instance, scope, limits));
        let widened = |scope| {
            let widened = self.runtime.block_on(mysql::lock::widened(&self.instance, scope, wait));
            widened.unwrap_or(LockScope::Commits)
        };
        let mut scope = widened(self.scope);
        let mut taken = take(scope);
        // What was seen before the lock may have changed; tables are made no more once it is held.
        if let (LockScope::Ddl, Ok(lock)) = (scope, &taken)
            && (mysql::consistency::scope(&self.server), widened(lock.scope()))
                != (LockScope::Ddl, LockScope::Ddl)
        {
            drop(taken);
            scope = LockScope::Commits;
            taken = take(scope);
        }
        let error = match taken {
            Ok(lock) => return Ok(Standing::Locked(lock)),
            Err(error) if self.lock_optional => error,
            Err(error) => return Err(error),
        };
        let error = crate::host::chain(&error);
        // The data tell their position themselves.
        if scope == LockScope::Ddl
            && let Ok(coordinates) = self.runtime.block_on(self.instance.coordinates())
        {
            tracing::warn!(error, "no lock for the snapshot; it is crash-consistent");
            return Ok(Standing::AtLeast(coordinates));
        }
        tracing::warn!(
            error,
            "no lock for the snapshot; it is crash-consistent and its position is not recorded"
        );
        Ok(Standing::Unknown(error))
    }
}

/// What is known of the position before the instant.
enum Standing {
    /// Nothing that the lock keeps still moves until it is released.
    Locked(InstanceLock),
    /// Read without a lock.
    AtLeast(Coordinates),
    /// The server was not asked, or gave no lock; says why.
    Unknown(String),
}
