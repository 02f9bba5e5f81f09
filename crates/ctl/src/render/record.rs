//! Jobs and events.

use std::fmt::Write as _;

use jiff::Timestamp;
use protocol::event::{Event, EventData};
use protocol::ids::{AgentId, JobId};
use protocol::job::{JobState, JobView};
use protocol::seed::TransferProgress;
use schemars::JsonSchema;
use serde::Serialize;

use sys::text::{indented, line};

use crate::audit::Audit;

use super::{or_dash, pairs, result, table, word};
use crate::units;
use crate::watch::progress_text;

/// A text of an event's detail that is longer is for programs.
const FACT_MAX: usize = 80;

/// An old datadir that a seed has kept.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Kept {
    /// The host that was made.
    pub recipient: AgentId,
    /// By which seed.
    pub job: JobId,
    /// When it goes.
    pub until: Timestamp,
    /// Where it lies.
    pub old_datadir: String,
    /// What the seed was.
    pub summary: String,
}

/// The record of a seed.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Record {
    /// Absent when the host does not tell; the events may still do.
    pub job: Option<JobView>,
    /// The host's journal and what was found wrong with it; absent when it cannot be read.
    pub journal: Option<Audit>,
    /// Its events in the stream.
    pub events: Vec<Event>,
}

/// A seed, as its recipient remembers it.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct SeedRow {
    /// The host that is made.
    pub recipient: AgentId,
    /// The seed.
    pub job: JobView,
}

/// Seeds as a table.
#[must_use]
pub fn seeds(all: &[SeedRow], now: Timestamp) -> String {
    if all.is_empty() {
        return "no seeds\n".to_owned();
    }
    let row = |SeedRow { recipient, job }: &SeedRow| {
        let where_it_is = match (&job.error, &job.stage) {
            (Some(error), _) => error.message.clone(),
            (None, Some(stage)) if !job.state.is_final() => {
                let moved = job.progress.as_ref().filter(|p| p.bytes_total > 0).map(progress_text);
                [Some(stage.clone()), moved].into_iter().flatten().collect::<Vec<_>>().join(" ")
            }
            _ => job.summary.clone(),
        };
        vec![
            recipient.to_string(),
            or_dash(job.donor.as_ref().map(ToString::to_string)),
            word(&job.state),
            format!("{} ago", units::age(job.created_at, now)),
            job.finished_at.map_or_else(|| "-".to_owned(), |at| units::age(job.created_at, at)),
            // The end of an id differs between jobs of one moment; its beginning is the time.
            job.id.to_string().chars().skip(24).collect(),
            where_it_is,
        ]
    };
    table(&["HOST", "DONOR", "STATE", "BEGAN", "TOOK", "JOB", "ABOUT"], all.iter().map(row).collect())
}

/// Jobs as a table.
#[must_use]
pub fn jobs(jobs: &[JobView], now: Timestamp) -> String {
    if jobs.is_empty() {
        return "no jobs\n".to_owned();
    }
    let row = |job: &JobView| {
        vec![
            job.id.to_string(),
            job.kind.clone(),
            word(&job.state),
            or_dash(job.stage.clone()),
            format!("{} ago", units::age(job.created_at, now)),
            job.actor.clone(),
            job.summary.clone(),
        ]
    };
    table(&["JOB", "KIND", "STATE", "STAGE", "BEGAN", "ACTOR", "ABOUT"], jobs.iter().map(row).collect())
}

