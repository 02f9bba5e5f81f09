//! The donor's side of a seed: a snapshot mounted, held and served to one recipient.
//!
//! Token, certificate and port lie in a private file beside the journal, so that after a restart the agent serves the
//! very same offer again and the recipient goes on where it was.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use job::{Ending, Steps, crashsafe};
use protocol::error::{ErrorCode, WireError};
use protocol::ids::{AgentId, JobId, OfferId, SnapshotId};
use protocol::mysql::ServerState;
use protocol::params::{Empty, SeedOfferParams};
use protocol::seed::{DonorFacts, Offer, Secret, Transport};
use serde::{Deserialize, Serialize};
use serde_json::json;
use transfer::{Identity, Token};

mod serve;
mod stream;

pub(crate) use serve::clone_policy;

use super::Origin;
use super::{probe, store};
use crate::host::Host;
use crate::jobs::view;
use crate::owned::{Foreign, choose};
use crate::queries::host::usage_of;

/// A recipient is told an address within this time or the offer has failed; mounting may replay a log.
const OPEN_LIMIT: Duration = Duration::from_secs(60);

/// Offers by their id, for `seed.release`, and what waits for them to be open.
#[derive(Debug, Default)]
pub(crate) struct OpenOffers {
    jobs: Mutex<HashMap<OfferId, JobId>>,
    waiting: Mutex<HashMap<JobId, tokio::sync::oneshot::Sender<Served>>>,
}

/// What the serving step tells to who opened the offer.
#[derive(Debug)]
struct Served {
    address: SocketAddr,
    fingerprint: Option<String>,
}

/// Parameters of the job; the secrets are not among them.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Params {
    offer: OfferId,
    recipient: AgentId,
    snapshot: Option<SnapshotId>,
    #[serde(default)]
    foreign: bool,
    #[serde(default)]
    stream: Option<String>,
    plain: bool,
    /// Bytes of the window when the data go through the object store.
    #[serde(default)]
    store_window: Option<u64>,
}

/// What must survive a restart and must not be shown.
#[derive(Debug, Serialize, Deserialize)]
struct Private {
    token: Secret,
    identity: Option<Secret>,
    listen: SocketAddr,
}

/// The steps of an offer.
pub(crate) fn steps() -> Steps<Host> {
    vec![Arc::new(serve::Hold), Arc::new(serve::Serve), Arc::new(serve::Release)]
}

/// `seed.survey`: what this donor would send.
pub(crate) async fn survey(
    host: &Arc<Host>,
    wanted: Option<&SnapshotId>,
    foreign: Foreign,
    stream: Option<&str>,
) -> Result<DonorFacts, WireError> {
    let snapshot = match stream {
        Some(name) => {
            crate::streams::find(host, name)?;
            None
        }
        None => Some(choose(host, wanted, foreign).await?),
    };
    let server = host.instance.info().await;
    if stream.is_some() && server.state != ServerState::Ready {
        return Err(WireError::new(
            ErrorCode::Refused,
            format!(
                "a stream is read from a running server, and MySQL on {} does not answer to its agent",
                host.id
            ),
        ));
    }
    let mounted = snapshot.as_ref().and_then(|snapshot| {
        let inside = snapshot.meta.as_ref().map(|meta| meta.datadir.clone()).unwrap_or_default();
        Some(snapshot.mounts.first()?.path.join(inside))
    });
    // Counted now: the recipient's guards lean on it, and an old figure may be far too small.
    let usage = match mounted.or_else(|| server.datadir.clone()) {
        Some(path) => usage_of(host, path, true).await.ok(),
        None => None,
    };
    let free = match server.datadir.clone() {
        Some(datadir) => crate::queries::host::free_of(datadir).await.ok(),
        None => None,
    };
    let load = crate::load::measure(host, &server).await;
    let meta = snapshot.as_ref().and_then(|snapshot| snapshot.meta.as_ref());
    Ok(DonorFacts {
        agent: host.id.clone(),
        machine_id: machine_id(),
        datadir: server.datadir.clone(),
        datadir_identity: server.datadir.as_deref().and_then(datadir_identity),
        cluster: match (meta, &snapshot) {
            (Some(meta), _) => meta.cluster.clone(),
            (None, Some(_)) => "unknown".to_owned(),
            (None, None) => host.config.agent.cluster.clone(),
        },
        dc: host.config.agent.dc.clone(),
        bytes: usage.as_ref().map_or(0, |u| u.apparent_bytes),
        files: usage.as_ref().map_or(0, |u| u.files),
        version: meta.and_then(|meta| meta.server_version.clone()).or(server.version),
        layout: server.layout,
        coordinates: meta.and_then(|meta| meta.coordinates.clone()),
        overloaded: crate::load::overloaded(&load, &host.config.seed.donor_limits),
        load,
        encrypted_tablespaces: mysql::encryption::encrypted_tablespaces(&host.instance).await.ok(),
        outside: match stream {
            // A backup program takes along what it finds, wherever that lies.
            Some(_) => Some(Vec::new()),
            None => mysql::outside::tablespaces_outside(&host.instance).await.ok(),
        },
        free_bytes: free.map(|free| free.available_bytes),
        stream: stream.map(str::to_owned),
        addresses: Vec::new(),
        snapshot,
    })
}

