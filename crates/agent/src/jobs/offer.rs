//! The donor's side of a seed: a snapshot mounted, held and served to one recipient.
//!
//! Token, certificate and port lie in a private file beside the journal, so that after a restart the agent serves the
//! very same offer again and the recipient goes on where it was.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use job::{Ending, Steps, crashsafe};
use protocol::command::Call as _;
use protocol::error::{ErrorCode, WireError};
use protocol::ids::{AgentId, JobId, OfferId, SnapshotId};
use protocol::mysql::ServerState;
use protocol::params::{Empty, SeedOfferParams};
use protocol::seed::{DonorFacts, Offer, Secret, StoreOffer, Transport};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use transfer::{Identity, Token};

mod given;
mod health;
mod left_out;
mod serve;
mod stream;

pub(crate) use left_out::clone_policy;

use super::kind::Kind;
use super::{Origin, begin_with, store};
use crate::admission::{Claim, Claims, Resource};
use crate::errors::error_of;
use crate::host::Host;
use crate::owned::{Foreign, choose};
use crate::seal::Envelope;
use crate::state::offers::Served;

/// A recipient is told an address within this time or the offer has failed; mounting may replay a log.
const OPEN_LIMIT: Duration = Duration::from_secs(60);

/// Parameters of the job; the secrets are not among them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Params {
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

/// The job behind `seed.offer`.
pub(crate) struct Give;

impl Kind for Give {
    type Params = Params;
    const NAME: &'static str = SeedOfferParams::SPEC.name;

    fn claims(params: &Params) -> Claims {
        match params.store_window {
            Some(_) => &[(Resource::Seed, Claim::Shared), (Resource::Bucket, Claim::Alone)],
            None => &[(Resource::Seed, Claim::Shared)],
        }
    }

    fn summary(params: &Params) -> String {
        let source = match (&params.stream, &params.snapshot) {
            (Some(name), _) => format!("stream {name}"),
            (None, Some(id)) => id.to_string(),
            (None, None) => "?".to_owned(),
        };
        format!("{source} to {}", params.recipient)
    }

    fn holder(params: &Params) -> Option<String> {
        Some(params.offer.to_string())
    }

    fn steps() -> Steps<Host> {
        vec![Arc::new(serve::Hold), Arc::new(serve::Serve), Arc::new(serve::Release)]
    }
}

/// Bytes free where the datadir lies.
async fn free_bytes(datadir: Option<PathBuf>) -> Option<u64> {
    crate::queries::host::free_of(datadir?).await.ok().map(|free| free.available_bytes)
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
        Some(path) => host.instance.disk_usage_now(&path).await.ok(),
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
        data_bytes: usage.as_ref().filter(|_| stream.is_none()).map(|u| u.data_bytes),
        files: usage.as_ref().map_or(0, |u| u.files),
        version: meta.and_then(|meta| meta.server_version.clone()).or(server.version),
        layout: server.layout,
        coordinates: meta.and_then(|meta| meta.coordinates.clone()),
        gives_plain: Some(host.config.seed.allow_plain),
        overloaded: crate::load::overloaded(&load, &host.config.seed.donor_limits),
        load,
        encrypted_tablespaces: mysql::encryption::encrypted_tablespaces(&host.instance).await.ok(),
        outside: match stream {
            // A backup program takes along what it finds, wherever that lies.
            Some(_) => Some(Vec::new()),
            None => mysql::outside::tablespaces_outside(&host.instance).await.ok(),
        },
        free_bytes: free_bytes(server.datadir.clone()).await,
        volatile: volatile(server.datadir).await,
        stream: stream.map(str::to_owned),
        addresses: Vec::new(),
        snapshot,
    })
}

