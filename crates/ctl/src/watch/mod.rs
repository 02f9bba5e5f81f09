//! Stays with jobs until they end. Leaving early harms nothing: the agents go on by themselves.

mod board;
mod draw;
mod health;
mod screen;
mod tracker;

use std::time::{Duration, Instant};

use bus::JobUpdate;
use bus::events::{EventFilter, EventStream, Since};
use futures_util::{StreamExt, future, stream};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use protocol::command::Call;
use protocol::event::{EventData, JobStage};
use protocol::ids::{AgentId, JobId};
use protocol::job::{JobAccepted, JobView};
use serde_json::json;
use tokio::time::timeout;

use crate::args::RunArgs;
use crate::error::{CtlError, Result};
use crate::exit::Exit;
use crate::interrupt::Interrupt;
use crate::report;
use crate::session::{Session, ended_well};

pub use screen::Screen;
pub use tracker::{Tracker, Update, progress_text};

/// Last events of a job may come a little after its last view.
const LAST_EVENTS: Duration = Duration::from_millis(500);

impl Session {
    /// Begins a job and stays until it ends, unless told to detach or to queue.
    ///
    /// # Errors
    /// As [`Session::call`]; [`CtlError::Job`] when the job ended otherwise than well.
    pub async fn job<C: Call<Reply = JobAccepted>>(
        &self,
        host: &AgentId,
        params: C,
        run: &RunArgs,
    ) -> Result<()> {
        let Some(accepted) = self.call_or_queue(host, params).await? else { return Ok(()) };
        if run.detach {
            self.out.result(&json!({"host": host, "job": accepted.job}), |_| {
                format!(
                    "{host}: job {} began; `orchestrator-ctl jobs {host} watch {}` stays with it",
                    accepted.job, accepted.job
                )
            });
            return Ok(());
        }
        until_end(self, vec![(host.clone(), accepted.job)]).await
    }
}

/// Shows jobs, a line or a bar each, until all have ended.
///
/// # Errors
/// The job's failure; of several jobs each failure is reported as it happens, and the worst status given.
pub async fn until_end(session: &Session, jobs: Vec<(AgentId, JobId)>) -> Result<()> {
    let mut interrupt = Interrupt::listen()?;
    let screen = Screen::new(session.out.clone(), jobs.iter().map(|(host, _)| host));
    stay(session, jobs, &[], &mut interrupt, &screen, &how_to_go_on_with_a_job).await
}

/// As [`until_end`], for seeds from these donors (none where they are not known), with signals that were listened for
/// since earlier.
///
/// # Errors
/// As [`until_end`]; [`Exit::Interrupted`] when it was left early.
pub async fn follow(
    session: &Session,
    seeds: Vec<(AgentId, JobId)>,
    donors: &[AgentId],
    interrupt: &mut Interrupt,
) -> Result<()> {
    let screen = Screen::new(session.out.clone(), seeds.iter().map(|(host, _)| host));
    stay(session, seeds, donors, interrupt, &screen, &how_to_go_on_with_a_seed).await
}

/// As [`follow`] for one seed, of which this view is known; on a terminal it fills the screen.
///
/// # Errors
/// As [`follow`].
pub async fn look_at(session: &Session, recipient: AgentId, view: JobView) -> Result<()> {
    let mut interrupt = Interrupt::listen()?;
    let (job, donors) = (view.id, Vec::from_iter(view.donor.clone()));
    let screen = Screen::whole(session.out.clone(), &recipient, view);
    let seed = vec![(recipient, job)];
    stay(session, seed, &donors, &mut interrupt, &screen, &how_to_go_on_with_a_seed).await
}

async fn stay(
    session: &Session,
    jobs: Vec<(AgentId, JobId)>,
    donors: &[AgentId],
    interrupt: &mut Interrupt,
    screen: &Screen,
    how_to_go_on: &(dyn Fn(&AgentId, JobId) -> String + Sync),
) -> Result<()> {
    let several = jobs.len() > 1;
    let recipients: Vec<AgentId> = jobs.iter().map(|(host, _)| host.clone()).collect();
    let running = Mutex::new(jobs.clone());
    let all = future::join_all(jobs.into_iter().map(|(host, job)| {
        let running = &running;
        async move {
            let ended = one(session, &host, job, screen).await;
            let mut left = running.lock();
            left.retain(|(_, other)| *other != job);
            drop(left);
            match ended {
                Err(error) if several => {
                    screen.suspend(|| report(&session.out, &error));
                    Err(CtlError::Told(error.exit()))
                }
                other => other.map(|_| ()),
            }
        }
    }));
    let results = tokio::select! {
        results = all => Some(results),
        () = health::look_after(session, donors, &recipients, screen) => None,
        left = screen.fill() => left.map(|_| None)?,
        () = interrupt.wait() => None,
    };
    screen.clear();
    let Some(results) = results else {
        let left = running.lock().clone();
        left.iter().for_each(|(host, job)| session.out.note(&how_to_go_on(host, *job)));
        return Err(CtlError::Told(Exit::Interrupted));
    };
    match <[Result<()>; 1]>::try_from(results) {
        Ok([result]) => result,
        Err(results) => {
            let worst = Exit::worst(results.iter().filter_map(|r| r.as_ref().err()).map(CtlError::exit));
            if worst == Exit::Ok { Ok(()) } else { Err(CtlError::Told(worst)) }
        }
    }
}

