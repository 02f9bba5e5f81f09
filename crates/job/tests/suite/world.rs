//! A world of files: each step makes one, each undo removes it, and order is checked by what must be there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use job::journal::Digest;
use job::{
    Ending, JobHandle, JobSpec, Observer, OnFailure, OnUndoFailure, Options, Outcome, Record, Retry, Runner,
    Scope, Step, StepError, Undo,
};
use protocol::error::ErrorCode;
use protocol::ids::JobId;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The steps of the usual toy job, in order.
pub(crate) const NAMES: [&str; 4] = ["one", "two", "three", "four"];

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) dir: PathBuf,
    /// Every call, as `run one`, `undo one`.
    pub(crate) calls: Mutex<Vec<String>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Made {
    file: String,
}

/// How a toy step behaves beyond making its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Plain,
    /// Waits until it is told to stop, and says so.
    Waits,
    /// As `Waits`, but then ends well all the same.
    FinishesLate,
    /// Never stops.
    Deaf,
    Panics,
    /// Fails for good, with a long text.
    FailsLoudly,
    /// Fails retryably so many times.
    FailsTimes(u32),
    /// Its undo fails for good, the first so many times that it is called.
    UndoFailsTimes(u32),
}

#[derive(Debug)]
pub(crate) struct Toy {
    pub(crate) name: &'static str,
    pub(crate) mood: Mood,
    pub(crate) commits: bool,
    pub(crate) on_failure: OnFailure,
    pub(crate) on_undo_failure: OnUndoFailure,
    failures: Mutex<u32>,
}

impl Toy {
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            mood: Mood::Plain,
            commits: false,
            on_failure: OnFailure::Undo,
            on_undo_failure: OnUndoFailure::Stop,
            failures: Mutex::new(0),
        }
    }

    fn fails_again(&self, times: u32) -> bool {
        let mut failures = self.failures.lock().unwrap();
        *failures += 1;
        *failures <= times
    }
}

#[async_trait]
impl Step<World> for Toy {
    fn name(&self) -> &'static str {
        self.name
    }

    async fn run(&self, world: &World, scope: &Scope) -> Result<Value, StepError> {
        world.called("run", self.name);
        if let Some(earlier) = world.before(self.name) {
            let made: Made = scope.output(earlier)?;
            assert!(world.dir.join(made.file).exists(), "{earlier} must stand when {} runs", self.name);
        }
        let (file, half) = (world.dir.join(self.name), world.dir.join(format!("{}.half", self.name)));
        std::fs::write(&half, b"half").unwrap();
        scope.report(1, Some(2), Value::Null);
        match self.mood {
            Mood::Waits => {
                scope.cancelled().await;
                return Err(StepError::stopped());
            }
            Mood::FinishesLate => scope.cancelled().await,
            Mood::Deaf => std::future::pending().await,
            Mood::Panics => panic!("toy panic"),
            Mood::FailsLoudly => return Err(StepError::new(ErrorCode::System, "x".repeat(1 << 20))),
            Mood::FailsTimes(times) if self.fails_again(times) => {
                return Err(StepError::new(ErrorCode::Busy, "not yet").retryable());
            }
            _ => {}
        }
        tokio::task::yield_now().await;
        std::fs::rename(&half, &file).unwrap();
        scope.note(json!({ "made": self.name })).await?;
        Ok(serde_json::to_value(Made { file: self.name.to_owned() }).unwrap())
    }

    async fn undo(&self, world: &World, scope: &Scope) -> Result<(), StepError> {
        world.called("undo", self.name);
        if let Some(later) = world.after(self.name)
            && self.on_undo_failure == OnUndoFailure::Stop
        {
            assert!(!world.dir.join(later).exists(), "{later} must be gone before {} is undone", self.name);
        }
        if let Mood::UndoFailsTimes(times) = self.mood
            && self.fails_again(times)
        {
            return Err(StepError::new(ErrorCode::Refused, "cannot be undone"));
        }
        let _: Option<Made> = scope.try_output(self.name)?;
        for name in [self.name.to_owned(), format!("{}.half", self.name)] {
            let _ = std::fs::remove_file(world.dir.join(name));
        }
        Ok(())
    }

    fn retry(&self) -> Retry {
        Retry { attempts: 3, backoff: Duration::from_millis(1), max_backoff: Duration::from_millis(2) }
    }

    fn undo_retry(&self) -> Retry {
        self.retry()
    }

    fn on_failure(&self) -> OnFailure {
        self.on_failure
    }

    fn on_undo_failure(&self) -> OnUndoFailure {
        self.on_undo_failure
    }

    fn commits(&self) -> bool {
        self.commits
    }
}

impl World {
    pub(crate) fn new(dir: &Path) -> Arc<Self> {
        std::fs::create_dir_all(dir).unwrap();
        Arc::new(Self { dir: dir.to_owned(), calls: Mutex::default() })
    }

