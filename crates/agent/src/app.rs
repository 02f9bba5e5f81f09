//! The only place where the parts are wired together.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use anyhow::Context as _;
use bus::outbox::{EventSource, OutboxLimits};
use bus::{Authority, Bus, Outbox, ReplyCache, ServeConfig};
use jiff::Timestamp;
use job::{Inject, Options, Recovery, Runner, StepError, crashsafe};
use mysql::Instance;
use protocol::error::ErrorCode;
use protocol::event::{AgentDuplicate, AgentStarted, AgentStopped, EventData};
use protocol::heartbeat::Heartbeat;
use protocol::ids::{AgentId, BootId};
use snapshot::MountTable;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trace::Traces;
use transfer::Throttle;

use crate::config::{Config, Live};
use crate::handler::AgentHandler;
use crate::host::{Host, Looked, Snapshots, chain};
use crate::keys::Keys;
use crate::publish::{self, Ended, ProgressQueue, Publisher};
use crate::reload::{self, Reload};
use crate::state::readings::Readings;
use crate::state::runs::Runs;
use crate::state::seen::Seen;
use crate::{guardian, jobs, observe, prune, queries, schedule, spans, supervised};

/// Faults on purpose for tests with real processes; see `job::inject`.
const FAULT_VARIABLE: &str = "OA_FAULT";
/// Events that the bus has not taken yet get this long at the end; they stay on disk all the same.
const LAST_EVENTS: Duration = Duration::from_secs(3);
/// Spans that no collector has taken yet get this long, and are lost then.
const LAST_SPANS: Duration = Duration::from_secs(2);
/// A look at the host, or its tidying, may wait for a file system that does not answer; the agent does not.
const LAST_LOOKS: Duration = Duration::from_secs(5);

/// Runs the agent until `shutdown`.
pub(crate) async fn run(config: Config, reload: Reload, shutdown: CancellationToken) -> anyhow::Result<()> {
    let id = agent_id(&config)?;
    let state_dir = config.agent.state_dir.clone();
    make_state_dir(&state_dir)?;
    let source =
        EventSource { agent: id.clone(), cluster: config.agent.cluster.clone(), dc: config.agent.dc.clone() };
    let outbox = Outbox::open(&state_dir.join("events"), source, OutboxLimits::default())
        .context("the spool of events cannot be used")?;
    let (publisher, progress, ended) = Publisher::new(outbox.clone());
    let inject: Inject = match std::env::var(FAULT_VARIABLE) {
        Ok(faults) => faults.parse().with_context(|| format!("{FAULT_VARIABLE} is not valid"))?,
        Err(_) => Inject::default(),
    };
    let options = Options { observer: Some(publisher.clone()), inject, ..Options::default() };
    let runner = Runner::open(&state_dir.join("jobs"), options).context("the journals cannot be used")?;
    let replies = ReplyCache::open(&state_dir.join("replies"), bus::dedupe::CacheLimits::default())
        .context("the cache of replies cannot be used")?;
    let authority = Arc::new(Authority::new(config.auth.clone())?);
    let bus = Bus::connect(&config.bus, &format!("orchestrator-agent {id}")).await?;

    let runs = Runs::open(state_dir.join("on-snapshot.json"))
        .context("what runs on snapshots cannot be read (on-snapshot.json)")?;

    let (looks, asked) = mpsc::unbounded_channel();
    let keys = Keys::open_or_make(&config.agent.state_dir)?;
    let traces = open_traces(&config, &id).context("spans cannot be sent")?;
    let host = make_host(config, (id, keys), runner, outbox, (bus, traces), runs, looks);
    tracing::info!(agent = %host.id, boot = %host.boot, version = env!("CARGO_PKG_VERSION"), "agent starts");
    if host.config.auth.accept_unsigned {
        tracing::warn!("unsigned commands are accepted (auth.accept_unsigned): for trying things out only");
    }
    observe::look(&host).await;
    resume(&host, &publisher).await?;
    tokio::spawn(reload::run(Arc::clone(&host), Arc::clone(&authority), reload, shutdown.clone()));
    serve(host, authority, Arc::new(replies), Queues { progress, asked, ended }, shutdown).await
}

/// What background tasks are fed by.
struct Queues {
    progress: ProgressQueue,
    asked: mpsc::UnboundedReceiver<Looked>,
    ended: Ended,
}

