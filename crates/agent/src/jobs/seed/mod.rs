//! The recipient's side of a seed: plan, begin, and the stages as steps of one job.

mod base;
pub(crate) mod facts;
mod guards;
mod notes;
mod outside;
pub(crate) mod plan;
mod stages;
mod stream;
pub(crate) mod swap;
pub(crate) mod undo;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use job::{Scope, StepError, Steps, crashsafe};
use mysql::datadir::Ownership;
use protocol::command::Call as _;
use protocol::error::{ErrorCode, WireError};
use protocol::ids::{AgentId, JobId, SnapshotId};
use protocol::job::JobAccepted;
use protocol::mysql::{ServerInfo, ServerState};
use protocol::params::SeedStartParams;
use protocol::seed::{DonorFacts, Secret, SeedOptions, SeedPlan, Silence, TransferProgress, Transport};
use serde::{Deserialize, Serialize};

use super::kind::Kind;
use super::{Origin, begin_with, probe};
use crate::admission::{Claim, Claims, Resource, Running};
use crate::errors::system;
use crate::host::Host;
use crate::usage::InUse;
use facts::{Reach, RecipientFacts, SourceSays};
pub(crate) use notes::Transferred;
use stages::replicate;
use swap::Layout;

/// A source that does not answer within this time would not serve a replica either.
const SOURCE_LIMIT: Duration = Duration::from_secs(5);
/// A donor that is alive says so every second: one that has said nothing for so many may be dead, and that is told.
const SILENCE_S: u64 = 3;
/// Below the seed's private directory: the recipient's own files, while `--replace` has removed its datadir.
const OWN: &str = "own";

/// `seed.start`.
pub(crate) struct Start;

impl Kind for Start {
    type Params = SeedStartParams;
    const NAME: &'static str = SeedStartParams::SPEC.name;

    fn claims(_: &SeedStartParams) -> Claims {
        &[
            (Resource::Service, Claim::Alone),
            (Resource::Datadir, Claim::Alone),
            (Resource::Seed, Claim::Alone),
        ]
    }

    fn summary(params: &SeedStartParams) -> String {
        let facts = &params.offer.facts;
        let source = match (&facts.stream, &facts.snapshot) {
            (Some(name), _) => format!("stream {name}"),
            (None, Some(snapshot)) => snapshot.id.to_string(),
            (None, None) => "?".to_owned(),
        };
        format!("{} → {} from {source}", facts.agent, params.offer.recipient)
    }

    fn donor(params: &SeedStartParams) -> Option<AgentId> {
        Some(params.offer.facts.agent.clone())
    }

    fn steps() -> Steps<Host> {
        stages::steps()
    }
}

/// `seed.plan`.
pub(crate) async fn plan_here(host: &Host, donor: &DonorFacts, options: &SeedOptions) -> SeedPlan {
    let mut me = facts(host, donor, options, None).await;
    me.reach = probe::reach(&donor.addresses).await;
    SeedPlan { seal_key: Some(host.keys.seal.public()), ..plan::plan(donor, &me, options) }
}

/// `seed.start`: refuses in the reply what the first stage would refuse.
pub(crate) async fn begin(
    host: &Arc<Host>,
    params: SeedStartParams,
    origin: &Origin,
) -> Result<JobAccepted, WireError> {
    if params.offer.recipient != host.id {
        return Err(WireError::new(
            ErrorCode::Refused,
            format!("the offer was made for {}, this is {}", params.offer.recipient, host.id),
        ));
    }
    if params.offer.fingerprint.is_none() && !host.config.seed.allow_plain {
        return Err(WireError::new(
            ErrorCode::Refused,
            format!(
                "{} takes no seeds without TLS; seed.allow_plain in its configuration allows it",
                host.id
            ),
        ));
    }
    if let Some(job) = host.admitted.lock().await.of_request(origin.request) {
        return Ok(JobAccepted { job });
    }
    admit_way(&params)?;
    admit_plan(host, &params, None).await?;
    let job = JobId::generate();
    let token = match &params.offer.sealed_by {
        Some(by) => host.keys.seal.open(&params.offer.token, by)?,
        None => params.offer.token.clone(),
    };
    let mut kept = params;
    kept.offer.token = Secret::new(String::new());
    let writing = Arc::clone(host);
    begin_with::<Start>(host, job, kept, origin, move || keep_token(&writing, job, &token)).await
}

