//! Real processes, killed with SIGKILL at every point: the next start brings the job to a clean end.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use job::{Ending, JobSpec, Options, Outcome, Runner, Undo};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protocol::ids::JobId;
use serde_json::Value;

use crate::world::{Bench, NAMES, World, finished, left, steps, toys, until};

const DIR: &str = "JOB_TEST_DIR";
const FAULT: &str = "JOB_TEST_FAULT";

/// Not a test of its own: what the other tests start as a process. It runs the one job to its end, or dies.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let dir = std::path::PathBuf::from(dir);
    let inject = std::env::var(FAULT).unwrap_or_default().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let runner = Runner::open(&dir.join("jobs"), Options { inject, ..Options::default() }).unwrap();
        let recovery = runner.recover().await.unwrap();
        assert!(recovery.broken.is_empty(), "{:?}", recovery.broken);
        let id = match recovery.unfinished.first() {
            Some(found) => found.spec.id,
            None => {
                let id = JobId::generate();
                runner.create(JobSpec::new(id, "toy", Value::Null)).await.unwrap();
                id
            }
        };
        let handle = runner.run(id, steps(toys()), World::new(&dir.join("world"))).await.unwrap();
        assert!(matches!(handle.ending().await, Ending::Finished(_)));
    });
}

fn spawn(bench: &Bench, fault: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["killed::child", "--exact"])
        .env(DIR, bench.tmp.path())
        .env(FAULT, fault)
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

fn process(bench: &Bench, fault: &str) -> ExitStatus {
    spawn(bench, fault).wait().unwrap()
}

#[track_caller]
fn assert_dies(bench: &Bench, fault: &str) {
    let status = process(bench, fault);
    assert_eq!(status.signal(), Some(9), "{fault} must kill the process, it ended with {status}");
}

/// Goes on with the one job in this process.
async fn go_on(bench: &Bench, abort: bool) -> Outcome {
    let runner = bench.runner("");
    let recovery = runner.recover().await.unwrap();
    assert!(recovery.broken.is_empty(), "{:?}", recovery.broken);
    let id = match recovery.unfinished.first() {
        Some(found) => found.spec.id,
        None => return finished_outcome(&runner).await,
    };
    if abort {
        runner.abort(id, "after the crash").await.unwrap();
    }
    let handle = runner.run(id, steps(toys()), Arc::clone(&bench.world)).await.unwrap();
    finished(&handle).await
}

async fn finished_outcome(runner: &Runner) -> Outcome {
    let id = runner.list().await.unwrap().first().expect("the job must be there").id;
    runner.show(id).await.unwrap().history.outcome().cloned().expect("it must be finished")
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_each_point_of_the_way_forward_the_job_is_done_at_the_next_start() {
    for name in NAMES {
        for moment in ["begin", "end", "done"] {
            let bench = Bench::new();
            assert_dies(&bench, &format!("die@{name}:{moment}"));
            assert_eq!(go_on(&bench, false).await, Outcome::Done { warnings: vec![] }, "{name}:{moment}");
            bench.world.assert_whole();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_each_point_of_the_way_forward_an_abort_after_it_leaves_nothing() {
    for name in NAMES {
        for moment in ["begin", "end"] {
            let bench = Bench::new();
            assert_dies(&bench, &format!("die@{name}:{moment}"));
            assert_eq!(*left(&go_on(&bench, true).await), Undo::Complete, "{name}:{moment}");
            bench.world.assert_empty();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_each_point_of_the_way_back_the_undo_goes_on_at_the_next_start() {
    for name in NAMES {
        for moment in ["begin", "end", "done"] {
            let bench = Bench::new();
            assert_dies(&bench, &format!("fail@four:end; die@undo:{name}:{moment}"));
            let outcome = go_on(&bench, false).await;
            assert!(
                matches!(&outcome, Outcome::Failed { failure, left: Undo::Complete } if failure.step == "four")
            );
            bench.world.assert_empty();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_job_killed_again_and_again_still_ends() {
    let bench = Bench::new();
    for name in NAMES {
        for moment in ["begin", "end", "done"] {
            assert_dies(&bench, &format!("die@{name}:{moment}"));
        }
    }
    assert!(process(&bench, "").success());
    bench.world.assert_whole();
    let runner = bench.runner("");
    assert_eq!(runner.list().await.unwrap().len(), 1, "it must be one and the same job");
    assert_eq!(finished_outcome(&runner).await, Outcome::Done { warnings: vec![] });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_process_holds_still_until_it_is_let_go_or_killed() {
    let bench = Bench::new();
    let go = bench.tmp.path().join("go");
    let mut child = spawn(&bench, &format!("pause@toy/three:begin={}", go.display()));
    until("the pause is reached", || bench.tmp.path().join("go.reached").exists()).await;
    let locked = Runner::open(&bench.root(), Options::default());
    assert!(matches!(locked, Err(job::JobError::Locked { .. })), "two processes must not share the journals");
    bench.world.assert_files(&["one", "two"]);
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGKILL).unwrap();
    child.wait().unwrap();
    assert_eq!(go_on(&bench, false).await, Outcome::Done { warnings: vec![] });

    let bench = Bench::new();
    let go = bench.tmp.path().join("go");
    let mut child = spawn(&bench, &format!("pause@three:end={}", go.display()));
    until("the pause is reached", || bench.tmp.path().join("go.reached").exists()).await;
    std::fs::write(&go, b"").unwrap();
    let exited = || child.try_wait().unwrap().is_some_and(|status| status.success());
    until("the process has ended well", exited).await;
    bench.world.assert_whole();
    tokio::time::timeout(Duration::from_secs(5), async { go_on(&bench, false).await }).await.unwrap();
}