/// `/etc/machine-id`, which tells two agents of one machine.
pub(crate) fn machine_id() -> Option<String> {
    let text = fs::read_to_string("/etc/machine-id").ok()?;
    Some(text.trim().to_owned()).filter(|id| !id.is_empty())
}

/// Names a directory itself, whatever its path: two agents of one datadir give the same, cloned hosts do not.
pub(crate) fn datadir_identity(datadir: &Path) -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let metadata = fs::metadata(datadir).ok()?;
    Some(format!("{}:{}:{}", boot.trim(), metadata.dev(), metadata.ino()))
}

/// `seed.offer`: returns once recipients may connect.
pub(crate) async fn open(
    host: &Arc<Host>,
    params: SeedOfferParams,
    origin: &Origin,
) -> Result<Offer, WireError> {
    if params.recipient == host.id {
        return Err(WireError::new(ErrorCode::Refused, format!("{} cannot be seeded from itself", host.id)));
    }
    if params.plain && !host.config.seed.allow_plain {
        return Err(WireError::new(
            ErrorCode::Refused,
            format!(
                "{} gives no seeds without TLS; seed.allow_plain in its configuration allows it",
                host.id
            ),
        ));
    }
    let store = match (params.transport, &params.stream) {
        (Transport::Store, Some(_)) => {
            let text = "streams travel over direct TCP only: open the way, or seed from a snapshot";
            return Err(WireError::new(ErrorCode::Refused, text));
        }
        (Transport::Store, None) => Some(store::offer(host, params.plain)?),
        (Transport::Tcp | Transport::Auto, _) => None,
    };
    let foreign = Foreign::allowed(params.foreign);
    let snapshot = match &params.stream {
        Some(_) => None,
        None => Some(choose(host, params.snapshot.as_ref(), foreign).await?),
    };
    if let Some(snapshot) = snapshot.as_ref().filter(|snapshot| !snapshot.is_readable()) {
        return Err(WireError::new(
            ErrorCode::Snapshot,
            format!("{} is invalid; choose another", snapshot.id),
        ));
    }
    let snapshot = snapshot.map(|snapshot| snapshot.id);
    let facts = match &params.stream {
        Some(name) => Some(survey(host, None, foreign, Some(name)).await?),
        None => None,
    };
    let id = OfferId::generate();
    let job = JobId::generate();
    let token = Token::generate();
    let private = Private {
        token: Secret::new(token.expose()),
        identity: match params.plain {
            true => None,
            false => Some(Secret::new(Identity::generate()?.expose())),
        },
        // Through the object store nobody needs to reach it.
        listen: match &store {
            Some(_) => SocketAddr::from(([127, 0, 0, 1], 0)),
            None => host.config.seed.listen,
        },
    };
    probe::end(host).await;
    let job_params = Params {
        offer: id,
        recipient: params.recipient.clone(),
        snapshot: snapshot.clone(),
        foreign: params.foreign,
        stream: params.stream.clone(),
        plain: params.plain,
        store_window: store.as_ref().map(|store| store.window_bytes),
    };
    let (tell, told) = tokio::sync::oneshot::channel();
    host.offers.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(job, tell);
    let writing = Arc::clone(host);
    let begun = super::begin_with(host, job, "seed.offer", json!(job_params), origin, move || {
        private.save(&writing, job)
    })
    .await?;
    let served = await_served(host, begun.job, told).await?;
    let facts = match facts {
        Some(facts) => facts,
        None => survey(host, snapshot.as_ref(), foreign, None).await?,
    };
    Ok(Offer {
        id,
        job,
        recipient: params.recipient,
        addresses: if store.is_some() { Vec::new() } else { addresses(host, served.address) },
        store,
        fingerprint: served.fingerprint,
        token: Secret::new(token.expose()),
        expires_at: Timestamp::now()
            .checked_add(SignedDuration::from_secs(i64::try_from(host.config.seed.offer_s).unwrap_or(600)))
            .unwrap_or(Timestamp::MAX),
        facts,
    })
}