/// Serves until `shutdown`, then ends in good order: commands finish, jobs are parked, events are sent.
async fn serve(
    host: Arc<Host>,
    authority: Arc<Authority>,
    replies: Arc<ReplyCache>,
    queues: Queues,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let handler = Arc::new(AgentHandler::new(Arc::clone(&host)));
    let sending = CancellationToken::new();
    let sender = host.outbox.spawn_sender(host.bus.clone(), sending.clone());
    let tasks = TaskTracker::new();
    tasks.spawn(publish::ensure_stream(
        host.bus.clone(),
        host.id.clone(),
        host.config.events.limits(),
        shutdown.clone(),
    ));
    tasks.spawn(observe::run(Arc::clone(&host), queues.asked, shutdown.clone()));
    tasks.spawn(prune::run(Arc::clone(&host), shutdown.clone()));
    tasks.spawn(guardian::run(Arc::clone(&host), shutdown.clone()));
    tasks.spawn(schedule::run(Arc::clone(&host), shutdown.clone()));
    tasks.spawn(jobs::store::sweep_for_ever(Arc::clone(&host), shutdown.clone()));
    tasks.spawn(jobs::seed::undo::sweep(Arc::clone(&host), shutdown.clone()));
    // Of what ends by then it tells before the last spans are sent.
    let parked = CancellationToken::new();
    let telling =
        tasks.spawn(spans::run(queues.ended, host.runner.clone(), host.traces.clone(), parked.clone()));
    tasks.spawn(publish::send_progress(queues.progress, host.bus.clone(), host.id.clone(), shutdown.clone()));
    let beating = {
        let handler = Arc::clone(&handler);
        let interval = Duration::from_secs_f64(host.config.agent.heartbeat_s);
        let make = move || bus::Handler::heartbeat(handler.as_ref());
        bus::heartbeat::spawn(host.bus.clone(), host.id.clone(), interval, make, shutdown.clone())
    };
    let doubled = Arc::clone(&host);
    let tell = move |other| tell_of_double(&doubled, &other);
    bus::heartbeat::watch_for_doubles(host.bus.clone(), host.id.clone(), host.boot, tell, shutdown.clone());
    let serving = bus::serve(
        host.bus.clone(),
        ServeConfig { signer: Some(Arc::clone(&host.keys.reply)), ..ServeConfig::new(host.id.clone()) },
        handler,
        authority,
        replies,
        shutdown.clone(),
    );
    tasks.spawn(supervised::live(shutdown.clone()));
    supervised::ready();
    let served = serving.await;
    supervised::stopping();
    if let Err(error) = &served {
        tracing::error!(error = %chain(error), "serving commands failed");
    }
    shutdown.cancel();
    host.runner.park().await;
    parked.cancel();
    say_farewell(&host, telling).await;
    sending.cancel();
    tasks.close();
    let ended = async { tokio::join!(tasks.wait(), sender, beating) };
    if tokio::time::timeout(LAST_LOOKS, ended).await.is_err() {
        tracing::warn!(
            "work on this host does not end and is left to the next start; does one of its file systems not answer?"
        );
    }
    host.bus.close(Duration::from_secs(2)).await;
    tracing::info!("agent stopped");
    served.context("the agent cannot serve commands")
}

/// Tells that the agent ends, and gives the bus and a collector of spans some time for what they have not taken yet.
async fn say_farewell(host: &Host, last_jobs: JoinHandle<()>) {
    let stopped = EventData::AgentStopped(AgentStopped { reason: "shutdown".to_owned() });
    if let Err(error) = host.outbox.publish(stopped).await {
        tracing::warn!(error = %chain(&error), "the last event could not be spooled");
    }
    let spans = async {
        let _ = tokio::time::timeout(LAST_SPANS, last_jobs).await;
        host.traces.end(LAST_SPANS).await;
    };
    tokio::join!(host.outbox.flush(LAST_EVENTS), spans);
}

/// Another process speaks in this agent's name: commands reach either of the two.
fn tell_of_double(host: &Arc<Host>, other: &Heartbeat) {
    tracing::warn!(
        agent = %host.id,
        boot = %host.boot,
        other_boot = %other.boot,
        other_started_at = %other.started_at,
        other_cluster = other.cluster,
        other_dc = other.dc,
        "another process speaks as this agent, and commands reach either of the two: give each host an agent.id and a key of its own"
    );
    let event = EventData::AgentDuplicate(AgentDuplicate {
        boot: host.boot,
        other_boot: other.boot,
        other_started_at: other.started_at,
        other_cluster: other.cluster.clone(),
        other_dc: other.dc.clone(),
    });
    let host = Arc::clone(host);
    tokio::task::spawn_blocking(move || host.emit(event));
}

/// The agent's name: the configured one, else the host's.
///
/// # Errors
/// The host's name is none.
pub(crate) fn agent_id(config: &Config) -> anyhow::Result<AgentId> {
    if let Some(id) = &config.agent.id {
        return Ok(id.clone());
    }
    let name = nix::unistd::gethostname().context("the host's name is not known: set agent.id")?;
    name.to_string_lossy().parse().context("the host's name is no agent id: set agent.id")
}

