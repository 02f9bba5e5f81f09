//! Snapshots and their proofs by the clock, and the removal of those that retention no longer keeps.

use std::sync::Arc;
use std::time::Duration;

use croner::Cron;
use jiff::{SignedDuration, Timestamp};
use protocol::ids::{RequestId, SnapshotId};
use protocol::params::{SnapshotCreateParams, SnapshotRemoveParams, SnapshotVerifyParams};
use protocol::snapshot::Snapshot;
use tokio_util::sync::CancellationToken;

use crate::host::Host;
use crate::jobs::kind::Kind;
use crate::jobs::snapshot::create::Create;
use crate::jobs::snapshot::remove::Remove;
use crate::jobs::snapshot::verify::Verify;
use crate::jobs::{self, Origin};
use crate::load;

/// Retention is looked at this often, and after each scheduled snapshot.
const RETENTION_PAUSE: Duration = Duration::from_secs(300);

/// Runs schedules and retention until `shutdown`.
pub(crate) async fn run(host: Arc<Host>, shutdown: CancellationToken) {
    // A proof whose time has come while the host was busy.
    let mut owed = false;
    loop {
        // Read anew each time: a reload may have changed them.
        let create = next_of(&host, host.config.snapshot.schedule.as_deref());
        let verify = next_of(&host, host.config.snapshot.verify_schedule.as_deref());
        let next = create.into_iter().chain(verify).min();
        let until = next.map_or(RETENTION_PAUSE, |at| until(at).min(RETENTION_PAUSE));
        tokio::select! {
            () = tokio::time::sleep(until) => {}
            () = shutdown.cancelled() => return,
        }
        let is_due = |at: Option<Timestamp>| at.is_some_and(|at| at <= Timestamp::now());
        let work = async {
            if is_due(create) {
                finish::<Create>(&host, SnapshotCreateParams { keep_s: None, size_bytes: None }).await;
            }
            remove_expired(&host).await;
            if owed || is_due(verify) {
                owed = !prove_newest(&host).await;
            }
        };
        tokio::select! {
            () = work => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// Removes all that is due, one after the other: two jobs that change the set of snapshots do not run at once.
async fn remove_expired(host: &Arc<Host>) {
    let (keep, keep_days) = (host.config.snapshot.keep, host.config.snapshot.keep_days);
    for snapshot in expired(&host.seen().snapshots, keep, keep_days, Timestamp::now()) {
        finish::<Remove>(host, SnapshotRemoveParams { snapshot, foreign: false }).await;
    }
}

/// Proves the newest of our snapshots that nobody has looked at; false when the host is too busy for it now.
async fn prove_newest(host: &Arc<Host>) -> bool {
    let Some(snapshot) = unproven(&host.seen().snapshots) else { return true };
    let load = load::measure(host, &host.instance.info().await).await;
    let reasons = load::overloaded(&load, &host.config.seed.donor_limits);
    if !reasons.is_empty() {
        tracing::info!(%snapshot, why = reasons.join("; "), "a scheduled proof waits until the host is calmer");
        return false;
    }
    let budget_s = host.config.snapshot.verify_budget_s;
    finish::<Verify>(host, SnapshotVerifyParams { snapshot, budget_s }).await;
    true
}

/// The newest of our own that can be used and has no proof, neither that it is good nor that it is not. What an earlier proof did not
/// reach counts as not looked at; older ones are no use once a newer one is proven.
fn unproven(snapshots: &[Snapshot]) -> Option<SnapshotId> {
    let ours = snapshots.iter().filter(|s| s.foreign.is_none() && s.is_usable());
    let proven = ours.clone().filter(|s| s.is_proven()).map(|s| s.created_at).max();
    let failed = |s: &Snapshot| {
        s.meta.as_ref().and_then(|meta| meta.proof.as_ref()).is_some_and(|proof| !proof.passed)
    };
    let newest = ours.filter(|s| !s.is_proven() && !failed(s)).max_by_key(|s| s.created_at)?;
    (proven.is_none_or(|proven| proven < newest.created_at)).then(|| newest.id.clone())
}

/// Begins a job and waits for its end.
async fn finish<K: Kind>(host: &Arc<Host>, params: K::Params) {
    let origin = Origin {
        actor: "schedule".to_owned(),
        request: RequestId::generate(),
        traceparent: None,
        in_idle_time: true,
    };
    match jobs::begin::<K>(host, params, &origin).await {
        Ok(begun) => {
            if let Some(handle) = host.runner.handle(begun.job) {
                handle.ending().await;
            }
        }
        Err(error) => tracing::warn!(kind = K::NAME, %error, "the schedule could not begin a job"),
    }
}

fn until(at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default()
}

fn next_of(host: &Host, schedule: Option<&str>) -> Option<Timestamp> {
    next_run(host, &schedule?.parse::<Cron>().ok()?, Timestamp::now())
}

/// The next time, spread over the configured jitter; the same host is always equally late.
fn next_run(host: &Host, cron: &Cron, now: Timestamp) -> Option<Timestamp> {
    let jitter = host.config.snapshot.jitter_s;
    let offset = if jitter == 0 { 0 } else { spread(host.id.as_str()) % jitter };
    let offset = SignedDuration::from_secs(i64::try_from(offset).unwrap_or(0));
    let from = now.checked_sub(offset).ok()?;
    let next = cron.find_next_occurrence(&chrono_of(from)?, false).ok()?;
    Timestamp::from_second(next.timestamp()).ok()?.checked_add(offset).ok()
}

fn chrono_of(at: Timestamp) -> Option<chrono::DateTime<chrono::Utc>> {
    chrono::DateTime::from_timestamp(at.as_second(), 0)
}

/// A number that differs between hosts and not between runs (FNV-1a).
fn spread(name: &str) -> u64 {
    name.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// What retention removes: our own snapshots past their own expiry, and those beyond the newest `keep` that are older than
/// `keep_days`. Never one that is mounted, and never the last proven one.
fn expired(snapshots: &[Snapshot], keep: u32, keep_days: u32, now: Timestamp) -> Vec<SnapshotId> {
    let mut ours: Vec<&Snapshot> = snapshots.iter().filter(|s| s.foreign.is_none()).collect();
    ours.sort_by_key(|s| std::cmp::Reverse(s.created_at));
    let last_proven = ours.iter().find(|s| s.is_proven() && s.is_usable()).map(|s| s.id.clone());
    let oldest_kept = now - SignedDuration::from_hours(i64::from(keep_days) * 24);
    ours.iter()
        .enumerate()
        .filter(|(index, snapshot)| {
            let own = snapshot.meta.as_ref().and_then(|meta| meta.expires_at);
            let past_own = own.is_some_and(|at| at <= now);
            let surplus =
                keep > 0 && own.is_none() && *index >= keep as usize && snapshot.created_at < oldest_kept;
            (past_own || surplus) && snapshot.mounts.is_empty() && last_proven.as_ref() != Some(&snapshot.id)
        })
        .map(|(_, snapshot)| snapshot.id.clone())
        .collect()
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