    fn called(&self, what: &str, step: &str) {
        self.calls.lock().unwrap().push(format!("{what} {step}"));
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }

    pub(crate) fn files(&self) -> BTreeSet<String> {
        let entries = std::fs::read_dir(&self.dir).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn before(&self, name: &str) -> Option<&'static str> {
        NAMES.iter().position(|n| *n == name).and_then(|at| at.checked_sub(1)).map(|at| NAMES[at])
    }

    fn after(&self, name: &str) -> Option<&'static str> {
        NAMES.iter().position(|n| *n == name).and_then(|at| NAMES.get(at + 1)).copied()
    }

    /// Nothing is left of any step.
    #[track_caller]
    pub(crate) fn assert_empty(&self) {
        assert_eq!(self.files(), BTreeSet::new(), "something is left over");
    }

    /// Every step's work stands, and nothing else.
    #[track_caller]
    pub(crate) fn assert_whole(&self) {
        self.assert_files(&NAMES);
    }

    #[track_caller]
    pub(crate) fn assert_files(&self, names: &[&str]) {
        assert_eq!(self.files(), names.iter().map(|name| (*name).to_owned()).collect());
    }
}

/// Keeps what observers hear, and checks that nothing is missing between.
#[derive(Debug, Default)]
pub(crate) struct Heard(pub(crate) Mutex<Vec<Record>>);

impl Observer for Heard {
    fn on_record(&self, _job: &JobId, record: &Record) -> bool {
        self.0.lock().unwrap().push(record.clone());
        true
    }
}

/// A directory of journals and a world, both gone when dropped.
pub(crate) struct Bench {
    pub(crate) tmp: tempfile::TempDir,
    pub(crate) world: Arc<World>,
    pub(crate) heard: Arc<Heard>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let tmp = tempfile::tempdir().unwrap();
        let world = World::new(&tmp.path().join("world"));
        Self { tmp, world, heard: Arc::default() }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.tmp.path().join("jobs")
    }

    pub(crate) fn options(&self, faults: &str) -> Options {
        let observer: Arc<dyn Observer> = self.heard.clone();
        Options {
            observer: Some(observer),
            inject: faults.parse().unwrap(),
            stop_grace: Duration::from_millis(300),
        }
    }

    pub(crate) fn runner(&self, faults: &str) -> Runner {
        Runner::open(&self.root(), self.options(faults)).unwrap()
    }

    pub(crate) async fn start(&self, runner: &Runner, toys: Vec<Toy>) -> JobHandle {
        let id = JobId::generate();
        runner.create(JobSpec::new(id, "toy", json!({ "size": 3 }))).await.unwrap();
        runner.run(id, steps(toys), Arc::clone(&self.world)).await.unwrap()
    }

    /// Runs a whole job of `toys` under `faults`.
    pub(crate) async fn whole(&self, faults: &str, toys: Vec<Toy>) -> (Runner, JobHandle, Outcome) {
        let runner = self.runner(faults);
        let handle = self.start(&runner, toys).await;
        let outcome = finished(&handle).await;
        self.assert_heard_all(&runner, handle.id()).await;
        (runner, handle, outcome)
    }

    /// The journal verifies, and observers heard each record once, in order.
    pub(crate) async fn assert_heard_all(&self, runner: &Runner, id: JobId) {
        let shown = runner.show(id).await.unwrap();
        assert_eq!(*self.heard.0.lock().unwrap(), shown.records);
        assert_eq!(shown.history.head(), shown.records.last().unwrap().hash);
        assert_ne!(shown.history.head(), Digest::ZERO);
    }
}

pub(crate) fn toys() -> Vec<Toy> {
    NAMES.iter().map(|name| Toy::new(name)).collect()
}

/// The usual steps, with `change` made to the one called `name`.
pub(crate) fn toys_but(name: &str, change: impl FnOnce(&mut Toy)) -> Vec<Toy> {
    let mut toys = toys();
    change(toys.iter_mut().find(|toy| toy.name == name).unwrap());
    toys
}

pub(crate) fn steps(toys: Vec<Toy>) -> job::Steps<World> {
    toys.into_iter().map(|toy| Arc::new(toy) as Arc<dyn Step<World>>).collect()
}

pub(crate) async fn ended(handle: &JobHandle) -> Ending {
    tokio::time::timeout(Duration::from_secs(20), handle.ending()).await.expect("the job must come to an end")
}

pub(crate) async fn finished(handle: &JobHandle) -> Outcome {
    match ended(handle).await {
        Ending::Finished(outcome) => outcome,
        other => panic!("the job must be finished, not {other:?}"),
    }
}

/// Waits until `there` holds.
pub(crate) async fn until(what: &str, mut there: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !there() {
        assert!(std::time::Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub(crate) fn left(outcome: &Outcome) -> &Undo {
    match outcome {
        Outcome::Failed { left, .. } | Outcome::Aborted { left, .. } => left,
        Outcome::Done { .. } => panic!("the job must not be done"),
    }
}