/// One job in full.
#[must_use]
pub fn job(job: &JobView) -> String {
    let error = job.error.as_ref();
    let mut text = pairs(&[
        ("job", Some(job.id.to_string())),
        ("kind", Some(job.kind.clone())),
        ("about", Some(job.summary.clone())),
        ("donor", job.donor.as_ref().map(ToString::to_string)),
        ("state", Some(word(&job.state))),
        ("stage", job.stage.clone()),
        ("progress", job.progress.as_ref().filter(|p| p.bytes_total > 0).map(|p| progress(p, job.state))),
        ("actor", Some(job.actor.clone())),
        ("request", Some(job.request.to_string())),
        ("began", Some(units::time(job.created_at))),
        (
            "ended",
            job.finished_at
                .map(|at| format!("{}, after {}", units::time(at), units::age(job.created_at, at))),
        ),
        ("error", error.map(|e| format!("{} ({})", e.message, e.code.as_str()))),
    ]);
    for cause in error.iter().flat_map(|e| &e.causes) {
        let _ = writeln!(text, "  because: {}", indented(cause, "           "));
    }
    if let Some(value) = &job.result {
        text.push_str("result\n");
        text.push_str(&result(value));
    }
    text
}

/// Old datadirs that are kept, as a table with what puts each back.
#[must_use]
pub fn kept(all: &[Kept], now: Timestamp) -> String {
    if all.is_empty() {
        return "no old datadir is kept\n".to_owned();
    }
    let row = |kept: &Kept| {
        vec![
            kept.recipient.to_string(),
            format!("{} (in {})", units::time(kept.until), units::age(now, kept.until)),
            kept.old_datadir.clone(),
            format!("seed undo {} {}", kept.recipient, kept.job),
        ]
    };
    table(&["HOST", "UNTIL", "OLD DATADIR", "PUT BACK BY"], all.iter().map(row).collect())
}

/// What a seed's journal tells beyond its view: the plan that it ran, where the data stand, what proves it, and timings.
#[must_use]
pub fn journal(audit: &Audit) -> String {
    let mut text = String::from("\n");
    let plan = audit.output("plan").and_then(|output| serde_json::from_value(output["plan"].clone()).ok());
    if let Some(plan) = plan {
        text.push_str(&super::plan(&plan));
        text.push('\n');
    }
    let word = |value: Option<&serde_json::Value>| value?.as_str().map(str::to_owned);
    let spec = audit.records.first().map(|record| &record["event"]["spec"]);
    let facts = spec.map(|spec| &spec["params"]["offer"]["facts"]);
    let coordinates = facts.map(|facts| &facts["coordinates"]).filter(|value| !value.is_null());
    let coordinates = coordinates.or_else(|| Some(&audit.output("verify")?["coordinates"]));
    text.push_str(&pairs(&[
        ("actor", word(spec.map(|spec| &spec["actor"]))),
        ("donor", word(facts.map(|facts| &facts["agent"]))),
        ("gtid", word(coordinates.map(|at| &at["gtid"]))),
        (
            "binary log",
            coordinates.and_then(|at| {
                Some(format!("{}:{}", at["binlog"]["file"].as_str()?, at["binlog"]["position"]))
            }),
        ),
        ("manifest root", word(audit.output("transfer").map(|output| &output["root_digest"]))),
        ("journal", Some(audit.verdict())),
    ]));
    let timings = audit.timings();
    if !timings.is_empty() {
        text.push_str("\ntimings\n");
        for (step, took) in timings {
            let _ = writeln!(text, "  {:<10} {:>9.3} s", line(&step), took.as_secs_f64());
        }
    }
    text
}

fn progress(progress: &TransferProgress, state: JobState) -> String {
    if state.is_final() {
        let (done, total) = (units::size(progress.bytes_done), units::size(progress.bytes_total));
        return format!("{done} of {total}, {} moved", units::size(progress.bytes_moved));
    }
    progress_text(progress)
}

/// Events of one job, one a line, with the seconds since the first.
#[must_use]
pub fn timeline(events: &[Event]) -> String {
    let Some(first) = events.first() else { return "no events in the stream\n".to_owned() };
    events
        .iter()
        .map(|event| {
            let after = event.time.duration_since(first.time).as_millis() as f64 / 1000.0;
            format!("{after:>10.3}s  {}\n", line(&about(event, true)))
        })
        .collect()
}

