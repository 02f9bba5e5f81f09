use std::time::Duration;

use bus::events::StoredEvent;
use protocol::job::JobState;
use protocol::seed::SeedStage;
use serde_json::{Value, json};

use super::*;

fn stored(sequence: u64, kind: &str, at: Timestamp, data: &Value) -> StoredEvent {
    let event = json!({
        "specversion": "1.0", "id": protocol::ids::EventId::generate(), "source": "/orch/agents/db1", "type": format!("orch.{kind}"),
        "time": at, "datacontenttype": "application/json", "cluster": "shop", "dc": "dc1", "host": "db1", "sequence": sequence,
        "data": data
    });
    StoredEvent { stream_sequence: sequence, event: serde_json::from_value(event).unwrap() }
}

fn past() -> Past {
    Past::new(Arc::new(View::new(Vec::new(), Duration::from_secs(3_600))))
}

fn snapshot(id: &str, made: Timestamp, proof: &Value) -> Value {
    json!({"by": "schedule", "snapshot": {
        "id": id, "provider": "lvm", "origin": "vg0/mysql", "created_at": made, "size_bytes": null, "fill_percent": null,
        "validity": {"state": "valid"}, "mounts": [], "meta": {
            "cluster": "shop", "dc": "dc1", "host": "db1", "consistency": "crash", "coordinates": null, "server_version": null,
            "datadir": "", "expires_at": null, "proof": proof}}})
}

#[test]
fn a_day_counts_each_snapshot_once_and_tells_proven_failed_lost_and_gone() {
    let past = past();
    let now = Timestamp::now();
    let proof = |passed: bool| json!({"checked_at": now, "passed": passed, "detail": "", "recovery_ms": 1, "recovered": null});
    let kinds = [
        ("snapshot.created", snapshot("a", now, &Value::Null)),
        ("snapshot.available", snapshot("a", now, &Value::Null)),
        ("snapshot.verified", snapshot("a", now, &proof(true))),
        ("snapshot.created", snapshot("b", now, &Value::Null)),
        ("snapshot.verified", snapshot("b", now, &proof(false))),
        ("snapshot.created", snapshot("c", now, &Value::Null)),
        ("snapshot.invalid", json!({"id": "c", "by": "overflow"})),
        ("snapshot.removed", json!({"id": "a", "by": "retention"})),
        // Long ago: no day of the calendar.
        ("snapshot.created", snapshot("d", now - SignedDuration::from_hours(24 * 40), &Value::Null)),
    ];
    for (sequence, (kind, data)) in kinds.iter().enumerate() {
        past.take(&stored(sequence as u64, kind, now, data), true);
    }
    past.look(|past| {
        let (_, days) = past.calendar.rows(day(now)).next().unwrap();
        let today = days[&day(now)];
        assert_eq!(today, Day { made: 3, proven: 1, failed: 1, lost: 1, kept: 1 });
        assert!(today.is_protected());
        assert_eq!(days.len(), 1);
    });
}

fn stage(job: JobId, state: &str, stage: &str, what: &str, detail: &Value) -> Value {
    json!({"job": job, "kind": "seed.start", "actor": "alice", "summary": "db2 → db1 from s1", "state": state, "stage": stage,
           "what": what, "detail": detail, "error": null})
}

#[test]
fn a_seed_is_told_by_its_stages_and_each_try_of_one() {
    let past = past();
    let job = JobId::generate();
    let at = |second: i64| Timestamp::from_second(1_700_000_000 + second).unwrap();
    let told = [
        ("job.stage", 0, stage(job, "running", "transfer", "started", &Value::Null)),
        ("job.stage", 5, stage(job, "running", "transfer", "retrying", &Value::Null)),
        ("job.stage", 6, stage(job, "running", "transfer", "started", &Value::Null)),
        (
            "job.stage",
            9,
            stage(job, "running", "transfer", "finished", &json!({"output": {"bytes_moved": 42}})),
        ),
        ("job.stage", 9, stage(job, "running", "verify", "started", &Value::Null)),
        ("job.finished", 10, stage(job, "succeeded", "verify", "finished", &Value::Null)),
    ];
    for (sequence, (kind, second, data)) in told.iter().enumerate() {
        past.take(&stored(sequence as u64, kind, at(*second), data), true);
    }
    let seed = past.seed(job).unwrap();
    assert_eq!((seed.state, seed.moved_bytes, seed.ended), (JobState::Succeeded, Some(42), Some(at(10))));
    let runs: Vec<_> = seed.runs.iter().map(|run| (run.stage.as_str(), run.what.as_str())).collect();
    assert_eq!(runs, [("transfer", "retrying"), ("transfer", "finished"), ("verify", "finished")]);
    let last = seed.last_of(SeedStage::Transfer).unwrap();
    assert_eq!((last.begun, last.ended), (at(6), Some(at(9))));
}

#[test]
fn lines_are_found_by_who_what_and_when_the_newest_first() {
    let past = past();
    let at = |hour: i64| Timestamp::from_second(1_700_000_000 + hour * 3_600).unwrap();
    let denied = json!({"command": "seed.start", "actor": "mallory", "error": {"code": "forbidden", "message": "no role"}});
    past.take(&stored(1, "mysql.state", at(0), &json!({"from": "ready", "to": "stopped"})), true);
    past.take(&stored(2, "command.denied", at(1), &denied), true);
    past.take(&stored(3, "future.kind", at(2), &json!({"x": 1})), true);
    past.take(&stored(4, "mysql.state", at(3), &json!({"from": "stopped", "to": "ready"})), true);
    let find = |wanted: Wanted| {
        past.look(|past| past.log.find(&wanted, 10).0.iter().map(|line| line.sequence).collect::<Vec<_>>())
    };
    let wanted = Wanted::default;
    assert_eq!(find(wanted()), [4, 3, 2, 1]);
    assert_eq!(find(Wanted { kind: "mysql".into(), ..wanted() }), [4, 1]);
    assert_eq!(find(Wanted { kind: "mysql.*".into(), ..wanted() }), [4, 1]);
    assert!(find(Wanted { kind: "mys".into(), ..wanted() }).is_empty(), "a kind is no part of a word");
    assert_eq!(find(Wanted { actor: "Mall".into(), ..wanted() }), [2]);
    assert_eq!(find(Wanted { text: "no role".into(), ..wanted() }), [2]);
    assert_eq!(find(Wanted { since: Some(at(1)), until: Some(at(3)), ..wanted() }), [3, 2]);
    assert_eq!(find(Wanted { host: "DB1".into(), before: Some(3), ..wanted() }), [2, 1]);
    assert!(find(Wanted { host: "db2".into(), ..wanted() }).is_empty());
    past.look(|past| {
        let (lines, has_more) = past.log.find(&Wanted::default(), 2);
        assert!(has_more && lines[0].text == "stopped → ready" && !lines[0].is_bad);
        assert!(past.log.find(&Wanted::default(), 4).0[3].is_bad);
    });
}
