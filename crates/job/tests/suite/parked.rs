//! Park and resume: no undo, no lost attempt, at every step and on the way back.

use job::journal::{Event, State};
use job::{AbortError, Ending, JobError, JobSpec, Outcome, StepError, Undo};
use protocol::error::ErrorCode;
use protocol::ids::JobId;
use serde_json::Value;

use crate::world::{Bench, Mood, NAMES, Toy, ended, finished, left, steps, toys, toys_but, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_job_goes_on_where_it_stood() {
    for mood in [Mood::Waits, Mood::FinishesLate, Mood::Deaf] {
        for name in NAMES {
            let bench = Bench::new();
            let runner = bench.runner("");
            let handle = bench.start(&runner, toys_but(name, |toy| toy.mood = mood)).await;
            let half = bench.world.dir.join(format!("{name}.half"));
            until("the step is in its middle", || half.exists()).await;
            runner.park().await;
            if mood != Mood::FinishesLate || name != "four" {
                assert!(matches!(ended(&handle).await, Ending::Parked));
            }
            let undone = bench.world.calls().iter().any(|call| call.starts_with("undo"));
            assert!(!undone, "a park must undo nothing");
            let refused = runner.run(handle.id(), steps(toys()), bench.world.clone()).await;
            assert!(matches!(refused, Err(JobError::Parked | JobError::Finished(_))));
            drop(runner);

            let runner = bench.runner("");
            let recovery = runner.recover().await.unwrap();
            assert!(recovery.broken.is_empty());
            for found in &recovery.unfinished {
                assert!(matches!(found.state, State::Running { attempt: 1, .. }));
                let handle = runner.run(found.spec.id, steps(toys()), bench.world.clone()).await.unwrap();
                assert_eq!(finished(&handle).await, Outcome::Done { warnings: vec![] });
            }
            bench.world.assert_whole();
            bench.assert_heard_all(&runner, handle.id()).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undo_that_is_parked_goes_on() {
    for name in NAMES {
        let bench = Bench::new();
        let go = bench.tmp.path().join("go");
        let runner = bench.runner(&format!("fail@four:end; pause@undo:{name}:begin={}", go.display()));
        let handle = bench.start(&runner, toys()).await;
        until("the undo is under way", || bench.tmp.path().join("go.reached").exists()).await;
        handle.park();
        assert!(matches!(ended(&handle).await, Ending::Parked));
        assert!(runner.handle(handle.id()).is_none());
        drop(runner);

        let runner = bench.runner("");
        let found = runner.recover().await.unwrap().unfinished.remove(0);
        assert!(matches!(&found.state, State::Undoing { step: Some(step), .. } if step == name));
        let handle = runner.run(found.spec.id, steps(toys()), bench.world.clone()).await.unwrap();
        assert!(matches!(finished(&handle).await, Outcome::Failed { left: Undo::Complete, .. }));
        bench.world.assert_empty();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_program_may_change_the_steps_to_come_but_not_those_begun() {
    let bench = Bench::new();
    let runner = bench.runner("");
    let handle = bench.start(&runner, toys_but("two", |toy| toy.mood = Mood::Waits)).await;
    until("two is in its middle", || bench.world.dir.join("two.half").exists()).await;
    handle.park();
    ended(&handle).await;
    let stale = handle.abort("through a handle of the run before").await;
    assert!(matches!(stale, Err(AbortError::NotRunning(_))), "only one may write the journal: {stale:?}");

    let renamed = vec![Toy::new("one"), Toy::new("zwei")];
    let refused = runner.run(handle.id(), steps(renamed), bench.world.clone()).await;
    assert!(matches!(refused, Err(JobError::Plan { .. })), "{refused:?}");
    let shorter = vec![Toy::new("one"), Toy::new("two")];
    let handle = runner.run(handle.id(), steps(shorter), bench.world.clone()).await.unwrap();
    assert_eq!(finished(&handle).await, Outcome::Done { warnings: vec![] });
    bench.world.assert_files(&["one", "two"]);
    let records = runner.show(handle.id()).await.unwrap().records;
    assert_eq!(records.iter().filter(|record| matches!(record.event, Event::Planned { .. })).count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_a_later_program_puts_before_one_that_began_is_left_out() {
    let bench = Bench::new();
    let runner = bench.runner("");
    let handle = bench.start(&runner, toys_but("two", |toy| toy.mood = Mood::Waits)).await;
    until("two is in its middle", || bench.world.dir.join("two.half").exists()).await;
    handle.park();
    ended(&handle).await;
    let newer = ["one", "between", "two", "after"].map(Toy::new).into();
    let handle = runner.run(handle.id(), steps(newer), bench.world.clone()).await.unwrap();
    assert_eq!(finished(&handle).await, Outcome::Done { warnings: vec![] });
    bench.world.assert_files(&["one", "two", "after"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_nobody_can_run_is_given_up_and_says_what_is_left() {
    let bench = Bench::new();
    let runner = bench.runner("");
    let handle = bench.start(&runner, toys_but("two", |toy| toy.mood = Mood::Waits)).await;
    until("two is in its middle", || bench.world.dir.join("two.half").exists()).await;
    let why = || StepError::new(ErrorCode::Internal, "this program does not know the kind");
    assert!(matches!(runner.give_up(handle.id(), why()).await, Err(JobError::Running(_))));
    handle.park();
    ended(&handle).await;
    runner.give_up(handle.id(), why()).await.unwrap();
    let history = runner.show(handle.id()).await.unwrap().history;
    assert!(matches!(left(history.outcome().unwrap()), Undo::Incomplete { .. }));
    assert!(matches!(runner.give_up(handle.id(), why()).await, Err(JobError::Finished(_))));

    // One that never ran leaves nothing.
    let id = JobId::generate();
    runner.create(JobSpec::new(id, "unheard-of", Value::Null)).await.unwrap();
    runner.give_up(id, why()).await.unwrap();
    let history = runner.show(id).await.unwrap().history;
    assert_eq!(*left(history.outcome().unwrap()), Undo::Complete);

    // And a person may still have it undone by a program that knows it.
    runner.reopen_undo(handle.id(), "").await.unwrap();
    let handle = runner.run(handle.id(), steps(toys()), bench.world.clone()).await.unwrap();
    assert_eq!(*left(&finished(&handle).await), Undo::Complete);
    bench.world.assert_empty();
}