/// One event as a line.
#[must_use]
pub fn event(event: &Event) -> String {
    format!("{}  {:<16} {}\n", units::time(event.time), event.host.as_str(), line(&about(event, false)))
}

/// `of_job`: the reader knows which job it is.
fn about(event: &Event, of_job: bool) -> String {
    let kind = event.kind.strip_prefix("orch.").unwrap_or(&event.kind);
    let text = match event.known() {
        Some(EventData::JobStage(stage) | EventData::JobFinished(stage)) => {
            let error = stage.error.map(|e| format!(": {e}")).unwrap_or_default();
            let detail = detail(&stage.detail);
            let at = stage.stage.map(|s| format!("{s} ")).unwrap_or_default();
            if of_job {
                format!("{at}{}{detail}{error}", stage.what)
            } else {
                format!("{} {at}{} ({}, {}){detail}{error}", stage.kind, stage.what, stage.job, stage.actor)
            }
        }
        Some(EventData::AgentStarted(started)) => {
            format!("version {}, {} jobs resumed", started.version, started.jobs_resumed.len())
        }
        Some(EventData::AgentStopped(stopped)) => stopped.reason,
        Some(EventData::AgentDuplicate(other)) => format!(
            "ANOTHER process speaks in this name: boot {} of cluster {}, {}, started {}",
            other.other_boot,
            other.other_cluster,
            other.other_dc,
            units::time(other.other_started_at)
        ),
        Some(
            EventData::SnapshotCreated(e)
            | EventData::SnapshotAvailable(e)
            | EventData::SnapshotMounted(e)
            | EventData::SnapshotUnmounted(e)
            | EventData::SnapshotVerified(e),
        ) => format!("{} by {}", e.snapshot.id, e.by),
        Some(EventData::SnapshotRemoved(e) | EventData::SnapshotInvalid(e)) => format!("{} ({})", e.id, e.by),
        Some(EventData::MysqlState(change)) => format!("{} -> {}", word(&change.from), word(&change.to)),
        Some(EventData::CommandDenied(denied)) => {
            format!("{} of {}: {}", denied.command, denied.actor, denied.error)
        }
        Some(EventData::EventsDropped(dropped)) => {
            format!("{} LOST from sequence {} on", dropped.count, dropped.first_sequence)
        }
        None => event.data.to_string(),
    };
    format!("{kind}  {text}")
}

/// What of a stage's detail a person reads; JSON has the rest.
fn detail(detail: &serde_json::Value) -> String {
    let facts: Vec<String> = detail
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some(format!("{} {}", name.replace('_', " "), fact(name, value)?)))
        .collect();
    if facts.is_empty() { String::new() } else { format!(" ({})", facts.join(", ")) }
}

/// A figure with its unit, or a short text; digests, lists and what has parts of its own are for programs.
pub(super) fn fact(name: &str, value: &serde_json::Value) -> Option<String> {
    use serde_json::Value;
    match value {
        Value::Number(number) => Some(match number.as_u64() {
            Some(rate) if name.ends_with("bytes_per_s") => units::rate(rate),
            Some(bytes) if name.ends_with("bytes") => units::size(bytes),
            Some(milliseconds) if name.ends_with("_ms") => format!("{:.1}s", milliseconds as f64 / 1000.0),
            Some(seconds) if name.ends_with("_s") => units::duration(seconds),
            _ => number.to_string(),
        }),
        Value::Bool(yes) => Some(if *yes { "yes" } else { "no" }.to_owned()),
        Value::String(text) => {
            let digest = text.len() >= 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
            (!digest && !text.is_empty() && text.chars().count() <= FACT_MAX).then(|| text.clone())
        }
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// How a job that is over ended, in words.
#[must_use]
pub fn state(job: &JobView) -> String {
    match job.state {
        JobState::Aborted => "was aborted; what it did is taken back".to_owned(),
        JobState::Succeeded => "had succeeded before it could be aborted".to_owned(),
        _ => format!("is {}", word(&job.state)),
    }
}
