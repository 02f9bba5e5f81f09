//! The bus itself: its accounts, and the streams on it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use bus::permissions::{self, BusUsers, Profile};
use bus::status::{BusStatus, Problem};
use bus::{Made, StreamLimits};
use protocol::ids::AgentId;
use serde_json::json;

use crate::args::{BusConfigArgs, BusSetupArgs};
use crate::error::{CtlError, Result};
use crate::exit::Exit;
use crate::output::Out;
use crate::session::Session;

/// A host on the bus asks for its queued commands at least this often.
const ASKS_WITHIN: Duration = Duration::from_secs(15);

/// Writes the server's accounts; needs no connection.
pub(super) fn config(args: BusConfigArgs, domain: Option<String>, out: &Out) -> Result<()> {
    let profile = if args.strict { Profile::Strict } else { Profile::Simple };
    let users =
        BusUsers { agents: args.agents, controllers: args.controllers, auditors: args.auditors, domain };
    let config = permissions::server_config(&users, profile)
        .map_err(|source| CtlError::bus("cannot make the configuration", source))?;
    let agents = users.agents.iter().map(|a| (a.agent.to_string(), permissions::agent_inbox(&a.agent)));
    let people = users.controllers.iter().chain(&users.auditors);
    let inboxes: BTreeMap<String, String> =
        agents.chain(people.map(|u| (u.name.clone(), permissions::user_inbox(&u.name)))).collect();
    out.result(&json!({"config": config, "inbox_prefixes": inboxes}), |_| config.clone());
    for (user, inbox) in &inboxes {
        out.note(&format!("{user} must set the inbox prefix {inbox}"));
    }
    Ok(())
}

/// Makes the streams that are missing.
pub(super) async fn setup(session: &Session, args: &BusSetupArgs) -> Result<()> {
    let events = StreamLimits {
        max_bytes: i64::try_from(args.events_size).unwrap_or(i64::MAX),
        max_age: Duration::from_secs(args.events_keep),
        replicas: args.replicas,
    };
    let commands = StreamLimits { replicas: args.replicas, ..bus::durable::command_stream_limits() };
    let bus = session.client.bus();
    let failed = |source| CtlError::bus("cannot set up the bus", source);
    let streams = [
        (bus::events::EVENT_STREAM, bus::events::ensure_event_stream(bus, &events).await.map_err(failed)?),
        (
            bus::durable::COMMAND_STREAM,
            bus::durable::ensure_command_stream(bus, &commands).await.map_err(failed)?,
        ),
    ];
    for (name, made) in streams {
        session
            .out
            .result(&json!({"stream": name, "made": made == Made::Now, "became": became(&made)}), |_| {
                format!("{name}: {}", became(&made))
            });
    }
    Ok(())
}

/// Shows what is kept where and what is wrong.
pub(super) async fn status(session: &Session) -> Result<()> {
    // As any use of this program does; what it says is seen in what follows.
    let made = session.event_stream().await;
    let mut status = look(session).await?;
    let present: HashSet<AgentId> = session.fleet().await?.into_iter().map(|beat| beat.agent).collect();
    let idle = |status: &BusStatus| -> HashMap<AgentId, u64> {
        let waiting = status.streams.iter().flat_map(|stream| &stream.waiting);
        let idle = waiting.filter(|w| w.undelivered > 0 && !w.asks && present.contains(&w.host));
        idle.map(|w| (w.host.clone(), w.acknowledged)).collect()
    };
    let before = idle(&status);
    if !before.is_empty() {
        // One look proves nothing: the host may be between two questions.
        tokio::time::sleep(ASKS_WITHIN).await;
        status = look(session).await?;
        let now = idle(&status);
        for (host, _) in now.iter().filter(|(host, acknowledged)| before.get(host) == Some(acknowledged)) {
            status.problems.push(Problem {
                what: format!("{host} is on the bus and does not take the commands that were left for it"),
                next: Some(format!("see the log of the agent on {host}: its account must permit it")),
            });
        }
    }
    session.out.result(&status, crate::render::bus_status);
    if let Ok(Made::Short { replicas, why }) = made {
        session.out.note(&format!("the stream of events stays at {replicas} replica(s): {why}"));
    }
    if !status.problems.is_empty() {
        return Err(CtlError::Told(Exit::Failed));
    }
    if !status.missing_rights.is_empty() {
        return Err(CtlError::Told(Exit::Denied));
    }
    Ok(())
}

async fn look(session: &Session) -> Result<BusStatus> {
    let seen = bus::status::look(session.client.bus()).await;
    seen.map_err(|source| CtlError::bus("cannot see what the bus keeps", source))
}

/// What became of a stream.
fn became(made: &Made) -> String {
    match made {
        Made::Now => "made".to_owned(),
        Made::Before => "was there; its limits stay".to_owned(),
        Made::Raised { from, to } => format!("was there; raised from {from} to {to} replicas"),
        Made::Short { replicas, why } => format!("was there and stays at {replicas} replica(s): {why}"),
    }
}
