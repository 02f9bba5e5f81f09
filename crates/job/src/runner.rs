//! Makes, runs, recovers, lists and removes jobs: what the program holds.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use protocol::ids::JobId;
use tokio::sync::watch;

use crate::drive::Driver;
use crate::handle::{self, AbortError, Aborting, Control, JobHandle};
use crate::journal::{Event, History, JournalError, Next};
use crate::live::{Live, blocking};
use crate::shared::{Options, Shared, Steps};
use crate::store::{Recovery, Retention, Shown, Store, Summary};
use crate::{JobError, JobSpec, Record, StepError};

/// Holds the directory of journals and runs jobs from it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Runner {
    shared: Arc<Shared>,
}

impl Runner {
    /// Takes the directory of journals at `root`, made if missing, for this process alone. Blocks on the disk.
    ///
    /// # Errors
    /// The directory cannot be used, or another process has it.
    pub fn open(root: &Path, options: Options) -> Result<Self, JobError> {
        let store = Store::open(root)?;
        let shared =
            Shared { store, options, active: Mutex::default(), admin: tokio::sync::Mutex::default() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Journals a new job; from its return on, the job survives a crash. Nothing runs yet.
    ///
    /// # Errors
    /// The id is taken, or the journal cannot be written: then the job does not exist.
    pub async fn create(&self, spec: JobSpec) -> Result<(), JobError> {
        let _admin = self.shared.admin.lock().await;
        self.blocking(move |shared| {
            let id = spec.id;
            let record = shared.store.create(spec)?;
            if let Some(observer) = &shared.options.observer {
                let heard = observer.on_record(&id, &record);
                shared.store.mark(id).note(record.seq, heard);
            }
            Ok(())
        })
        .await
    }

    /// Runs a job from wherever its journal stands: from the start, after a crash, after a park, or on its way back.
    ///
    /// `steps` must begin with the steps that the job began, under the same names; later ones may differ. A step that a newer
    /// program has put among those that began is left out: the job goes on without it.
    ///
    /// # Errors
    /// The job is unknown, running or finished, the steps do not fit, or the journal cannot be used.
    pub async fn run<C: Send + Sync + 'static>(
        &self,
        id: JobId,
        steps: Steps<C>,
        ctx: Arc<C>,
    ) -> Result<JobHandle, JobError> {
        let _admin = self.shared.admin.lock().await;
        let live = self.open_idle(id).await?;
        let history = live.read(Clone::clone);
        let steps = crate::drive::without_newcomers(steps, &history);
        let plan = crate::drive::plan_of(&steps);
        if history.next() == Next::Nothing {
            return Err(JobError::Finished(id));
        }
        if let Err(illegal) = history.check(&Event::Planned { steps: plan }) {
            return Err(JobError::Plan { id, why: illegal.why });
        }
        let (ending_tx, ending) = watch::channel(None);
        let handle = JobHandle { live: Arc::clone(&live), control: Control::default(), ending };
        {
            let mut active = self.shared.active();
            if active.parked {
                return Err(JobError::Parked);
            }
            active.jobs.insert(id, handle.clone());
        }
        let driver = Driver {
            live,
            steps,
            ctx,
            control: handle.control.clone(),
            inject: self.shared.options.inject.clone(),
            stop_grace: self.shared.options.stop_grace,
        };
        tokio::spawn(driver.drive(Arc::clone(&self.shared), ending_tx));
        Ok(handle)
    }

    /// Reads every journal at start-up, before anything runs: clears leftovers, and tells which jobs to run again.
    ///
    /// # Errors
    /// The directory cannot be listed. A single bad journal is reported in the result instead.
    pub async fn recover(&self) -> Result<Recovery, JobError> {
        let _admin = self.shared.admin.lock().await;
        self.blocking(|shared| shared.store.recover()).await
    }

    /// Aborts a job, running or not. One that is not running is only marked: run it, and it is undone.
    ///
    /// # Errors
    /// See [`AbortError`].
    pub async fn abort(&self, id: JobId, reason: impl Into<String>) -> Result<Aborting, AbortError> {
        let _admin = self.shared.admin.lock().await;
        if let Some(handle) = self.handle(id) {
            return handle.abort(reason).await;
        }
        let live = self.open_idle(id).await.map_err(|error| match error {
            JobError::Journal { source, .. } => AbortError::Journal { id, source },
            JobError::Running(_) => AbortError::NotRunning(id),
            _ => AbortError::Unknown(id),
        })?;
        handle::abort(&live, reason.into()).await
    }

    /// Ends a job that cannot be run any more (its kind is unknown, say) as failed, without running anything.
    ///
    /// # Errors
    /// The job is unknown, running or finished, or the journal cannot be used.
    pub async fn give_up(&self, id: JobId, error: StepError) -> Result<(), JobError> {
        let _admin = self.shared.admin.lock().await;
        let live = self.open_idle(id).await?;
        let journal = |source| JobError::Journal { id, source };
        if live.read(|history| history.outcome().is_some()) {
            return Err(JobError::Finished(id));
        }
        if !live.read(History::is_given_up) {
            let _ = live.append::<()>(move |_| Ok(Event::GivenUp { error })).await.map_err(journal)?;
        }
        let finish = |history: &History| match history.next() {
            Next::Finish(outcome) => Ok(Event::Finished { outcome }),
            _ => Err(()),
        };
        let _ = live.append(finish).await.map_err(journal)?;
        Ok(())
    }

    /// Opens a finished job whose undo is incomplete, so that running it tries the undo again.
    ///
    /// # Errors
    /// The job is unknown, running, or not at such an end, or the journal cannot be used.
    pub async fn reopen_undo(&self, id: JobId, reason: impl Into<String>) -> Result<(), JobError> {
        let _admin = self.shared.admin.lock().await;
        let event = Event::UndoReopened { reason: reason.into() };
        let live = self.open_idle(id).await?;
        let appended = live.append::<()>(move |_| Ok(event)).await;
        appended.map(|_| ()).map_err(|source| JobError::Journal { id, source })
    }

    /// Stops every running job without undo, waits until nothing of them runs, and starts no more.
    pub async fn park(&self) {
        let handles: Vec<JobHandle> = {
            let mut active = self.shared.active();
            active.parked = true;
            active.jobs.values().cloned().collect()
        };
        for handle in &handles {
            handle.park();
        }
        for handle in &handles {
            handle.ending().await;
        }
    }

    /// The handle of a job that runs in this process.
    #[must_use]
    pub fn handle(&self, id: JobId) -> Option<JobHandle> {
        self.shared.active().jobs.get(&id).cloned()
    }

    /// The handles of all jobs that run in this process.
    #[must_use]
    pub fn running(&self) -> Vec<JobHandle> {
        self.shared.active().jobs.values().cloned().collect()
    }

    /// All jobs on disk, oldest first, without those whose journal is broken.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub async fn list(&self) -> Result<Vec<Summary>, JobError> {
        self.blocking(|shared| shared.store.list()).await
    }

