//! The record of a seed: its journal from the host, every event of it in the stream, and whether the two fit.

use std::time::Duration;

use bus::events::{EventFilter, Since};
use futures_util::StreamExt;
use protocol::event::Event;
use protocol::ids::{AgentId, JobId};
use protocol::params::{JobsRecordParams, JobsShowParams};
use tokio::time::timeout;

use crate::audit::Audit;
use crate::error::{CtlError, Result};
use crate::render::Record;
use crate::session::Session;
use crate::{render, watch};

/// Reading stops after this; what was read until then is shown.
const EVENTS_LIMIT: Duration = Duration::from_secs(10);

pub(super) async fn run(session: &Session, recipient: &AgentId, job: JobId) -> Result<()> {
    let view = session.call(recipient, JobsShowParams { job }).await;
    let lines = journal(session, recipient, job).await;
    let mut events = Vec::new();
    if timeout(EVENTS_LIMIT, collect(session, recipient, job, &mut events)).await.is_err() {
        session.out.note("reading the events took too long; the record below may lack the last ones");
    }
    let journal = match lines {
        Ok(lines) => Some(Audit::of(&lines, &events)),
        Err(error) => {
            session
                .out
                .note(&format!("the host's journal cannot be read, so nothing proves the events: {error}"));
            None
        }
    };
    let record = match view {
        Ok(view) => Record { job: Some(view), journal, events },
        Err(error) if events.is_empty() && journal.is_none() => return Err(error),
        Err(error) => {
            session.out.note(&error.render());
            Record { job: None, journal, events }
        }
    };
    session.out.result(&record, text);
    match record.journal {
        Some(audit) if !audit.problems.is_empty() => {
            Err(CtlError::Altered { host: recipient.clone(), problems: audit.problems })
        }
        _ => Ok(()),
    }
}

fn text(record: &Record) -> String {
    let mut text = record.job.as_ref().map(render::job).unwrap_or_default();
    if let Some(audit) = &record.journal {
        text.push_str(&render::journal(audit));
    }
    text.push_str(&format!("\nevents\n{}", render::timeline(&record.events)));
    text
}

async fn journal(session: &Session, recipient: &AgentId, job: JobId) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let from = lines.len() as u64;
        let part = session.call(recipient, JobsRecordParams { job, from }).await?;
        let more = part.next.is_some() && !part.lines.is_empty();
        lines.extend(part.lines);
        if !more {
            return Ok(lines);
        }
    }
}

async fn collect(session: &Session, recipient: &AgentId, job: JobId, found: &mut Vec<Event>) {
    let filter = EventFilter {
        since: watch::made_at(job).map_or(Since::All, Since::Time),
        host: Some(recipient.clone()),
        until_end: true,
        ..EventFilter::default()
    };
    if let Err(why) = session.event_stream().await {
        return session.out.note(&why);
    }
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
