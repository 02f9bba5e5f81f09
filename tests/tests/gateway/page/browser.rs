//! A person watches two hosts: a snapshot, its proof, a seed, and a gateway that dies.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;

use e2e::browser::{Browser, Look, Tab};
use e2e::world::{World, WorldOptions};
use protocol::params::*;
use protocol::seed::SeedOptions;

use super::site::{Site, is_accessible};
use crate::node::Node;
use crate::program::Gateway;

/// Said by nobody but the page that was loaded first.
const MARK: &str = "window.mark = 'first load'";
const MARKED: &str = "window.mark === 'first load'";

async fn watched(site: &Site, browser: &Browser, path: &str) -> Tab {
    let tab = browser.tab(Look::default()).await;
    tab.open(&site.url(path)).await;
    tab.until("the page to be live", "document.getElementById('live').textContent === 'live'").await;
    tab.eval(MARK).await;
    tab
}

/// Every place, light and dark, wide and narrow: whole, of its own origin, and usable by everybody.
async fn assert_every_place_is_well(site: &Site, browser: &Browser, paths: &[String]) -> bool {
    let mut has_axe = true;
    for (is_dark, size) in [(false, (1360, 900)), (true, (1360, 900)), (false, (390, 844))] {
        let tab = browser.tab(Look { is_dark, size }).await;
        for path in paths {
            tab.open(&site.url(path)).await;
            tab.until("its contents", "document.querySelector('#parts').children.length > 0").await;
            let width = tab.eval("document.documentElement.scrollWidth").await;
            assert!(width.as_u64().unwrap() <= size.0.into(), "{path} is {width} wide of {}", size.0);
            has_axe &= is_accessible(&tab, &format!("{path}, dark: {is_dark}, {size:?}")).await;
        }
        site.assert_well(&tab);
    }
    has_axe
}

/// Leaves pictures where `OA_PICTURES` says, for docs/page.
async fn pictures(of: &[(&str, &Tab)]) {
    let Some(to) = std::env::var_os("OA_PICTURES").map(PathBuf::from) else { return };
    for (name, tab) in of {
        tab.picture(&to.join(format!("{name}.png"))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_sees_a_snapshot_its_proof_and_a_seed_come_and_a_gateway_go_without_a_reload() {
    if !Browser::is_here() {
        testkit::skip!("chromium is not installed");
    }
    let world = World::start(WorldOptions { data_mib: 16, ..WorldOptions::default() }).await;
    let node = Node::start().await;
    let site = Site::claim();
    let mut gateway = Gateway::start(&world.nats.url(), &node, &site.config(""));
    gateway.serving("db2").await;
    let browser = Browser::start().await;
    let fleet = watched(&site, &browser, "/").await;
    let calendar = watched(&site, &browser, "/snapshots").await;
    fleet
        .until(
            "the trouble that there is no snapshot",
            "document.getElementById('wrong').textContent.includes('No usable snapshot')",
        )
        .await;
    let line = fleet.eval("document.querySelector('#wrong .command code').textContent").await;
    assert!(line.as_str().unwrap().starts_with("orchestrator-ctl snapshot create db"), "{line}");

    let snapshot = world.snapshot().await;
    fleet.until("the snapshot in the fleet", "document.querySelector('#h-db1 time') !== null").await;
    fleet
        .until("no proof", "document.getElementById('wrong').textContent.includes('No proof for a day')")
        .await;
    calendar
        .until(
            "a protected day",
            "document.querySelector('#calendar tr.item td:first-of-type .protected') !== null",
        )
        .await;
    let verify = world.call(&world.donor, SnapshotVerifyParams { snapshot, budget_s: 60 }).await.job;
    world.succeeded(&world.donor, verify).await;
    calendar
        .until(
            "a proven day",
            "document.querySelector('#calendar tr.item td:first-of-type .proven') !== null",
        )
        .await;
    fleet
        .until("the proof in the fleet", "document.querySelector('#h-db1').textContent.includes('proven')")
        .await;

    let slowly = SeedOptions { stop_mysql: true, throttle_bytes_per_s: 4 << 20, ..SeedOptions::default() };
    let seed = world.seed(slowly).await;
    let seeds = watched(&site, &browser, "/seeds").await;
    let one = watched(&site, &browser, &format!("/seed/{seed}")).await;
    one.until(
        "its transfer at work",
        "document.querySelector('#stages .running')?.textContent.includes('transfer')",
    )
    .await;
    one.until("a rate", "document.querySelector('#rate polyline') !== null && /MiB\\/s/.test(document.querySelector('#seed .big').textContent)").await;
    world.succeeded(&world.recipient, seed).await;
    one.until("its end", "document.querySelectorAll('#stages .good').length === 10").await;
    seeds
        .until(
            "its end among all",
            "document.querySelector('#seeds tr.item').textContent.includes('succeeded')",
        )
        .await;

    let hostile = "2026-11-23 03:41:59 0 [ERROR] <script>window.hacked = 1</script><img src=x onerror=\"window.hacked = 2\">\u{202e}txt";
    let mut log = OpenOptions::new().append(true).open(world.donor.db.error_log()).unwrap();
    writeln!(log, "{hostile}").unwrap();
    let host = watched(&site, &browser, "/host/db1?level=error").await;
    host.until(
        "the error",
        "document.querySelector('#errors .log .bad')?.textContent.includes('<script>window.hacked')",
    )
    .await;
    assert_eq!(host.eval("document.querySelector('#errors').textContent.includes('\\u202e')").await, false);
    for text in ["10.", "binary log", "datadir"] {
        assert_eq!(
            host.eval(&format!("document.querySelector('#server').textContent.includes('{text}')")).await,
            true,
            "{text}"
        );
    }

    let places = ["/", "/host/db1", "/snapshots", "/seeds", "/events?kind=job"].map(String::from);
    let places: Vec<String> = places.into_iter().chain([format!("/seed/{seed}")]).collect();
    let has_axe = assert_every_place_is_well(&site, &browser, &places).await;

    pictures(&[
        ("host", &host),
        ("seed", &one),
        ("seeds", &seeds),
        ("calendar-small", &calendar),
        ("two-hosts", &fleet),
    ])
    .await;
    gateway.kill();
    let stale =
        "/no connection to the gateway, data \\d+s old/.test(document.getElementById('live').textContent)";
    fleet.until("the page to say that it is stale", stale).await;
    let others = fleet.seen().errors.into_iter().filter(|error| !error.contains("ERR_"));
    assert_eq!(others.collect::<Vec<_>>(), Vec::<String>::new(), "but for the connection that is lost");
    gateway.boot();
    fleet.until("the page to be live again", "document.getElementById('live').textContent === 'live'").await;
    for tab in [&fleet, &calendar, &seeds, &one, &host] {
        assert_eq!(tab.eval(MARKED).await, true, "no page was loaded again");
        assert_eq!(tab.eval("window.hacked === undefined").await, true);
    }
    if !has_axe {
        testkit::skip!("axe-core was not fetched by scripts/axe: nothing was looked at by it");
    }
}