fn open_traces(config: &Config, id: &AgentId) -> Result<Traces, trace::TraceError> {
    let agent = &config.agent;
    let service = trace::Service {
        name: "orchestrator-agent",
        version: env!("CARGO_PKG_VERSION"),
        instance: id.to_string(),
        notes: vec![("orchestrator.cluster", agent.cluster.clone()), ("orchestrator.dc", agent.dc.clone())],
    };
    Traces::open(&config.trace, service)
}

fn make_state_dir(state_dir: &Path) -> anyhow::Result<()> {
    if !state_dir.exists() {
        if let Some(parent) = state_dir.parent() {
            std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        }
        crashsafe::create_dir(state_dir, 0o700).with_context(|| {
            format!("the state directory {} cannot be made (agent.state_dir)", state_dir.display())
        })?;
    }
    let meta = std::fs::metadata(state_dir)
        .with_context(|| format!("cannot look at {} (agent.state_dir)", state_dir.display()))?;
    let me = nix::unistd::geteuid().as_raw();
    // Journals say what is done next: who could write them would act with the agent's rights.
    anyhow::ensure!(
        meta.is_dir() && meta.uid() == me && meta.mode() & 0o022 == 0,
        "{} (agent.state_dir) must be a directory of user {me} that nobody else may write to; it belongs to user {}, mode {:o}: \
         look at who made it, then chown and chmod 0700 it",
        state_dir.display(),
        meta.uid(),
        meta.mode() & 0o7777
    );
    for part in ["events", "jobs", "offers", "outputs", "seeds", "kept"] {
        let dir = state_dir.join(part);
        if !dir.exists() {
            crashsafe::create_dir(&dir, 0o700).with_context(|| format!("cannot make {}", dir.display()))?;
        }
    }
    Ok(())
}

fn make_host(
    config: Config,
    (id, keys): (AgentId, Keys),
    runner: Runner,
    outbox: Outbox,
    (bus, traces): (Bus, Traces),
    on_snapshot: Runs,
    looks: mpsc::UnboundedSender<Looked>,
) -> Arc<Host> {
    let snapshots = make_snapshots(&config);
    let capability = snapshots.as_ref().map(|s| s.provider.probe());
    let capabilities = queries::agent::capabilities(capability.as_ref().map_err(|reason| *reason));
    for missing in capabilities.iter().filter(|c| !c.available) {
        tracing::info!(capability = missing.name, reason = missing.reason, "missing on this host");
    }
    Arc::new(Host {
        instance: Instance::new(config.mysql.clone()),
        donor_throttle: Arc::new(Throttle::limited(config.seed.donor_bytes_per_s)),
        config: Live::new(config),
        id,
        boot: BootId::generate(),
        started_at: Timestamp::now(),
        keys,
        snapshots,
        runner,
        outbox,
        bus,
        traces,
        seen: RwLock::new(Arc::new(Seen::nothing())),
        capabilities,
        admitted: tokio::sync::Mutex::default(),
        throttles: Default::default(),
        offers: Default::default(),
        on_snapshot,
        probe: Default::default(),
        log_bytes: Readings::default(),
        log_text: Readings::default(),
        // An earlier run may have left it.
        bucket_left: tokio::sync::Mutex::new(true),
        acting: Default::default(),
        doomed: Arc::default(),
        look: tokio::sync::Notify::new(),
        looks,
        kept: tokio::sync::Notify::new(),
    })
}

/// What makes snapshots by this configuration, or why nothing does.
pub(crate) fn provider(config: &Config) -> Result<Arc<dyn snapshot::Provider>, String> {
    let Some(provider) = &config.snapshot.provider else {
        return Err("no snapshot.provider is configured".to_owned());
    };
    let state_dir = config.agent.state_dir.join("snapshots");
    snapshot::registry::build(provider, &state_dir).map(Arc::from).map_err(|e| chain(&e))
}

fn make_snapshots(config: &Config) -> Result<Snapshots, String> {
    let provider = provider(config)?;
    let state_file = config.agent.state_dir.join("mounts.json");
    let mounts = MountTable::open(provider.clone(), &config.snapshot.mount_root, &state_file)
        .map_err(|e| chain(&e))?;
    Ok(Snapshots { provider, mounts })
}

/// Private servers outlive an agent that was killed: they hold snapshots and staged trees that jobs go on with.
async fn end_private_servers(host: &Host) {
    for root in [host.private_root(), PathBuf::from(mysql::sandbox::RUN_ROOT)] {
        let reaped = tokio::task::spawn_blocking(move || mysql::sandbox::reap_leftovers(&root, None)).await;
        match reaped {
            Ok(Ok(0)) => {}
            Ok(Ok(ended)) => tracing::warn!(ended, "private servers of an earlier agent were ended"),
            Ok(Err(error)) => {
                tracing::error!(error = %chain(&error), "a private server of an earlier agent stays");
            }
            Err(error) => tracing::error!(%error, "private servers of an earlier agent were not looked for"),
        }
    }
}

