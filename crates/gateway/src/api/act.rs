//! What changes a host, by a GET as the original has it: refused where that is configured, told in the log, and finished even if its
//! caller goes away.

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::Response;
use bus::Client;
use jiff::SignedDuration;
use protocol::ids::SnapshotId;
use protocol::params::*;
use serde::Serialize;
use serde_json::Value;
use trace::Kind;

use super::read::{mount_of, snapshots};
use super::shapes;
use crate::address;
use crate::config::DatadirDelete;
use crate::failure::Failure;
use crate::http::answer;
use crate::http::caller::Caller;
use crate::state::Gateway;

/// Orchestrator waits 60 s.
const LIMIT: Duration = Duration::from_secs(57);
/// What follows a copy belongs to a seed that has ended so lately.
const LATELY: SignedDuration = SignedDuration::from_hours(1);

type Gate = State<Arc<Gateway>>;
type Answer = Response<Body>;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    MountLv,
    Umount,
    RemoveLv,
    CreateSnapshot,
    MysqlStop,
    MysqlStart,
    DeleteDatadir,
    PostCopy,
    Custom,
    Receive,
    Send,
    Abort,
}

impl Action {
    /// The endpoint.
    fn name(self) -> &'static str {
        match self {
            Self::MountLv => "mountlv",
            Self::Umount => "umount",
            Self::RemoveLv => "removelv",
            Self::CreateSnapshot => "create-snapshot",
            Self::MysqlStop => "mysql-stop",
            Self::MysqlStart => "mysql-start",
            Self::DeleteDatadir => "delete-mysql-datadir",
            Self::PostCopy => "post-copy",
            Self::Custom => "custom-commands",
            Self::Receive => "receive-mysql-seed-data",
            Self::Send => "send-mysql-seed-data",
            Self::Abort => "abort-seed",
        }
    }

    /// A seed must not go on past its failure, which orchestrator sees only when the connection breaks. It may repeat a request whose
    /// connection broke, so each of these can be done twice.
    fn stops_a_seed(self) -> bool {
        matches!(
            self,
            Self::MountLv
                | Self::DeleteDatadir
                | Self::Receive
                | Self::Send
                | Self::PostCopy
                | Self::MysqlStart
        )
    }
}

/// Does what was asked for, unless it may not, and tells it in the log.
pub(super) async fn act<W, F>(gateway: Arc<Gateway>, caller: Caller, action: Action, work: W) -> Answer
where
    W: FnOnce(Arc<Gateway>, Caller, Client) -> F + Send + 'static,
    F: Future<Output = Result<Value, Failure>> + Send + 'static,
{
    if let Err(refusal) = may_act(&gateway, caller.client) {
        tell(action, &caller, "refused", &refusal.to_string());
        return failed(action, &refusal);
    }
    let by = gateway.ask.client().in_name_of(format!(
        "orchestrator at {} by orchestrator-gateway, {}",
        caller.client,
        action.name()
    ));
    // A task of its own: what was begun is finished and told, also when orchestrator hangs up.
    let done = tokio::spawn(async move {
        let (mut span, client) = by.begin(action.name(), Kind::Server, None);
        let result = match tokio::time::timeout(LIMIT, work(gateway, caller.clone(), client)).await {
            Ok(result) => result,
            Err(_) => {
                let seconds = LIMIT.as_secs();
                Err(Failure::new(format!(
                    "{} on {} is not done within {seconds} s",
                    action.name(),
                    caller.host.name
                )))
            }
        };
        match &result {
            Ok(_) => tell(action, &caller, "done", ""),
            Err(failure) => {
                tell(action, &caller, "failed", &failure.to_string());
                span.fail("failed");
            }
        }
        result
    });
    match done.await {
        Ok(Ok(value)) => answer::ok(&value),
        Ok(Err(failure)) => failed(action, &failure),
        Err(error) => failed(action, &Failure::new(error.to_string())),
    }
}

fn may_act(gateway: &Gateway, client: IpAddr) -> Result<(), Failure> {
    if gateway.read_only {
        return Err(Failure::new("this gateway changes nothing: gateway.read_only is set"));
    }
    match address::allows(&gateway.actors, client) {
        true => Ok(()),
        false => Err(Failure::new(format!("{client} may only look: it is not in listen.actors"))),
    }
}

/// The audit: who had what done to which host, and what became of it. Never the token.
fn tell(action: Action, caller: &Caller, outcome: &'static str, why: &str) {
    tracing::info!(
        target: "audit",
        actor = "orchestrator",
        client = %caller.client,
        host = caller.host.name,
        agent = %caller.host.agent,
        action = action.name(),
        asked = caller.asked,
        outcome,
        why,
    );
}

fn failed(action: Action, failure: &Failure) -> Answer {
    if action.stops_a_seed() && !failure.is_mistake() {
        return answer::broken();
    }
    answer::failed(&failure.to_string())
}

fn value<T: Serialize>(value: &T) -> Result<Value, Failure> {
    serde_json::to_value(value).map_err(|error| Failure::new(error.to_string()))
}

pub(super) async fn mount_lv(State(gateway): Gate, caller: Caller) -> Answer {
    act(gateway, caller, Action::MountLv, |gateway, caller, client| async move {
        let snapshot = named(&gateway, &caller).await?;
        let host = &caller.host.agent;
        let list = snapshots(&gateway, host).await?;
        match shapes::mounted(&list) {
            Some((mounted, _)) if mounted.id == snapshot => {}
            Some((other, _)) => {
                return Err(Failure::new(format!(
                    "{} is mounted on {} already; umount it first",
                    shapes::path_of(other),
                    caller.host.name
                )));
            }
            None => {
                let params = SnapshotMountParams {
                    snapshot: Some(snapshot),
                    writable: false,
                    at_mount_point: false,
                    foreign: false,
                };
                gateway.ask.change(&client, host, params).await?;
            }
        }
        value(&mount_of(&gateway, host).await?)
    })
    .await
}

