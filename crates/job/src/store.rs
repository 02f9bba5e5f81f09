//! The directory of journals: one directory per job, made, listed, read and removed crash-safely.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use protocol::ids::JobId;

use crate::heard::{self, Mark};
use crate::journal::{self, Event, History, JournalError, Parsed, State, Writer};
use crate::{JobError, JobSpec, Record, crashsafe};

const JOURNAL: &str = "journal.jsonl";
const LOCK: &str = ".lock";
/// Before the name of a directory that is being removed.
const TRASH: &str = ".removed-";

/// A job found at start-up that is not at its end.
#[derive(Debug, Clone)]
pub struct Recovered {
    /// What it is.
    pub spec: JobSpec,
    /// Where it stands.
    pub state: State,
    /// Its whole folded past.
    pub history: History,
}

/// A job directory whose journal cannot be used; left as it is, for a person to look at.
#[derive(Debug)]
pub struct Broken {
    /// Which directory.
    pub path: PathBuf,
    /// Why.
    pub error: JobError,
}

/// What was found at start-up.
#[derive(Debug)]
pub struct Recovery {
    /// The jobs to be run again (or given up), oldest first.
    pub unfinished: Vec<Recovered>,
    /// The journals that cannot be used.
    pub broken: Vec<Broken>,
}

/// One job in a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Its id.
    pub id: JobId,
    /// Its kind.
    pub kind: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// When its last record was written.
    pub updated_at: Timestamp,
    /// Where it stands.
    pub state: State,
    /// How many records its journal has.
    pub records: u64,
    /// Up to which record the observer has heard; absent where that was not kept, as by earlier releases.
    pub heard: Option<u64>,
}

/// All that is known of one job.
#[derive(Debug, Clone)]
pub struct Shown {
    /// Its folded past.
    pub history: History,
    /// Every record, hash chain verified.
    pub records: Vec<Record>,
    /// As in [`Summary::heard`].
    pub heard: Option<u64>,
}

/// How long finished jobs are kept: each as long as it is among the newest, or young.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// This many of the newest finished jobs are kept, however old.
    pub keep_newest: usize,
    /// Finished jobs younger than this are kept, however many.
    pub keep_for: Duration,
}

/// The directory of all jobs, locked for this process.
#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
    /// Held until dropped, or until the process dies.
    _lock: File,
}

