//! The audit log: one line for each event, found again by who, what and when.

use std::collections::VecDeque;

use bus::events::StoredEvent;
use jiff::Timestamp;
use protocol::event::{Event, EventData, JobStage};
use protocol::ids::{AgentId, JobId};
use protocol::mysql::ServerState;
use serde_json::Value;
use sys::units;

/// The newest so many lines are kept.
const MAX: usize = 20_000;
/// Characters of a line; what is longer is cut.
const MAX_TEXT: usize = 600;
/// A text of a stage's detail that is longer is for programs.
const MAX_FACT: usize = 80;

/// All lines, the newest last.
#[derive(Debug, Default)]
pub(in super::super) struct Log {
    lines: VecDeque<Line>,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Line {
    /// Its place in the stream.
    pub(in super::super) sequence: u64,
    pub(in super::super) at: Timestamp,
    pub(in super::super) host: AgentId,
    pub(in super::super) cluster: String,
    /// Without `orch.`.
    pub(in super::super) kind: String,
    /// Who did it, where that is known.
    pub(in super::super) actor: String,
    /// In a sentence.
    pub(in super::super) text: String,
    /// The job that it is about, where that is a seed.
    pub(in super::super) seed: Option<JobId>,
    /// Something failed or was refused.
    pub(in super::super) is_bad: bool,
}

/// Which lines; empty texts want all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in super::super) struct Wanted {
    pub(in super::super) host: String,
    pub(in super::super) cluster: String,
    /// A kind, or its first part.
    pub(in super::super) kind: String,
    /// Part of the actor's name.
    pub(in super::super) actor: String,
    /// Part of the sentence.
    pub(in super::super) text: String,
    pub(in super::super) since: Option<Timestamp>,
    pub(in super::super) until: Option<Timestamp>,
    /// Only lines before this place in the stream.
    pub(in super::super) before: Option<u64>,
}

impl Wanted {
    fn has(&self, line: &Line) -> bool {
        let part =
            |wanted: &str, of: &str| wanted.is_empty() || of.to_lowercase().contains(&wanted.to_lowercase());
        let is_kind = || {
            let rest = line.kind.strip_prefix(self.kind.trim_end_matches(['*', '.']));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        (self.host.is_empty() || line.host.as_str() == self.host.to_ascii_lowercase())
            && (self.cluster.is_empty() || line.cluster == self.cluster)
            && (self.kind.is_empty() || is_kind())
            && part(&self.actor, &line.actor)
            && part(&self.text, &line.text)
            && self.since.is_none_or(|since| line.at >= since)
            && self.until.is_none_or(|until| line.at < until)
            && self.before.is_none_or(|before| line.sequence < before)
    }
}

impl Log {
    /// Takes an event in.
    pub(super) fn take(&mut self, stored: &StoredEvent, data: Option<&EventData>) {
        if self.lines.len() >= MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(line(stored, data));
    }

    /// The newest of the wanted lines, at most `limit`, and whether there are more.
    pub(in super::super) fn find(&self, wanted: &Wanted, limit: usize) -> (Vec<Line>, bool) {
        let mut found = self.lines.iter().rev().filter(|line| wanted.has(line));
        let lines: Vec<Line> = found.by_ref().take(limit).cloned().collect();
        (lines, found.next().is_some())
    }

