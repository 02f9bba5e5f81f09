//! Each step fails in turn, and is repeated in turn.

use job::journal::{Event, State};
use job::{Code, JobError, OnFailure, OnUndoFailure, Outcome, Undo};

use protocol::error::ErrorCode;

use crate::world::{Bench, Mood, NAMES, Toy, finished, left, steps, toys, toys_but};

#[tokio::test(flavor = "multi_thread")]
async fn all_steps_run_in_order_and_the_job_is_done() {
    let bench = Bench::new();
    let (runner, handle, outcome) = bench.whole("", toys()).await;
    assert_eq!(outcome, Outcome::Done { warnings: vec![] });
    bench.world.assert_whole();
    assert_eq!(bench.world.calls(), ["run one", "run two", "run three", "run four"]);
    assert_eq!(*handle.state().borrow(), State::Finished(outcome));
    assert_eq!(handle.progress().borrow().as_ref().unwrap().step, "four");
    assert!(runner.handle(handle.id()).is_none(), "a finished job is not running");
    assert_eq!(handle.history().notes("two"), [serde_json::json!({ "made": "two" })]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_step_failing_before_or_after_its_work_leaves_nothing() {
    for (at, name) in NAMES.iter().enumerate() {
        for moment in ["begin", "end"] {
            let bench = Bench::new();
            let (_, _, outcome) = bench.whole(&format!("fail@{name}:{moment}"), toys()).await;
            let Outcome::Failed { failure, left } = &outcome else { panic!("{outcome:?}") };
            assert_eq!((failure.step.as_str(), failure.error.code), (*name, Code::Injected));
            assert_eq!(*left, Undo::Complete);
            bench.world.assert_empty();
            let undone: Vec<String> = NAMES[..=at].iter().rev().map(|n| format!("undo {n}")).collect();
            let calls = bench.world.calls();
            assert!(calls.ends_with(&undone), "{name}:{moment} must undo in reverse order, got {calls:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_step_and_each_undo_may_happen_twice() {
    let bench = Bench::new();
    let all: Vec<String> = NAMES.iter().map(|name| format!("repeat@{name}")).collect();
    let (_, _, outcome) = bench.whole(&all.join(";"), toys()).await;
    assert_eq!(outcome, Outcome::Done { warnings: vec![] });
    bench.world.assert_whole();
    assert_eq!(bench.world.calls().len(), 2 * NAMES.len());

    for name in NAMES {
        let bench = Bench::new();
        let faults = format!("repeat@{name}; repeat@undo:{name}; fail@four:end");
        let (_, _, outcome) = bench.whole(&faults, toys()).await;
        assert_eq!(*left(&outcome), Undo::Complete);
        bench.world.assert_empty();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retryable_failure_is_tried_again_within_its_limit() {
    let bench = Bench::new();
    let flaky = toys_but("two", |toy| toy.mood = Mood::FailsTimes(2));
    let (runner, handle, outcome) = bench.whole("", flaky).await;
    assert_eq!(outcome, Outcome::Done { warnings: vec![] });
    bench.world.assert_whole();
    let records = runner.show(handle.id()).await.unwrap().records;
    let attempts: Vec<u32> = records
        .iter()
        .filter_map(|record| match &record.event {
            Event::StepStarted { step, attempt } if step == "two" => Some(*attempt),
            _ => None,
        })
        .collect();
    assert_eq!(attempts, [1, 2, 3]);

    let bench = Bench::new();
    let (_, _, outcome) = bench.whole("", toys_but("two", |toy| toy.mood = Mood::FailsTimes(3))).await;
    assert_eq!(*left(&outcome), Undo::Complete);
    bench.world.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_a_failure_and_a_huge_message_is_cut() {
    let bench = Bench::new();
    let (_, _, outcome) = bench.whole("", toys_but("three", |toy| toy.mood = Mood::Panics)).await;
    let Outcome::Failed { failure, left: Undo::Complete } = outcome else { panic!("{outcome:?}") };
    assert_eq!(failure.error.code, Code::Panicked);
    assert!(failure.error.message.contains("toy panic"));
    bench.world.assert_empty();

    let bench = Bench::new();
    let (_, _, outcome) = bench.whole("", toys_but("three", |toy| toy.mood = Mood::FailsLoudly)).await;
    let Outcome::Failed { failure, .. } = outcome else { panic!("{outcome:?}") };
    assert!(failure.error.message.len() < 20_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_the_job_can_do_without_only_warns() {
    let bench = Bench::new();
    let mut toys: Vec<Toy> = toys();
    toys[3].on_failure = OnFailure::GoOn;
    let (_, _, outcome) = bench.whole("fail@four:begin", toys).await;
    let Outcome::Done { warnings } = outcome else { panic!("{outcome:?}") };
    assert_eq!(warnings.len(), 1);
    assert_eq!(warnings[0].step, "four");
    bench.world.assert_files(&["one", "three", "two"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_before_the_point_of_no_return_is_undone_once_it_is_passed() {
    let bench = Bench::new();
    let (_, _, outcome) = bench.whole("fail@four:end", toys_but("two", |toy| toy.commits = true)).await;
    assert_eq!(*left(&outcome), Undo::ToCommit);
    bench.world.assert_files(&["one", "two"]);

    // Until its end is journalled, a committing step is one like any other.
    let bench = Bench::new();
    let (_, _, outcome) = bench.whole("fail@two:end", toys_but("two", |toy| toy.commits = true)).await;
    assert_eq!(*left(&outcome), Undo::Complete);
    bench.world.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undo_that_fails_stops_the_way_back_until_it_is_reopened() {
    let bench = Bench::new();
    let stuck = || toys_but("two", |toy| toy.mood = Mood::UndoFailsTimes(1));
    let (runner, handle, outcome) = bench.whole("fail@four:end", stuck()).await;
    let Undo::Incomplete { failures } = left(&outcome) else { panic!("{outcome:?}") };
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert_eq!(failures[0].step, "two");
    assert!(
        !bench.world.calls().contains(&"undo one".to_owned()),
        "nothing before the stuck step may be undone"
    );
    assert_eq!(failures[0].error.code, ErrorCode::Refused.into());
    bench.world.assert_files(&["one", "two"]);
    assert!(matches!(
        runner.run(handle.id(), steps(toys()), bench.world.clone()).await,
        Err(JobError::Finished(_))
    ));

    runner.reopen_undo(handle.id(), "the disk is back").await.unwrap();
    let handle = runner.run(handle.id(), steps(toys()), bench.world.clone()).await.unwrap();
    let outcome = finished(&handle).await;
    assert_eq!(*left(&outcome), Undo::Complete);
    bench.world.assert_empty();
    assert!(runner.reopen_undo(handle.id(), "again").await.is_err(), "a complete undo cannot be reopened");
    bench.assert_heard_all(&runner, handle.id()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undo_that_harms_no_other_may_fail_without_stopping_the_rest() {
    let bench = Bench::new();
    let mut toys = toys_but("two", |toy| toy.mood = Mood::UndoFailsTimes(9));
    for toy in &mut toys {
        toy.on_undo_failure = OnUndoFailure::GoOn;
    }
    let (_, _, outcome) = bench.whole("fail@four:end", toys).await;
    assert!(matches!(left(&outcome), Undo::Incomplete { failures } if failures.len() == 1));
    bench.world.assert_files(&["two"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retryable_failure_of_an_undo_is_tried_again() {
    for name in NAMES {
        let bench = Bench::new();
        let faults = format!("fail@four:end; fail@undo:{name}:begin=1; fail@undo:{name}:end=1");
        let (_, _, outcome) = bench.whole(&faults, toys()).await;
        assert_eq!(*left(&outcome), Undo::Complete);
        bench.world.assert_empty();
    }
}
