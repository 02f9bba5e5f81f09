//! Seeds as their recipients tell of them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use protocol::error::WireError;
use protocol::event::{Event, JobStage};
use protocol::ids::{AgentId, JobId};
use protocol::job::JobState;
use protocol::seed::SeedStage;

/// The newest so many are remembered.
const MAX: usize = 1_000;
/// Tries of stages of one seed that are told apart.
const MAX_RUNS: usize = 100;

/// By job; ids of later jobs sort later.
#[derive(Debug, Default)]
pub(in super::super) struct Seeds(BTreeMap<JobId, Seed>);

/// One seed.
#[derive(Debug, Clone)]
pub(in super::super) struct Seed {
    pub(in super::super) job: JobId,
    pub(in super::super) recipient: AgentId,
    pub(in super::super) cluster: String,
    pub(in super::super) actor: String,
    /// Donor, recipient and snapshot, in the agent's words.
    pub(in super::super) summary: String,
    pub(in super::super) state: JobState,
    pub(in super::super) begun: Timestamp,
    pub(in super::super) ended: Option<Timestamp>,
    /// Its stages, each try by itself.
    pub(in super::super) runs: Vec<Run>,
    /// Bytes that travelled.
    pub(in super::super) moved_bytes: Option<u64>,
    /// Why it failed.
    pub(in super::super) error: Option<WireError>,
}

/// One try of a stage.
#[derive(Debug, Clone)]
pub(in super::super) struct Run {
    pub(in super::super) stage: String,
    pub(in super::super) begun: Timestamp,
    pub(in super::super) ended: Option<Timestamp>,
    /// `started`, `finished`, `failed`, `retrying`, `undone`.
    pub(in super::super) what: String,
    pub(in super::super) error: Option<String>,
}

impl Seeds {
    /// One of them.
    pub(in super::super) fn get(&self, job: JobId) -> Option<&Seed> {
        self.0.get(&job)
    }

    /// All, the newest first.
    pub(in super::super) fn newest(&self) -> impl Iterator<Item = &Seed> {
        self.0.values().rev()
    }

    /// Takes what a recipient says of one.
    pub(super) fn take(&mut self, event: &Event, stage: &JobStage) {
        let seed = self.0.entry(stage.job).or_insert_with(|| Seed {
            job: stage.job,
            recipient: event.host.clone(),
            cluster: event.cluster.clone(),
            actor: stage.actor.clone(),
            summary: stage.summary.clone(),
            state: stage.state,
            begun: event.time,
            ended: None,
            runs: Vec::new(),
            moved_bytes: None,
            error: None,
        });
        seed.state = stage.state;
        if !stage.summary.is_empty() {
            seed.summary.clone_from(&stage.summary);
        }
        if stage.state.is_final() {
            seed.ended = Some(event.time);
        }
        if stage.error.is_some() {
            seed.error.clone_from(&stage.error);
        }
        if let Some(name) = &stage.stage {
            seed.reach(name, event.time, stage);
        }
        while self.0.len() > MAX {
            self.0.pop_first();
        }
    }
}

impl Seed {
    /// The newest try of a stage.
    pub(in super::super) fn last_of(&self, stage: SeedStage) -> Option<&Run> {
        self.runs.iter().rev().find(|run| run.stage == stage.as_str())
    }

    fn reach(&mut self, name: &str, at: Timestamp, stage: &JobStage) {
        let error = stage.error.as_ref().map(ToString::to_string);
        if name == SeedStage::Transfer.as_str()
            && let Some(moved) = stage.detail["output"]["bytes_moved"].as_u64()
        {
            self.moved_bytes = Some(moved);
        }
        let has_room = self.runs.len() < MAX_RUNS;
        let running = self.runs.iter_mut().rev().find(|run| run.stage == name && run.ended.is_none());
        match (stage.what.as_str(), running) {
            ("started", None) if has_room => self.runs.push(Run {
                stage: name.to_owned(),
                begun: at,
                ended: None,
                what: "started".to_owned(),
                error: None,
            }),
            (what @ ("finished" | "failed" | "retrying"), Some(run)) => {
                (run.ended, run.error) = (Some(at), error);
                what.clone_into(&mut run.what);
            }
            ("undone", _) => {
                if let Some(run) = self.runs.iter_mut().rev().find(|run| run.stage == name) {
                    "undone".clone_into(&mut run.what);
                    run.ended.get_or_insert(at);
                }
            }
            _ => {}
        }
    }
}
