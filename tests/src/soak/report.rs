//! What a long run has done and seen, as JSON for programs and Markdown for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use protocol::job::JobView;
use serde_json::{Value, json};

use super::plan::{Fault, HOSTS, Old, Round, STEADY, SeedPlan};
use super::resources::Reading;
use super::works::{Done, Tally};

/// It grows with the run, and is written after each round: a run that is killed has told what it saw.
#[derive(Debug)]
pub struct Report {
    seed: u64,
    began: Instant,
    rounds: Vec<Value>,
    faults: Tally,
    seeds: Tally,
    chores: Tally,
    readings: Vec<(String, Duration, Vec<Reading>)>,
    /// Events in the stream.
    pub events: u64,
    outcome: String,
}

impl Report {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            began: Instant::now(),
            rounds: Vec::new(),
            faults: Tally::new(),
            seeds: Tally::new(),
            chores: Tally::new(),
            readings: Vec::new(),
            events: 0,
            outcome: "under way".to_owned(),
        }
    }

    pub(super) fn begin(&mut self, round: &Round) {
        println!("{:>4}: {round}", self.rounds.len() + 1);
        self.rounds.push(json!({ "round": round.to_string(), "at_s": self.began.elapsed().as_secs() }));
    }

    pub(super) fn end(&mut self, took: Duration, readings: &[Reading]) {
        let readings: Vec<Value> = readings.iter().map(Reading::to_json).collect();
        if let Some(round) = self.rounds.last_mut() {
            round["took_ms"] = json!(took.as_millis() as u64);
            round["agents"] = json!(readings);
        }
        self.write();
    }

    pub(super) fn fault(&mut self, fault: Fault) {
        *self.faults.entry(fault.kind().to_owned()).or_default() += 1;
    }

    pub(super) fn seed(&mut self, plan: &SeedPlan, view: &JobView) {
        let mut how = if plan.store { "through the bus" } else { "direct" }.to_owned();
        if plan.delta {
            how.push_str(", delta");
        }
        how.push_str(match plan.old {
            Old::Gone => "",
            Old::PutBack => ", undone later",
            Old::Lapses => ", old data kept for 3 s",
        });
        *self.seeds.entry(format!("{how}: {:?}", view.state)).or_default() += 1;
    }

    pub(super) fn chore(&mut self, done: &Done) {
        let how = match &done.failure {
            None => "done",
            Some(_) if done.was_refused() => "refused",
            Some((code, words)) => {
                println!("      {:?} on {}: code {code:?}: {}", done.chore, HOSTS[done.at], words.trim_end());
                "failed"
            }
        };
        *self.chores.entry(format!("{:?}: {how}", done.chore)).or_default() += 1;
    }

    pub(super) fn reading(&mut self, when: &str, readings: &[Reading]) {
        self.readings.push((when.to_owned(), self.began.elapsed(), readings.to_vec()));
        self.write();
    }

    /// How long it has run, and how many rounds.
    #[must_use]
    pub fn so_far(&self) -> (Duration, usize) {
        (self.began.elapsed(), self.rounds.len())
    }

    /// Tells how it ended.
    pub fn ends(&mut self, outcome: &str) {
        self.outcome = outcome.to_owned();
        self.write();
    }

    fn write(&self) {
        let directory = directory();
        fs::create_dir_all(&directory).unwrap();
        let write = |name: &str, text: String| {
            let half = directory.join(format!("{name}.half"));
            fs::write(&half, text).unwrap();
            fs::rename(&half, directory.join(name)).unwrap();
        };
        write("soak.json", serde_json::to_string_pretty(&self.to_json()).unwrap());
        write("soak.md", self.to_markdown());
    }

    fn to_json(&self) -> Value {
        let readings = self.readings.iter().map(|(when, after, readings)| {
            let agents: BTreeMap<&str, Value> =
                HOSTS.into_iter().zip(readings.iter().map(Reading::to_json)).collect();
            json!({ "when": when, "after_s": after.as_secs(), "agents": agents })
        });
        json!({ "seed": self.seed, "ran_s": self.began.elapsed().as_secs(), "outcome": self.outcome,
            "events": self.events, "faults": self.faults, "seeds": self.seeds, "chores": self.chores,
            "readings": readings.collect::<Vec<_>>(), "rounds": self.rounds })
    }

    fn to_markdown(&self) -> String {
        let mut text = format!(
            "# A long run\n\n`make soak SEED={}`: {} rounds in {:.1} minutes, {} events in the stream, none lost and none \
             doubled. Outcome: {}.\n",
            self.seed,
            self.rounds.len(),
            self.began.elapsed().as_secs_f64() / 60.0,
            self.events,
            self.outcome
        );
        for (title, tally) in [("Faults", &self.faults), ("Seeds", &self.seeds), ("Meanwhile", &self.chores)]
        {
            let _ = writeln!(text, "\n## {title}\n\n| what | times |\n| --- | ---: |");
            for (what, times) in tally {
                let _ = writeln!(text, "| {what} | {times} |");
            }
        }
        let steady = STEADY.map(|at| HOSTS[at]).join(" and ");
        let _ = writeln!(text, "\n## What each agent holds\n\nThose of {steady} were never killed.");
        for (when, after, readings) in &self.readings {
            let _ = writeln!(text, "\n### {when}, after {:.0} minutes\n", after.as_secs_f64() / 60.0);
            text.push_str(
                "| agent | memory, MiB | descriptors | threads | state, KiB | replies, KiB | journals | their KiB |\n",
            );
            text.push_str("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n");
            for (host, reading) in HOSTS.iter().zip(readings) {
                let _ = writeln!(
                    text,
                    "| {host} ({}) | {:.1} | {} | {} | {} | {} | {} | {} |",
                    reading.pid,
                    reading.rss_kib as f64 / 1024.0,
                    reading.descriptors,
                    reading.threads,
                    reading.state_bytes >> 10,
                    reading.reply_bytes >> 10,
                    reading.journals,
                    reading.journal_bytes >> 10
                );
            }
        }
        text
    }
}

/// `OA_SOAK_DIR`, else `soak` below the target directory that the running program was built into.
fn directory() -> PathBuf {
    if let Some(directory) = std::env::var_os("OA_SOAK_DIR") {
        return directory.into();
    }
    let program = std::env::current_exe().unwrap();
    let profile = program.ancestors().find(|dir| dir.join(".cargo-lock").exists());
    profile.and_then(Path::parent).map_or_else(|| "target/soak".into(), |target| target.join("soak"))
}
