//! The bus itself: its accounts, and the streams on it.

use std::collections::BTreeMap;
use std::time::Duration;

use bus::permissions::{self, BusUsers, Profile};
use bus::{Made, StreamLimits};
use serde_json::json;

use crate::args::{BusConfigArgs, BusSetupArgs};
use crate::error::{CtlError, Result};
use crate::output::Out;
use crate::session::Session;

/// Writes the server's accounts; needs no connection.
pub(super) fn config(args: BusConfigArgs, out: &Out) -> Result<()> {
    let profile = if args.strict { Profile::Strict } else { Profile::Simple };
    let users = BusUsers { agents: args.agents, controllers: args.controllers, auditors: args.auditors };
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

/// What became of a stream.
fn became(made: &Made) -> String {
    match made {
        Made::Now => "made".to_owned(),
        Made::Before => "was there; its limits stay".to_owned(),
        Made::Raised { from, to } => format!("was there; raised from {from} to {to} replicas"),
        Made::Short { replicas, why } => format!("was there and stays at {replicas} replica(s): {why}"),
    }
}