/// Goes on with the jobs of an earlier run, and frees what no job holds any more.
async fn resume(host: &Arc<Host>, publisher: &Publisher) -> anyhow::Result<()> {
    end_private_servers(host).await;
    let Recovery { unfinished, broken } =
        host.runner.recover().await.context("the journals cannot be read")?;
    let mut lost: Vec<String> = Vec::new();
    for journal in broken {
        lost.extend(journal.path.file_name().map(|job| job.to_string_lossy().into_owned()));
        tracing::error!(path = %journal.path.display(), error = %chain(&journal.error), "a journal cannot be used and is left alone");
    }
    if let Err(error) = publisher.tell_missed(&host.runner).await {
        tracing::warn!(error = %chain(&error), "whether events of jobs are missing cannot be told");
    }
    let alive: Vec<String> = unfinished.iter().map(|job| job.spec.id.to_string()).collect();
    let about = |job: &job::Recovered| jobs::table::about(&job.spec.kind, &job.spec.params);
    let offers: Vec<String> = unfinished.iter().filter_map(|job| about(job).holder).collect();
    let (keeping, holders) = (Arc::clone(host), alive.clone());
    free_mounts(host, move |holder| {
        holder == "operator"
            || keeping.on_snapshot.has_holder(holder)
            || holders.iter().chain(&offers).any(|id| holder.contains(id.as_str()))
    })
    .await;
    tell_leftovers(host, &unfinished);
    jobs::service::release_forgotten(host, &alive, &lost).await;
    let mut resumed = Vec::new();
    for job in unfinished {
        publisher.remember(&job.spec);
        match jobs::table::resume(host, &job.spec).await {
            Ok(()) => resumed.push(job.spec.id),
            Err(error) => {
                tracing::error!(job = %job.spec.id, %error, "a job of an earlier run cannot go on");
                let why =
                    StepError::new(ErrorCode::Internal, format!("it cannot go on after a restart: {error}"));
                let _ = host.runner.give_up(job.spec.id, why).await;
            }
        }
    }
    let started = AgentStarted { version: env!("CARGO_PKG_VERSION").to_owned(), jobs_resumed: resumed };
    host.outbox
        .publish(EventData::AgentStarted(started))
        .await
        .context("the first event cannot be spooled")?;
    Ok(())
}

/// What an earlier seed left beside the datadir may be someone's only copy of the old data: told, never removed.
fn tell_leftovers(host: &Host, unfinished: &[job::Recovered]) {
    let Some(datadir) = host.seen().server.datadir.clone() else { return };
    for (path, job) in jobs::seed::swap::leftovers(&datadir) {
        let known =
            unfinished.iter().any(|known| known.spec.id == job) || jobs::seed::undo::is_kept(host, job);
        if !known {
            tracing::warn!(path = %path.display(), %job, "left by a seed that has ended; look whether it is needed, then remove it");
        }
    }
}

async fn free_mounts(host: &Arc<Host>, is_alive: impl Fn(&str) -> bool + Send + 'static) {
    let Ok(snapshots) = host.snapshots.as_ref().cloned() else { return };
    let id = host.id.clone();
    let freed = tokio::task::spawn_blocking(move || {
        // Half-made snapshots first: nothing of them may be mounted.
        if let Err(error) = snapshots.provider.sweep(&id) {
            tracing::warn!(error = %chain(&error), "half-made snapshots cannot be removed");
        }
        snapshots.mounts.recover(&is_alive)
    })
    .await;
    match freed {
        Ok(Ok(paths)) => {
            for path in paths {
                tracing::info!(path = %path.display(), "a mount that nobody holds any more was released");
            }
        }
        Ok(Err(error)) => tracing::warn!(error = %chain(&error), "leftover mounts cannot be released"),
        Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, chown};

    use super::*;

    #[test]
    fn a_state_directory_of_somebody_else_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = dir.path().join("state");
        make_state_dir(&state_dir).unwrap();
        make_state_dir(&state_dir).unwrap();
        let mode =
            |mode| std::fs::set_permissions(&state_dir, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o777);
        assert!(make_state_dir(&state_dir).is_err(), "anybody writes there");
        mode(0o700);
        if !nix::unistd::geteuid().is_root() {
            testkit::skip!("only root can give a directory away");
        }
        chown(&state_dir, Some(65_534), None).unwrap();
        let error = make_state_dir(&state_dir).unwrap_err().to_string();
        assert!(error.contains("it belongs to user 65534"), "{error}");
    }
}