/// Refuses an offer of another transport than the one that was asked for.
fn admit_way(params: &SeedStartParams) -> Result<(), WireError> {
    let wrong = match (params.options.transport, &params.offer.store) {
        (Transport::Store, None) => "the offer is for direct TCP",
        (Transport::Tcp, Some(_)) => "the offer is for the object store",
        (_, Some(_)) if params.offer.fingerprint.is_none() => {
            "through the object store data travel only encrypted"
        }
        _ => return Ok(()),
    };
    Err(WireError::new(ErrorCode::BadRequest, format!("{wrong}: ask the donor for another")))
}

/// Makes the plan and refuses when a guard does or when it is not the one that was looked at.
async fn admit_plan(
    host: &Host,
    params: &SeedStartParams,
    own: Option<JobId>,
) -> Result<SeedPlan, WireError> {
    let donor = &params.offer.facts;
    let mut me = facts(host, donor, &params.options, own).await;
    let mut options = params.options.clone();
    if params.offer.store.is_some() {
        options.transport = Transport::Store;
    } else {
        options.transport = Transport::Tcp;
        if own.is_none() {
            me.reach = heed_expiry(probe::reach(&params.offer.addresses).await, params.offer.expires_at);
        }
    }
    let mut plan = plan::plan(donor, &me, &options);
    plan.digest = plan::digest(&plan, donor, &me, &params.options);
    let refusals: Vec<String> = plan.refusals().map(|g| g.message.clone()).collect();
    if let Some(first) = plan.refusals().next() {
        let mut error = WireError::new(ErrorCode::Refused, refusals.join("; "));
        error.guard = serde_json::to_value(first.guard).ok().and_then(|g| g.as_str().map(str::to_owned));
        return Err(error);
    }
    match &params.plan_digest {
        Some(digest) if *digest != plan.digest => Err(WireError::new(
            ErrorCode::PlanChanged,
            format!("the plan no longer holds on {}: look at a new one (seed plan) and start that", host.id),
        )),
        _ => Ok(plan),
    }
}

/// An offer that nobody came for is closed: a refused connection alone would send a person to look for a firewall.
fn heed_expiry(reach: Reach, expires_at: Timestamp) -> Reach {
    match reach {
        Reach::Failed(why) if expires_at < Timestamp::now() => {
            Reach::Failed(format!("{why}; its offer lapsed at {expires_at}, so ask for a new one"))
        }
        reach => reach,
    }
}

/// What the recipient knows of itself now; `own` is the seed that asks.
async fn facts(host: &Host, donor: &DonorFacts, options: &SeedOptions, own: Option<JobId>) -> RecipientFacts {
    let server = host.instance.info().await;
    let datadir = server.datadir.clone();
    let place = datadir.clone().and_then(|path| existing(&path));
    let free = place.as_deref().and_then(|path| mysql::usage::disk_free(path).ok());
    let used = match datadir.as_deref().filter(|path| path.exists()) {
        // What is to be removed first counts as free: an old figure could promise too much.
        Some(path) if options.replace => counted(path).await,
        Some(path) => host.instance.disk_usage(path).await.map_or(0, |usage| usage.allocated_bytes),
        None => 0,
    };
    let settings = host.instance.settings().await;
    let running = host.admitted.lock().await.running(&host.runner);
    let takes_part = |job: &&Running| job.claims.contains(&(Resource::Seed, Claim::Alone));
    let other_seed = running.iter().filter(takes_part).find(|job| Some(job.id) != own);
    let other_seed = other_seed.map(|job| format!("{} {}", job.kind, job.id));
    RecipientFacts {
        agent: host.id.clone(),
        cluster: host.config.agent.cluster.clone(),
        machine_id: super::offer::machine_id(),
        unit: host.instance.unit_facts().await.ok().flatten(),
        datadir_identity: datadir.as_deref().and_then(super::offer::datadir_identity),
        datadir_problem: super::on_snapshot::covered(host)
            .or_else(|| datadir.as_deref().and_then(datadir_problem)),
        datadir_bytes: used,
        free_bytes: free.as_ref().map_or(0, |f| f.available_bytes),
        free_inodes: free.and_then(|f| f.available_inodes),
        measured_rate: stages::cleanup::measured_rate(host),
        other_seed,
        takes_plain: host.config.seed.allow_plain,
        relays: host.config.seed.relay,
        base: datadir.as_deref().and_then(|datadir| kept_of(datadir, &donor.agent)),
        in_use: in_use(host, &server).await,
        has_post_copy: !host.config.seed.post_copy.is_empty(),
        key_source: mysql::encryption::key_source(&settings),
        source: ask_source(host, &server, donor, options).await,
        reach: Reach::NotTried,
        server,
    }
}

