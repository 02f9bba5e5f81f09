//! One run of the program: the connection, the person's options, and the calls made through them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bus::client::{Answer, Window};
use bus::config::{Credentials, TlsConfig};
use bus::{Bus, BusConfig, BusError, CallOptions, Client, HostKeys, Made};
use protocol::command::{Call, Class};
use protocol::heartbeat::Heartbeat;
use protocol::ids::AgentId;
use protocol::job::{JobState, JobView};
use serde_json::json;
use tokio::sync::OnceCell;

use crate::args::Global;
use crate::error::{CtlError, Result};
use crate::output::Out;
use crate::{context, keys, suggest};

/// Where a bus is looked for that nobody names.
const DEFAULT_SERVER: &str = "nats://127.0.0.1:4222";

/// A bus that is there answers well within this; a person need not wait longer to learn that it is not.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// Looking for the stream of events holds nobody up for longer.
const STREAM_LIMIT: Duration = Duration::from_secs(2);

/// A connection with the person's options.
#[derive(Debug, Clone)]
pub struct Session {
    /// Asks agents.
    pub client: Client,
    /// Where words go.
    pub out: Out,
    /// Options of every subcommand.
    pub global: Global,
    /// What became of the look at the stream of events.
    event_stream: Arc<OnceCell<std::result::Result<Made, String>>>,
}

impl Session {
    /// Connects.
    ///
    /// # Errors
    /// Files that cannot be used, and a bus that does not answer within `--timeout`.
    pub async fn open(global: Global, out: Out) -> Result<Self> {
        let config = bus_config(&global, context::read(&global)?);
        let signer = global.sign_key.as_deref().map(keys::read_seed).transpose()?;
        let host_keys = global.host_keys.as_deref().map(HostKeys::read).transpose();
        let host_keys = host_keys.map_err(|source| CtlError::bus("cannot read the keys of hosts", source))?;
        let actor = global.actor.clone().unwrap_or_else(default_actor);
        let failed = |source| CtlError::bus("cannot reach the bus", source);
        let bus = Bus::connect(&config, "orchestrator-ctl").await.map_err(failed)?;
        bus.connected(global.timeout.min(CONNECT_LIMIT)).await.map_err(failed)?;
        let mut client = Client::new(bus, signer, actor);
        if let Some(keys) = host_keys {
            client = client.with_host_keys(keys);
        }
        Ok(Self { client, out, global, event_stream: Arc::default() })
    }

    /// Sees to it that there is a stream of events: agents of least privilege may not make it, so the first use of this program
    /// does. Looked for once.
    ///
    /// # Errors
    /// Why there is none, in one line.
    pub async fn event_stream(&self) -> std::result::Result<Made, String> {
        let made = self.event_stream.get_or_init(|| async {
            let bus = self.client.bus();
            let limits = bus::events::event_stream_limits();
            let making = Box::pin(bus::events::ensure_event_stream(bus, &limits));
            match tokio::time::timeout(STREAM_LIMIT, making).await {
                Ok(Ok(made)) => Ok(made),
                // It is there and can be read, as somebody else wanted it.
                Ok(Err(BusError::StreamDiffers { .. })) => Ok(Made::Before),
                Ok(Err(error)) => Err(one_line("no stream of events", &error)),
                Err(_) => {
                    Err("no stream of events: JetStream does not answer; has its cluster a leader? `orchestrator-ctl bus status` tells"
                        .to_owned())
                }
            }
        });
        made.await.clone()
    }

    /// Ends the connection in good order.
    pub async fn close(&self) {
        if let Err(why) = self.event_stream().await {
            tracing::info!("{why}");
        }
        self.client.bus().close(Duration::from_millis(500)).await;
    }

    /// Options of a call.
    #[must_use]
    pub fn options(&self) -> CallOptions {
        CallOptions { timeout: self.global.timeout, request_id: None, queue: None }
    }

    /// Calls a host that must be there.
    ///
    /// # Errors
    /// With the host, the command and what to do.
    pub async fn call<C: Call>(&self, host: &AgentId, params: C) -> Result<C::Reply> {
        if self.global.queue.is_some() {
            return Err(CtlError::usage(
                format!("{} needs the host's answer and cannot be queued", C::SPEC.name),
                "leave --queue away",
            ));
        }
        match self.client.call(host, params, &self.options()).await {
            Ok(reply) => Ok(reply),
            Err(error) => Err(self.explain(host, C::SPEC.name, error).await),
        }
    }

    /// As [`Client::call_surely`], with the person's options.
    ///
    /// # Errors
    /// The bus's own error, for callers that must know whether it may have run.
    pub async fn call_surely<C: Call + Clone>(
        &self,
        host: &AgentId,
        params: C,
    ) -> std::result::Result<C::Reply, BusError> {
        self.client.call_surely(host, params, &self.options()).await
    }

    /// Sends a change, or leaves it for the host with `--queue`; shows its result.
    ///
    /// # Errors
    /// As [`Session::call`].
    pub async fn change<C: Call>(
        &self,
        host: &AgentId,
        params: C,
        render: impl FnOnce(&C::Reply) -> String,
    ) -> Result<()> {
        debug_assert_eq!(C::SPEC.class, Class::Change);
        if let Some(reply) = self.call_or_queue(host, params).await? {
            self.out.result(&reply, render);
        }
        Ok(())
    }