    /// One job with all of its records; the hash chain is verified by the way.
    ///
    /// # Errors
    /// The job is unknown, or its journal cannot be used.
    pub async fn show(&self, id: JobId) -> Result<Shown, JobError> {
        self.blocking(move |shared| shared.store.show(id)).await
    }

    /// Keeps that the observer has heard of a job's records up to this one by another way. The job must not be open.
    pub async fn heard(&self, id: JobId, seq: u64) {
        let marked = self.blocking(move |shared| {
            shared.store.mark(id).set(seq);
            Ok(())
        });
        drop(marked.await);
    }

    /// The whole lines of a job's journal as they lie on disk, unchecked: for who checks the chain elsewhere.
    ///
    /// # Errors
    /// The job is unknown, or its journal cannot be read.
    pub async fn journal_lines(&self, id: JobId) -> Result<Vec<String>, JobError> {
        self.blocking(move |shared| shared.store.lines(id)).await
    }

    /// A job's records from sequence number `from_seq` on, for publishing again what a crash may have swallowed.
    ///
    /// # Errors
    /// The job is unknown, or its journal cannot be used.
    pub async fn records_since(&self, id: JobId, from_seq: u64) -> Result<Vec<Record>, JobError> {
        let mut records = self.show(id).await?.records;
        records.retain(|record| record.seq >= from_seq);
        Ok(records)
    }

    /// Removes finished jobs that `retention` does not keep; returns which.
    ///
    /// # Errors
    /// The directory cannot be listed, or a job not removed.
    pub async fn prune(&self, retention: Retention) -> Result<Vec<JobId>, JobError> {
        let _admin = self.shared.admin.lock().await;
        self.blocking(move |shared| shared.store.prune(retention)).await
    }

    /// Opens the journal of a job that does not run. The caller holds the admin lock.
    async fn open_idle(&self, id: JobId) -> Result<Arc<Live>, JobError> {
        if self.handle(id).is_some() {
            return Err(JobError::Running(id));
        }
        self.blocking(move |shared| {
            let path = shared.store.journal_path(id);
            if !path.exists() {
                return Err(JobError::Unknown(id));
            }
            let live = Live::open(&path, shared.options.observer.clone())
                .map_err(|source| JobError::Journal { id, source })?;
            if live.id() == id {
                return Ok(Arc::new(live));
            }
            let why = "it belongs to another job".to_owned();
            Err(JobError::Journal { id, source: JournalError::Corrupt { line: 1, why } })
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, JobError> + Send + 'static,
    ) -> Result<T, JobError> {
        let shared = Arc::clone(&self.shared);
        blocking(move || work(&shared)).await.unwrap_or(Err(JobError::Parked))
    }
}
