//! The fold, against random histories: total, deterministic, and always with a way to the end.

use jiff::Timestamp;
use job::journal::{
    AfterFailure, AfterUndoFailure, Digest, Event, History, JobSpec, Next, PlannedStep, Record, State,
};
use job::{Outcome, StepError, Undo};
use proptest::prelude::*;
use protocol::error::ErrorCode;
use protocol::ids::JobId;
use serde_json::{Value, json};

const STEPS: [&str; 3] = ["a", "b", "c"];

fn record(seq: u64, event: Event) -> Record {
    Record { seq, at: Timestamp::UNIX_EPOCH, prev: Digest::ZERO, hash: Digest::of(&seq.to_le_bytes()), event }
}

fn created() -> Event {
    Event::Created { spec: JobSpec::new(JobId::from(uuid::Uuid::nil()), "toy", Value::Null) }
}

fn planned(commits: [bool; 3]) -> Event {
    let step = |(name, commits): (&&str, bool)| PlannedStep { name: (*name).to_owned(), commits };
    Event::Planned { steps: STEPS.iter().zip(commits).map(step).collect() }
}

fn error() -> StepError {
    StepError::new(ErrorCode::System, "it failed")
}

fn any_event() -> impl Strategy<Value = Event> {
    let step = || prop::sample::select(&STEPS[..]).prop_map(str::to_owned);
    let then = prop::sample::select(vec![AfterFailure::Retry, AfterFailure::GoOn, AfterFailure::Undo]);
    let then_back =
        prop::sample::select(vec![AfterUndoFailure::Retry, AfterUndoFailure::GoOn, AfterUndoFailure::Stop]);
    let reason = || "because".to_owned();
    prop_oneof![
        1 => Just(created()),
        2 => any::<[bool; 3]>().prop_map(planned),
        6 => (step(), 1..3u32).prop_map(|(step, attempt)| Event::StepStarted { step, attempt }),
        6 => step().prop_map(|step| Event::StepFinished { step, output: json!(1) }),
        4 => (step(), 1..3u32, then)
            .prop_map(|(step, attempt, then)| Event::StepFailed { step, attempt, error: error(), then }),
        1 => Just(Event::AbortRequested { reason: reason() }),
        6 => (step(), 1..3u32).prop_map(|(step, attempt)| Event::UndoStarted { step, attempt }),
        6 => step().prop_map(|step| Event::UndoFinished { step }),
        4 => (step(), 1..3u32, then_back)
            .prop_map(|(step, attempt, then)| Event::UndoFailed { step, attempt, error: error(), then }),
        2 => step().prop_map(|step| Event::Note { step, note: json!({}) }),
        1 => Just(Event::GivenUp { error: error() }),
        1 => Just(Event::UndoReopened { reason: reason() }),
        1 => Just(Event::Finished { outcome: Outcome::Done { warnings: vec![] } }),
        1 => Just(Event::Finished {
            outcome: Outcome::Aborted { reason: reason(), left: Undo::Complete }
        }),
    ]
}

/// Drives a history forward as the runner does, everything going well.
fn to_the_end(history: &mut History) {
    for _ in 0..100 {
        let name = |index: usize| history.plan()[index].name.clone();
        let events = match history.next() {
            Next::Plan => vec![planned([false; 3])],
            Next::Run { index, attempt, .. } => vec![
                Event::StepStarted { step: name(index), attempt },
                Event::StepFinished { step: name(index), output: Value::Null },
            ],
            Next::Undo { index, attempt, .. } => vec![
                Event::UndoStarted { step: name(index), attempt },
                Event::UndoFinished { step: name(index) },
            ],
            Next::Finish(outcome) => vec![Event::Finished { outcome }],
            Next::Nothing => return,
        };
        for event in events {
            history.apply(&record(history.len(), event)).expect("what comes next must be legal");
        }
    }
    panic!("the job comes to no end: {history:?}");
}

/// What must hold of any history.
fn assert_sound(history: &History) {
    match history.state() {
        State::Finished(outcome) => {
            assert_eq!(history.outcome(), Some(&outcome));
            assert_eq!(history.next(), Next::Nothing);
            if matches!(
                outcome,
                Outcome::Failed { left: Undo::Complete, .. } | Outcome::Aborted { left: Undo::Complete, .. }
            ) {
                assert!(!history.is_committed(), "committed work is never undone: {history:?}");
            }
        }
        State::Undoing { .. } => assert!(history.cause().is_some()),
        State::Created | State::Running { .. } => assert!(history.cause().is_none()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_records_fold_to_a_history_or_a_typed_error(events in prop::collection::vec(any_event(), 0..40)) {
        let records: Vec<Record> = events.into_iter().enumerate().map(|(seq, e)| record(seq as u64, e)).collect();
        if let Err(illegal) = History::fold(&records) {
            prop_assert!((illegal.seq as usize) < records.len());
            prop_assert!(History::fold(&records[..illegal.seq as usize]).is_ok(), "all before it was legal");
        }
    }

    #[test]
    fn every_prefix_of_a_legal_history_has_a_way_to_the_end(
        commits in any::<[bool; 3]>(),
        events in prop::collection::vec(any_event(), 0..300),
    ) {
        let mut history = History::fold(&[record(0, created()), record(1, planned(commits))]).unwrap().unwrap();
        for event in events {
            let before = history.clone();
            let next = record(history.len(), event);
            if history.apply(&next).is_err() {
                prop_assert_eq!(&history, &before, "a refused record must change nothing");
                continue;
            }
            assert_sound(&history);
            let mut rest = history.clone();
            to_the_end(&mut rest);
            assert_sound(&rest);
            prop_assert!(rest.outcome().is_some());
        }
    }

    #[test]
    fn after_an_abort_no_step_runs(events in prop::collection::vec(any_event(), 0..300)) {
        let mut history = History::fold(&[record(0, created()), record(1, planned([false; 3]))]).unwrap().unwrap();
        let mut aborted = false;
        for event in events {
            let started = matches!(event, Event::StepStarted { .. });
            let abort = matches!(event, Event::AbortRequested { .. });
            if history.apply(&record(history.len(), event)).is_ok() {
                prop_assert!(!(aborted && started), "a step began after the abort");
                aborted |= abort;
            }
        }
    }
}
