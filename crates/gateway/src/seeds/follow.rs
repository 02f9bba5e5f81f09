//! Follows seeds to their end, through outages of the bus and restarts of everybody, and aborts them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::{BusError, CallOptions, Client};
use jiff::Timestamp;
use protocol::command::Call as _;
use protocol::ids::{AgentId, JobId};
use protocol::job::{JobState, JobView};
use protocol::params::{JobsAbortParams, JobsListParams, SeedReleaseParams, SeedStartParams};

use super::record::{Given, Outcome, Record};
use super::{SEND_WITHIN, Seed};
use crate::failure::Failure;

/// An agent that is away is asked again after so long.
const PAUSE: Duration = Duration::from_secs(2);
/// Orchestrator is told that an abort is done after so long, whether or not the recipient has heard it.
const ABORT_WITHIN: Duration = Duration::from_secs(20);
/// Offers lapse by themselves later.
const RELEASE_WITHIN: Duration = Duration::from_secs(900);
/// Jobs of a recipient that are looked through for one that was begun.
const JOBS: u32 = 100;

/// Goes on with what an earlier run of the gateway had under way.
pub(crate) fn resume(client: &Client, seeds: Vec<Arc<Seed>>) {
    for seed in seeds {
        let record = seed.now();
        tracing::info!(seed = %record, "a seed is under way");
        if record.given.is_some() || record.job.is_some() {
            spawn(client.clone(), seed);
        }
    }
}

/// One task for each seed that was sent, until nothing is left to do for it.
pub(super) fn spawn(client: Client, seed: Arc<Seed>) {
    tokio::spawn(async move {
        while !seed.now().is_over() {
            if seed.now().abort_pending {
                try_abort(&client, &seed).await;
            } else if let Some(job) = known_job(&client, &seed).await {
                watch(&client, &seed, job).await;
            }
            if !seed.now().is_over() {
                tokio::time::sleep(PAUSE).await;
            }
        }
        let record = seed.now();
        if record.outcome.is_some_and(|outcome| !outcome.succeeded)
            && let Some(given) = record.given
        {
            release(&client, &given).await;
        }
    });
}

/// Frees a donor whose recipient will not come again: one that was away when the seed failed would hold its snapshot until the offer
/// lapses.
async fn release(client: &Client, given: &Given) {
    let Some(offer) = given.offer else { return };
    let deadline = Instant::now() + RELEASE_WITHIN;
    while Instant::now() < deadline {
        match client.call(&given.donor, SeedReleaseParams { offer }, &CallOptions::default()).await {
            Err(error) if error.is_transient() => tokio::time::sleep(PAUSE).await,
            // Freed, or nothing of it is left.
            _ => return,
        }
    }
}

/// Until the job ends, or somebody aborts the seed.
async fn watch(client: &Client, seed: &Seed, job: JobId) {
    let recipient = seed.now().recipient;
    let mut record = seed.record.subscribe();
    let view = tokio::select! {
        view = client.wait_job(&recipient, job, |_| {}) => view,
        _ = record.wait_for(|record| record.outcome.is_some() || record.abort_pending) => return,
    };
    match view {
        Ok(view) => seed.end(outcome(&recipient, &view)).await,
        Err(error) if error.is_transient() => {}
        Err(error) => {
            let failure = Failure::command(&recipient, "jobs.show", &error);
            seed.end(Outcome::failed(failure.to_string())).await;
        }
    }
}

fn outcome(recipient: &AgentId, view: &JobView) -> Outcome {
    match view.state {
        JobState::Succeeded => Outcome::succeeded(),
        _ => Outcome::failed(Failure::job(recipient, view).to_string()),
    }
}

