//! A real full disk, beneath the journal.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use job::journal::JournalError;
use job::{Ending, JobError, JobSpec, Outcome, Runner, Scope, Step, StepError, Undo};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use protocol::error::ErrorCode;
use protocol::ids::JobId;
use serde_json::{Value, json};

use crate::world::{Bench, ended, finished, steps, toys};

/// A small filesystem in memory, unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Self {
        std::fs::create_dir_all(at).unwrap();
        mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some("size=2m"))
            .expect("mounting needs root");
        Self(at.to_owned())
    }

    fn fill(&self) {
        fill(&self.0.join("filler")).expect_err("the disk must become full");
    }

    fn free(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// Writes until nothing more fits.
fn fill(path: &Path) -> std::io::Result<()> {
    use std::io::Write;
    let mut file = std::fs::File::create(path)?;
    for size in [4096, 1] {
        while file.write_all(&vec![7; size]).is_ok() {}
    }
    file.write_all(&[7])
}

/// Fills the very disk that the journal is on; its undo frees it.
struct Greedy;

#[async_trait]
impl Step<PathBuf> for Greedy {
    fn name(&self) -> &'static str {
        "greedy"
    }
    async fn run(&self, disk: &PathBuf, _: &Scope) -> Result<Value, StepError> {
        // A long message, so that its record does not just fit into the journal's last page.
        let message = "no space ".repeat(1000);
        fill(&disk.join("greed"))
            .map(|()| Value::Null)
            .map_err(|error| StepError::new(ErrorCode::System, message).caused_by(&error))
    }
    async fn undo(&self, disk: &PathBuf, _: &Scope) -> Result<(), StepError> {
        std::fs::remove_file(disk.join("greed"))
            .map_err(|error| StepError::from_error(ErrorCode::System, &error))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_fills_the_journals_own_disk_is_still_undone() {
    let bench = Bench::new();
    let disk = SmallDisk::mount(&bench.root());
    let runner = bench.runner("");
    let id = JobId::generate();
    runner.create(JobSpec::new(id, "toy", Value::Null)).await.unwrap();
    let handle = runner.run(id, vec![Arc::new(Greedy)], Arc::new(disk.0.clone())).await.unwrap();
    let outcome = finished(&handle).await;
    let Outcome::Failed { failure, left: Undo::Complete } = outcome else { panic!("{outcome:?}") };
    assert!(failure.error.causes[0].contains("No space left"), "{failure:?}");
    assert!(!disk.0.join("greed").exists());
    drop(runner);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_a_job_stops_before_it_acts_and_goes_on_when_there_is_space() {
    let bench = Bench::new();
    let disk = SmallDisk::mount(&bench.root());
    let runner = bench.runner("");
    let id = JobId::generate();
    runner.create(JobSpec::new(id, "toy", Value::Null)).await.unwrap();
    disk.fill();

    let refused = runner.create(JobSpec::new(JobId::generate(), "toy", json!("x".repeat(5000)))).await;
    assert!(matches!(refused, Err(JobError::Directory { .. })), "{refused:?}");
    let handle = runner.run(id, steps(toys()), bench.world.clone()).await.unwrap();
    let Ending::Stalled(error) = ended(&handle).await else { panic!("the job must stall") };
    assert!(matches!(&*error, JournalError::DiskFull { .. }), "{error:?}");
    assert!(bench.world.calls().is_empty(), "nothing may run that is not journalled");

    disk.free();
    let recovery = runner.recover().await.unwrap();
    assert_eq!((recovery.unfinished.len(), recovery.broken.len()), (1, 0));
    let handle = runner.run(id, steps(toys()), bench.world.clone()).await.unwrap();
    assert_eq!(finished(&handle).await, Outcome::Done { warnings: vec![] });
    bench.world.assert_whole();
    drop::<Runner>(runner);
}
