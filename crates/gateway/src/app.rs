//! The only place where the parts are wired together.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::{Bus, Client, HostKeys, LiveFleet};
use protocol::ids::AgentId;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trace::Traces;

use crate::api;
use crate::ask::Ask;
use crate::config::Config;
use crate::hosts::Hosts;
use crate::http::admit::{Admission, Serves};
use crate::http::count::Requests;
use crate::http::listen::{self, Connections, Server};
use crate::metrics;
use crate::names::Naming;
use crate::orchestrator::{self, Node, NodeError, Registered, Rhythm};
use crate::page::{self, Page};
use crate::ports::{PortError, Ports};
use crate::secrets::{self, SecretError};
use crate::seeds::{self, Seeds};
use crate::state::Gateway;
use crate::tls::{self, TlsError};
use crate::view::View;

/// Hosts are looked at this often.
const TICK: Duration = Duration::from_secs(1);
/// The bus is tried again after so long.
const BUS_PAUSE: Duration = Duration::from_secs(1);
/// Connections to `/metrics` at the same time.
const SCRAPERS: usize = 32;
/// Connections to the page at the same time, beside those that follow the fleet.
const READERS: usize = 512;
/// Requests under way at the end get so long; most of them are questions that are held.
const LAST_ANSWERS: Duration = Duration::from_secs(3);
/// Spans that no collector has taken yet get this long, and are lost then.
const LAST_SPANS: Duration = Duration::from_secs(2);

/// The gateway cannot start, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// Its own directory cannot be used.
    #[error("gateway.state_dir {dir} cannot be used")]
    State {
        /// The directory.
        dir: String,
        /// Why.
        source: io::Error,
    },
    /// A port cannot be listened on.
    #[error("listen: {address} cannot be listened on")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A name that the configuration's check let pass.
    #[error("gateway.name: {0}")]
    Name(String),
    /// A secret cannot be read any more.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A certificate cannot be read any more.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A node cannot be used.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The ports of hosts cannot be read.
    #[error(transparent)]
    Ports(#[from] PortError),
    /// Spans cannot be sent as configured.
    #[error("trace")]
    Trace(#[from] trace::TraceError),
    /// The bus's client cannot be set up.
    #[error("bus")]
    Bus(#[from] bus::BusError),
}

/// Runs the gateway until `stop`; `ready` is called once it listens.
///
/// # Errors
/// What cannot be used; a bus or an orchestrator that is away is waited for instead.
pub async fn run(config: Config, stop: CancellationToken, ready: impl FnOnce()) -> Result<(), GatewayError> {
    let state_dir = config.gateway.state_dir.clone();
    make_state_dir(&state_dir)?;
    let in_state = |source| GatewayError::State { dir: state_dir.display().to_string(), source };
    let seeds = Seeds::open(&state_dir).map_err(in_state)?;
    let signer = config.gateway.sign_key_file.as_deref().map(secrets::sign_key).transpose()?;
    let bus = Bus::connect(&config.bus, "orchestrator-gateway").await?;
    let mut client = Client::new(bus, signer, "orchestrator-gateway");
    if let Some(path) = &config.gateway.host_keys_file {
        client = client.with_host_keys(HostKeys::read(path)?);
    }
    let requests = Arc::new(Requests::default());
    let hosts = Arc::new(known_hosts(&config)?);
    let view =
        Arc::new(View::new(config.gateway.hosts.clone(), Duration::from_secs(config.gateway.forget_after_s)));
    let traces = open_traces(&config)?;
    client = client.with_traces(traces.clone());
    measure(&config, &client, &view, (&hosts, &requests), &stop).await?;
    let page = open_page(&config, &client, &view, (&hosts, &requests), &stop).await?;
    // Before the fleet is known every host would be unknown, and orchestrator take that for an answer.
    let Some(fleet) = first_look(&client, &stop).await.map(Arc::new) else { return Ok(()) };
    view.see(fleet.clone());
    for seed in seeds.unfinished() {
        let record = seed.now();
        hosts.heard(&record.recipient, Instant::now());
        if let Some(donor) = record.donor() {
            hosts.heard(donor, Instant::now());
        }
    }
    hosts.refresh(&fleet.entries(), Instant::now());
    let gateway = Arc::new(Gateway {
        ask: Ask::new(client, fleet, Duration::from_millis(config.gateway.cache_ms)),
        hosts,
        seeds,
        seed_options: config.seed.clone(),
        read_only: config.gateway.read_only,
        actors: config.listen.actors.clone(),
        datadir_delete: config.gateway.datadir_delete,
        hold: Duration::from_secs(config.gateway.hold_s),
    });
    if let Some(page) = &page {
        page.asks(gateway.ask.clone());
    }
    let mut listeners = Listeners::open(&config, &gateway, requests, stop.clone()).await?;
    seeds::resume(gateway.ask.client(), gateway.seeds.unfinished());
    listeners.refresh().await;
    ready();
    let tasks = TaskTracker::new();
    for node in nodes(&config)? {
        let registered = listeners.registered.clone();
        let rhythm = Rhythm {
            ping: Duration::from_secs(config.orchestrator.ping_s),
            resubmit: Duration::from_secs(config.orchestrator.resubmit_s),
        };
        tasks.spawn(orchestrator::register(node, registered, rhythm, stop.clone()));
    }
    tasks.close();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(TICK) => listeners.refresh().await,
        }
    }
    let _ = tokio::time::timeout(LAST_ANSWERS, tasks.wait()).await;
    gateway.ask.client().bus().close(LAST_ANSWERS).await;
    traces.end(LAST_SPANS).await;
    Ok(())
}