/// The snapshot that `lv=` names, by what the host lists and nothing else.
async fn named(gateway: &Gateway, caller: &Caller) -> Result<SnapshotId, Failure> {
    let path = caller.parameter("lv").unwrap_or_default();
    let list = snapshots(gateway, &caller.host.agent).await?;
    let found = list.iter().find(|snapshot| !path.is_empty() && shapes::path_of(snapshot) == path);
    found.map(|snapshot| snapshot.id.clone()).ok_or_else(|| {
        let path: String = path.chars().take(128).collect();
        Failure::mistake(format!("{} has no snapshot {path:?}", caller.host.name))
    })
}

pub(super) async fn umount(State(gateway): Gate, caller: Caller) -> Answer {
    act(gateway, caller, Action::Umount, |gateway, caller, client| async move {
        let host = &caller.host.agent;
        gateway.ask.forget(host);
        let list = snapshots(&gateway, host).await?;
        let Some((snapshot, _)) = shapes::mounted(&list) else {
            return Err(Failure::new(format!("nothing is mounted on {}", caller.host.name)));
        };
        let params = SnapshotUnmountParams { snapshot: Some(snapshot.id.clone()) };
        gateway.ask.change(&client, host, params).await?;
        value(&mount_of(&gateway, host).await?)
    })
    .await
}

pub(super) async fn remove_lv(State(gateway): Gate, caller: Caller) -> Answer {
    act(gateway, caller, Action::RemoveLv, |gateway, caller, client| async move {
        gateway.ask.forget(&caller.host.agent);
        let snapshot = named(&gateway, &caller).await?;
        let params = SnapshotRemoveParams { snapshot, foreign: false };
        gateway.ask.job(&client, &caller.host.agent, params).await?;
        Ok(Value::Bool(true))
    })
    .await
}

pub(super) async fn create_snapshot(State(gateway): Gate, caller: Caller) -> Answer {
    act(gateway, caller, Action::CreateSnapshot, |gateway, caller, client| async move {
        let params = SnapshotCreateParams { keep_s: None, size_bytes: None };
        gateway.ask.job(&client, &caller.host.agent, params).await?;
        Ok(Value::Bool(true))
    })
    .await
}

pub(super) async fn mysql_stop(State(gateway): Gate, caller: Caller) -> Answer {
    act(gateway, caller, Action::MysqlStop, |gateway, caller, client| async move {
        gateway.ask.job(&client, &caller.host.agent, MysqlStopParams {}).await?;
        Ok(Value::Bool(true))
    })
    .await
}

/// A seed starts the server as part of its proof, so at its end there is nothing left to do.
pub(super) async fn mysql_start(State(gateway): Gate, caller: Caller) -> Answer {
    act(gateway, caller, Action::MysqlStart, |gateway, caller, client| async move {
        let host = &caller.host.agent;
        gateway.ask.forget(host);
        let server = gateway.ask.query(host, MysqlInfoParams {}).await?;
        if server.state != protocol::mysql::ServerState::Ready {
            gateway.ask.job(&client, host, MysqlStartParams {}).await?;
        }
        Ok(Value::Bool(true))
    })
    .await
}

/// Orchestrator has the recipient erased before it sends. Unless it is configured otherwise the old data stay until the new ones are
/// proven: the seed that follows replaces them.
pub(super) async fn delete_datadir(State(gateway): Gate, caller: Caller) -> Answer {
    act(gateway, caller, Action::DeleteDatadir, |gateway, caller, client| async move {
        if gateway.datadir_delete == DatadirDelete::Clear {
            let host = &caller.host.agent;
            let server = gateway.ask.query(host, MysqlInfoParams {}).await?;
            let datadir = server.datadir.clone();
            let datadir = datadir
                .ok_or_else(|| Failure::new(format!("the datadir of {} is not known", caller.host.name)))?;
            gateway.ask.job(&client, host, DatadirClearParams { datadir }).await?;
        } else {
            tracing::info!(host = caller.host.name, "its datadir is left to the seed that follows");
        }
        Ok(Value::Bool(true))
    })
    .await
}

/// A seed's own stage has done it already, before the server started; alone it runs what the host has configured.
pub(super) async fn post_copy(State(gateway): Gate, caller: Caller) -> Answer {
    act(gateway, caller, Action::PostCopy, |gateway, caller, client| async move {
        let host = &caller.host.agent;
        if gateway.seeds.done_onto(host, LATELY).is_none() {
            gateway.ask.job(&client, host, DatadirPostCopyParams {}).await?;
        }
        Ok(Value::Bool(true))
    })
    .await
}

pub(super) async fn custom(State(gateway): Gate, caller: Caller, Path(name): Path<String>) -> Answer {
    act(gateway, caller, Action::Custom, |gateway, caller, client| async move {
        let host = &caller.host.agent;
        let listed = gateway.ask.query(host, CustomListParams {}).await?;
        if !listed.iter().any(|command| command.name == name) {
            return Err(Failure::new(format!("{name} : Command not found")));
        }
        let view = gateway.ask.job(&client, host, CustomRunParams { name }).await?;
        let printed = view.result.as_ref().and_then(|result| result.get("stdout")?.as_str());
        Ok(answer::outcome("OK", printed.unwrap_or_default()))
    })
    .await
}
