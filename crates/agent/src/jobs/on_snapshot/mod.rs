//! MySQL on a mounted snapshot: the host's own service, or a second server beside it, in seconds and with a way back.
//!
//! The service gets the snapshot by a bind mount over its datadir: whatever starts it finds the path that it knows, and
//! the live data lie untouched below. A second server has files, socket and port of its own. Who runs on what is on
//! disk before it happens ([`crate::state::runs`]), so that a restarted agent keeps the hold; a host that was booted anew, whose mounts
//! are gone, forgets it and starts on its own data.

mod layout;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use job::{Scope, Step, StepError, Steps};
use mysql::Instance;
use mysql::second::{self, SecondOptions};
use nix::mount::{MsFlags, mount};
use protocol::command::Call as _;
use protocol::error::{ErrorCode, WireError};
use protocol::ids::SnapshotId;
use protocol::mysql::ServerInfo;
use protocol::params::{MysqlLeaveSnapshotParams, MysqlStartOnSnapshotParams};
use serde_json::{Value, json};
use snapshot::{MountMode, Mounted};

use self::layout::all_in_datadir;
pub(crate) use self::layout::layout_in;
use super::service;
use crate::admission::{Claim, Claims, Resource};
use crate::errors::system;
use crate::host::{Host, blocking};
use crate::jobs::kind::Kind;
use crate::jobs::snapshot::release_if_held;
use crate::state::runs::{Run, boot_id};

/// Someone's shell may stand in the datadir when it shall be uncovered.
const UNCOVER_LIMIT: Duration = Duration::from_secs(10);

/// Refuses what must not meet a datadir that a snapshot covers.
pub(crate) fn refuse_while_covered(host: &Host, what: &str) -> Result<(), WireError> {
    match covered(host) {
        None => Ok(()),
        Some(problem) => Err(WireError::new(ErrorCode::Refused, format!("{what} is refused: {problem}"))),
    }
}

/// That the service runs on a snapshot, in a sentence with the way back.
pub(crate) fn covered(host: &Host) -> Option<String> {
    host.on_snapshot.of_service().map(|id| {
        format!(
            "the service of {} runs on snapshot {id}; end that first (mysql stop --on-snapshot {id})",
            host.id
        )
    })
}

/// `mysql.start-on-snapshot`.
pub(crate) struct StartOnSnapshot;

impl Kind for StartOnSnapshot {
    type Params = MysqlStartOnSnapshotParams;
    const NAME: &'static str = MysqlStartOnSnapshotParams::SPEC.name;

    fn claims(_: &MysqlStartOnSnapshotParams) -> Claims {
        &[(Resource::Service, Claim::Alone), (Resource::Datadir, Claim::Alone)]
    }

    fn check(host: &Host, params: &MysqlStartOnSnapshotParams) -> Result<(), WireError> {
        host.snapshots()?;
        if params.port == Some(0) {
            return Err(WireError::new(
                ErrorCode::BadRequest,
                "port 0 is no port that a server can be reached by",
            ));
        }
        if params.port.is_some() && params.port == host.seen().server.port {
            return Err(WireError::new(
                ErrorCode::Refused,
                "that is the port of the host's own server: choose another, or none to run the service on the snapshot",
            ));
        }
        Ok(())
    }

    fn summary(params: &MysqlStartOnSnapshotParams) -> String {
        params.snapshot.to_string()
    }

    fn steps() -> Steps<Host> {
        vec![Arc::new(Hold), Arc::new(Place), Arc::new(Start)]
    }
}

/// Mounts the snapshot writable and holds it.
#[derive(Debug)]
struct Hold;

/// Brings the server and the snapshot together: over the datadir, or by an option file.
#[derive(Debug)]
struct Place;

/// Starts the server.
#[derive(Debug)]
struct Start;

/// `mysql.leave-snapshot`.
#[derive(Debug)]
pub(crate) struct Leave;

