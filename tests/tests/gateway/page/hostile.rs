//! What a host says that means harm, and what a link may carry.

use bus::Client;
use bus::events::{EventFilter, Since};
use e2e::browser::{Browser, Look};
use e2e::world::{PATIENCE, client};
use jiff::Timestamp;
use protocol::event::{Event, EventData, JobStage};
use protocol::ids::{EventId, JobId};
use protocol::job::JobState;
use protocol::subject::Subject;
use serde_json::{Value, json};
use testkit::agent::{Agent, AgentOptions};
use testkit::nats::{NatsOptions, NatsServer};
use testkit::poll;

use super::site::{Site, beat, recorded};
use crate::node::Node;
use crate::program::Gateway;

/// A text that would run in three ways and turn its line.
const HARM: &str = "<script>window.hacked=1</script>\"><img src=x onerror=window.hacked=2>'onfocus=window.hacked=3 \u{202e}dne\u{1b}[2J";

/// A seed's event with harm wherever a text stands.
fn event(job: JobId) -> Event {
    let data = EventData::JobFinished(JobStage {
        job,
        kind: "seed.start".to_owned(),
        actor: HARM.to_owned(),
        summary: HARM.to_owned(),
        state: JobState::Failed,
        stage: Some(HARM.to_owned()),
        what: "failed".to_owned(),
        detail: json!({HARM: HARM}),
        error: Some(protocol::error::WireError::new(protocol::error::ErrorCode::Internal, HARM)),
    });
    Event {
        specversion: "1.0".into(),
        id: EventId::generate(),
        source: "/orch/agents/evil".into(),
        kind: "orch.job.finished".into(),
        subject: None,
        time: Timestamp::now(),
        datacontenttype: "application/json".into(),
        cluster: HARM.into(),
        dc: HARM.into(),
        host: "evil".parse().unwrap(),
        sequence: 1,
        data: data.into_body(),
    }
}

async fn say_harmful_things(client: &Client, job: JobId) {
    let status = recorded();
    beat(client, &status, "evil", |beat| {
        for key in ["cluster", "dc", "version"] {
            beat[key] = HARM.into();
        }
        beat["interval_ms"] = 60_000.into();
        beat["mysql"]["replica_of"] = HARM.into();
        beat["mysql"]["lag_seconds"] = 100_000.into();
        beat["mysql"]["version"]["text"] = HARM.into();
        beat["jobs"] = json!([{"id": job, "kind": HARM, "state": "running", "stage": HARM, "percent": 3}]);
    })
    .await;
    let subject = Subject::Event { agent: "evil".parse().unwrap(), kind: "job.finished".into() }.to_string();
    let body = serde_json::to_vec(&event(job)).unwrap();
    client.bus().publish(subject, None, body.into()).await.unwrap();
    poll::until_async(PATIENCE, "the event to be stored", || async {
        let filter = EventFilter {
            since: Since::All,
            until_end: true,
            host: Some("evil".parse().unwrap()),
            ..EventFilter::default()
        };
        let mut events = client.events(filter).await.ok()?;
        futures_util::StreamExt::next(&mut events).await
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_hostile_host_says_and_a_hostile_link_carries_is_shown_and_not_run() {
    if !Browser::is_here() {
        testkit::skip!("chromium is not installed");
    }
    let nats = NatsServer::start(&NatsOptions::jetstream()).unwrap();
    // Its agent makes the stream.
    let agent = Agent::start(AgentOptions::new("db1", &nats.url())).unwrap();
    let asker = client(&nats.url()).await;
    e2e::world::serving(&asker, agent.id()).await;
    let node = Node::start().await;
    let site = Site::claim();
    let gateway = Gateway::start(&nats.url(), &node, &site.config(""));
    gateway.serving("db1").await;
    let job = JobId::generate();
    say_harmful_things(&asker, job).await;
    let browser = Browser::start().await;
    let escaped: String = HARM.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let seed = format!("/seed/{job}");
    let query = format!("/?q={escaped}&cluster={escaped}&dc={escaped}&trouble={escaped}&sort={escaped}");
    let events = format!(
        "/events?q={escaped}&host={escaped}&kind={escaped}&actor={escaped}&since={escaped}&before={escaped}"
    );
    for (path, is_shown) in [
        ("/", true),
        ("/host/evil", true),
        ("/snapshots", true),
        ("/seeds", true),
        (seed.as_str(), true),
        ("/events", true),
        (query.as_str(), false),
        (events.as_str(), false),
        (&format!("/host/{escaped}"), false),
        (&format!("/{escaped}"), false),
    ] {
        let tab = browser.tab(Look::default()).await;
        tab.open(&site.url(path)).await;
        if is_shown {
            let shown =
                "document.body.textContent.includes('<script>window.hacked=1</script>\\\"><img src=x')";
            tab.until(&format!("{path} to show what was said"), shown).await;
        }
        tab.eval("document.querySelectorAll('a, button, input, select').forEach((one) => one.focus())").await;
        let state = tab
            .eval("[window.hacked ?? null, document.scripts.length, document.querySelectorAll('img, [onerror], [onfocus]').length,
                    /[\\u202e\\u001b]/.test(document.documentElement.outerHTML)]")
            .await;
        assert_eq!(state, json!([Value::Null, 1, 0, false]), "{path}");
        // A page that is not there says so in the console too, by its status.
        let seen = tab.seen().errors.into_iter().filter(|error| !error.contains("404"));
        assert_eq!(seen.collect::<Vec<_>>(), Vec::<String>::new(), "{path}");
    }
    let line = site.get("/").await.unwrap().body;
    assert!(!line.contains("--cluster=<") && !line.contains('\u{202e}'));
}
