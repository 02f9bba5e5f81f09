//! The record of a seed: its job and every event of it in the stream.

use std::time::Duration;

use bus::events::{EventFilter, Since};
use futures_util::StreamExt;
use protocol::event::Event;
use protocol::ids::{AgentId, JobId};
use protocol::job::JobView;
use protocol::params::JobsShowParams;
use serde::Serialize;
use tokio::time::timeout;

use crate::error::Result;
use crate::session::Session;
use crate::{render, watch};

/// Reading stops after this; what was read until then is shown.
const EVENTS_LIMIT: Duration = Duration::from_secs(10);

#[derive(Serialize)]
struct Record {
    job: JobView,
    events: Vec<Event>,
}

pub(super) async fn run(session: &Session, recipient: &AgentId, job: JobId) -> Result<()> {
    let view = session.call(recipient, JobsShowParams { job }).await?;
    let mut events = Vec::new();
    if timeout(EVENTS_LIMIT, collect(session, recipient, job, &mut events)).await.is_err() {
        session.out.note("reading the events took too long; the record below may lack the last ones");
    }
    let record = Record { job: view, events };
    session
        .out
        .result(&record, |r| format!("{}\nevents\n{}", render::job(&r.job), render::timeline(&r.events)));
    Ok(())
}

async fn collect(session: &Session, recipient: &AgentId, job: JobId, found: &mut Vec<Event>) {
    let filter = EventFilter {
        since: watch::made_at(job).map_or(Since::All, Since::Time),
        host: Some(recipient.clone()),
        until_end: true,
        ..EventFilter::default()
    };
    let mut events = match session.client.events(filter).await {
        Ok(events) => events,
        Err(error) => return session.out.note(&format!("no events: {error}")),
    };
    let about = job.to_string();
    while let Some(next) = events.next().await {
        match next {
            Ok(stored) if stored.event.subject.as_deref() == Some(&about) => found.push(stored.event),
            Ok(_) => {}
            Err(error) => return session.out.note(&format!("the events end early: {error}")),
        }
    }
}