impl Store {
    pub(crate) fn open(root: &Path) -> Result<Self, JobError> {
        let failed = |action| {
            let path = root.to_owned();
            move |source| JobError::Root { action, path, source }
        };
        fs::create_dir_all(root).map_err(failed("create"))?;
        File::open(root.join(".."))
            .and_then(|parent| parent.sync_all())
            .map_err(failed("sync the parent of"))?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(root.join(LOCK))
            .map_err(failed("open the lock of"))?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => JobError::Locked { path: root.to_owned() },
            fs::TryLockError::Error(source) => failed("lock")(source),
        })?;
        Ok(Self { root: root.to_owned(), _lock: lock })
    }

    pub(crate) fn journal_path(&self, id: JobId) -> PathBuf {
        self.dir(id).join(JOURNAL)
    }

    fn dir(&self, id: JobId) -> PathBuf {
        self.root.join(id.to_string())
    }

    pub(crate) fn create(&self, spec: JobSpec) -> Result<Record, JobError> {
        let (id, dir) = (spec.id, self.dir(spec.id));
        let line = Writer::first_line(&Event::Created { spec })
            .map_err(|source| JobError::Journal { id, source })?;
        crashsafe::create_dir(&dir, 0o700).map_err(|source| match source.source.kind() {
            io::ErrorKind::AlreadyExists => JobError::Exists(id),
            _ => JobError::Directory { id, source },
        })?;
        let path = self.journal_path(id);
        if let Err(source) = crashsafe::write(&path, &line, 0o600) {
            let _ = fs::remove_dir_all(&dir);
            return Err(JobError::Directory { id, source });
        }
        let (mut parsed, _) = self.read(id)?;
        Ok(parsed.records.swap_remove(0))
    }

    pub(crate) fn read(&self, id: JobId) -> Result<(Parsed, History), JobError> {
        let path = self.journal_path(id);
        if !path.exists() {
            return Err(JobError::Unknown(id));
        }
        journal::read(&path).map_err(|source| JobError::Journal { id, source })
    }

    /// The whole lines of a journal, unchecked.
    pub(crate) fn lines(&self, id: JobId) -> Result<Vec<String>, JobError> {
        let path = self.journal_path(id);
        if !path.exists() {
            return Err(JobError::Unknown(id));
        }
        let failed = |source| JobError::Root { action: "read a journal of", path: self.root.clone(), source };
        let bytes = fs::read(&path).map_err(failed)?;
        let text = String::from_utf8_lossy(&bytes);
        // What follows the last end of line is torn, or being written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        Ok(whole.lines().map(str::to_owned).collect())
    }

    /// Clears what a crash left half made or half removed, and reads every journal.
    pub(crate) fn recover(&self) -> Result<Recovery, JobError> {
        for entry in self.entries()? {
            let name = entry.file_name().and_then(OsStr::to_str).unwrap_or_default();
            let half_made = name.parse::<JobId>().is_ok() && !entry.join(JOURNAL).exists();
            if (half_made || name.starts_with(TRASH))
                && let Err(error) = fs::remove_dir_all(&entry)
            {
                tracing::warn!(path = %entry.display(), %error, "cannot remove a leftover job directory");
            }
        }
        let mut unfinished = Vec::new();
        let broken = self.each(|history| {
            if history.outcome().is_none() {
                let (spec, state) = (history.spec().clone(), history.state());
                unfinished.push(Recovered { spec, state, history });
            }
        })?;
        unfinished.sort_by_key(|job| (job.history.created_at(), job.spec.id));
        Ok(Recovery { unfinished, broken })
    }

    pub(crate) fn list(&self) -> Result<Vec<Summary>, JobError> {
        let mut jobs = Vec::new();
        self.each(|history| jobs.push(self.summary(&history)))?;
        jobs.sort_by_key(|job| (job.created_at, job.id));
        Ok(jobs)
    }

    pub(crate) fn show(&self, id: JobId) -> Result<Shown, JobError> {
        let (parsed, history) = self.read(id)?;
        Ok(Shown { history, records: parsed.records, heard: heard::read(&self.dir(id)) })
    }

    /// The mark of a job that is not open.
    pub(crate) fn mark(&self, id: JobId) -> Mark {
        Mark::of(&self.dir(id))
    }

    fn summary(&self, history: &History) -> Summary {
        Summary {
            id: history.spec().id,
            kind: history.spec().kind.clone(),
            created_at: history.created_at(),
            updated_at: history.updated_at(),
            state: history.state(),
            records: history.len(),
            heard: heard::read(&self.dir(history.spec().id)),
        }
    }

    /// Removes finished jobs that `retention` does not keep; returns which.
    pub(crate) fn prune(&self, retention: Retention) -> Result<Vec<JobId>, JobError> {
        let mut finished = Vec::new();
        self.each(|history| {
            if history.outcome().is_some() {
                finished.push((history.updated_at(), history.spec().id));
            }
        })?;
        finished.sort_by_key(|(ended_at, _)| std::cmp::Reverse(*ended_at));
        let now = Timestamp::now();
        let mut removed = Vec::new();
        for (ended_at, id) in finished.into_iter().skip(retention.keep_newest) {
            let age = Duration::try_from(now.duration_since(ended_at)).unwrap_or_default();
            if age >= retention.keep_for {
                self.remove(id)?;
                removed.push(id);
            }
        }
        Ok(removed)
    }

    fn remove(&self, id: JobId) -> Result<(), JobError> {
        let failed = |source| JobError::Directory { id, source };
        let trash = self.root.join(format!("{TRASH}{id}"));
        crashsafe::rename(&self.dir(id), &trash).map_err(failed)?;
        fs::remove_dir_all(&trash)
            .map_err(|source| failed(crashsafe::Error { action: "remove", path: trash, source }))
    }

    /// Hands on every journal, folded, one at a time: all of them at once are ten times what lies on disk. Returns those that cannot be folded.
    fn each(&self, mut take: impl FnMut(History)) -> Result<Vec<Broken>, JobError> {
        let mut broken = Vec::new();
        for path in self.entries()? {
            let Some(id) = path.file_name().and_then(OsStr::to_str).and_then(|name| name.parse().ok()) else {
                continue;
            };
            match self.read(id) {
                Ok((_, history)) if history.spec().id == id => take(history),
                Ok(_) => {
                    let why = "it belongs to another job".to_owned();
                    let source = JournalError::Corrupt { line: 1, why };
                    broken.push(Broken { path, error: JobError::Journal { id, source } });
                }
                // Being made, or removed, right now.
                Err(JobError::Unknown(_)) => {}
                Err(error) => broken.push(Broken { path, error }),
            }
        }
        Ok(broken)
    }

    fn entries(&self) -> Result<Vec<PathBuf>, JobError> {
        let failed = |source| JobError::Root { action: "list", path: self.root.clone(), source };
        fs::read_dir(&self.root)
            .map_err(failed)?
            .map(|entry| entry.map(|entry| entry.path()).map_err(failed))
            .collect()
    }
}
