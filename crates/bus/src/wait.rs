//! Waiting for a job, through outages of the bus and restarts of the agent.
//!
//! The truth is `jobs.show`, asked again and again; progress and events only say when to ask at once.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream, SelectAll};
use protocol::ids::{AgentId, JobId};
use protocol::job::JobView;
use protocol::params::JobsShowParams;
use protocol::seed::TransferProgress;
use protocol::subject::Subject;

use crate::client::{CallOptions, Client};
use crate::error::{BusError, Result};

/// A running job is asked for this often, and an agent that is away a little less often.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// One look takes at most so long.
const ASK_LIMIT: Duration = Duration::from_secs(5);

/// What is told while waiting for a job.
#[derive(Debug)]
pub enum JobUpdate {
    /// The job as the agent sees it.
    View(Box<JobView>),
    /// Progress between two looks.
    Progress(Box<TransferProgress>),
    /// The agent cannot be asked now; the wait goes on.
    Unreachable(BusError),
}

enum Hint {
    Progress(Box<TransferProgress>),
    Event,
}

impl Client {
    /// Waits for the end of a job, through outages of bus and agent. An error only where asking is refused or the
    /// agent does not know the job; how the job ended stands in the view.
    pub async fn wait_job(
        &self,
        agent: &AgentId,
        job: JobId,
        mut on_update: impl FnMut(JobUpdate) + Send,
    ) -> Result<JobView> {
        let mut hints = self.hints(agent, job).await;
        let options = CallOptions { timeout: ASK_LIMIT, ..CallOptions::default() };
        loop {
            match self.call(agent, JobsShowParams { job }, &options).await {
                Ok(view) => {
                    let ended = view.state.is_final();
                    on_update(JobUpdate::View(Box::new(view.clone())));
                    if ended {
                        return Ok(view);
                    }
                }
                Err(error) if error.is_transient() => on_update(JobUpdate::Unreachable(error)),
                Err(error) => return Err(error),
            }
            let pause = tokio::time::sleep(ASK_EVERY);
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    () = &mut pause => break,
                    Some(hint) = hints.next() => match hint {
                        Hint::Progress(progress) => on_update(JobUpdate::Progress(progress)),
                        Hint::Event => break,
                    },
                }
            }
        }
    }

    /// Without the permission to listen, asking alone does it.
    async fn hints(&self, agent: &AgentId, job: JobId) -> SelectAll<BoxStream<'static, Hint>> {
        let mut hints = SelectAll::new();
        hints.push(stream::pending().boxed());
        if let Ok(progress) = self.watch_progress(agent, job).await {
            hints.push(progress.map(|p| Hint::Progress(Box::new(p))).boxed());
        }
        for kind in ["job.finished", "job.stage"] {
            let subject = Subject::Event { agent: agent.clone(), kind: kind.to_owned() };
            if let Ok(events) = self.bus().subscribe(subject.to_string()).await {
                let job = job.to_string();
                hints.push(
                    events
                        .filter_map(move |m| {
                            let ours = serde_json::from_slice::<protocol::event::Event>(&m.payload)
                                .is_ok_and(|event| event.subject.as_deref() == Some(&job));
                            async move { ours.then_some(Hint::Event) }
                        })
                        .boxed(),
                );
            }
        }
        hints
    }
}
