//! The five questions and orders of a seed.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::Response;
use protocol::ids::{AgentId, SnapshotId};
use serde::Deserialize;
use serde_json::Value;

use super::act::{Action, act};
use super::read::snapshots;
use super::shapes;
use crate::failure::Failure;
use crate::http::answer;
use crate::http::caller::Caller;
use crate::seeds::{self, Beginning};
use crate::state::Gateway;

type Gate = State<Arc<Gateway>>;
type Answer = Response<Body>;

/// Orchestrator's number of a seed: digits, nothing else.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Number(u64);

impl TryFrom<String> for Number {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = if digits { text.parse().ok() } else { None };
        number.map(Self).ok_or("a seed is named by a number")
    }
}

/// Nothing can be done yet, since the donor is not known; the seed is remembered.
pub(super) async fn receive(
    State(gateway): Gate,
    caller: Caller,
    Path(Number(number)): Path<Number>,
) -> Answer {
    act(gateway, caller, Action::Receive, move |gateway, caller, _| async move {
        gateway.seeds.receive(&caller.host.agent, number).await?;
        Ok(Value::Bool(true))
    })
    .await
}

pub(super) async fn send(
    State(gateway): Gate,
    caller: Caller,
    Path((target, Number(number))): Path<(String, Number)>,
) -> Answer {
    act(gateway, caller, Action::Send, move |gateway, caller, client| async move {
        let donor = caller.host.agent.clone();
        let seed = received(&gateway, &target, number).await?;
        let with = Beginning { ask: gateway.ask.clone(), client, options: gateway.seed_options.clone() };
        let snapshot = held(&gateway, &donor).await;
        // A task of its own: a seed that is half begun is begun to the end, also when nobody waits for it any more.
        let begun = tokio::spawn(async move {
            let begun = seeds::begin(&with, &seed, donor.clone(), snapshot).await;
            for host in [&donor, &seed.now().recipient] {
                with.ask.forget(host);
            }
            begun
        });
        begun.await.map_err(|error| Failure::new(error.to_string()))??;
        Ok(Value::Bool(true))
    })
    .await
}

/// The seed that the recipient was told to receive; where another gateway serves the recipient, that one was told.
async fn received(gateway: &Gateway, target: &str, number: u64) -> Result<Arc<seeds::Seed>, Failure> {
    if let Some(host) = gateway.hosts.named(target) {
        return gateway
            .seeds
            .of(&host.agent, number)
            .ok_or_else(|| Failure::new(format!("{target} was not told to receive seed {number}")));
    }
    let fleet = gateway.ask.fleet();
    let agent = fleet.iter().map(|entry| &entry.heartbeat.agent);
    let agent = agent.into_iter().find(|agent| gateway.hosts.name(agent).as_deref() == Some(target));
    let agent = agent.ok_or_else(|| Failure::new(format!("{target:?} is no host of the fleet")))?;
    gateway.seeds.receive(agent, number).await
}

/// What orchestrator has had mounted for this seed.
async fn held(gateway: &Gateway, donor: &AgentId) -> Result<SnapshotId, Failure> {
    gateway.ask.forget(donor);
    let list = snapshots(gateway, donor).await?;
    let mounted = shapes::mounted(&list).map(|(snapshot, _)| snapshot.id.clone());
    mounted.ok_or_else(|| {
        Failure::new(format!("no snapshot is mounted on {donor}; orchestrator mounts one first"))
    })
}

/// Held until the seed is over or orchestrator would lose patience: it asks again only after 30 s.
pub(super) async fn completed(
    State(gateway): Gate,
    caller: Caller,
    Path(Number(number)): Path<Number>,
) -> Answer {
    let Some(seed) = gateway.seeds.of(&caller.host.agent, number) else { return answer::ok(&false) };
    let deadline = tokio::time::Instant::now() + gateway.hold;
    seeds::adopt(gateway.ask.client(), &seed).await;
    let outcome = seed.outcome(deadline.saturating_duration_since(tokio::time::Instant::now())).await;
    if outcome.is_some() {
        gateway.ask.forget(&caller.host.agent);
    }
    answer::ok(&outcome.is_some())
}

pub(super) async fn succeeded(
    State(gateway): Gate,
    caller: Caller,
    Path(Number(number)): Path<Number>,
) -> Answer {
    let outcome = gateway.seeds.of(&caller.host.agent, number).and_then(|seed| seed.now().outcome);
    answer::ok(&outcome.is_some_and(|outcome| outcome.succeeded))
}

/// Asked of the recipient and then of the donor; each asking ends both sides.
pub(super) async fn abort(
    State(gateway): Gate,
    caller: Caller,
    Path(Number(number)): Path<Number>,
) -> Answer {
    act(gateway, caller, Action::Abort, move |gateway, caller, client| async move {
        if let Some(seed) = gateway.seeds.of(&caller.host.agent, number) {
            seeds::abort(&client, &seed).await?;
            gateway.ask.forget(&caller.host.agent);
        }
        Ok(Value::Bool(true))
    })
    .await
}
