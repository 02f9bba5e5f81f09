//! A job that is open in this process: its journal, its folded history, and those who watch it.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard, RwLock};
use protocol::ids::JobId;
use tokio::sync::watch;

use crate::heard::Mark;
use crate::journal::{Event, History, JournalError, Record, State, Writer};
use crate::{Observer, Progress};

/// Appends are one at a time and slow (they wait for the disk); reads of the history never wait for them.
pub(crate) struct Live {
    id: JobId,
    writer: Mutex<Option<Writer>>,
    heard: Mutex<Mark>,
    history: RwLock<History>,
    observer: Option<Arc<dyn Observer>>,
    moved: Mutex<Timestamp>,
    pub(crate) state: watch::Sender<State>,
    pub(crate) progress: watch::Sender<Option<Progress>>,
}

impl Live {
    pub(crate) fn open(path: &Path, observer: Option<Arc<dyn Observer>>) -> Result<Self, JournalError> {
        let (writer, history) = Writer::open(path)?;
        Ok(Self {
            id: history.spec().id,
            writer: Mutex::new(Some(writer)),
            heard: Mutex::new(Mark::of(path.parent().unwrap_or(path))),
            state: watch::Sender::new(history.state()),
            progress: watch::Sender::new(None),
            history: RwLock::new(history),
            observer,
            moved: Mutex::new(Timestamp::now()),
        })
    }

    pub(crate) fn id(&self) -> JobId {
        self.id
    }

    pub(crate) fn read<T>(&self, look: impl FnOnce(&History) -> T) -> T {
        look(&self.history.read())
    }

    /// Appends the event that `make` decides on, if any, and returns once it is on disk and observers heard of it.
    ///
    /// `make` sees the history as it will be when its event is appended: nothing comes between.
    pub(crate) fn append_blocking<R>(
        &self,
        make: impl FnOnce(&History) -> Result<Event, R>,
    ) -> Result<Result<Record, R>, JournalError> {
        let mut writer = self.writer();
        let open = writer.as_mut().ok_or(JournalError::Closed)?;
        let record = match self.read(|history| make(history).map(|event| open.append(history, event))) {
            Ok(record) => record?,
            Err(refused) => return Ok(Err(refused)),
        };
        let state = {
            let mut history = self.history.write();
            history.apply(&record)?;
            history.state()
        };
        *self.moved.lock() = record.at;
        if let Some(observer) = &self.observer {
            let hear = AssertUnwindSafe(|| observer.on_record(&self.id, &record));
            let heard = std::panic::catch_unwind(hear).unwrap_or_else(|_| {
                tracing::error!(job = %self.id, seq = record.seq, "an observer of jobs panicked");
                false
            });
            self.heard.lock().note(record.seq, heard);
        }
        self.state.send_replace(state);
        Ok(Ok(record))
    }

    /// As [`Live::append_blocking`], off the async threads. Goes on to its end even when the future is dropped.
    pub(crate) async fn append<R: Send + 'static>(
        self: &Arc<Self>,
        make: impl FnOnce(&History) -> Result<Event, R> + Send + 'static,
    ) -> Result<Result<Record, R>, JournalError> {
        let live = Arc::clone(self);
        blocking(move || live.append_blocking(make)).await.unwrap_or(Err(JournalError::Closed))
    }

    /// Lets go of the journal: whoever still holds this job can look at it, but write no more.
    pub(crate) fn close(&self) {
        self.writer().take();
    }

    pub(crate) fn report(&self, progress: Progress) {
        if let Some(observer) = &self.observer {
            observer.on_progress(&self.id, &progress);
        }
        let came_on = self
            .progress
            .borrow()
            .as_ref()
            .is_none_or(|before| (&before.step, before.done) != (&progress.step, progress.done));
        self.progress.send_replace(Some(progress));
        if came_on {
            *self.moved.lock() = Timestamp::now();
        }
    }

    pub(crate) fn moved(&self) -> Timestamp {
        *self.moved.lock()
    }

    fn writer(&self) -> MutexGuard<'_, Option<Writer>> {
        self.writer.lock()
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Runs blocking work off the async threads; `None` when the runtime is going down. Panics go on.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => Some(value),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => None,
        },
    }
}
