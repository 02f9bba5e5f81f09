//! What events add up to.
//!
//! Counters begin at zero with the gateway and count what comes from then on: a counter that began with what the stream holds would
//! look to Prometheus as if all of it had happened at the restart. What happened before gives the times of the last seeds only.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Unit;
use protocol::command::Call as _;
use protocol::event::{Event, EventData, JobStage};
use protocol::ids::{AgentId, JobId};
use protocol::job::JobState;
use protocol::params::SeedStartParams;
use protocol::seed::SeedStage;
use protocol::snapshot::Snapshot;

use super::fleet::{self, Row};
use super::labels::{self, HostLabels, Metric};

static SEEDS: Metric =
    Metric::new("seeds", None, "Seeds that ended on this host as their recipient, by outcome");
static SUCCESS: Metric = Metric::new(
    "seed_last_success_timestamp",
    Some(Unit::Seconds),
    "When a seed of this host last succeeded; absent where none did since a day before the gateway's start",
);
static FAILURE: Metric = Metric::new(
    "seed_last_failure_timestamp",
    Some(Unit::Seconds),
    "When a seed of this host last failed; absent where none did since a day before the gateway's start",
);
static RECEIVED: Metric = Metric::new(
    "seed_received",
    Some(Unit::Bytes),
    "Data that seeds brought to this host, before compression",
);
static VERIFIED: Metric =
    Metric::new("snapshot_verifications", None, "Snapshots verified on this host, by outcome");
static DENIED: Metric =
    Metric::new("commands_denied", None, "Commands that the agent refused before they began");
static STAGES: Metric = Metric::new(
    "seed_stage_duration",
    Some(Unit::Seconds),
    "How long a stage took, retries included, of all seeds",
);

const OUTCOMES: [&str; 3] = ["succeeded", "failed", "aborted"];
const PROOFS: [&str; 3] = ["passed", "partial", "failed"];
/// Stages take from a blink to most of a day.
const BUCKETS: [f64; 11] = [0.5, 2.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 10_800.0, 21_600.0, 43_200.0];
/// Stages whose end is awaited; more are not measured.
const MAX_RUNNING: usize = 10_000;

/// All of it.
#[derive(Debug)]
pub(super) struct Tallies {
    state: Mutex<State>,
    stages: BTreeMap<SeedStage, Histogram>,
}

#[derive(Debug, Default)]
struct State {
    hosts: BTreeMap<AgentId, Tally>,
    running: HashMap<JobId, (SeedStage, Timestamp)>,
}

#[derive(Debug, Default)]
struct Tally {
    cluster: String,
    dc: String,
    heard: Option<Instant>,
    seeds: [u64; 3],
    succeeded: Option<Timestamp>,
    failed: Option<Timestamp>,
    received_bytes: u64,
    verified: [u64; 3],
    denied: u64,
}

impl Default for Tallies {
    fn default() -> Self {
        let stages = SeedStage::ALL.into_iter().map(|stage| (stage, Histogram::new(BUCKETS)));
        Self { state: Mutex::default(), stages: stages.collect() }
    }
}

impl Tallies {
    /// Takes an event in; `is_new`: it was stored after the gateway began to read.
    pub(super) fn take(&self, event: &Event, is_new: bool, now: Instant) {
        let Some(data) = event.known() else { return };
        let mut state = self.state.lock();
        let State { hosts, running } = &mut *state;
        let tally = hosts.entry(event.host.clone()).or_default();
        tally.cluster.clone_from(&event.cluster);
        tally.dc.clone_from(&event.dc);
        tally.heard = Some(now);
        let one = u64::from(is_new);
        match data {
            EventData::JobFinished(job) if job.kind == SeedStartParams::SPEC.name => {
                running.remove(&job.job);
                tally.finished(job.state, event.time, one);
            }
            EventData::JobStage(job) if job.kind == SeedStartParams::SPEC.name => {
                let took = took(running, &job, event.time);
                if let Some((stage, took)) = took.filter(|_| is_new)
                    && let Some(histogram) = self.stages.get(&stage)
                {
                    histogram.observe(took);
                }
                tally.received_bytes += one * received(&job);
            }
            EventData::SnapshotVerified(verified) => tally.verified[proof(&verified.snapshot)] += one,
            EventData::CommandDenied(_) => tally.denied += one,
            _ => {}
        }
    }