#[async_trait]
impl Step<Host> for Hold {
    fn name(&self) -> &'static str {
        "hold"
    }

    async fn run(&self, host: &Host, scope: &Scope) -> Result<Value, StepError> {
        let params: MysqlStartOnSnapshotParams = scope.params()?;
        let server = host.instance.info().await;
        let run = match host.on_snapshot.find(&params.snapshot) {
            // What an interrupted run of this step has noted: by now the service may have been stopped.
            Some(run) if run.job == scope.job_id() => run,
            _ => {
                let datadir = datadir_of(&server)?;
                Run {
                    job: scope.job_id(),
                    port: params.port,
                    live: identity(&datadir)?,
                    datadir,
                    ran_before: server.state.may_be_running(),
                    boot: boot_id(),
                }
            }
        };
        if run.port.is_none() {
            all_in_datadir(&server, &run.datadir)?;
        }
        host.on_snapshot.note(&params.snapshot, &run)?;
        let mounted = match acquire(host, &params.snapshot, &run).await {
            Ok(mounted) => mounted,
            Err(error) => {
                host.on_snapshot.forget(&params.snapshot)?;
                return Err(error.into());
            }
        };
        host.look_soon();
        Ok(json!({ "datadir": mounted.datadir }))
    }

    async fn undo(&self, host: &Host, scope: &Scope) -> Result<(), StepError> {
        let params: MysqlStartOnSnapshotParams = scope.params()?;
        match host.on_snapshot.find(&params.snapshot) {
            Some(run) if run.job == scope.job_id() => let_go(host, &params.snapshot, &run).await,
            // Another one's, which this step had refused to disturb.
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Step<Host> for Place {
    fn name(&self) -> &'static str {
        "place"
    }

    async fn run(&self, host: &Host, scope: &Scope) -> Result<Value, StepError> {
        let params: MysqlStartOnSnapshotParams = scope.params()?;
        let run = noted(host, &params.snapshot)?;
        // After a reboot the mount is gone and the hold is the same.
        let mounted = acquire(host, &params.snapshot, &run).await?;
        match run.port {
            None => cover(host, scope, &run, &mounted).await?,
            Some(port) => prepare_second(host, port, &run, &mounted).await?,
        }
        Ok(Value::Null)
    }

    async fn undo(&self, host: &Host, scope: &Scope) -> Result<(), StepError> {
        let params: MysqlStartOnSnapshotParams = scope.params()?;
        match host.on_snapshot.find(&params.snapshot) {
            Some(run) => end(host, scope, &run).await,
            // A reboot has taken everything away.
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Step<Host> for Start {
    fn name(&self) -> &'static str {
        "start"
    }

    async fn run(&self, host: &Host, scope: &Scope) -> Result<Value, StepError> {
        let params: MysqlStartOnSnapshotParams = scope.params()?;
        let run = noted(host, &params.snapshot)?;
        let began = Instant::now();
        let server = match run.port {
            None => {
                service::start(host, scope).await?;
                host.instance.info().await
            }
            Some(port) => {
                let second = second_of(host, port).await?;
                let second = second.ok_or_else(|| {
                    StepError::new(ErrorCode::Internal, "the second server has no option file")
                })?;
                start_second(&second, scope).await?;
                second.info().await
            }
        };
        Ok(json!({
            "snapshot": params.snapshot,
            "state": server.state,
            "port": server.port,
            "socket": server.socket,
            "datadir": server.datadir,
            "started_in_ms": u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            "way_back": format!("mysql stop --on-snapshot {}", params.snapshot),
        }))
    }

    /// The server is ended with its place.
    async fn undo(&self, _host: &Host, _scope: &Scope) -> Result<(), StepError> {
        Ok(())
    }
}

impl Kind for Leave {
    type Params = MysqlLeaveSnapshotParams;
    const NAME: &'static str = MysqlLeaveSnapshotParams::SPEC.name;

    fn claims(_: &MysqlLeaveSnapshotParams) -> Claims {
        &[(Resource::Service, Claim::Alone), (Resource::Datadir, Claim::Alone)]
    }

    fn summary(params: &MysqlLeaveSnapshotParams) -> String {
        params.snapshot.to_string()
    }

    fn steps() -> Steps<Host> {
        vec![Arc::new(Self)]
    }
}

#[async_trait]
impl Step<Host> for Leave {
    fn name(&self) -> &'static str {
        "leave"
    }

    async fn run(&self, host: &Host, scope: &Scope) -> Result<Value, StepError> {
        let params: MysqlLeaveSnapshotParams = scope.params()?;
        let Some(run) = host.on_snapshot.find(&params.snapshot) else {
            if scope.is_rerun() {
                return Ok(Value::Null);
            }
            return Err(StepError::new(
                ErrorCode::NotFound,
                format!("no server runs on snapshot {}", params.snapshot),
            ));
        };
        end(host, scope, &run).await?;
        let_go(host, &params.snapshot, &run).await?;
        Ok(json!({ "state": host.instance.state().await }))
    }

    async fn undo(&self, _host: &Host, _scope: &Scope) -> Result<(), StepError> {
        Ok(())
    }
}

/// Ends the server and takes its place away; the service runs again on its own data if it ran before. Can be repeated.
async fn end(host: &Host, scope: &Scope, run: &Run) -> Result<(), StepError> {
    let Some(port) = run.port else {
        if is_covered(run)? {
            service::stop_for_undo(host, scope).await?;
            let datadir = run.datadir.clone();
            blocking(move || uncover(&datadir)).await?;
        }
        if run.ran_before {
            service::start(host, scope).await?;
        } else {
            service::let_be(host).await?;
        }
        host.look_soon();
        return Ok(());
    };
    if let Some(second) = second_of(host, port).await? {
        second.stop().await?;
    }
    let run_dir = run_dir(host, port);
    let removed = blocking(move || match fs::remove_dir_all(&run_dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(system(format!("cannot remove {}", run_dir.display()), &e))
        }
        _ => Ok(()),
    });
    removed.await.map_err(StepError::from)
}

async fn acquire(host: &Host, id: &SnapshotId, run: &Run) -> Result<Mounted, WireError> {
    crate::owned::find(host, id, crate::owned::Foreign::Never).await?;
    let mounts = host.snapshots()?.mounts.clone();
    let (id, holder) = (id.clone(), run.holder());
    let lease = blocking(move || mounts.acquire(&id, MountMode::Writable, &holder).map_err(WireError::from));
    Ok(lease.await?.keep())
}

async fn let_go(host: &Host, id: &SnapshotId, run: &Run) -> Result<(), StepError> {
    let snapshots = host.snapshots()?.clone();
    let (held, holder) = (id.clone(), run.holder());
    blocking(move || release_if_held(&snapshots, &held, &holder)).await?;
    host.on_snapshot.forget(id)?;
    host.look_soon();
    Ok(())
}

fn noted(host: &Host, id: &SnapshotId) -> Result<Run, StepError> {
    let run = host.on_snapshot.find(id);
    run.ok_or_else(|| {
        StepError::new(ErrorCode::Internal, format!("nothing is noted of a server on snapshot {id}"))
    })
}

fn datadir_of(server: &ServerInfo) -> Result<PathBuf, WireError> {
    server.datadir.clone().ok_or_else(|| {
        WireError::new(
            ErrorCode::NotFound,
            "the datadir is not known: set mysql.datadir in the configuration",
        )
    })
}

/// Stops the service and lays the snapshot over its datadir.
async fn cover(host: &Host, scope: &Scope, run: &Run, mounted: &Mounted) -> Result<(), StepError> {
    if is_covered(run)? {
        return Ok(());
    }
    service::stop_and_hold(host, scope).await?;
    let (source, target) = (mounted.datadir.clone(), run.datadir.clone());
    let covered = blocking(move || {
        mount(Some(&source), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(|e| system(format!("cannot mount {} on {}", source.display(), target.display()), &e))
    });
    covered.await.map_err(StepError::from)
}

/// True when another directory is mounted over the live datadir.
fn is_covered(run: &Run) -> Result<bool, WireError> {
    identity(&run.datadir).map(|now| now != run.live)
}

/// Device and inode.
fn identity(datadir: &Path) -> Result<(u64, u64), WireError> {
    let meta =
        fs::metadata(datadir).map_err(|e| system(format!("cannot look at {}", datadir.display()), &e))?;
    Ok((meta.dev(), meta.ino()))
}

fn uncover(datadir: &Path) -> Result<(), WireError> {
    snapshot::unmount(datadir, UNCOVER_LIMIT).map_err(|error| {
        let text = format!(
            "the snapshot cannot be taken from {}: end who works in it, then repeat the command",
            datadir.display()
        );
        WireError::caused(ErrorCode::System, text, &error)
    })
}

/// Below the parent of the mount root, which servers of other users get through to.
fn run_dir(host: &Host, port: u16) -> PathBuf {
    let root = &host.config.snapshot.mount_root;
    root.parent().unwrap_or(root).join("servers").join(port.to_string())
}

async fn second_of(host: &Host, port: u16) -> Result<Option<Instance>, WireError> {
    second::find(&host.instance, &run_dir(host, port)).await.map_err(WireError::from)
}

async fn prepare_second(host: &Host, port: u16, run: &Run, mounted: &Mounted) -> Result<(), WireError> {
    let server = host.instance.info().await;
    let settings = host.instance.settings().await;
    let log_bin = server.layout.as_ref().and_then(|layout| layout.log_bin.as_deref()?.file_name());
    let options = SecondOptions {
        datadir: mounted.datadir.clone(),
        port,
        layout: layout_in(server.layout.as_ref(), &run.datadir, mounted)?,
        log_bin: log_bin.and_then(|base| base.to_str()).map(str::to_owned),
        key_arguments: settings.key_arguments(),
    };
    let run_dir = run_dir(host, port);
    blocking(move || second::prepare(&run_dir, &options).map_err(WireError::from)).await
}

async fn start_second(second: &Instance, scope: &Scope) -> Result<(), StepError> {
    let report = |progress: mysql::Progress| {
        let done = u64::from(progress.percent.unwrap_or(0));
        scope.report(done, progress.percent.map(|_| 100), json!({ "message": progress.message }));
    };
    tokio::select! {
        started = second.start_with(&report) => started.map_err(StepError::from),
        () = scope.cancelled() => Err(StepError::stopped()),
    }
}