/// The job of a seed; where its start was sent and no answer came, by the id of that request.
async fn known_job(client: &Client, seed: &Seed) -> Option<JobId> {
    let record = seed.now();
    if record.job.is_some() {
        return record.job;
    }
    let given = record.given.as_ref()?;
    let found = find(client, &record.recipient, |view| view.request == given.start_request).await.ok()?;
    match found {
        Some(view) => {
            let _ = seed.change(|record| record.job = Some(view.id)).await;
            Some(view.id)
        }
        None if given.is_past_hearing() => {
            let why = format!("{} never heard that it should start", record.recipient);
            seed.end(Outcome::failed(why)).await;
            None
        }
        None => None,
    }
}

/// Looks whether a seed that was received here was sent through another gateway, and begins to follow it; one that nobody sends
/// ends.
pub(crate) async fn adopt(client: &Client, seed: &Arc<Seed>) {
    let record = seed.now();
    if record.given.is_some() || record.job.is_some() || record.outcome.is_some() {
        return;
    }
    let begun =
        |view: &JobView| view.kind == SeedStartParams::SPEC.name && view.created_at >= record.received_at;
    match find(client, &record.recipient, begun).await {
        Ok(Some(view)) => match seed.change(|record| record.job = Some(view.id)).await {
            Ok(()) => spawn(client.clone(), seed.clone()),
            Err(failure) => tracing::warn!(%failure, "asked again"),
        },
        Ok(None) if record.received_at.duration_until(Timestamp::now()) > SEND_WITHIN => {
            seed.end(Outcome::failed("orchestrator never had it sent")).await;
        }
        _ => {}
    }
}

async fn find(
    client: &Client,
    host: &AgentId,
    wanted: impl Fn(&JobView) -> bool,
) -> Result<Option<JobView>, BusError> {
    let params = JobsListParams { limit: JOBS, unfinished: false };
    let jobs = client.call(host, params, &CallOptions::default()).await?;
    Ok(jobs.into_iter().find(wanted))
}

/// Ends a seed on both hosts and takes back what it did. Orchestrator learns at once that it failed; agents that are away now are
/// told as soon as they are back.
pub(crate) async fn abort(client: &Client, seed: &Arc<Seed>) -> Result<(), Failure> {
    adopt(client, seed).await;
    let _work = seed.work.lock().await;
    let record = seed.now();
    if record.outcome.is_some() {
        return Ok(());
    }
    if record.given.is_none() && record.job.is_none() {
        seed.end(Outcome::failed("aborted before it was sent")).await;
        return Ok(());
    }
    // Whoever follows the seed does it, as often as it takes.
    seed.change(|record| record.abort_pending = true).await?;
    if seed.outcome(ABORT_WITHIN).await.is_none() {
        seed.end(Outcome::failed("aborted; its recipient is told when it is back")).await;
    }
    Ok(())
}

/// Has the recipient abort; the donor follows, since its only taker is gone.
async fn try_abort(client: &Client, seed: &Seed) {
    let Some(job) = known_job(client, seed).await else {
        // A start that was never heard needs no abort.
        if seed.now().outcome.is_some() && past_hearing(&seed.now()) {
            let _ = seed.change(|record| record.abort_pending = false).await;
        }
        return;
    };
    let recipient = seed.now().recipient;
    let ended = match client.call_surely(&recipient, JobsAbortParams { job }, &CallOptions::default()).await {
        Ok(view) if view.state == JobState::Succeeded => Outcome::succeeded(),
        Ok(_) => Outcome::failed("aborted"),
        Err(error) if error.is_transient() => return,
        // It has ended meanwhile.
        Err(BusError::Agent(_)) => match client.wait_job(&recipient, job, |_| {}).await {
            Ok(view) => outcome(&recipient, &view),
            Err(error) => Outcome::failed(Failure::command(&recipient, "jobs.abort", &error).to_string()),
        },
        Err(error) => Outcome::failed(Failure::command(&recipient, "jobs.abort", &error).to_string()),
    };
    seed.end(ended).await;
    let _ = seed.change(|record| record.abort_pending = false).await;
}

fn past_hearing(record: &Record) -> bool {
    record.given.as_ref().is_none_or(Given::is_past_hearing)
}
