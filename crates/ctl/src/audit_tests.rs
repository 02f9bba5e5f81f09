use jiff::Timestamp;
use protocol::ids::{EventId, JobId};
use protocol::job::JobState;
use serde_json::json;

use super::*;

/// Lines as a host writes them.
fn journal(bodies: &[Value]) -> Vec<String> {
    let mut before = NOTHING_BEFORE.to_owned();
    let mut lines = Vec::new();
    for (seq, event) in bodies.iter().enumerate() {
        let at = Timestamp::from_second(seq as i64).unwrap();
        let body = json!({"v": 1, "seq": seq, "at": at, "prev": before, "event": event}).to_string();
        before = blake3::hash(body.as_bytes()).to_hex().to_string();
        lines.push(format!(r#"{{"hash":"{before}","record":{body}}}"#));
    }
    lines
}

fn good() -> Vec<Value> {
    vec![
        json!({"type": "created", "spec": {"kind": "seed.start"}}),
        json!({"type": "step_started", "step": "transfer", "attempt": 1}),
        json!({"type": "step_finished", "step": "transfer", "output": {"root_digest": "ab"}}),
        json!({"type": "finished", "outcome": {"end": "done"}}),
    ]
}

/// The events of such a journal, as the stream got them.
fn events(lines: &[String]) -> Vec<Event> {
    let event = |(seq, line): (usize, &String)| {
        let (hash, body) = split(line).unwrap();
        let record: Value = serde_json::from_str(body).unwrap();
        let data = EventData::JobStage(JobStage {
            job: JobId::generate(),
            kind: "seed.start".into(),
            actor: "alice".into(),
            summary: String::new(),
            state: JobState::Running,
            stage: record["event"]["step"].as_str().map(str::to_owned),
            what: "told".into(),
            detail: json!({"output": record["event"]["output"], "journal": {"seq": seq, "hash": hash}}),
            error: None,
        });
        Event {
            specversion: "1.0".into(),
            id: EventId::generate(),
            source: "/orch/agents/db7".into(),
            kind: "orch.job.stage".into(),
            subject: None,
            time: Timestamp::UNIX_EPOCH,
            datacontenttype: "application/json".into(),
            cluster: "c".into(),
            dc: "d".into(),
            host: "db7".parse().unwrap(),
            sequence: 1,
            data: data.into_body(),
        }
    };
    lines.iter().enumerate().map(event).collect()
}

#[test]
fn an_untouched_record_holds_and_tells_its_timings() {
    let lines = journal(&good());
    let audit = Audit::of(&lines, &events(&lines));
    assert_eq!((audit.problems.len(), audit.confirmed), (0, 4), "{:?}", audit.problems);
    assert_eq!(audit.output("transfer"), Some(&json!({"root_digest": "ab"})));
    assert_eq!(audit.timings(), [("transfer".to_owned(), jiff::SignedDuration::from_secs(1))]);
    assert!(audit.verdict().contains("the hash chain holds"));
}

#[test]
fn every_way_of_altering_a_journal_is_seen() {
    let lines = journal(&good());
    let told = events(&lines);
    let mut changed = lines.clone();
    changed[2] = changed[2].replace("ab", "cd");
    let mut removed = lines.clone();
    removed.remove(1);
    let mut cut = lines.clone();
    cut.pop();
    let mut bodies = good();
    bodies[2]["output"]["root_digest"] = json!("cd");
    let rewritten = journal(&bodies);
    for (altered, words) in [
        (changed, "record 2 of the journal was changed"),
        (removed, "does not follow"),
        (cut, "a record 3 that the journal lacks"),
        (rewritten, "is not the one that the stream was told of"),
        (vec!["nonsense".to_owned()], "cannot be read"),
    ] {
        let audit = Audit::of(&altered, &told);
        assert!(
            audit.verdict().starts_with("ALTERED") && audit.verdict().contains(words),
            "{}",
            audit.verdict()
        );
    }
}

#[test]
fn an_altered_event_is_seen() {
    let lines = journal(&good());
    let mut told = events(&lines);
    told[2].data["detail"]["output"]["root_digest"] = json!("cd");
    let audit = Audit::of(&lines, &told);
    assert_eq!(audit.problems, ["the event of record 2 says another output than the journal"]);
}