async fn volatile(datadir: Option<PathBuf>) -> Option<Vec<String>> {
    let datadir = datadir?;
    let looked = tokio::task::spawn_blocking(move || mysql::volatile::memory_tables(&datadir)).await;
    looked.ok().and_then(Result::ok)
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
    let foreign = Foreign::allowed(params.foreign);
    let store = admit(host, &params)?;
    let envelope = Envelope::of(&host.config, &host.id, &params)?;
    let snapshot = pick(host, &params).await?;
    let facts = match &params.stream {
        Some(name) => Some(survey(host, None, foreign, Some(name)).await?),
        None => None,
    };
    let id = OfferId::generate();
    let job = JobId::generate();
    let token = Token::generate();
    let private = Private::new(host, &token, &params, store.as_ref())?;
    host.probe.end().await;
    let job_params = Params {
        offer: id,
        recipient: params.recipient.clone(),
        snapshot: snapshot.clone(),
        foreign: params.foreign,
        stream: params.stream.clone(),
        plain: params.plain,
        store_window: store.as_ref().map(|store| store.window_bytes),
    };
    let served = serve(host, job, job_params, origin, private).await?;
    let facts = match facts {
        Some(facts) => facts,
        None => survey(host, snapshot.as_ref(), foreign, None).await?,
    };
    let (token, sealed_by) = envelope.put(&token.expose())?;
    Ok(Offer {
        id,
        job,
        recipient: params.recipient,
        addresses: if store.is_some() { Vec::new() } else { addresses(host, served.address) },
        store: store.map(Box::new),
        fingerprint: served.fingerprint,
        token,
        sealed_by,
        expires_at: Timestamp::now()
            .checked_add(SignedDuration::from_secs(i64::try_from(host.config.seed.offer_s).unwrap_or(600)))
            .unwrap_or(Timestamp::MAX),
        facts,
    })
}

/// Refuses what this donor does not do; the store's part where the data go through it.
fn admit(host: &Host, params: &SeedOfferParams) -> Result<Option<StoreOffer>, WireError> {
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
    match (params.transport, &params.stream) {
        (Transport::Store, Some(_)) => {
            let text = "streams travel over direct TCP only: open the way, or seed from a snapshot";
            Err(WireError::new(ErrorCode::Refused, text))
        }
        (Transport::Store, None) => store::offer(host, params.plain).map(Some),
        (Transport::Tcp | Transport::Auto, _) => Ok(None),
    }
}

/// The snapshot to give, none for a stream.
async fn pick(host: &Host, params: &SeedOfferParams) -> Result<Option<SnapshotId>, WireError> {
    if params.stream.is_some() {
        return Ok(None);
    }
    let snapshot = choose(host, params.snapshot.as_ref(), Foreign::allowed(params.foreign)).await?;
    if !snapshot.is_readable() {
        return Err(WireError::new(
            ErrorCode::Snapshot,
            format!("{} is invalid; choose another", snapshot.id),
        ));
    }
    Ok(Some(snapshot.id))
}

/// Begins the job and waits until recipients may connect.
async fn serve(
    host: &Arc<Host>,
    job: JobId,
    params: Params,
    origin: &Origin,
    private: Private,
) -> Result<Served, WireError> {
    let told = host.offers.wait(job);
    let writing = Arc::clone(host);
    let begun = begin_with::<Give>(host, job, params, origin, move || private.save(&writing, job)).await;
    let served = match begun {
        Ok(begun) => await_served(host, begun.job, told).await,
        Err(error) => Err(error),
    };
    host.offers.wait_no_more(job);
    served
}

async fn await_served(
    host: &Arc<Host>,
    job: JobId,
    told: oneshot::Receiver<Served>,
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
    if let Some(served) = outcome {
        return Ok(served);
    }
    let _ = host.runner.abort(job, "it did not open in time").await;
    let state = host.runner.show(job).await?.history.state();
    Err(error_of(&state)
        .unwrap_or_else(|| WireError::new(ErrorCode::TimedOut, "the offer did not open in time")))
}

/// `seed.release`: gives an offer up; no error when it has ended by itself.
pub(crate) async fn release(host: &Host, offer: OfferId, actor: &str) -> Result<Empty, WireError> {
    let Some(job) = host.offers.job_of(offer) else { return Ok(Empty {}) };
    match host.runner.abort(job, format!("released by {actor}")).await {
        Ok(_) | Err(job::AbortError::Finished(_) | job::AbortError::Unknown(_)) => Ok(Empty {}),
        Err(error) => Err(error.into()),
    }
}

/// Tells who opened the offer where it listens.
fn tell_open(host: &Host, job: JobId, address: SocketAddr, fingerprint: Option<transfer::Fingerprint>) {
    let served = Served { address, fingerprint: fingerprint.map(|f| f.to_string()) };
    host.offers.tell(job, served);
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
    fn new(
        host: &Host,
        token: &Token,
        params: &SeedOfferParams,
        store: Option<&StoreOffer>,
    ) -> Result<Self, WireError> {
        let identity = match params.plain {
            true => None,
            false => Some(Secret::new(Identity::generate()?.expose())),
        };
        // Through the object store nobody needs to reach it.
        let listen = match store {
            Some(_) => SocketAddr::from(([127, 0, 0, 1], 0)),
            None => host.config.seed.listen,
        };
        Ok(Self { token: Secret::new(token.expose()), identity, listen })
    }

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