    /// All hosts that answer now.
    ///
    /// # Errors
    /// When the bus cannot be asked.
    pub async fn fleet(&self) -> Result<Vec<Heartbeat>> {
        let window = Window { max: self.global.timeout.min(Duration::from_secs(5)), ..Window::default() };
        self.client.fleet(window).await.map_err(|source| CtlError::bus("cannot ask the fleet", source))
    }

    /// Adds the host, the command and, for a host that is not there, the names near it.
    pub async fn explain(&self, host: &AgentId, command: &str, source: BusError) -> CtlError {
        let hint = match &source {
            BusError::NoAgent(_) => Some(self.where_is(host).await),
            _ => None,
        };
        CtlError::call(host, command, source, hint)
    }

    async fn where_is(&self, host: &AgentId) -> String {
        let fleet = self.fleet().await.unwrap_or_default();
        let names = || fleet.iter().map(|beat| beat.agent.as_str());
        if let Some(near) = suggest::hint(host.as_str(), names().filter(|name| *name != host.as_str())) {
            return near;
        }
        match fleet.len() {
            0 => "no agent at all answers on this bus; is --server right?".to_owned(),
            n => format!(
                "{n} other hosts answer (see `orchestrator-ctl fleet`); start orchestrator-agent on {host}"
            ),
        }
    }

    pub(crate) async fn call_or_queue<C: Call>(&self, host: &AgentId, params: C) -> Result<Option<C::Reply>> {
        let mut options = self.options();
        options.queue = self.global.queue.map(Duration::from_secs);
        let answer = match self.client.call_or_queue(host, params, &options).await {
            Ok(answer) => answer,
            Err(error) => return Err(self.explain(host, C::SPEC.name, error).await),
        };
        match answer {
            Answer::Result(reply) => Ok(Some(reply)),
            Answer::Queued(queued) => {
                self.show_queued(host, &queued).await;
                Ok(None)
            }
        }
    }

    /// Tells that a command waits for its host; a mistyped one would wait in vain, so near names are told too.
    pub async fn show_queued(&self, host: &AgentId, queued: &bus::durable::Queued) {
        let value = json!({"host": host, "queued": {"request": queued.request, "expires": queued.expires}});
        self.out.result(&value, |_| {
            format!(
                "{host} is away: queued as request {}; it runs once when the host is back before {}",
                queued.request,
                crate::units::time(queued.expires)
            )
        });
        let fleet = self.fleet().await.unwrap_or_default();
        let names = fleet.iter().map(|beat| beat.agent.as_str());
        if let Some(near) = suggest::hint(host.as_str(), names) {
            self.out.note(&format!("warning: {host} is not in the fleet now; {near}"));
        }
    }
}

/// What failed, why, and what to do, for a remark.
fn one_line(what: &str, error: &BusError) -> String {
    let next = match error {
        BusError::NotPermitted { .. } => "; a controller makes it by `orchestrator-ctl bus setup`",
        BusError::NoResponders { .. } => "; enable JetStream on the server, for this account",
        _ => "",
    };
    format!("{what}: {error}{next}")
}

/// How a job that is over counts.
///
/// # Errors
/// [`CtlError::Job`] unless it succeeded.
pub fn ended_well(host: &AgentId, view: JobView) -> Result<JobView> {
    match view.state {
        JobState::Succeeded => Ok(view),
        _ => Err(CtlError::Job { host: host.clone(), view: Box::new(view) }),
    }
}

/// What the options say, then what the context says.
fn bus_config(global: &Global, given: context::Given) -> BusConfig {
    let server = global.server.as_deref().or(given.server.as_deref()).unwrap_or(DEFAULT_SERVER);
    let path = |path: &Path| path.to_path_buf();
    let own = global.tls_cert.clone().zip(global.tls_key.clone());
    let (cert, key) = own.or(given.identity).unzip();
    let ca = global.tls_ca.clone().or(given.ca);
    BusConfig {
        servers: server.split(',').map(|server| server.trim().to_owned()).collect(),
        credentials: match (&global.creds, &global.nkey_file) {
            (Some(file), _) => Some(Credentials::CredsFile(path(file))),
            (None, Some(file)) => Some(Credentials::NkeyFile(path(file))),
            (None, None) => given.credentials,
        },
        tls: TlsConfig { require: ca.is_some() || cert.is_some(), ca, cert, key },
        inbox_prefix: global.inbox_prefix.clone().or(given.inbox_prefix),
        jetstream_prefix: given.jetstream_prefix.filter(|_| global.js_domain.is_none()),
        jetstream_domain: global.js_domain.clone(),
        ..BusConfig::default()
    }
}

fn default_actor() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid());
    let user = user.ok().flatten().map_or_else(|| nix::unistd::getuid().to_string(), |user| user.name);
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    format!("{user}@{}", host.as_deref().unwrap_or("unknown"))
}
