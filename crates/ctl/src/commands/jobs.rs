//! Subcommands about jobs.

use std::time::Duration;

use jiff::Timestamp;
use protocol::ids::{AgentId, JobId};
use protocol::job::{JobState, JobView};
use protocol::params::{JobsAbortParams, JobsListParams, JobsShowParams};
use tokio::time::{Instant, sleep};

use crate::args::JobsCmd;
use crate::error::{CtlError, Result};
use crate::exit::Exit;
use crate::session::Session;
use crate::{render, watch};

pub(super) async fn run(session: &Session, host: &AgentId, command: JobsCmd) -> Result<()> {
    match command {
        JobsCmd::List { limit, unfinished } => {
            let jobs = session.call(host, JobsListParams { limit, unfinished }).await?;
            session.out.result(&jobs, |jobs| render::jobs(jobs, Timestamp::now()));
        }
        JobsCmd::Show { job } => {
            session.out.result(&session.call(host, JobsShowParams { job }).await?, render::job);
        }
        JobsCmd::Watch { job } => return watch::until_end(session, vec![(host.clone(), job)]).await,
        JobsCmd::Abort { job } => return abort(session, host, job).await,
    }
    Ok(())
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
                format!("is being aborted at {stage}; `jobs {host} show {job}` tells the end")
            }
            (false, None) => format!("is being aborted; `jobs {host} show {job}` tells the end"),
        };
        format!("{host}: {} {job} {how}", view.kind)
    });
    match view.state {
        JobState::Aborted => Ok(()),
        state if state.is_final() => Err(CtlError::Told(Exit::Failed)),
        _ => Err(CtlError::Told(Exit::Retry)),
    }
}
