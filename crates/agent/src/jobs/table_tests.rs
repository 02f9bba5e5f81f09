use job::journal;
use protocol::command::{Class, Command};
use protocol::ids::JobId;
use protocol::job::JobState;
use serde_json::json;

use super::*;
use crate::admission::{self, Claims, EVERYTHING, Running};
use crate::jobs::view;

const JOB: &str = "0190a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b";

/// Parameters that each kind understands.
fn params(kind: &str) -> Value {
    match kind {
        "seed.start" => seed(),
        "seed.undo" => json!({ "job": JOB }),
        "seed.offer" => json!({ "offer": JOB, "recipient": "db2", "snapshot": "vg0/s", "plain": false }),
        "datadir.clear" => json!({ "datadir": "/var/lib/mysql" }),
        "custom.run" => json!({ "name": "uptime" }),
        "snapshot.remove" | "snapshot.verify" | "mysql.start-on-snapshot" | "mysql.leave-snapshot" => {
            json!({ "snapshot": "vg0/s" })
        }
        _ => json!({}),
    }
}

fn seed() -> Value {
    let text = include_str!("../../../../schemas/v1/examples/seed.start.json");
    let example: Value = serde_json::from_str(text).unwrap();
    example["request"]["params"].clone()
}

fn claims(kind: &str) -> Claims {
    about(kind, &params(kind)).claims
}

fn through_store() -> Claims {
    let mut params = params("seed.offer");
    params["store_window"] = json!(1 << 20);
    about("seed.offer", &params).claims
}

fn running(kind: &str, claims: Claims) -> Vec<Running> {
    vec![Running { id: JobId::generate(), kind: kind.into(), actor: "alice".into(), claims }]
}

fn admitted(beside: &str, kind: &str) -> Result<(), WireError> {
    admission::admit(&running(beside, claims(beside)), kind, claims(kind))
}

fn jobs() -> impl Iterator<Item = &'static str> {
    Command::SPECS.iter().filter(|s| s.class == Class::Job || s.name == "seed.offer").map(|s| s.name)
}

#[test]
fn every_command_that_makes_a_job_has_its_kind() {
    for name in jobs() {
        assert!(find(name).is_some(), "{name} is in no line of the table");
        assert_ne!(claims(name), EVERYTHING, "{name} does not understand its own parameters");
    }
    assert_eq!(KINDS.len(), jobs().count());
}

#[test]
fn refusal_is_mutual_and_names_the_holder() {
    for one in jobs() {
        for other in jobs() {
            let (there, back) = (admitted(one, other), admitted(other, one));
            assert_eq!(there.is_ok(), back.is_ok(), "{one} and {other}");
            if let Err(error) = there {
                assert!(error.message.contains(one) && error.message.contains("alice"), "{error}");
                assert!(error.retryable);
            }
        }
    }
}

#[test]
fn a_recipient_does_nothing_else_to_its_data() {
    for other in ["seed.start", "seed.offer", "mysql.start", "datadir.clear", "snapshot.create", "seed.undo"]
    {
        assert!(admitted("seed.start", other).is_err(), "{other}");
    }
    assert!(admitted("seed.offer", "seed.offer").is_ok(), "one donor, several recipients");
    assert!(admitted("seed.offer", "snapshot.create").is_ok());
    assert!(admitted("seed.offer", "mysql.restart").is_ok());
}

#[test]
fn one_seed_at_a_time_is_given_through_the_bucket() {
    let through = running("seed.offer", through_store());
    let refused = admission::admit(&through, "seed.offer", through_store()).unwrap_err();
    assert!(refused.message.contains("object store") && refused.message.contains("alice"), "{refused}");
    assert!(admission::admit(&through, "seed.offer", claims("seed.offer")).is_ok(), "over TCP any number");
    let over_tcp = running("seed.offer", claims("seed.offer"));
    assert!(admission::admit(&over_tcp, "seed.offer", through_store()).is_ok());
}

#[test]
fn a_job_that_this_build_cannot_read_is_alone() {
    for (kind, params) in [("no.such-kind", json!({})), ("snapshot.remove", json!({ "lv": "x" }))] {
        let unknown = running(kind, about(kind, &params).claims);
        assert!(admission::admit(&unknown, "mysql.stop", claims("mysql.stop")).is_err(), "{kind}");
    }
}

/// Journals written by the agent when a kind was looked up by strings, and outputs and notes were loose JSON.
const RECORDED: [(&str, &str); 4] = [
    ("seed.start", include_str!("journals/seed.start.jsonl")),
    ("seed.start", include_str!("journals/seed.start.undoing.jsonl")),
    ("seed.offer", include_str!("journals/seed.offer.jsonl")),
    ("snapshot.create", include_str!("journals/snapshot.create.jsonl")),
];

fn history_of(text: &str) -> journal::History {
    let parsed = journal::parse(text.as_bytes()).unwrap();
    journal::History::fold(&parsed.records).unwrap().unwrap()
}

#[test]
fn an_older_journal_is_read_and_shown_as_before() {
    let shown = RECORDED.map(|(kind, text)| {
        let view = view::of_history(&history_of(text));
        assert_eq!(view.kind, kind);
        (view.summary, view.donor.map(|donor| donor.to_string()), view.state)
    });
    let snapshot = "shop-20261127T031114Z";
    let seed = (format!("db1 → db2 from {snapshot}"), Some("db1".to_owned()));
    assert_eq!(
        shown,
        [
            (seed.0.clone(), seed.1.clone(), JobState::Succeeded),
            (seed.0, seed.1, JobState::Undoing),
            (format!("{snapshot} to db2"), None, JobState::Succeeded),
            (String::new(), None, JobState::Succeeded),
        ]
    );
    let moved = view::of_history(&history_of(RECORDED[0].1)).progress.unwrap();
    assert_eq!((moved.bytes_total, moved.bytes_moved, moved.files_done), (50_265_676, 35_585_612, 213));
    let failed = view::of_history(&history_of(RECORDED[1].1)).error.unwrap();
    assert_eq!(failed.code, ErrorCode::System);
    assert!(failed.message.starts_with("post-copy: "), "{failed}");
}

#[test]
fn an_older_job_goes_on_and_what_it_kept_is_written_as_before() {
    for (kind, text) in RECORDED {
        let history = history_of(text);
        let steps: Vec<&str> = (find(kind).unwrap().steps)().iter().map(|step| step.name()).collect();
        let mut left = steps.iter();
        for planned in history.plan() {
            let name = planned.name;
            assert!(
                left.any(|step| **step == name),
                "{kind} has lost {name}, or has it elsewhere: {steps:?}"
            );
        }
    }
    let history = history_of(RECORDED[0].1);
    let moved = history.output("transfer").unwrap();
    let read: seed::Transferred = serde_json::from_value(moved.clone()).unwrap();
    assert_eq!(json!(read), *moved);
    let [note] = history.notes("transfer") else { panic!("{:?}", history.notes("transfer")) };
    assert_eq!(*note, json!({ "received": read }));
}
