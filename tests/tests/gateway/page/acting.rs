//! What a person has done by the page, and what another origin cannot.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use e2e::browser::{Browser, Look};
use e2e::world::{PATIENCE, World, WorldOptions, swiftly};
use protocol::params::*;
use protocol::seed::SeedOptions;
use serde_json::json;
use testkit::poll;

use super::site::{Site, is_accessible};
use crate::node::Node;
use crate::program::Gateway;
use crate::web;

const LOGIN: &str = "Authorization: Basic ZGJhOnMzY3JldA==\r\n";

/// A gateway that lets who logs in act.
async fn acting(world: &World, node: &Node, site: &Site, dir: &std::path::Path) -> Gateway {
    let login = dir.join("login");
    fs::write(&login, "dba:s3cret\n").unwrap();
    fs::set_permissions(&login, fs::Permissions::from_mode(0o600)).unwrap();
    let more = site.config(&format!("page.actions = true\npage.basic_auth_file = {login:?}"));
    let gateway = Gateway::start(&world.nats.url(), node, &more);
    gateway.serving("db1").await;
    gateway
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_logged_in_creates_and_verifies_a_snapshot_and_aborts_a_seed_each_asked_again_and_told_in_the_audit()
 {
    if !Browser::is_here() {
        testkit::skip!("chromium is not installed");
    }
    let world = World::start(WorldOptions { data_mib: 16, ..WorldOptions::default() }).await;
    let (node, site, dir) = (Node::start().await, Site::claim(), tempfile::tempdir().unwrap());
    let gateway = acting(&world, &node, &site, dir.path()).await;
    let browser = Browser::start().await;
    let tab = browser.tab(Look::default()).await;
    tab.call("Network.setExtraHTTPHeaders", json!({"headers": {"Authorization": "Basic ZGJhOnMzY3JldA=="}}))
        .await;
    let confirmed = async |link: &str| {
        tab.until(link, &format!("document.querySelector('{link}') !== null")).await;
        tab.eval(&format!("document.querySelector('{link}').click()")).await;
        tab.until("the question", "document.querySelector('#confirm button.do') !== null").await;
        is_accessible(&tab, link).await;
        tab.eval("document.querySelector('#confirm button.do').click()").await;
    };
    tab.open(&site.url("/host/db1")).await;
    confirmed("#snaps a.order").await;
    tab.until(
        "the snapshot",
        "location.pathname === '/host/db1' && document.querySelector('#snaps tbody code') !== null",
    )
    .await;
    confirmed("#snaps tbody a.order").await;
    tab.until("its proof", "document.querySelector('#snaps tbody .good-ink')?.textContent === 'proven'")
        .await;
    let slowly = SeedOptions { throttle_bytes_per_s: 1 << 20, ..swiftly() };
    let seed = world.seed(slowly).await;
    tab.open(&site.url(&format!("/seed/{seed}"))).await;
    confirmed("#lines a.order").await;
    tab.until("its end", "document.querySelector('#seed').textContent.includes('aborted')").await;
    site.assert_well(&tab);
    let log = gateway.log();
    for action in ["snapshot.create", "snapshot.verify", "jobs.abort"] {
        let line =
            log.lines().find(|line| line.contains("\"audit\"") && line.contains(&format!("\"{action}\"")));
        let line = line.unwrap_or_else(|| panic!("{action} is not in the audit"));
        assert!(line.contains("\"actor\":\"dba\"") && line.contains("\"outcome\":\"begun\""), "{line}");
    }
    assert!(!log.contains("token=") && !log.contains("s3cret"));
    let jobs = world.call(&world.donor, JobsListParams { limit: 10, unfinished: false }).await;
    assert!(jobs.iter().any(|job| job.actor.contains("dba at 127.0.0.1 by the gateway's page")), "{jobs:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_other_origin_no_other_session_and_nobody_without_a_login_has_anything_done() {
    let world = World::start(WorldOptions { is_empty: true, ..WorldOptions::default() }).await;
    let (node, site, dir) = (Node::start().await, Site::claim(), tempfile::tempdir().unwrap());
    let _gateway = acting(&world, &node, &site, dir.path()).await;
    let request = |method: &str, path: &str, lines: &str, form: &str| {
        let length = form.len();
        format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {length}\r\n{lines}\r\n{form}",
            site.address()
        )
    };
    let ask = async |method: &str, path: &str, lines: &str, form: &str| {
        web::raw(site.address(), request(method, path, lines, form)).await.unwrap()
    };
    let cookie = |digit: &str| format!("Cookie: page_session={}\r\n", digit.repeat(32));
    let asked = ask("GET", "/act?do=create&host=db1", &format!("{LOGIN}{}", cookie("a")), "").await;
    let token =
        asked.body.split("name=\"token\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let form = format!("do=create&host=db1&token={token}");
    let own = "Sec-Fetch-Site: same-origin\r\nOrigin: null\r\n";
    for (what, lines, form, status) in [
        ("no login", format!("{own}{}", cookie("a")), form.clone(), 401),
        ("no word of an origin", format!("{LOGIN}{}", cookie("a")), form.clone(), 403),
        ("another site", format!("{LOGIN}Sec-Fetch-Site: cross-site\r\n{}", cookie("a")), form.clone(), 403),
        (
            "another origin",
            format!("{LOGIN}Origin: http://evil.example\r\n{}", cookie("a")),
            form.clone(),
            403,
        ),
        ("no session", format!("{LOGIN}{own}"), form.clone(), 403),
        ("another session", format!("{LOGIN}{own}{}", cookie("b")), form.clone(), 403),
        ("no token", format!("{LOGIN}{own}{}", cookie("a")), "do=create&host=db1".to_owned(), 403),
        ("no order", format!("{LOGIN}{own}{}", cookie("a")), format!("do=drop&host=db1&token={token}"), 403),
        (
            "a form without end",
            format!("{LOGIN}{own}{}", cookie("a")),
            format!("{form}&x={}", "x".repeat(5_000)),
            413,
        ),
    ] {
        let reply = ask("POST", "/act", &lines, &form).await;
        assert_eq!(reply.status, status, "{what}: {}", reply.body);
    }
    let by_get = ask("GET", &format!("/act?{form}"), &format!("{LOGIN}{own}{}", cookie("a")), "").await;
    assert!(by_get.status == 200 && by_get.body.contains("Yes, do it"), "a link only asks");
    assert!(
        world.call(&world.donor, JobsListParams { limit: 10, unfinished: false }).await.is_empty(),
        "nothing was begun"
    );
    let meant = ask("POST", "/act", &format!("{LOGIN}{own}{}", cookie("a")), &form).await;
    assert_eq!(meant.status, 303, "{}", meant.body);
    poll::until_async(PATIENCE, "the snapshot", || async {
        (!world.call(&world.donor, SnapshotListParams { usable: true }).await.is_empty()).then_some(())
    })
    .await;
    // A link that asks about a seed ends no other job.
    let jobs = world.call(&world.donor, JobsListParams { limit: 10, unfinished: false }).await;
    let form = format!("do=abort&host=db1&job={}&token={token}", jobs[0].id);
    let other = ask("POST", "/act", &format!("{LOGIN}{own}{}", cookie("a")), &form).await;
    assert!(other.status == 502 && other.body.contains("is no seed but snapshot.create"), "{}", other.body);
    // Where actions are off there is nothing to ask.
    let quiet = Site::claim();
    let _other = Gateway::start(&world.nats.url(), &node, &quiet.config(""));
    poll::until_async(PATIENCE, "the other page", || quiet.get("/")).await;
    assert_eq!(quiet.get("/act?do=create&host=db1").await.unwrap().status, 404);
    let host = quiet.get("/host/db1").await.unwrap();
    assert!(!host.body.contains("/act?"), "{}", host.body);
}
