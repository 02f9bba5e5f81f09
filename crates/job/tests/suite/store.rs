//! Listing, showing, publishing again and pruning.

use std::time::Duration;

use job::journal::State;
use job::{JobError, JobSpec, Retention, StepError};
use protocol::error::ErrorCode;
use protocol::ids::{JobId, RequestId};
use serde_json::json;

use crate::world::{Bench, Mood, finished, toys, toys_but, until};

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_used_once_and_the_spec_comes_back_whole() {
    let bench = Bench::new();
    let runner = bench.runner("");
    let mut spec = JobSpec::new(JobId::generate(), "toy", json!({ "donor": "db1", "ratio": 0.1 }));
    spec.request_id = Some(RequestId::generate());
    spec.actor = Some("somebody".to_owned());
    spec.context = json!({ "traceparent": "00-ab" });
    runner.create(spec.clone()).await.unwrap();
    assert!(matches!(runner.create(spec.clone()).await, Err(JobError::Exists(_))));
    let found = runner.recover().await.unwrap().unfinished.remove(0);
    assert_eq!((found.spec, found.state), (spec, State::Created));
    assert!(matches!(runner.show(JobId::generate()).await, Err(JobError::Unknown(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_observers_missed_can_be_read_again_from_any_record() {
    let bench = Bench::new();
    let (runner, handle, _) = bench.whole("", toys()).await;
    let heard = bench.heard.0.lock().unwrap().clone();
    for from in 0..=heard.len() {
        let records = runner.records_since(handle.id(), from as u64).await.unwrap();
        assert_eq!(records, heard[from..]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn finished_jobs_are_kept_while_new_or_young() {
    let bench = Bench::new();
    let runner = bench.runner("");
    let mut ids = Vec::new();
    for _ in 0..4 {
        let handle = bench.start(&runner, toys()).await;
        finished(&handle).await;
        ids.push(handle.id());
    }
    let handle = bench.start(&runner, toys_but("one", |toy| toy.mood = Mood::Waits)).await;
    until("it waits", || bench.world.dir.join("one.half").exists()).await;
    let listed: Vec<JobId> = runner.list().await.unwrap().iter().map(|job| job.id).collect();
    assert_eq!(listed, [&ids[..], &[handle.id()]].concat());

    let keep = |keep_newest, keep_for| Retention { keep_newest, keep_for };
    assert!(runner.prune(keep(0, Duration::from_secs(3600))).await.unwrap().is_empty(), "all are young");
    assert!(runner.prune(keep(4, Duration::ZERO)).await.unwrap().is_empty(), "all are among the newest");
    let mut removed = runner.prune(keep(1, Duration::ZERO)).await.unwrap();
    removed.sort();
    assert_eq!(removed, ids[..3]);
    let listed: Vec<JobId> = runner.list().await.unwrap().iter().map(|job| job.id).collect();
    assert_eq!(listed, [ids[3], handle.id()], "a running job is never pruned");
    let entries = std::fs::read_dir(bench.root()).unwrap().count();
    assert_eq!(entries, 3, "two jobs and the lock");
    handle.abort("enough").await.unwrap();
    finished(&handle).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn observers_that_panic_do_not_harm_the_job() {
    struct Rude;
    impl job::Observer for Rude {
        fn on_record(&self, _: &JobId, record: &job::Record) -> bool {
            assert!(record.seq < 3, "rude");
            true
        }
    }
    let bench = Bench::new();
    let options = job::Options { observer: Some(std::sync::Arc::new(Rude)), ..job::Options::default() };
    let runner = job::Runner::open(&bench.root(), options).unwrap();
    let handle = bench.start(&runner, toys()).await;
    assert_eq!(finished(&handle).await, job::Outcome::Done { warnings: vec![] });
    runner.give_up(handle.id(), StepError::new(ErrorCode::Internal, "x")).await.unwrap_err();
    let shown = runner.show(handle.id()).await.unwrap();
    assert_eq!(shown.heard, Some(2), "what came after the first that was not heard may be missing too");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_heard_is_known_after_a_restart() {
    let bench = Bench::new();
    let runner = bench.runner("");
    let handle = bench.start(&runner, toys()).await;
    finished(&handle).await;
    let (id, listed) = (handle.id(), |all: Vec<job::Summary>| all.into_iter().next().unwrap());
    drop((handle, runner));
    let runner = bench.runner("");
    let job = listed(runner.list().await.unwrap());
    assert_eq!(job.heard, Some(job.records - 1), "all of it");
    // As an earlier release left it, or a crash that took it back.
    let mark = bench.root().join(id.to_string()).join("heard");
    std::fs::write(&mark, "").unwrap();
    assert_eq!(listed(runner.list().await.unwrap()).heard, None);
    runner.heard(id, 3).await;
    assert_eq!(runner.show(id).await.unwrap().heard, Some(3));
}