fn open_traces(config: &Config) -> Result<Traces, trace::TraceError> {
    let service = trace::Service {
        name: "orchestrator-gateway",
        version: env!("CARGO_PKG_VERSION"),
        instance: std::process::id().to_string(),
        notes: Vec::new(),
    };
    Traces::open(&config.trace, service)
}

fn make_state_dir(dir: &Path) -> Result<(), GatewayError> {
    match sys::file::create_dir(dir, 0o700) {
        Err(error) if error.source.kind() != io::ErrorKind::AlreadyExists => {
            Err(GatewayError::State { dir: dir.display().to_string(), source: error.into() })
        }
        _ => Ok(()),
    }
}

fn known_hosts(config: &Config) -> Result<Hosts, GatewayError> {
    let gateway = &config.gateway;
    let naming = Naming::new(&gateway.name).map_err(GatewayError::Name)?;
    let tokens = secrets::token_secret(&gateway.token_secret_file)?;
    let forget_after = Duration::from_secs(gateway.forget_after_s);
    Ok(Hosts::new(naming, tokens, gateway.hosts.clone(), forget_after))
}

fn nodes(config: &Config) -> Result<Vec<Node>, GatewayError> {
    let orchestrator = &config.orchestrator;
    let login = orchestrator.basic_auth_file.as_deref().map(secrets::login).transpose()?;
    let node = |url: &String| Node::new(url, orchestrator.tls_ca.as_deref(), login.clone());
    Ok(orchestrator.nodes.iter().map(node).collect::<Result<_, _>>()?)
}

/// Opens `/metrics` where it is wanted: before the fleet is known, so that a bus that is away can be told of.
async fn measure(
    config: &Config,
    client: &Client,
    view: &Arc<View>,
    (hosts, requests): (&Arc<Hosts>, &Arc<Requests>),
    stop: &CancellationToken,
) -> Result<(), GatewayError> {
    let Some(address) = config.metrics.listen else { return Ok(()) };
    let listener = bind(address).await?;
    let server = Server {
        section: "metrics",
        admission: Admission {
            max_url_bytes: config.listen.max_url_bytes,
            max_form: 0,
            login: None,
            hosts: hosts.clone(),
        },
        router: metrics::router(client, view.clone(), requests.clone(), stop),
        tls: None,
        clients: config.metrics.clients.clone(),
        header_timeout: config.listen.header_timeout(),
        connections: Connections::new(SCRAPERS),
        requests: requests.clone(),
    };
    tokio::spawn(listen::accept(Arc::new(server), listener, Serves::Fleet, stop.clone()));
    Ok(())
}

/// Opens the page where it is wanted, as early as `/metrics`.
async fn open_page(
    config: &Config,
    client: &Client,
    view: &Arc<View>,
    (hosts, requests): (&Arc<Hosts>, &Arc<Requests>),
    stop: &CancellationToken,
) -> Result<Option<Page>, GatewayError> {
    let section = &config.page;
    let Some(address) = section.listen else { return Ok(None) };
    let login = section.basic_auth_file.as_deref().map(secrets::login).transpose()?;
    let tls = match (&section.tls_cert, &section.tls_key) {
        (Some(cert), Some(key)) => Some(tls::acceptor(cert, key)?),
        _ => None,
    };
    let listener = bind(address).await?;
    let page = Page::new(client, view.clone(), section, stop);
    let server = Server {
        section: "page",
        admission: Admission {
            max_url_bytes: config.listen.max_url_bytes,
            max_form: page::max_form(section),
            login,
            hosts: hosts.clone(),
        },
        router: page.router(section),
        tls,
        clients: section.clients.clone(),
        header_timeout: config.listen.header_timeout(),
        connections: Connections::new(READERS + section.max_watchers),
        requests: requests.clone(),
    };
    tokio::spawn(listen::accept(Arc::new(server), listener, Serves::Fleet, stop.clone()));
    Ok(Some(page))
}

