//! A thousand hosts, reached by the keyboard and by every line of the page.

use bus::Client;
use e2e::browser::{Browser, Look};
use e2e::world::{PATIENCE, client};
use protocol::ids::BootId;
use serde_json::json;
use testkit::nats::{NatsOptions, NatsServer};
use testkit::poll;

use super::site::{Site, beat, recorded};
use crate::node::Node;
use crate::program::Gateway;

const HOSTS: usize = 1_000;

/// Every host says that it is there, for the next two minutes.
async fn speak(client: &Client) {
    let status = recorded();
    for number in 0..HOSTS {
        beat(client, &status, &format!("db{number}"), |beat| {
            beat["boot"] = BootId::generate().to_string().into();
            beat["interval_ms"] = 120_000.into();
            beat["cluster"] = format!("c{}", number / 20).into();
            beat["accepts_unsigned"] = false.into();
            beat["mysql"]["lag_seconds"] = number.into();
            beat["mysql"]["replica_of"] = "source:3306".into();
            if number == 777 {
                beat["mysql"]["state"] = json!("stopped");
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_hosts_are_reached_filtered_and_sorted_by_the_keyboard() {
    if !Browser::is_here() {
        testkit::skip!("chromium is not installed");
    }
    let nats = NatsServer::start(&NatsOptions::jetstream()).unwrap();
    let node = Node::start().await;
    let site = Site::claim();
    let gateway = Gateway::start(&nats.url(), &node, &site.config(""));
    let asker = client(&nats.url()).await;
    let browser = Browser::start().await;
    let tab = browser.tab(Look::default()).await;
    poll::until_async(PATIENCE, "the gateway to hear the fleet", || async {
        gateway.log().contains("the gateway listens").then_some(())
    })
    .await;
    speak(&asker).await;
    tab.open(&site.url("/")).await;
    let rows = "[...document.querySelectorAll('#parts tr.item')]";
    tab.until("all hosts", &format!("{rows}.length === {HOSTS}")).await;
    assert_eq!(tab.eval(&format!("new Set({rows}.map((row) => row.id)).size")).await, HOSTS);
    let first = tab.eval(&format!("{rows}[0].id")).await;
    assert_eq!(first, "h-db777", "the cluster of the troubled one, and it, stand first");

    tab.press("/").await;
    tab.type_text("db99").await;
    tab.until(
        "what was typed to be filtered for",
        &format!("{rows}.length === 11 && location.search === '?q=db99'"),
    )
    .await;
    tab.press("Escape").await;
    for key in ["j", "j", "j", "k"] {
        tab.press(key).await;
    }
    // Troubles come before the fleet, and are walked through as well.
    let second = "[...document.querySelectorAll('#parts .item .row')][1]";
    let second = tab.eval(&format!("document.activeElement === {second}")).await;
    assert_eq!(second, true, "{}", tab.eval("document.activeElement.outerHTML").await);
    let path = tab.eval("document.activeElement.pathname").await;
    tab.press("Enter").await;
    tab.until(
        "the host",
        &format!("location.pathname === {path} && document.body.classList.contains('script')"),
    )
    .await;
    tab.press("u").await;
    tab.until("the filter as it was", &format!("location.search === '?q=db99' && {rows}.length === 11 && document.body.classList.contains('script')"))
        .await;
    tab.press("?").await;
    tab.until("help", "document.getElementById('help').open").await;
    tab.press("Escape").await;
    tab.until("no help", "!document.getElementById('help').open").await;

    tab.open(&site.url("/?sort=lag")).await;
    assert_eq!(
        tab.eval(&format!("{rows}.slice(0, 3).map((row) => row.id).join()")).await,
        "h-db999,h-db998,h-db997"
    );
    tab.open(&site.url("/?trouble=mysql-down")).await;
    assert_eq!(tab.eval(&format!("{rows}.map((row) => row.id).join()")).await, "h-db777");
    tab.open(&site.url("/?cluster=c7&sort=host")).await;
    assert_eq!(tab.eval(&format!("{rows}.length")).await, 20);
    site.assert_well(&tab);
}
