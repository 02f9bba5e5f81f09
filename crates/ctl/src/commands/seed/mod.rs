//! Subcommands about seeds.

mod kept;
mod list;
mod plan;
mod show;
mod start;

use protocol::ids::{AgentId, JobId};
use protocol::params::{JobsListParams, JobsShowParams, SeedThrottleParams, SeedUndoParams};

use crate::args::{JobRef, SeedCmd, WatchArgs};
use crate::error::{CtlError, Result};
use crate::session::Session;
use crate::{units, watch};

/// Hosts that are asked at once.
const AT_ONCE: usize = 64;
/// Jobs of a host that are looked through.
const JOBS: u32 = 300;

pub(super) async fn run(session: &Session, command: SeedCmd) -> Result<()> {
    match command {
        SeedCmd::Plan { recipients, donor, options } => {
            plan::run(session, recipients, &donor, &options).await
        }
        SeedCmd::Start { recipients, donor, options, plans, run } => {
            start::run(session, recipients, &donor, &options, &plans, &run).await
        }
        SeedCmd::Watch(WatchArgs { recipient, job }) => {
            let job = seed_job(session, &recipient, job, false).await?;
            let view = session.call(&recipient, JobsShowParams { job }).await?;
            Box::pin(watch::look_at(session, recipient, view)).await
        }
        SeedCmd::Abort(WatchArgs { recipient, job }) => {
            let job = seed_job(session, &recipient, job, true).await?;
            super::jobs::abort(session, &recipient, job).await
        }
        SeedCmd::Show(WatchArgs { recipient, job }) => {
            let job = seed_job(session, &recipient, job, false).await?;
            show::run(session, &recipient, job).await
        }
        SeedCmd::List { recipients, limit, unfinished } => {
            list::run(session, recipients, limit as usize, unfinished).await
        }
        SeedCmd::Kept { recipients } => kept::run(session, recipients).await,
        SeedCmd::Throttle { recipient, rate, job } => {
            let job = seed_job(session, &recipient, job, true).await?;
            let limit = if rate == 0 { "unlimited".to_owned() } else { units::rate(rate) };
            let params = SeedThrottleParams { job, bytes_per_s: rate };
            session.change(&recipient, params, |_| format!("{recipient}: the limit is {limit}")).await
        }
        SeedCmd::Undo { recipient, job, run } => {
            let job = match job {
                Some(job) => super::jobs::named(session, &recipient, &job).await?,
                None => kept::last(session, &recipient).await?,
            };
            super::confirm(
                session,
                &format!("Put the old datadir of {recipient} back and drop the seeded one?"),
            )?;
            session.job(&recipient, SeedUndoParams { job }, &run).await
        }
    }
}

/// The job named, else the seed that runs, else (unless it must run) the last one.
async fn seed_job(
    session: &Session,
    recipient: &AgentId,
    named: Option<JobRef>,
    must_run: bool,
) -> Result<JobId> {
    if let Some(job) = named {
        return super::jobs::named(session, recipient, &job).await;
    }
    let jobs = session.call(recipient, JobsListParams { limit: 100, unfinished: false }).await?;
    let seeds = || jobs.iter().filter(|job| job.kind == "seed.start");
    let running = seeds().find(|job| !job.state.is_final());
    let found = if must_run { running } else { running.or_else(|| seeds().max_by_key(|job| job.created_at)) };
    found.map(|job| job.id).ok_or_else(|| CtlError::NotFound {
        what: format!("{recipient} has no {}seed", if must_run { "running " } else { "" }),
        hint: Some(format!("`orchestrator-ctl jobs {recipient} list` shows its jobs")),
    })
}
