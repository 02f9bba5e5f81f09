//! What the agent knows and holds of its host: the one value that queries, jobs and background tasks share.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bus::{Bus, Outbox};
use jiff::Timestamp;
use job::Runner;
use mysql::Instance;
use mysql::binlog::{BinaryReader, TextStream};
use protocol::error::{ErrorCode, WireError};
use protocol::event::EventData;
use protocol::host::Capability;
use protocol::ids::{AgentId, BootId};
use protocol::snapshot::Snapshot;
use snapshot::{MountTable, Owner, Provider};
pub(crate) use sys::error::line as chain;
use tokio::sync::{mpsc, oneshot};
use trace::Traces;
use transfer::Throttle;

use crate::config::Live;
use crate::keys::Keys;
use crate::state::acting::Acting;
use crate::state::admitted::Admitted;
use crate::state::doomed::Doomed;
use crate::state::offers::{OpenOffers, Throttles};
use crate::state::probe::Probe;
use crate::state::readings::Readings;
use crate::state::runs::Runs;
use crate::state::seen::Seen;

/// Who is told that a look at the host has been taken.
pub(crate) type Looked = oneshot::Sender<()>;

/// The host.
pub(crate) struct Host {
    /// Configuration in force; SIGHUP replaces it.
    pub(crate) config: Live,
    /// Id on the bus.
    pub(crate) id: AgentId,
    /// This start of the process.
    pub(crate) boot: BootId,
    /// When it started.
    pub(crate) started_at: Timestamp,
    /// Its own keys.
    pub(crate) keys: Keys,
    /// The MySQL instance.
    pub(crate) instance: Instance,
    /// What makes snapshots, or why there is none.
    pub(crate) snapshots: Result<Snapshots, String>,
    /// Jobs.
    pub(crate) runner: Runner,
    /// Durable events.
    pub(crate) outbox: Outbox,
    /// The connection.
    pub(crate) bus: Bus,
    /// Where spans go.
    pub(crate) traces: Traces,
    /// The last look at server and snapshots.
    pub(crate) seen: RwLock<Arc<Seen>>,
    /// Capabilities found at the start.
    pub(crate) capabilities: Vec<Capability>,
    /// The jobs that were admitted.
    pub(crate) admitted: tokio::sync::Mutex<Admitted>,
    /// Limits of running seeds, by the recipient's job.
    pub(crate) throttles: Throttles,
    /// One limit over all seeds that this host gives.
    pub(crate) donor_throttle: Arc<Throttle>,
    /// Offers that are open.
    pub(crate) offers: OpenOffers,
    /// Servers that run on snapshots.
    pub(crate) on_snapshot: Runs,
    /// What recipients may try before there is an offer.
    pub(crate) probe: Probe,
    /// The bucket of this donor may be on the server although no offer uses it. Held while it is made or removed.
    pub(crate) bucket_left: tokio::sync::Mutex<bool>,
    /// Who is changing the set of snapshots at this moment, for the events about it.
    pub(crate) acting: Acting,
    /// Snapshots that must not be read any further.
    pub(crate) doomed: Arc<Doomed>,
    /// Wakes the reconciler before its time.
    pub(crate) look: tokio::sync::Notify,
    /// Asks the reconciler for a look, and hears when it was taken.
    pub(crate) looks: mpsc::UnboundedSender<Looked>,
    /// Tells who removes old datadirs that one more is kept.
    pub(crate) kept: tokio::sync::Notify,
    /// Logs that are read in pieces, as bytes.
    pub(crate) log_bytes: Readings<BinaryReader>,
    /// Likewise, as text.
    pub(crate) log_text: Readings<TextStream>,
}

/// The snapshot provider with its mounts.
#[derive(Debug, Clone)]
pub(crate) struct Snapshots {
    /// The provider.
    pub(crate) provider: Arc<dyn Provider>,
    /// Who holds what mounted where.
    pub(crate) mounts: Arc<MountTable>,
}

impl Snapshots {
    /// All that are there, newest first, with holders and with whose each is.
    pub(crate) fn list(&self, owner: &Owner) -> Result<Vec<Snapshot>, snapshot::Error> {
        let mut list = owner.list(self.provider.as_ref())?;
        self.mounts.annotate(&mut list);
        list.sort_by_key(|s| std::cmp::Reverse(s.created_at));
        Ok(list)
    }
}

impl Host {
    /// Run directories of private servers, beside the mounts: servers of other users get through to both.
    pub(crate) fn private_root(&self) -> PathBuf {
        let mounts = &self.config.snapshot.mount_root;
        mounts.parent().unwrap_or(mounts).join("private")
    }

    /// The snapshots, or the typed error that says what is missing.
    pub(crate) fn snapshots(&self) -> Result<&Snapshots, WireError> {
        self.snapshots.as_ref().map_err(|reason| {
            WireError::new(ErrorCode::MissingCapability, format!("{} has no snapshots: {reason}", self.id))
        })
    }

    /// The last look.
    pub(crate) fn seen(&self) -> Arc<Seen> {
        self.seen.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes an event durable; a full disk must not stop the work, so a failure is only logged.
    pub(crate) fn emit(&self, event: EventData) {
        let kind = event.kind();
        if let Err(error) = self.outbox.publish_blocking(event) {
            tracing::error!(kind, error = %chain(&error), "an event could not be spooled and is lost");
        }
    }

    /// Asks for a look soon: something changed.
    pub(crate) fn look_soon(&self) {
        self.look.notify_one();
    }

    /// Has the host looked at now, and returns when what changed is told; at once when the agent is about to end.
    pub(crate) async fn look_now(&self) {
        let (tell, told) = oneshot::channel();
        if self.looks.send(tell).is_ok() {
            let _ = told.await;
        }
    }

    /// How long commits may be held up for a snapshot; `None` for no lock at all.
    pub(crate) fn lock_wait(&self) -> Option<Duration> {
        let seconds = self.config.snapshot.lock_wait_s;
        (seconds > 0.0).then(|| Duration::from_secs_f64(seconds))
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("id", &self.id).field("boot", &self.boot).finish_non_exhaustive()
    }
}

/// Runs blocking work off the runtime's threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, WireError> + Send + 'static,
) -> Result<T, WireError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(WireError::caused(ErrorCode::Internal, "a task of the agent died", &error)),
    }
}