/// The fleet as it answers first; none when the gateway is stopped before the bus is there.
async fn first_look(client: &Client, stop: &CancellationToken) -> Option<LiveFleet> {
    let mut told = false;
    loop {
        let look = tokio::select! {
            () = stop.cancelled() => return None,
            look = client.live_fleet() => look,
        };
        match look {
            Ok(fleet) => return Some(fleet),
            Err(error) if !told => {
                tracing::warn!(
                    "{}; the gateway listens once it has heard the fleet",
                    sys::error::line(&error)
                );
                told = true;
            }
            Err(_) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return None,
            () = tokio::time::sleep(BUS_PAUSE) => {}
        }
    }
}

/// The one listener of all hosts, or one for each.
struct Listeners {
    gateway: Arc<Gateway>,
    server: Arc<Server>,
    registered: Registered,
    stop: CancellationToken,
    address: std::net::IpAddr,
    shared: Option<u16>,
    ports: Option<Ports>,
    open: HashMap<AgentId, (u16, CancellationToken)>,
}

impl Listeners {
    async fn open(
        config: &Config,
        gateway: &Arc<Gateway>,
        requests: Arc<Requests>,
        stop: CancellationToken,
    ) -> Result<Self, GatewayError> {
        let listen = &config.listen;
        let login = listen.basic_auth_file.as_deref().map(secrets::login).transpose()?;
        let tls = match (&listen.tls_cert, &listen.tls_key) {
            (Some(cert), Some(key)) => Some(tls::acceptor(cert, key)?),
            _ => None,
        };
        let server = Arc::new(Server {
            section: "listen",
            admission: Admission {
                max_url_bytes: listen.max_url_bytes,
                max_form: 0,
                login,
                hosts: gateway.hosts.clone(),
            },
            router: api::router(gateway.clone()),
            tls,
            clients: listen.clients.clone(),
            header_timeout: listen.header_timeout(),
            connections: Connections::new(listen.max_connections),
            requests,
        });
        let shared = listen.shared_port();
        if let Some(port) = shared {
            let listener = bind(SocketAddr::new(listen.address, port)).await?;
            tokio::spawn(listen::accept(server.clone(), listener, Serves::Named, stop.clone()));
        }
        let ports = listen.ports.map(|range| Ports::open(&config.gateway.state_dir, range)).transpose()?;
        Ok(Self {
            gateway: gateway.clone(),
            server,
            registered: Registered::default(),
            stop,
            address: listen.address,
            shared,
            ports,
            open: HashMap::new(),
        })
    }

    /// Takes in who came and who left; each host is listened for before orchestrator is told of it.
    async fn refresh(&mut self) {
        for host in self.gateway.hosts.refresh(&self.gateway.ask.fleet(), Instant::now()) {
            tracing::info!(agent = %host.agent, "a host has left and is no longer served");
            self.gateway.ask.forget(&host.agent);
            if let Some((_, stop)) = self.open.remove(&host.agent) {
                stop.cancel();
            }
        }
        let hosts = self.gateway.hosts.all();
        let served: BTreeSet<AgentId> = hosts.iter().map(|host| host.agent.clone()).collect();
        let mut registered = Vec::with_capacity(hosts.len());
        for host in hosts {
            let port = match (self.shared, self.open.get(&host.agent)) {
                (Some(port), _) => port,
                (None, Some((port, _))) => *port,
                (None, None) => match self.listen_for(&host, &served).await {
                    Ok(port) => port,
                    Err(error) => {
                        tracing::error!(agent = %host.agent, "{}", sys::error::line(&error));
                        continue;
                    }
                },
            };
            registered.push((host, port));
        }
        *self.registered.write() = registered;
    }

    async fn listen_for(
        &mut self,
        host: &Arc<crate::hosts::Host>,
        served: &BTreeSet<AgentId>,
    ) -> Result<u16, GatewayError> {
        let Some(ports) = &self.ports else { return Ok(0) };
        let port = ports.of(&host.agent, served)?;
        let listener = bind(SocketAddr::new(self.address, port)).await?;
        let stop = self.stop.child_token();
        let serves = Serves::One(host.clone());
        tokio::spawn(listen::accept(self.server.clone(), listener, serves, stop.clone()));
        self.open.insert(host.agent.clone(), (port, stop));
        Ok(port)
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, GatewayError> {
    TcpListener::bind(address).await.map_err(|source| GatewayError::Listen { address, source })
}