async fn await_served(
    host: &Arc<Host>,
    job: JobId,
    told: tokio::sync::oneshot::Receiver<Served>,
) -> Result<Served, WireError> {
    let ended = async {
        match host.runner.handle(job) {
            Some(handle) => handle.ending().await,
            None => Ending::Parked,
        }
    };
    let outcome = tokio::select! {
        served = told => served.ok(),
        _ = ended => None,
        () = tokio::time::sleep(OPEN_LIMIT) => None,
    };
    host.offers.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&job);
    if let Some(served) = outcome {
        return Ok(served);
    }
    let _ = host.runner.abort(job, "it did not open in time").await;
    let shown = view::show(host, job).await?;
    Err(shown.error.unwrap_or_else(|| WireError::new(ErrorCode::TimedOut, "the offer did not open in time")))
}

/// `seed.release`: gives an offer up; no error when it has ended by itself.
pub(crate) async fn release(host: &Host, offer: OfferId, actor: &str) -> Result<Empty, WireError> {
    let job = host.offers.jobs.lock().unwrap_or_else(PoisonError::into_inner).get(&offer).copied();
    let Some(job) = job else { return Ok(Empty {}) };
    match host.runner.abort(job, format!("released by {actor}")).await {
        Ok(_) | Err(job::AbortError::Finished(_) | job::AbortError::Unknown(_)) => Ok(Empty {}),
        Err(error) => Err(error.into()),
    }
}

/// Where recipients reach it: the configured names, else the host's own, with the port that it listens on.
pub(crate) fn addresses(host: &Host, listening: SocketAddr) -> Vec<String> {
    let port = listening.port();
    if !host.config.seed.advertise.is_empty() {
        return host.config.seed.advertise.iter().map(|name| format!("{name}:{port}")).collect();
    }
    if listening.ip().is_unspecified() {
        let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        return name.map(|name| format!("{name}:{port}")).into_iter().collect();
    }
    vec![listening.to_string()]
}

impl Private {
    fn path(host: &Host, job: JobId) -> PathBuf {
        host.config.agent.state_dir.join("offers").join(format!("{job}.json"))
    }

    fn save(&self, host: &Host, job: JobId) -> Result<(), WireError> {
        let path = Self::path(host, job);
        let text = serde_json::to_vec(self)
            .map_err(|e| WireError::caused(ErrorCode::Internal, "the offer cannot be written", &e))?;
        crashsafe::write(&path, &text, 0o600)
            .map_err(|e| crate::errors::system("the offer cannot be kept", &e))
    }

    fn load(host: &Host, job: JobId) -> Result<Self, WireError> {
        let path = Self::path(host, job);
        let text = fs::read(&path)
            .map_err(|e| crate::errors::system(format!("cannot read {}", path.display()), &e))?;
        serde_json::from_slice(&text)
            .map_err(|e| WireError::caused(ErrorCode::Internal, "the offer's private file is damaged", &e))
    }

    /// Remembers the port, so that the offer is found at the same place after a restart.
    fn listening(&self, host: &Host, job: JobId, address: SocketAddr) -> Result<(), WireError> {
        Self { token: self.token.clone(), identity: self.identity.clone(), listen: address }.save(host, job)
    }

    fn forget(host: &Host, job: JobId) {
        let _ = crashsafe::remove_file(&Self::path(host, job));
    }
}
