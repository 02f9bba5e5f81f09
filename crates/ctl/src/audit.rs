//! Proves a job's record: the host's journal against its own hash chain, and both against the event stream.
//!
//! Each line of a journal is `{"hash":H,"record":BODY}`, H the BLAKE3 of BODY's very bytes, and BODY names the hash before it.
//! The events carry H, so that a journal that was rewritten as a whole, chain and all, no longer fits what the stream holds.

use std::collections::BTreeMap;

use protocol::event::{Event, EventData, JobStage};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

/// What the first record names as the one before it.
const NOTHING_BEFORE: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// A journal with what was found wrong with it.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Audit {
    /// The records, as far as they can be read.
    pub records: Vec<Value>,
    /// How many of them an event of the stream vouches for.
    pub confirmed: usize,
    /// What was changed, put in or taken out, in sentences; empty when all is well.
    pub problems: Vec<String>,
}

impl Audit {
    /// Checks a journal's lines, and what the stream says of the same job.
    #[must_use]
    pub fn of(lines: &[String], events: &[Event]) -> Self {
        let mut audit = Self { records: Vec::new(), confirmed: 0, problems: Vec::new() };
        let mut hashes = BTreeMap::new();
        let mut before = NOTHING_BEFORE.to_owned();
        for (number, line) in lines.iter().enumerate() {
            let Some((hash, body)) = split(line) else {
                audit.problems.push(format!("record {number} of the journal cannot be read"));
                continue;
            };
            let record: Value = serde_json::from_str(body).unwrap_or(Value::Null);
            if blake3::hash(body.as_bytes()).to_hex().as_str() != hash {
                audit
                    .problems
                    .push(format!("record {number} of the journal was changed after it was written"));
            } else if record["prev"] != before.as_str() || record["seq"] != number {
                audit
                    .problems
                    .push(format!("record {number} of the journal does not follow the one before it"));
            }
            hash.clone_into(&mut before);
            hashes.insert(number as u64, hash.to_owned());
            audit.records.push(record);
        }
        for event in events {
            audit.compare(event, &hashes);
        }
        audit
    }

    fn compare(&mut self, event: &Event, hashes: &BTreeMap<u64, String>) {
        let Some(EventData::JobStage(stage) | EventData::JobFinished(stage)) = event.known() else { return };
        let at = &stage.detail["journal"];
        let (Some(seq), Some(hash)) = (at["seq"].as_u64(), at["hash"].as_str()) else { return };
        match hashes.get(&seq) {
            None => self.problems.push(format!("the stream knows of a record {seq} that the journal lacks")),
            Some(ours) if ours != hash => {
                self.problems
                    .push(format!("record {seq} of the journal is not the one that the stream was told of"));
            }
            Some(_) => {
                let record = self.records.iter().find(|record| record["seq"] == seq);
                match record.map(|record| differs(&stage, &record["event"])) {
                    Some(Some(what)) => {
                        self.problems
                            .push(format!("the event of record {seq} says another {what} than the journal"));
                    }
                    _ => self.confirmed += 1,
                }
            }
        }
    }

    /// In a sentence.
    #[must_use]
    pub fn verdict(&self) -> String {
        if self.problems.is_empty() {
            return format!(
                "{} records, the hash chain holds, {} of them confirmed by the event stream",
                self.records.len(),
                self.confirmed
            );
        }
        format!("ALTERED: {}", self.problems.join("; "))
    }

    /// The output of a step that finished.
    #[must_use]
    pub fn output(&self, step: &str) -> Option<&Value> {
        let event =
            |record: &'_ Value| record["event"]["type"] == "step_finished" && record["event"]["step"] == step;
        self.records.iter().rev().find(|record| event(record)).map(|record| &record["event"]["output"])
    }

    /// Each step with when it began and ended, by the host's clock.
    #[must_use]
    pub fn timings(&self) -> Vec<(String, jiff::SignedDuration)> {
        let at = |record: &Value| record["at"].as_str()?.parse::<jiff::Timestamp>().ok();
        let mut begun: BTreeMap<&str, jiff::Timestamp> = BTreeMap::new();
        let mut timings = Vec::new();
        for record in &self.records {
            let (Some(step), Some(at)) = (record["event"]["step"].as_str(), at(record)) else { continue };
            match record["event"]["type"].as_str() {
                Some("step_started") => drop(begun.entry(step).or_insert(at)),
                Some("step_finished" | "step_failed") => {
                    if let Some(began) = begun.remove(step) {
                        timings.push((step.to_owned(), at.duration_since(began)));
                    }
                }
                _ => {}
            }
        }
        timings
    }
}

fn split(line: &str) -> Option<(&str, &str)> {
    let (hash, rest) = line.strip_prefix(r#"{"hash":""#)?.split_at_checked(64)?;
    Some((hash, rest.strip_prefix(r#"","record":"#)?.strip_suffix('}')?))
}

/// In what an event differs from the record that it was made from.
fn differs(stage: &JobStage, record: &Value) -> Option<&'static str> {
    let step = record["step"].as_str();
    if step.is_some() && step != stage.stage.as_deref() {
        return Some("stage");
    }
    let said = &stage.detail["output"];
    if !said.is_null() && *said != record["output"] {
        return Some("output");
    }
    let error = record["error"]["message"].as_str();
    match (error, &stage.error) {
        (Some(message), Some(error)) if !error.message.contains(message) => Some("error"),
        (Some(_), None) => Some("error"),
        _ => None,
    }
}

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;