    /// Writes the counters of all hosts that are in view, or of which something came within `forget_after`.
    pub(super) fn encode(
        &self,
        rows: &[Row<'_>],
        forget_after: Duration,
        encoder: &mut DescriptorEncoder<'_>,
    ) -> fmt::Result {
        let mut state = self.state.lock();
        let in_view: BTreeMap<&AgentId, &Row<'_>> =
            rows.iter().map(|row| (&row.entry.heartbeat.agent, row)).collect();
        let is_recent = |tally: &Tally| tally.heard.is_some_and(|at| at.elapsed() < forget_after);
        state.hosts.retain(|agent, tally| in_view.contains_key(agent) || is_recent(tally));
        for agent in in_view.keys() {
            // Zero before the first: what appears with one is no increase to Prometheus.
            state.hosts.entry((*agent).clone()).or_default();
        }
        let lines = state.hosts.iter().map(|(agent, tally)| match in_view.get(agent) {
            Some(row) => (row.labels.clone(), tally),
            None => (labels::of_host(agent.as_str(), &tally.cluster, &tally.dc), tally),
        });
        write(&lines.collect::<Vec<_>>(), encoder)?;
        let unit = STAGES.unit.as_ref();
        let mut family = encoder.encode_descriptor(STAGES.name, STAGES.help, unit, MetricType::Histogram)?;
        for (stage, histogram) in &self.stages {
            histogram.encode(family.encode_family(&[("stage", stage.as_str())])?)?;
        }
        Ok(())
    }
}

impl Tally {
    fn finished(&mut self, state: JobState, at: Timestamp, one: u64) {
        match state {
            JobState::Succeeded => {
                self.seeds[0] += one;
                self.succeeded = self.succeeded.max(Some(at));
            }
            JobState::Failed => {
                self.seeds[1] += one;
                self.failed = self.failed.max(Some(at));
            }
            JobState::Aborted => self.seeds[2] += one,
            JobState::Pending | JobState::Running | JobState::Undoing => {}
        }
    }
}

fn write(lines: &[(HostLabels<'_>, &Tally)], encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let by = |name: &'static str, words: [&'static str; 3], counts: fn(&Tally) -> [u64; 3]| {
        lines.iter().flat_map(move |(labels, tally)| {
            let counts = words.into_iter().zip(counts(tally));
            counts.map(move |(word, count)| (labels::and(labels, name, word), count))
        })
    };
    SEEDS.counter(encoder, by("outcome", OUTCOMES, |tally| tally.seeds))?;
    let last = |at: fn(&Tally) -> Option<Timestamp>| {
        lines.iter().filter_map(move |(labels, tally)| Some((labels.clone(), fleet::seconds(at(tally)?))))
    };
    SUCCESS.gauge(encoder, last(|tally| tally.succeeded))?;
    FAILURE.gauge(encoder, last(|tally| tally.failed))?;
    let all =
        |count: fn(&Tally) -> u64| lines.iter().map(move |(labels, tally)| (labels.clone(), count(tally)));
    RECEIVED.counter(encoder, all(|tally| tally.received_bytes))?;
    VERIFIED.counter(encoder, by("outcome", PROOFS, |tally| tally.verified))?;
    DENIED.counter(encoder, all(|tally| tally.denied))
}

/// The stage that ended with this event, and its seconds; a stage that is tried again has not begun anew.
fn took(
    running: &mut HashMap<JobId, (SeedStage, Timestamp)>,
    job: &JobStage,
    at: Timestamp,
) -> Option<(SeedStage, f64)> {
    let name = job.stage.as_deref()?;
    let stage = SeedStage::ALL.into_iter().find(|stage| stage.as_str() == name)?;
    let begun = running.get(&job.job).filter(|(of, _)| *of == stage).map(|(_, begun)| *begun);
    match job.what.as_str() {
        "started" if begun.is_none() && running.len() < MAX_RUNNING => {
            running.insert(job.job, (stage, at));
            None
        }
        "finished" => {
            running.remove(&job.job);
            Some((stage, at.duration_since(begun?).as_secs_f64().max(0.0)))
        }
        _ => None,
    }
}

/// Bytes that a finished transfer has brought.
fn received(job: &JobStage) -> u64 {
    let is_transfer = job.stage.as_deref() == Some(SeedStage::Transfer.as_str()) && job.what == "finished";
    let moved = || job.detail["output"]["bytes_moved"].as_u64();
    is_transfer.then(moved).flatten().unwrap_or_default()
}

/// Its place among [`PROOFS`].
fn proof(snapshot: &Snapshot) -> usize {
    match snapshot.meta.as_ref().and_then(|meta| meta.proof.as_ref()) {
        Some(proof) if proof.passed && proof.unchecked_tables == 0 => 0,
        Some(proof) if proof.passed => 1,
        _ => 2,
    }
}
