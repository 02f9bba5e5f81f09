//! The stages from the swap on: each can be taken back until MySQL answered on the new data.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use job::{OnFailure, OnUndoFailure, Scope, Step, StepError, crashsafe};
use mysql::replicate::{CatchUp, Credentials, Source};
use protocol::error::{ErrorCode, WireError};
use protocol::mysql::{Coordinates, ServerState};
use protocol::params::SeedStartParams;
use protocol::seed::{ReplicationSource, SeedStage};
use serde_json::{Value, json};

use super::swap::Layout;
use super::{KEPT, STOPPED, Target, forget};
use crate::errors::{from_mysql, system, to_step};
use crate::host::{Host, blocking};
use crate::jobs::{datadir, service};

/// The kernel ends a killed process unless its disk hangs.
const KILLED_WITHIN: Duration = Duration::from_secs(30);
/// How long a server that has not become ready is left to stop by itself.
const STARTING_STOPS_WITHIN: Duration = Duration::from_secs(1);

/// MySQL stops and the new tree takes the datadir's place.
#[derive(Debug)]
pub(super) struct Swap;

/// The configured argv runs.
#[derive(Debug)]
pub(super) struct PostCopy;

/// MySQL starts and answers.
#[derive(Debug)]
pub(super) struct Start;

/// Replication runs, when it was asked for. The point of no return.
#[derive(Debug)]
pub(super) struct Replicate;

/// The old tree goes, or is kept for a time.
#[derive(Debug)]
pub(super) struct Cleanup;

#[async_trait]
impl Step<Host> for Swap {
    fn name(&self) -> &'static str {
        SeedStage::Swap.as_str()
    }

    async fn run(&self, host: &Host, scope: &Scope) -> Result<Value, StepError> {
        let params: SeedStartParams = scope.params()?;
        let target = Target::of(scope)?;
        let layout = target.layout(scope.job_id())?;
        let running = host.instance.state().await.may_be_running();
        if running && !params.options.stop_mysql {
            return Err(StepError::new(
                "refused",
                "MySQL was started during the copy, and there is no leave to stop it (--stop-mysql)",
            ));
        }
        service::stop(host, scope).await?;
        on_layout(layout, Layout::swap).await?;
        Ok(json!({ "mysql_was_running": target.was_running || running }))
    }

    async fn undo(&self, host: &Host, scope: &Scope) -> Result<(), StepError> {
        let target = Target::of(scope)?;
        let layout = target.layout(scope.job_id())?;
        let params: SeedStartParams = scope.params()?;
        if params.options.replace {
            return keep_the_new(host, scope, &target, layout).await;
        }
        if host.instance.state().await.may_be_running() && layout.is_swapped().unwrap_or(true) {
            service::stop(host, scope).await?;
        }
        on_layout(layout, Layout::swap_back).await?;
        if target.was_running
            && let Err(error) = service::start(host, scope).await
        {
            // On a full disk it starts only once staging is gone: the last undo tries again, and fails if it must.
            tracing::warn!(job = %scope.job_id(), %error, "MySQL does not start on its old data yet");
            scope.note(json!({ STOPPED: error.message })).await?;
        }
        Ok(())
    }

    /// What this one leaves is looked at by the undo of *prepare*, which removes nothing that may be the only copy.
    fn on_undo_failure(&self) -> OnUndoFailure {
        OnUndoFailure::GoOn
    }
}

/// The old data are gone by the person's own word: the proven new ones, which wait in staging at the worst, are put in
/// place and left there. That this is no undo is said in the job's error.
async fn keep_the_new(host: &Host, scope: &Scope, target: &Target, layout: Layout) -> Result<(), StepError> {
    service::stop(host, scope).await?;
    scope.note(json!({ KEPT: target.datadir })).await?;
    on_layout(layout, |layout| {
        // Absent: an earlier attempt came to its end.
        if layout.exists() {
            layout.swap()?;
        }
        layout.remove()?;
        layout.remove_marker()
    })
    .await?;
    Err(StepError::new(
        "refused",
        format!(
            "--replace left no old data to put back; {} holds the complete new ones and MySQL is stopped: mend the cause, \
             then start it (mysql start)",
            target.datadir.display()
        ),
    ))
}

async fn on_layout(
    layout: Layout,
    act: impl FnOnce(&Layout) -> Result<(), super::swap::SwapError> + Send + 'static,
) -> Result<(), StepError> {
    blocking(move || act(&layout).map_err(|e| system("the datadir cannot be swapped", &e)))
        .await
        .map_err(to_step)
}

#[async_trait]
impl Step<Host> for PostCopy {
    fn name(&self) -> &'static str {
        SeedStage::PostCopy.as_str()
    }

    async fn run(&self, host: &Host, scope: &Scope) -> Result<Value, StepError> {
        datadir::run_post_copy(host, scope).await
    }

    async fn undo(&self, _host: &Host, _scope: &Scope) -> Result<(), StepError> {
        Ok(())
    }
}

#[async_trait]
impl Step<Host> for Start {
    fn name(&self) -> &'static str {
        SeedStage::Start.as_str()
    }

    async fn run(&self, host: &Host, scope: &Scope) -> Result<Value, StepError> {
        let params: SeedStartParams = scope.params()?;
        if params.options.start_mysql || params.options.replicate_from.is_some() {
            service::start(host, scope).await
        } else {
            Ok(Value::Null)
        }
    }

    async fn undo(&self, host: &Host, scope: &Scope) -> Result<(), StepError> {
        let stop = service::stop(host, scope);
        let stopped = match host.instance.state().await {
            ServerState::Ready | ServerState::ReadyNoAccess => stop.await,
            // MariaDB that is told to stop in the first moments of its start does neither, for ever.
            _ => tokio::time::timeout(STARTING_STOPS_WITHIN, stop)
                .await
                .unwrap_or_else(|_| Err(StepError::new("mysql", "it is still starting"))),
        };
        let Err(error) = stopped else { return Ok(()) };
        // It was started by this seed, on data that go or that crash recovery mends: waiting for ever helps nobody.
        tracing::warn!(job = %scope.job_id(), %error, "the server on the new data does not stop and is killed");
        host.instance.kill(KILLED_WITHIN).await.map_err(|e| to_step(from_mysql(&e)))
    }
}

