//! Subcommands about jobs.

use std::time::Duration;

use jiff::Timestamp;
use protocol::ids::{AgentId, JobId};
use protocol::job::{JobState, JobView};
use protocol::params::{JobsAbortParams, JobsListParams, JobsShowParams};
use tokio::time::{Instant, sleep};

use crate::args::{JobRef, JobsCmd};
use crate::error::{CtlError, Result};
use crate::exit::Exit;
use crate::session::Session;
use crate::{render, watch};

/// Jobs of a host among which a part of an id is looked for.
const LOOKED_THROUGH: u32 = 1000;

pub(super) async fn run(session: &Session, host: &AgentId, command: JobsCmd) -> Result<()> {
    match command {
        JobsCmd::List { limit, unfinished } => {
            let jobs = session.call(host, JobsListParams { limit, unfinished }).await?;
            session.out.result(&jobs, |jobs| render::jobs(jobs, Timestamp::now()));
        }
        JobsCmd::Show { job } => {
            let job = named(session, host, &job).await?;
            session.out.result(&session.call(host, JobsShowParams { job }).await?, render::job);
        }
        JobsCmd::Watch { job } => {
            let job = named(session, host, &job).await?;
            return watch::until_end(session, vec![(host.clone(), job)]).await;
        }
        JobsCmd::Abort { job } => {
            let job = named(session, host, &job).await?;
            return abort(session, host, job).await;
        }
    }
    Ok(())
}

/// The job of a host that is meant: by its whole id, or by the beginning or end of it that no other has.
pub(super) async fn named(session: &Session, host: &AgentId, meant: &JobRef) -> Result<JobId> {
    let part = match meant {
        JobRef::Whole(id) => return Ok(*id),
        JobRef::Part(part) => part,
    };
    let jobs = session.call(host, JobsListParams { limit: LOOKED_THROUGH, unfinished: false }).await?;
    let is_meant = |id: &str| id.starts_with(part) || id.ends_with(part);
    let found: Vec<&JobView> = jobs.iter().filter(|job| is_meant(&job.id.to_string())).collect();
    match found[..] {
        [one] => Ok(one.id),
        [] => Err(CtlError::NotFound {
            what: format!("{host} has no job whose id begins or ends with {part}"),
            hint: Some(format!("`orchestrator-ctl jobs {host} list` shows its jobs")),
        }),
        ref several => {
            let names: Vec<String> =
                several.iter().take(5).map(|job| format!("{} ({})", job.id, job.kind)).collect();
            Err(CtlError::Usage {
                what: format!("{} jobs of {host} have an id that begins or ends with {part}", several.len()),
                hint: Some(format!("give more of it: {}", names.join(", "))),
            })
        }
    }
}

/// Asks for the end of a job and stays until all it did is taken back, as far as `--timeout` allows.
pub(super) async fn abort(session: &Session, host: &AgentId, job: JobId) -> Result<()> {
    let asked: JobView = session.call(host, JobsAbortParams { job }).await?;
    let until = Instant::now() + session.global.timeout;
    let mut view = asked;
    while !view.state.is_final() && Instant::now() < until {
        sleep(Duration::from_millis(100)).await;
        view = session.call(host, JobsShowParams { job }).await?;
    }
    session.out.result(&view, |view| {
        let how = match (view.state.is_final(), view.stage.as_deref()) {
            (true, _) => render::state(view),
            (false, Some(stage)) => {
                format!(
                    "is being aborted at {stage}; `orchestrator-ctl jobs {host} show {job}` tells the end"
                )
            }
            (false, None) => {
                format!("is being aborted; `orchestrator-ctl jobs {host} show {job}` tells the end")
            }
        };
        format!("{host}: {} {job} {how}", view.kind)
    });
    match view.state {
        JobState::Aborted => Ok(()),
        state if state.is_final() => Err(CtlError::Told(Exit::Failed)),
        _ => Err(CtlError::Told(Exit::Retry)),
    }
}