fn how_to_go_on_with_a_seed(host: &AgentId, job: JobId) -> String {
    format!(
        "{host}: seed {job} goes on without me\n  \
         watch it:  orchestrator-ctl seed watch {host} {job}\n  \
         end it:    orchestrator-ctl seed abort {host} {job}"
    )
}

fn how_to_go_on_with_a_job(host: &AgentId, job: JobId) -> String {
    format!(
        "{host}: job {job} goes on without me\n  \
         watch it:  orchestrator-ctl jobs {host} watch {job}\n  \
         end it:    orchestrator-ctl jobs {host} abort {job}"
    )
}

async fn one(session: &Session, host: &AgentId, job: JobId, screen: &Screen) -> Result<JobView> {
    let events = job_events(session, host, job).await;
    let tracker = Mutex::new(Tracker::new(screen.pace(), events.is_some()));
    let tell = |update: &dyn Fn(&mut Tracker) -> Vec<Update>| {
        let mut tracker = tracker.lock();
        for update in update(&mut tracker) {
            screen.show(host, job, &update);
        }
    };
    let wait = session.client.wait_job(host, job, |update| {
        let now = Instant::now();
        match update {
            JobUpdate::View(view) => tell(&|t| t.view(&view, now)),
            JobUpdate::Progress(progress) => tell(&|t| t.progress(&progress, now)),
            JobUpdate::Unreachable(error) => tell(&|t| t.unreachable(&error.to_string())),
        }
    });
    let mut events = events.unwrap_or_else(|| stream::pending().boxed());
    tokio::pin!(wait);
    let view = loop {
        tokio::select! {
            ended = &mut wait => break ended,
            (at, stage) = next_stage(&mut events, job) => tell(&|t| t.event(&stage, at)),
        }
    };
    let view = match view {
        Ok(view) => view,
        Err(source) => return Err(session.explain(host, "jobs.show", source).await),
    };
    if tracker.lock().expects_events() {
        let rest = async {
            loop {
                let (at, stage) = next_stage(&mut events, job).await;
                if stage.state.is_final() {
                    break;
                }
                tell(&|t| t.event(&stage, at));
            }
        };
        timeout(LAST_EVENTS, rest).await.ok();
    }
    tell(&|t| t.finished(&view));
    ended_well(host, view)
}

/// The job's own events since it was made; `None` where there is no durable stream.
async fn job_events(session: &Session, host: &AgentId, job: JobId) -> Option<EventStream> {
    let filter = EventFilter {
        since: made_at(job).map_or(Since::New, Since::Time),
        host: Some(host.clone()),
        kind: Some("job.*".to_owned()),
        ..EventFilter::default()
    };
    match session.client.events(filter).await {
        Ok(events) => Some(events),
        Err(error) => {
            tracing::info!("{host}: no events ({error}); stages are told from the job's views alone");
            None
        }
    }
}

/// When the job was made, a minute early for clocks that differ: its id holds the time.
pub fn made_at(job: JobId) -> Option<Timestamp> {
    let (seconds, _) = job.as_uuid().get_timestamp()?.to_unix();
    let made = Timestamp::from_second(i64::try_from(seconds).ok()?).ok()?;
    made.checked_sub(SignedDuration::from_secs(60)).ok()
}

/// The next stage of this job; waits for ever once the stream has ended.
async fn next_stage(events: &mut EventStream, job: JobId) -> (Timestamp, JobStage) {
    loop {
        match events.next().await {
            Some(Ok(stored)) => match stored.event.known() {
                Some(EventData::JobStage(stage) | EventData::JobFinished(stage)) if stage.job == job => {
                    return (stored.event.time, stage);
                }
                _ => {}
            },
            Some(Err(error)) => tracing::info!("reading events: {error}"),
            None => future::pending().await,
        }
    }
}