#[async_trait]
impl Step<Host> for Replicate {
    fn name(&self) -> &'static str {
        SeedStage::Replicate.as_str()
    }

    async fn run(&self, host: &Host, scope: &Scope) -> Result<Value, StepError> {
        let params: SeedStartParams = scope.params()?;
        if params.options.start_mysql || params.options.replicate_from.is_some() {
            // It may have died since it answered: what comes now cannot be taken back.
            service::start(host, scope).await?;
        }
        let Some(from) = &params.options.replicate_from else { return Ok(Value::Null) };
        let coordinates =
            coordinates(scope, &params)?.ok_or_else(|| StepError::new("refused", NO_POSITION))?;
        let source = source(host, from).map_err(to_step)?;
        let patience = Duration::from_secs(host.config.seed.replicate_patience_s);
        let report =
            |progress: mysql::Progress| scope.report(0, None, json!({ "message": progress.message }));
        let follow = async {
            mysql::replicate::start(&host.instance, &source, &coordinates).await?;
            let goal = CatchUp { patience, ..CatchUp::default() };
            mysql::replicate::wait(&host.instance, &source, goal, &report).await
        };
        let following = tokio::select! {
            following = follow => following.map_err(|e| to_step(from_mysql(&e)))?,
            () = scope.cancelled() => return Err(StepError::stopped()),
        };
        Ok(json!({ "lag_seconds": following.lag_seconds, "took_ms": millis(following.took) }))
    }

    async fn undo(&self, _host: &Host, _scope: &Scope) -> Result<(), StepError> {
        // The swap back takes the replica's settings away with the data that they lie in.
        Ok(())
    }

    fn commits(&self) -> bool {
        true
    }
}

#[async_trait]
impl Step<Host> for Cleanup {
    fn name(&self) -> &'static str {
        SeedStage::Cleanup.as_str()
    }

    async fn run(&self, host: &Host, scope: &Scope) -> Result<Value, StepError> {
        let params: SeedStartParams = scope.params()?;
        let target = Target::of(scope)?;
        let layout = target.layout(scope.job_id())?;
        let keep = params.options.keep_old_s;
        if keep > 0 && !params.options.replace {
            super::undo::keep(host, scope.job_id(), &target.datadir, expiry(keep))?;
        } else {
            on_layout(layout, |layout| {
                layout.remove()?;
                layout.remove_marker()
            })
            .await?;
        }
        forget(host, scope.job_id())?;
        host.look_now().await;
        let transfer: Value = scope.output(SeedStage::Transfer.as_str())?;
        if let Some(rate) =
            transfer["bytes_per_s"].as_u64().filter(|_| transfer["bytes_moved"].as_u64() > Some(1 << 20))
        {
            let _ = crashsafe::write(&rate_file(host), rate.to_string().as_bytes(), 0o600);
        }
        Ok(json!({
            "donor": params.offer.facts.agent,
            "snapshot": params.offer.facts.snapshot.as_ref().map(|snapshot| &snapshot.id),
            "stream": params.offer.facts.stream,
            "coordinates": coordinates(scope, &params)?,
            "transfer": transfer,
            "old_datadir": (keep > 0).then(|| target.layout(scope.job_id()).ok()).flatten().map(|l| l.old()),
        }))
    }

    async fn undo(&self, _host: &Host, _scope: &Scope) -> Result<(), StepError> {
        Ok(())
    }

    fn on_failure(&self) -> OnFailure {
        OnFailure::GoOn
    }
}

pub(super) const NO_POSITION: &str =
    "the snapshot has no recorded position to replicate from: take one with snapshot.lock_wait_s above 0";

/// Where the data stand: recorded with the snapshot, or told by the stream's program with its last bytes.
fn coordinates(scope: &Scope, params: &SeedStartParams) -> Result<Option<Coordinates>, StepError> {
    if let Some(recorded) = &params.offer.facts.coordinates {
        return Ok(Some(recorded.clone()));
    }
    let told: Value = scope.output(SeedStage::Verify.as_str())?;
    Ok(serde_json::from_value(told["coordinates"].clone()).ok())
}

/// The server to replicate from, with the account of this host's file.
pub(super) fn source(host: &Host, from: &ReplicationSource) -> Result<Source, WireError> {
    let file = host.config.seed.replication_credentials.clone().ok_or_else(|| {
        WireError::new(
            ErrorCode::MissingCapability,
            format!("seed.replication_credentials is not set in the configuration of {}", host.id),
        )
    })?;
    Ok(Source {
        host: from.host.clone(),
        port: from.port,
        credentials: Credentials::OptionFile(file),
        tls: false,
    })
}

fn expiry(keep_s: u64) -> Timestamp {
    let keep = SignedDuration::from_secs(i64::try_from(keep_s).unwrap_or(i64::MAX / 4));
    Timestamp::now().checked_add(keep).unwrap_or(Timestamp::MAX)
}

fn rate_file(host: &Host) -> PathBuf {
    host.config.agent.state_dir.join("seed-rate")
}

/// Bytes per second of the last seed onto this host.
pub(super) fn measured_rate(host: &Host) -> Option<u64> {
    std::fs::read_to_string(rate_file(host)).ok()?.trim().parse().ok()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
