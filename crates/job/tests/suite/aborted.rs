//! Abort at every step, at the edges, and of steps that do not listen.

use std::time::{Duration, Instant};

use job::journal::{Event, State};
use job::{AbortError, Aborting, Code, JobSpec, Outcome, Undo};
use protocol::error::ErrorCode;
use protocol::ids::JobId;
use serde_json::Value;

use crate::world::{Bench, Mood, NAMES, finished, left, steps, toys, toys_but, until};

#[tokio::test(flavor = "multi_thread")]
async fn abort_at_every_step_stops_it_and_leaves_nothing() {
    for mood in [Mood::Waits, Mood::FinishesLate, Mood::Deaf] {
        for name in NAMES {
            let bench = Bench::new();
            let runner = bench.runner("");
            let handle = bench.start(&runner, toys_but(name, |toy| toy.mood = mood)).await;
            let half = bench.world.dir.join(format!("{name}.half"));
            until("the step is in its middle", || half.exists()).await;

            let asked = Instant::now();
            assert_eq!(handle.abort("asked by a test").await.unwrap(), Aborting::Begun);
            let again = handle.abort("asked twice").await;
            let is_over = matches!(again, Err(AbortError::Finished(_) | AbortError::NotRunning(_)));
            assert!(is_over || matches!(again, Ok(Aborting::Already)), "{again:?}");
            let outcome = finished(&handle).await;
            assert_eq!(
                outcome,
                Outcome::Aborted { reason: "asked by a test".to_owned(), left: Undo::Complete }
            );
            assert!(asked.elapsed() < Duration::from_secs(3), "{name} {mood:?} took {:?}", asked.elapsed());
            bench.world.assert_empty();
            bench.assert_heard_all(&runner, handle.id()).await;

            let refused = handle.abort("too late").await;
            assert!(
                matches!(refused, Err(AbortError::Finished(_) | AbortError::NotRunning(_))),
                "{refused:?}"
            );
            assert!(matches!(runner.abort(handle.id(), "too late").await, Err(AbortError::Finished(_))));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deaf_step_is_dropped_and_named() {
    let bench = Bench::new();
    let runner = bench.runner("");
    let handle = bench.start(&runner, toys_but("two", |toy| toy.mood = Mood::Deaf)).await;
    until("it is deaf", || bench.world.dir.join("two.half").exists()).await;
    handle.abort("").await.unwrap();
    finished(&handle).await;
    let records = runner.show(handle.id()).await.unwrap().records;
    let dropped = |event: &Event| match event {
        Event::StepFailed { step, error, .. } => step == "two" && error.code == Code::Unresponsive,
        _ => false,
    };
    let named = records.iter().any(|record| dropped(&record.event));
    assert!(named, "the journal must say that the step did not stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn abort_is_refused_past_the_point_of_no_return() {
    let bench = Bench::new();
    let go = bench.tmp.path().join("go");
    let runner = bench.runner(&format!("pause@three:begin={}", go.display()));
    let handle = bench.start(&runner, toys_but("two", |toy| toy.commits = true)).await;
    let reached = bench.tmp.path().join("go.reached");
    until("three begins", || reached.exists()).await;
    assert!(matches!(handle.abort("no").await, Err(AbortError::Committed(_))));
    std::fs::write(&go, b"").unwrap();
    assert_eq!(finished(&handle).await, Outcome::Done { warnings: vec![] });
    bench.world.assert_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_that_comes_before_the_commit_is_journalled_wins() {
    let bench = Bench::new();
    let runner = bench.runner("");
    let toys = toys_but("two", |toy| {
        toy.commits = true;
        toy.mood = Mood::FinishesLate;
    });
    let handle = bench.start(&runner, toys).await;
    until("two is in its middle", || bench.world.dir.join("two.half").exists()).await;
    handle.abort("in time").await.unwrap();
    assert_eq!(*left(&finished(&handle).await), Undo::Complete);
    bench.world.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn abort_of_a_failed_job_lets_its_undo_go_on() {
    let bench = Bench::new();
    let go = bench.tmp.path().join("go");
    let runner = bench.runner(&format!("fail@three:end; pause@undo:two:begin={}", go.display()));
    let handle = bench.start(&runner, toys()).await;
    until("the undo is under way", || bench.tmp.path().join("go.reached").exists()).await;
    assert!(matches!(&*handle.state().borrow(), State::Undoing { step: Some(step), .. } if step == "two"));
    assert_eq!(handle.abort("anyway").await.unwrap(), Aborting::UndoingAnyway);
    std::fs::write(&go, b"").unwrap();
    assert!(matches!(finished(&handle).await, Outcome::Failed { left: Undo::Complete, .. }));
    bench.world.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_not_running_is_marked_and_undone_when_run() {
    let bench = Bench::new();
    let runner = bench.runner("");
    let id = JobId::generate();
    runner.create(JobSpec::new(id, "toy", Value::Null)).await.unwrap();
    assert_eq!(runner.abort(id, "never mind").await.unwrap(), Aborting::Begun);
    assert_eq!(runner.abort(id, "never mind").await.unwrap(), Aborting::Already);
    let handle = runner.run(id, steps(toys()), bench.world.clone()).await.unwrap();
    assert_eq!(*left(&finished(&handle).await), Undo::Complete);
    assert!(bench.world.calls().is_empty(), "no step may run after the abort");
    assert!(matches!(runner.abort(JobId::generate(), "").await, Err(AbortError::Unknown(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn abort_does_not_wait_for_a_long_backoff() {
    let bench = Bench::new();
    let runner = bench.runner("");
    let id = JobId::generate();
    runner.create(JobSpec::new(id, "toy", Value::Null)).await.unwrap();
    let handle = runner.run(id, vec![std::sync::Arc::new(Patient)], bench.world.clone()).await.unwrap();
    let mut state = handle.state();
    let second = |state: &State| matches!(state, State::Running { attempt: 2, .. });
    tokio::time::timeout(Duration::from_secs(20), state.wait_for(second)).await.unwrap().unwrap();
    handle.abort("tired").await.unwrap();
    assert_eq!(*left(&finished(&handle).await), Undo::Complete);
}

/// Fails, and wants an hour before it is tried again.
struct Patient;

#[async_trait::async_trait]
impl job::Step<crate::world::World> for Patient {
    fn name(&self) -> &'static str {
        "patient"
    }
    async fn run(&self, _: &crate::world::World, _: &job::Scope) -> Result<Value, job::StepError> {
        Err(job::StepError::new(ErrorCode::Busy, "come back later").retryable())
    }
    async fn undo(&self, _: &crate::world::World, _: &job::Scope) -> Result<(), job::StepError> {
        Ok(())
    }
    fn retry(&self) -> job::Retry {
        let hour = Duration::from_secs(3600);
        job::Retry { attempts: 2, backoff: hour, max_backoff: hour }
    }
}
