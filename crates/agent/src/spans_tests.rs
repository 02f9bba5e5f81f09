use jiff::{SignedDuration, Timestamp};
use job::journal::{AfterFailure, Digest};
use job::{JobSpec, StepError};
use protocol::error::ErrorCode;
use protocol::ids::JobId;
use serde_json::json;

use super::*;

const ASKED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// A journal of these events, a second apart.
fn journal(context: Value, events: Vec<Event>) -> Vec<Record> {
    let mut spec =
        JobSpec::new(JobId::generate(), "seed.start", json!({"offer": {"id": "o-7", "token": "secret"}}));
    spec.context = context;
    let all = std::iter::once(Event::Created { spec }).chain(events);
    let at = |second| Timestamp::UNIX_EPOCH + SignedDuration::from_secs(second);
    let none = Digest::ZERO;
    (0..)
        .zip(all)
        .map(|(seq, event)| Record { seq, at: at(seq as i64), prev: none, hash: none, event })
        .collect()
}

fn started(step: &str, attempt: u32) -> Event {
    Event::StepStarted { step: step.into(), attempt }
}

fn finished(step: &str, output: Value) -> Event {
    Event::StepFinished { step: step.into(), output }
}

/// Name, seconds from begin to end, code of the error.
fn told(spans: &[Past]) -> Vec<(String, u64, Option<&str>)> {
    let took = |span: &Past| span.ended.duration_since(span.begun).unwrap().as_secs();
    spans.iter().map(|span| (span.name.to_string(), took(span), span.failed.as_deref())).collect()
}

#[test]
fn a_job_that_outlived_its_agent_is_one_span_with_each_run_of_its_steps_below_it() {
    let failed = Event::StepFailed {
        step: "transfer".into(),
        attempt: 2,
        error: StepError::new(ErrorCode::Internal, "the row 'smith' is in the way"),
        then: AfterFailure::Retry,
    };
    let records = journal(
        json!({"traceparent": ASKED}),
        vec![
            started("transfer", 1),
            // Killed, and begun again.
            started("transfer", 1),
            started("transfer", 2),
            failed,
            started("transfer", 3),
            finished("transfer", json!({"bytes_moved": 4096, "bytes_per_s": 512, "path": "/var/lib/mysql"})),
            Event::Finished { outcome: Outcome::Done { warnings: Vec::new() } },
        ],
    );
    let spans = spans_of(&records);
    assert_eq!(
        told(&spans),
        [
            ("transfer".to_owned(), 1, Some("cut_short")),
            ("transfer".to_owned(), 1, Some("cut_short")),
            ("transfer".to_owned(), 1, Some("internal")),
            ("transfer".to_owned(), 1, None),
            ("job seed.start".to_owned(), 7, None),
        ]
    );
    let job = spans.last().unwrap();
    assert_eq!(job.parent.unwrap().to_string(), ASKED);
    assert!(job.context.to_string().contains("0af7651916cd43dd8448eb211c80319c"), "{}", job.context);
    assert!(spans[..4].iter().all(|step| step.parent == Some(job.context)));
    // Numbers and ids go to a collector, no text and no secret.
    let all = format!("{spans:?}");
    assert!(all.contains("4096") && all.contains("o-7"), "{all}");
    for hidden in ["smith", "secret", "/var/lib/mysql"] {
        assert!(!all.contains(hidden), "{hidden} in {all}");
    }
}

#[test]
fn a_job_that_nobody_traced_has_a_trace_of_its_own_and_an_aborted_one_says_so() {
    let aborted = Outcome::Aborted { reason: "enough".into(), left: job::Undo::Complete };
    let records = journal(
        Value::Null,
        vec![
            started("transfer", 1),
            Event::AbortRequested { reason: "enough".into() },
            Event::UndoStarted { step: "transfer".into(), attempt: 1 },
            Event::UndoFinished { step: "transfer".into() },
            Event::Finished { outcome: aborted },
        ],
    );
    let spans = spans_of(&records);
    assert_eq!(
        told(&spans),
        [
            ("transfer".to_owned(), 2, Some("aborted")),
            ("undo transfer".to_owned(), 1, None),
            ("job seed.start".to_owned(), 5, Some("aborted")),
        ]
    );
    assert_eq!(spans.last().unwrap().parent, None);
}
