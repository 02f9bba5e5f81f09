//! Subcommands that need no bus: keys, and the bus's own configuration.

use std::collections::BTreeMap;

use bus::permissions::{self, BusUsers, Profile};
use serde_json::json;

use crate::args::{BusCmd, KeyCmd};
use crate::error::{CtlError, Result};
use crate::keys;
use crate::output::Out;

pub(super) fn run(command: &KeyCmd, out: &Out) -> Result<()> {
    let (public, file) = match command {
        KeyCmd::Generate { file } => (keys::generate(file)?, file),
        KeyCmd::Show { file } => (keys::read_seed(file)?.public_key(), file),
    };
    out.result(&json!({"public_key": public, "file": file}), |_| public.clone());
    if matches!(command, KeyCmd::Generate { .. }) {
        out.note(&format!(
            "the secret seed is in {} (mode 0600); add the public key to `trusted` in the agents' configuration",
            file.display()
        ));
    }
    Ok(())
}

pub(super) fn bus(command: BusCmd, out: &Out) -> Result<()> {
    let BusCmd::Config(args) = command;
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