    /// The oldest line that is kept.
    pub(in super::super) fn oldest(&self) -> Option<&Line> {
        self.lines.front()
    }
}

fn line(stored: &StoredEvent, data: Option<&EventData>) -> Line {
    let event = &stored.event;
    let kind = event.kind.strip_prefix("orch.").unwrap_or(&event.kind);
    let mut text = sentence(event, data);
    if let Some((at, _)) = text.char_indices().nth(MAX_TEXT) {
        text.truncate(at);
        text.push('…');
    }
    let stage = match data {
        Some(EventData::JobStage(stage) | EventData::JobFinished(stage)) => Some(stage),
        _ => None,
    };
    Line {
        sequence: stored.stream_sequence,
        at: event.time,
        host: event.host.clone(),
        cluster: event.cluster.clone(),
        kind: kind.chars().take(64).collect(),
        actor: actor(data).chars().take(128).collect(),
        text,
        seed: stage.filter(|stage| stage.kind == "seed.start").map(|stage| stage.job),
        is_bad: match data {
            Some(
                EventData::CommandDenied(_)
                | EventData::AgentDuplicate(_)
                | EventData::EventsDropped(_)
                | EventData::SnapshotInvalid(_),
            ) => true,
            Some(EventData::MysqlState(change)) => change.to != ServerState::Ready,
            _ => stage.is_some_and(|stage| stage.error.is_some()),
        },
    }
}

fn actor(data: Option<&EventData>) -> &str {
    match data {
        Some(EventData::JobStage(stage) | EventData::JobFinished(stage)) => &stage.actor,
        Some(EventData::CommandDenied(denied)) => &denied.actor,
        Some(
            EventData::SnapshotCreated(e)
            | EventData::SnapshotAvailable(e)
            | EventData::SnapshotMounted(e)
            | EventData::SnapshotUnmounted(e)
            | EventData::SnapshotVerified(e),
        ) => &e.by,
        _ => "",
    }
}

fn sentence(event: &Event, data: Option<&EventData>) -> String {
    match data {
        Some(EventData::JobStage(stage) | EventData::JobFinished(stage)) => of_job(stage),
        Some(EventData::AgentStarted(e)) => {
            format!("version {}, {} jobs resumed", e.version, e.jobs_resumed.len())
        }
        Some(EventData::AgentStopped(e)) => e.reason.clone(),
        Some(EventData::AgentDuplicate(e)) => format!(
            "another process speaks in this name: of cluster {} in {}, started {}",
            e.other_cluster,
            e.other_dc,
            units::time(e.other_started_at)
        ),
        Some(
            EventData::SnapshotCreated(e)
            | EventData::SnapshotAvailable(e)
            | EventData::SnapshotMounted(e)
            | EventData::SnapshotUnmounted(e),
        ) => e.snapshot.id.to_string(),
        Some(EventData::SnapshotVerified(e)) => {
            let proof = e.snapshot.meta.as_ref().and_then(|meta| meta.proof.as_ref());
            let detail = proof.map(|proof| format!(": {}", proof.detail)).unwrap_or_default();
            format!("{}{detail}", e.snapshot.id)
        }
        Some(EventData::SnapshotRemoved(e) | EventData::SnapshotInvalid(e)) => format!("{} ({})", e.id, e.by),
        Some(EventData::MysqlState(change)) => format!("{} → {}", word(&change.from), word(&change.to)),
        Some(EventData::CommandDenied(e)) => format!("{}: {}", e.command, e.error),
        Some(EventData::EventsDropped(e)) => {
            format!("{} events lost from sequence {} on: the spool was full", e.count, e.first_sequence)
        }
        None => event.data.to_string(),
    }
}

fn of_job(stage: &JobStage) -> String {
    let at = stage.stage.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
    let facts: Vec<String> = stage
        .detail
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some(format!("{} {}", name.replace('_', " "), fact(name, value)?)))
        .collect();
    let facts = if facts.is_empty() { String::new() } else { format!(" ({})", facts.join(", ")) };
    let about = if stage.summary.is_empty() { String::new() } else { format!(": {}", stage.summary) };
    let error = stage.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    format!("{}{at} {}{about}{facts}{error}", stage.kind, stage.what)
}

/// A figure with its unit, or a short text; digests, lists and what has parts of its own are for programs.
fn fact(name: &str, value: &Value) -> Option<String> {
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
            let is_digest = text.len() >= 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
            (!is_digest && !text.is_empty() && text.chars().count() <= MAX_FACT).then(|| text.clone())
        }
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A state as it is written on the wire, with spaces.
fn word(state: &ServerState) -> String {
    let word = serde_json::to_value(state).unwrap_or_default();
    word.as_str().unwrap_or_default().replace('_', " ")
}
