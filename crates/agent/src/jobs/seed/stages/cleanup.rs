//! The old tree goes, or is kept for a time.

use std::path::PathBuf;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use job::{OnFailure, Scope, Step, StepError, crashsafe};
use protocol::params::SeedStartParams;
use protocol::seed::SeedStage;
use serde_json::{Value, json};

use super::super::notes::Transferred;
use super::super::{Target, base, forget, undo};
use super::replicate::coordinates;
use super::swap::{on_layout, outside};
use crate::host::{Host, blocking};
use crate::jobs::service;

/// The old tree goes, or is kept for a time.
#[derive(Debug)]
pub(super) struct Cleanup;

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
            let logs = target.server.as_ref().map(|server| server.logs_outside(&target.datadir));
            undo::keep(host, scope.job_id(), &target.datadir, logs.unwrap_or_default(), expiry(keep))?;
        } else {
            on_layout(layout, |layout| {
                layout.remove()?;
                layout.remove_marker()
            })
            .await?;
            let outside = outside(scope, &target);
            blocking(move || outside.remove()).await?;
        }
        let (bases, job) = (target.layout(scope.job_id())?, scope.job_id());
        blocking(move || {
            base::told(base::remove_all(&bases, Some(job)));
            Ok(())
        })
        .await?;
        // Where MySQL was not to be started, its operator may from here on.
        let left_stopped = service::let_go(host).await?;
        forget(host, scope.job_id())?;
        host.look_now().await;
        let transfer: Transferred = scope.output(SeedStage::Transfer.as_str())?;
        if transfer.bytes_moved > 1 << 20 {
            let _ = crashsafe::write(&rate_file(host), transfer.bytes_per_s.to_string().as_bytes(), 0o600);
        }
        Ok(json!({
            "donor": params.offer.facts.agent,
            "snapshot": params.offer.facts.snapshot.as_ref().map(|snapshot| &snapshot.id),
            "stream": params.offer.facts.stream,
            "coordinates": coordinates(scope, &params)?,
            "replication": scope.output::<Value>(SeedStage::Replicate.as_str())?,
            "transfer": transfer,
            "left_stopped": left_stopped,
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

fn expiry(keep_s: u64) -> Timestamp {
    let keep = SignedDuration::from_secs(i64::try_from(keep_s).unwrap_or(i64::MAX / 4));
    Timestamp::now().checked_add(keep).unwrap_or(Timestamp::MAX)
}

fn rate_file(host: &Host) -> PathBuf {
    host.config.agent.state_dir.join("seed-rate")
}

/// Bytes per second of the last seed onto this host.
pub(in crate::jobs::seed) fn measured_rate(host: &Host) -> Option<u64> {
    std::fs::read_to_string(rate_file(host)).ok()?.trim().parse().ok()
}
