//! Prints how long a browser takes to show 1,000 hosts, and what the page costs the gateway.
//!
//! `make bench-page` runs it beside the release programs. The hosts are played from the recorded `agent.status` of
//! `schemas/v1/examples`; nats-server, gateway and Chromium are real. With a directory as argument it leaves pictures there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a measurement fails by a panic"
)]

mod fleet;
#[path = "../played/mod.rs"]
mod played;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use e2e::browser::{Browser, Look, Tab};
use e2e::measure;
use protocol::subject::Subject;
use serde_json::Value;
use testkit::nats::{NatsOptions, NatsServer};
use testkit::poll;
use testkit::port::Port;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

const HOSTS: usize = 1_000;
const VIEWS: usize = 10;
const WATCHERS: usize = 50;
/// What the page costs is measured over so long.
const WATCHED: Duration = Duration::from_secs(20);

/// Told once all rows have been painted, in milliseconds since the navigation began.
const PAINTED: &str = "window.painted = new Promise((done) => { const look = () => {
    if (document.querySelectorAll('#parts tr.item').length >= 1000) requestAnimationFrame(() => setTimeout(() => done(performance.now())));
    else requestAnimationFrame(look); }; look(); });";

#[tokio::main]
async fn main() {
    let nats = NatsServer::start(&NatsOptions::jetstream()).unwrap();
    let hosts = tokio::spawn(play(nats.url()));
    let dir = tempfile::tempdir().unwrap();
    let [api, page] = [Port::claim().unwrap(), Port::claim().unwrap()];
    let listen = format!("page.listen = \"127.0.0.1:{}\"", page.number());
    let mut gateway = played::gateway(dir.path(), &nats.url(), api.number(), &listen);
    let to = SocketAddr::from(([127, 0, 0, 1], page.number()));
    let last = format!("id=\"h-db{}\"", HOSTS - 1);
    let document = poll::until_async(Duration::from_secs(60), "the whole fleet", || async {
        get(to).await.filter(|page| page.contains(&last) && page.matches("class=\"item").count() >= HOSTS)
    })
    .await;
    let url = format!("http://{to}/");
    let browser = Browser::start().await;
    let (mut views, mut requests) = (Vec::new(), Vec::new());
    for _ in 0..VIEWS {
        views.push(view(&browser, &url).await);
        let began = Instant::now();
        get(to).await.unwrap();
        requests.push(began.elapsed());
    }
    let (view50, view99) = measure::p50_p99(&mut views);
    let (get50, _) = measure::p50_p99(&mut requests);
    println!(
        "the first view of {HOSTS} hosts: p50 {view50:.0?}, worst {view99:.0?} until all rows are painted; {:.2} MB of HTML, {get50:.1?} to get",
        document.len() as f64 / 1e6,
    );
    let cpu = measure::cpu_ticks(gateway.id());
    let mut watchers = Vec::new();
    for _ in 0..WATCHERS {
        watchers.push(tokio::spawn(watch(to)));
    }
    let _ = tokio::time::timeout(WATCHED, std::future::pending::<()>()).await;
    let pages = watchers.iter().map(JoinHandle::abort).count();
    let used = (measure::cpu_ticks(gateway.id()) - cpu) as f64 / WATCHED.as_secs_f64();
    println!(
        "{pages} pages that follow it: {used:.1} % of a core; RSS {:.1} MiB, {:.1} MiB at the peak",
        measure::rss_kib(gateway.id()) as f64 / 1024.0,
        measure::peak_kib(gateway.id()) as f64 / 1024.0,
    );
    if let Some(pictures) = std::env::args().nth(1).map(PathBuf::from) {
        picture(&browser, &url, &pictures).await;
    }
    hosts.abort();
    gateway.kill().unwrap();
    gateway.wait().unwrap();
}

async fn view(browser: &Browser, url: &str) -> Duration {
    let tab = browser.tab(Look::default()).await;
    tab.call("Page.addScriptToEvaluateOnNewDocument", serde_json::json!({"source": PAINTED})).await;
    tab.open(url).await;
    let took = tab.eval("window.painted").await.as_f64().unwrap();
    assert!(tab.seen().errors.is_empty(), "{:?}", tab.seen().errors);
    Duration::from_secs_f64(took / 1000.0)
}

async fn picture(browser: &Browser, url: &str, to: &Path) {
    let dark = Look { is_dark: true, ..Look::default() };
    let phone = Look { size: (390, 844), ..Look::default() };
    for (name, path, look) in [
        ("fleet-light", "", Look::default()),
        ("fleet-dark", "", dark),
        ("fleet-phone", "", phone),
        ("fleet-hosts", "?sort=trouble#fleet", Look::default()),
        ("calendar-light", "snapshots", Look::default()),
        ("calendar-dark", "snapshots", dark),
        ("calendar-phone", "snapshots", phone),
        ("events-light", "events", Look::default()),
        ("events-phone", "events", phone),
    ] {
        let tab: Tab = browser.tab(look).await;
        tab.open(&format!("{url}{path}")).await;
        tab.until("the page to be live", "document.getElementById('live').textContent === 'live'").await;
        tab.picture(&to.join(format!("{name}.png"))).await;
    }
}

async fn get(to: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect(to).await.ok()?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").await.ok()?;
    let mut page = String::new();
    stream.read_to_string(&mut page).await.ok()?;
    page.starts_with("HTTP/1.1 200").then_some(page)
}

/// Follows as a page does.
async fn watch(to: SocketAddr) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(b"GET /live?at=%2F HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await.unwrap();
    let mut piece = vec![0; 64 * 1024];
    while stream.read(&mut piece).await.is_ok_and(|read| read > 0) {}
}

/// All hosts send heartbeats, for ever.
async fn play(url: String) {
    let bus = played::connect(&url).await;
    bus::events::ensure_event_stream(&bus, &bus::events::event_stream_limits()).await.unwrap();
    for event in fleet::history(HOSTS / 20) {
        let kind = event.kind.trim_start_matches("orch.").to_owned();
        let subject = Subject::Event { agent: event.host.clone(), kind }.to_string();
        bus.publish(subject, None, serde_json::to_vec(&event).unwrap().into()).await.unwrap();
    }
    let hosts = played::hosts(HOSTS);
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas/v1/examples/agent.status.json");
    let example: Value = serde_json::from_slice(&std::fs::read(example).unwrap()).unwrap();
    let mut beat = tokio::time::interval(Duration::from_secs(2));
    loop {
        beat.tick().await;
        for (number, host) in hosts.iter().enumerate() {
            let subject = Subject::Heartbeat { agent: host.0.clone() }.to_string();
            let status = fleet::one_of_many(&example["reply"]["result"], number);
            bus.publish(subject, None, played::heartbeat(&status, host, 2_000).into()).await.unwrap();
        }
    }
}