/// The snapshot of that donor's of which the tree is kept here.
fn kept_of(datadir: &Path, donor: &AgentId) -> Option<SnapshotId> {
    let layout = Layout::of(datadir, JobId::generate()).ok()?;
    base::find(&layout, donor).map(|kept| kept.record.snapshot)
}

/// Whether anybody uses this server, this moment included.
async fn in_use(host: &Host, server: &ServerInfo) -> InUse {
    if server.state == ServerState::Stopped {
        return InUse::No(Duration::ZERO);
    }
    let watched = crate::watch::watch(host, &host.seen(), server).await;
    watched.verdict(Duration::from_secs(host.config.seed.watch_s))
}

/// Bytes below a directory, counted now.
async fn counted(path: &Path) -> u64 {
    let path = path.to_owned();
    let counted = tokio::task::spawn_blocking(move || mysql::usage::walk(&path)).await;
    counted.ok().and_then(Result::ok).map_or(0, |usage| usage.allocated_bytes)
}

/// Asks the server to replicate from, as the replication account, whether it still has what a replica needs.
async fn ask_source(
    host: &Host,
    server: &ServerInfo,
    donor: &DonorFacts,
    options: &SeedOptions,
) -> SourceSays {
    use mysql::history::Availability;
    let Some(from) = &options.replicate_from else { return SourceSays::NotAsked };
    let source = match replicate::source(host, from) {
        Ok(source) => source,
        Err(error) => return SourceSays::Refused(error.message),
    };
    if let Some(why) = hindered(host, donor).await {
        return SourceSays::Refused(why);
    }
    let coordinates = match (donor.coordinates.as_ref().or(donor.at_least()), &donor.stream) {
        (Some(coordinates), _) => coordinates,
        (None, Some(_)) => return SourceSays::Later,
        (None, None) => return SourceSays::Refused(replicate::no_position(donor)),
    };
    let unsaid = source.tls().is_ok_and(|tls| tls.mode == mysql::TlsMode::Unsaid);
    if unsaid && host.instance.replicates_over_tls().await {
        return SourceSays::Refused(
            "this server replicates over TLS now, and would in clear after the seed: say how in [client] of \
             seed.replication_credentials (ssl-mode = REQUIRED or ssl-ca, or ssl-mode = DISABLED)"
                .to_owned(),
        );
    }
    let recorded = replicate::recorded(donor, coordinates);
    match mysql::history::check_source(&source, &recorded, &follower(host, server), SOURCE_LIMIT).await {
        Ok(Availability::Available) => SourceSays::Available,
        Ok(Availability::Unknown(why)) => SourceSays::Unknown(why),
        Ok(Availability::Gone(why)) => SourceSays::Refused(why),
        Err(error) => SourceSays::Refused(format!(
            "{}:{} cannot be asked as a replica would: {}",
            from.host,
            from.port,
            crate::host::chain(&error)
        )),
    }
}

/// Why a replica of these data on this server would lack rows, or have some of its own, whatever its source gives.
async fn hindered(host: &Host, donor: &DonorFacts) -> Option<String> {
    use mysql::history::{Availability, filters, init_file};
    let settings = host.instance.settings().await;
    let takes_filtered = host.config.seed.filtered_replicas;
    let mut options = settings.options.clone();
    // What it was told by `SET PERSIST` stays its own, and counts after its option files.
    let looked = tokio::task::spawn_blocking(move || {
        let datadir = settings.datadir.clone().unwrap_or_default();
        (init_file::check(&settings), mysql::persisted::options(&datadir))
    });
    let (at_each_start, persisted) = match looked.await {
        Ok((at_each_start, persisted)) => (at_each_start, persisted),
        Err(_) => (Availability::Gone("its init-file could not be read".to_owned()), Vec::new()),
    };
    options.add_command_line(persisted.iter().map(String::as_str));
    let found = [
        filters::of_own(&options, takes_filtered),
        filters::of_donor(donor.volatile.as_deref().unwrap_or_default(), takes_filtered),
        at_each_start,
    ];
    let why = found.into_iter().find_map(|found| match found {
        Availability::Gone(why) => Some(why),
        _ => None,
    });
    match why {
        Some(why) => Some(why),
        None => host.instance.open_first_start().await.map(|why| {
            format!("an application could write to MySQL on {} before it is a replica, for {why}", host.id)
        }),
    }
}

