//! Places where a job stands still until the test lets it go on: the moment before and after every stage.
//!
//! Both agents get all of them by their environment once; a file per place says whether jobs pass. So a fault strikes
//! exactly where its cell says, and the next cell needs no other process.

use std::fmt;
use std::fs::{self, File};
use std::path::PathBuf;
use std::time::Duration;

use protocol::seed::SeedStage;
use tempfile::TempDir;
use testkit::poll;

/// A stage may wait for a server, on a busy machine.
const REACHED_WITHIN: Duration = Duration::from_secs(60);

/// The donor's own steps.
pub const DONOR_STEPS: [&str; 3] = ["hold", "serve", "release"];

/// When within a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Moment {
    /// Its beginning is journalled, and nothing of it has run.
    Begin,
    /// It has run, and its end is not journalled.
    End,
    /// Its end is journalled.
    Done,
}

impl Moment {
    /// As it is written in faults and tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Begin => "begin",
            Self::End => "end",
            Self::Done => "done",
        }
    }
}

/// One place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    kind: &'static str,
    undo: bool,
    step: &'static str,
    moment: Moment,
}

impl Point {
    /// In a stage of the recipient's job.
    #[must_use]
    pub fn stage(stage: SeedStage, moment: Moment) -> Self {
        Self { kind: "seed.start", undo: false, step: stage.as_str(), moment }
    }

    /// In the undo of a stage.
    #[must_use]
    pub fn undo(stage: SeedStage, moment: Moment) -> Self {
        Self { undo: true, ..Self::stage(stage, moment) }
    }

    /// In a step of the donor's job.
    #[must_use]
    pub fn donor(step: &'static str, moment: Moment) -> Self {
        Self { kind: "seed.offer", undo: false, step, moment }
    }

    fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for moment in [Moment::Begin, Moment::End, Moment::Done] {
            for stage in SeedStage::ALL {
                all.extend([Self::stage(stage, moment), Self::undo(stage, moment)]);
            }
            all.extend(DONOR_STEPS.map(|step| Self::donor(step, moment)));
        }
        all
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let undo = if self.undo { "undo:" } else { "" };
        write!(f, "{}/{undo}{}:{}", self.kind, self.step, self.moment.as_str())
    }
}

/// All places of one world, open until closed.
#[derive(Debug)]
pub struct Points {
    dir: TempDir,
}

impl Points {
    /// Makes them, all open.
    ///
    /// # Panics
    /// When the disk refuses.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it makes files")]
    pub fn new() -> Self {
        let points = Self { dir: tempfile::Builder::new().prefix("oa-points-").tempdir().unwrap() };
        points.open_all();
        points
    }

    /// For `OA_FAULT` of every agent.
    #[must_use]
    pub fn faults(&self) -> String {
        let pause = |point: Point| format!("pause@{point}={}", self.path(point).display());
        Point::all().into_iter().map(pause).collect::<Vec<_>>().join(";")
    }

    /// From now on jobs stop here.
    ///
    /// # Panics
    /// When the disk refuses.
    pub fn close(&self, point: Point) {
        for path in [self.path(point), self.mark(point)] {
            let _ = fs::remove_file(path);
        }
    }

    /// Lets the job that stands here go on, and those that come later.
    ///
    /// # Panics
    /// When the disk refuses.
    pub fn open(&self, point: Point) {
        File::create(self.path(point)).unwrap();
    }

    /// Opens everything.
    pub fn open_all(&self) {
        Point::all().into_iter().for_each(|point| self.open(point));
    }

    /// Waits until a job stands here.
    ///
    /// # Panics
    /// When none comes.
    pub async fn reached(&self, point: Point) {
        let mark = self.mark(point);
        poll::until_async(REACHED_WITHIN, format!("a job at {point}"), || async {
            mark.exists().then_some(())
        })
        .await;
    }

    /// Whether a job stood here since it was closed.
    #[must_use]
    pub fn is_reached(&self, point: Point) -> bool {
        self.mark(point).exists()
    }

    fn path(&self, point: Point) -> PathBuf {
        self.dir.path().join(point.to_string().replace(['/', ':'], "."))
    }

    fn mark(&self, point: Point) -> PathBuf {
        let mut mark = self.path(point).into_os_string();
        mark.push(".reached");
        mark.into()
    }
}