/// As what this server would follow a source.
fn follower(host: &Host, server: &ServerInfo) -> mysql::history::Follower {
    mysql::history::Follower {
        // Where no option file of a stopped server says more, it is the default of both vendors.
        server_id: server.server_id.unwrap_or(1),
        server_uuid: server.server_uuid.clone(),
        takes_filtered: host.config.seed.filtered_replicas,
        takes_statements: host.config.seed.statement_sources,
    }
}

/// The path, or the nearest directory above it that is there.
fn existing(path: &Path) -> Option<PathBuf> {
    path.ancestors().find(|p| p.exists()).map(Path::to_owned)
}

/// Why a directory may not be replaced by a seed.
fn datadir_problem(path: &Path) -> Option<String> {
    let shown = path.display();
    if !path.is_absolute() || path.components().count() < 3 {
        return Some(format!("{shown} is too near the root of the file system to be a datadir of its own"));
    }
    let Ok(mut entries) = std::fs::read_dir(path) else {
        let absent = !path.exists() && path.parent().is_some_and(Path::exists);
        return (!absent).then(|| format!("{shown} cannot be read by the agent"));
    };
    let empty = entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == "lost+found"));
    let known = empty || mysql::datadir::looks_like_datadir(path);
    (!known).then(|| format!("{shown} holds something that does not look like a MySQL datadir"))
}

/// What the plan stage found, for the stages after it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Target {
    datadir: PathBuf,
    // Its fields lie beside the others in journals.
    #[serde(flatten)]
    owner: Ownership,
    mode: u32,
    /// MySQL may have been running when the seed began: a seed that is taken back starts it again.
    was_running: bool,
    /// Whether the datadir was a mount point when the seed began; absent in journals of older agents.
    #[serde(default)]
    entrywise: Option<bool>,
    /// What is known of its server; absent in journals of agents that did not look.
    #[serde(default)]
    server: Option<stages::recover::OwnServer>,
}

impl Target {
    fn of(scope: &Scope) -> Result<Self, StepError> {
        scope.output("plan")
    }

    fn layout(&self, job: JobId) -> Result<Layout, StepError> {
        Layout::as_begun(&self.datadir, job, self.entrywise)
            .map_err(|e| StepError::from_error(ErrorCode::System, &e))
    }
}

/// The directory of what this seed keeps on the recipient beside its journal.
fn private_dir(host: &Host, job: JobId) -> PathBuf {
    host.config.agent.state_dir.join("seeds").join(job.to_string())
}

fn keep_token(host: &Host, job: JobId, token: &Secret) -> Result<(), WireError> {
    let dir = private_dir(host, job);
    let keep = || -> Result<(), crashsafe::Error> {
        crashsafe::create_dir(&dir, 0o700)?;
        crashsafe::write(&dir.join("token"), token.expose().as_bytes(), 0o600)
    };
    keep().map_err(|e| system("the offer's token cannot be kept", &e))
}

fn token(host: &Host, job: JobId) -> Result<transfer::Token, StepError> {
    let path = private_dir(host, job).join("token");
    let text =
        std::fs::read_to_string(&path).map_err(|e| system(format!("cannot read {}", path.display()), &e))?;
    text.parse()
        .map_err(|e| StepError::new(ErrorCode::BadRequest, "the offer's token is malformed").caused_by(&e))
}

fn forget(host: &Host, job: JobId) -> Result<(), StepError> {
    let dir = private_dir(host, job);
    match std::fs::remove_dir_all(&dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(system(format!("cannot remove {}", dir.display()), &e).into())
        }
        _ => Ok(()),
    }
}

/// The data plane's counters in the bus's words.
pub(crate) fn progress_of(now: &transfer::ProgressSnapshot) -> TransferProgress {
    TransferProgress {
        bytes_total: now.bytes_total,
        bytes_done: now.bytes_done,
        bytes_moved: now.bytes_done.saturating_sub(now.bytes_resumed),
        files_total: now.files_total,
        files_done: now.files_done,
        bytes_per_s: now.rate_bytes_per_s,
        silence: None,
    }
}

/// As [`progress_of`], and how long the donor has been silent, of which `limit` is the end.
fn taken_of(now: &transfer::ProgressSnapshot, limit: Duration) -> TransferProgress {
    let silent_s = now.silent_ms / 1000;
    let silence = (silent_s >= SILENCE_S).then_some(Silence { silent_s, limit_s: limit.as_secs() });
    TransferProgress { silence, ..progress_of(now) }
}
