//! nats-server configuration with least privilege: who may publish and hear what. Pure text, no connection.
//!
//! Two profiles. *Simple*: one account; subject permissions keep agents apart, save that an agent can name another's
//! command subject as the reply subject of a publish and so make the server deliver an acknowledgement there. That is no
//! command, and signed commands make sure of it. *Strict*: one account per agent, so that no subject of another agent
//! exists for it at all. The questions to the fleet and to micro services are handed to each agent, and its answer goes back to
//! the inbox that the question named and nowhere else.

use std::collections::HashSet;
use std::fmt::Write;
use std::time::Duration;

use protocol::ids::AgentId;
use protocol::subject::{
    ALL_DURABLE_COMMANDS, ALL_EVENTS, ALL_HEARTBEATS, ALL_PROGRESS, ASK_FLEET, all_commands, commands_of,
    encode_host, events_of, form, progress_of,
};

use crate::config::{api_of_domain, check_domain};
use crate::durable::{COMMAND_STREAM, consumer_of};
use crate::error::{BusError, Result};
use crate::events::EVENT_STREAM;
use crate::store::{bucket_of, consumer_of as consumer_in_buckets_of, stream_of};
use crate::streams::last_of;

/// An agent's user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentUser {
    /// The agent.
    pub agent: AgentId,
    /// Its public nkey (`U…`).
    pub key: String,
}

/// A person's or program's user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedUser {
    /// Its name: letters, digits, `-`, `_`.
    pub name: String,
    /// Its public nkey (`U…`).
    pub key: String,
}

/// All users of the bus.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BusUsers {
    /// Each hears its own commands and speaks as itself.
    pub agents: Vec<AgentUser>,
    /// Send commands to all, read all, make streams.
    pub controllers: Vec<NamedUser>,
    /// Read heartbeats, events and progress.
    pub auditors: Vec<NamedUser>,
    /// The JetStream domain that keeps everything, where users come through leaf nodes.
    pub domain: Option<String>,
}

/// How apart the agents are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// One account, permissions by subject.
    Simple,
    /// One account per agent.
    Strict,
}

/// The inbox prefix that an agent must set (`inbox_prefix`).
#[must_use]
pub fn agent_inbox(agent: &AgentId) -> String {
    format!("_INBOX_{}", encode_host(agent))
}

/// The JetStream prefix that an agent must set (`jetstream_prefix`) under [`Profile::Strict`]: under JetStream's own name its account
/// would be asked, which has none.
pub const STRICT_JETSTREAM_PREFIX: &str = "ORCH.API";

/// The inbox prefix that a controller or auditor must set.
#[must_use]
pub fn user_inbox(name: &str) -> String {
    // Upper case: no host token looks like that.
    format!("_INBOX_USER_{name}")
}

/// The `accounts` block of a nats-server configuration, to be included by the server's own.
///
/// # Errors
/// A name or key that is not valid, or a key given twice.
pub fn server_config(users: &BusUsers, profile: Profile) -> Result<String> {
    check(users, profile)?;
    let mut text = String::from("# Made by `ctl bus config`; make it anew rather than edit it.\n");
    match profile {
        Profile::Simple => simple(&mut text, users),
        Profile::Strict => strict(&mut text, users),
    }
    .map_err(|error| BusError::Unsendable { what: "the configuration".into(), why: error.to_string() })?;
    Ok(text)
}

fn check(users: &BusUsers, profile: Profile) -> Result<()> {
    let bad = |why| Err(BusError::Config { key: "users", why });
    let mut seen = HashSet::new();
    let agents = users.agents.iter().map(|a| (a.agent.to_string(), &a.key));
    let people = || users.controllers.iter().chain(&users.auditors);
    for (name, key) in agents.chain(people().map(|u| (u.name.clone(), &u.key))) {
        if !key.starts_with('U') || nkeys::KeyPair::from_public_key(key).is_err() {
            return bad(format!("the key of {name:?} is no public user nkey (U…)"));
        }
        if !seen.insert(key.clone()) || !seen.insert(name.clone()) {
            return bad(format!("{name:?} or its key stands there twice"));
        }
    }
    if let Some(domain) = &users.domain {
        check_domain(domain)?;
        if profile == Profile::Strict {
            let why =
                "accounts of the strict profile share one JetStream and know no domain: use the simple one";
            return bad(why.to_owned());
        }
    }
    people().try_for_each(|user| check_name(&user.name))
}

/// The name of a person or program stands in subjects.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let valid = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if name.is_empty() || name.len() > 64 || !name.bytes().all(valid) {
        return Err(BusError::Config {
            key: "users",
            why: format!("{name:?} must be 1 to 64 letters, digits, - or _"),
        });
    }
    Ok(())
}

fn simple(text: &mut String, users: &BusUsers) -> std::fmt::Result {
    writeln!(text, "accounts {{\n  ORCH {{\n    jetstream: enabled\n    users: [")?;
    for user in &users.agents {
        write_user(text, &user.key, &of_agent(&user.agent).in_domain(users.domain.as_deref()))?;
    }
    people(text, users)?;
    writeln!(text, "    ]\n  }}\n}}")
}

fn strict(text: &mut String, users: &BusUsers) -> std::fmt::Result {
    writeln!(text, "accounts {{\n  ORCH {{\n    jetstream: enabled\n    users: [")?;
    people(text, users)?;
    writeln!(text, "    ]\n    exports: [")?;
    for user in &users.agents {
        let (events, account) = (events_of(&user.agent), account_of(&user.agent));
        writeln!(text, "      {{ service: {events:?}, accounts: [{account:?}] }}")?;
        for (subject, answers) in jetstream_services(&user.agent) {
            let response = answers.response_type();
            writeln!(text, "      {{ service: {subject:?}, accounts: [{account:?}]{response} }}")?;
        }
    }
    let accounts: Vec<String> = users.agents.iter().map(|user| account_of(&user.agent)).collect();
    for question in QUESTIONS {
        writeln!(text, "      {{ stream: {question:?}, accounts: {accounts:?} }}")?;
    }
    for inbox in inboxes(users) {
        writeln!(text, "      {{ service: {inbox:?}, accounts: {accounts:?} }}")?;
    }
    writeln!(text, "    ]\n    imports: [")?;
    for user in &users.agents {
        let account = account_of(&user.agent);
        let commands = commands_of(&user.agent);
        writeln!(text, "      {{ service: {{ account: {account:?}, subject: {commands:?} }} }}")?;
        for subject in streams_of(&user.agent) {
            writeln!(text, "      {{ stream: {{ account: {account:?}, subject: {subject:?} }} }}")?;
        }
    }
    writeln!(text, "    ]\n  }}")?;
    for user in &users.agents {
        writeln!(text, "  {:?} {{\n    users: [", account_of(&user.agent))?;
        let services = jetstream_services(&user.agent);
        let mut rights = of_agent(&user.agent);
        rights.publish = rights.publish.iter().map(|subject| in_agents_account(subject)).collect();
        write_user(text, &user.key, &rights)?;
        writeln!(text, "    ]\n    exports: [")?;
        writeln!(text, "      {{ service: {:?}, accounts: [\"ORCH\"] }}", commands_of(&user.agent))?;
        for subject in streams_of(&user.agent) {
            writeln!(text, "      {{ stream: {subject:?}, accounts: [\"ORCH\"] }}")?;
        }
        let others = || users.agents.iter().filter(|other| other.agent != user.agent);
        for other in others() {
            let (subject, account) = (questions(&user.agent, &other.agent), account_of(&other.agent));
            writeln!(text, "      {{ service: {subject:?}, accounts: [{account:?}] }}")?;
        }
        writeln!(text, "    ]\n    imports: [")?;
        for other in others() {
            let (subject, account) = (questions(&other.agent, &user.agent), account_of(&other.agent));
            writeln!(text, "      {{ service: {{ account: {account:?}, subject: {subject:?} }} }}")?;
        }
        for (subject, _) in &services {
            let here = in_agents_account(subject);
            writeln!(
                text,
                "      {{ service: {{ account: \"ORCH\", subject: {subject:?} }}, to: {here:?} }}"
            )?;
        }
        let events = events_of(&user.agent);
        writeln!(text, "      {{ service: {{ account: \"ORCH\", subject: {events:?} }} }}")?;
        for question in QUESTIONS {
            writeln!(text, "      {{ stream: {{ account: \"ORCH\", subject: {question:?} }} }}")?;
        }
        for inbox in inboxes(users) {
            writeln!(text, "      {{ service: {{ account: \"ORCH\", subject: {inbox:?} }} }}")?;
        }
        writeln!(text, "    ]\n  }}")?;
    }
    writeln!(text, "}}")
}

fn people(text: &mut String, users: &BusUsers) -> std::fmt::Result {
    let domain = users.domain.as_deref();
    for user in &users.controllers {
        write_user(text, &user.key, &of_controller(&user.name).in_domain(domain))?;
    }
    for user in &users.auditors {
        write_user(text, &user.key, &of_auditor(&user.name).in_domain(domain))?;
    }
    Ok(())
}

/// What a user may say and hear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rights {
    pub(crate) publish: Vec<String>,
    pub(crate) subscribe: Vec<String>,
    /// May answer where it was asked, whatever subject that is.
    pub(crate) responds: bool,
}

impl Rights {
    /// The same where JetStream is that of a domain, by that name and by the general one: who is connected to the domain itself is judged by
    /// the latter, whatever it says (seen with 2.9 and 2.15).
    pub(crate) fn in_domain(self, domain: Option<&str>) -> Self {
        let Some(domain) = domain else { return self };
        let named = self.publish.iter().filter_map(|subject| {
            Some(format!("{}.{}", api_of_domain(domain), subject.strip_prefix("$JS.API.")?))
        });
        Self { publish: self.publish.iter().cloned().chain(named).collect(), ..self }
    }
}

/// One reply, soon: results of jobs travel as events.
pub(crate) const ONE_REPLY_WITHIN: Duration = Duration::from_secs(120);

/// Of an agent in the account where all are.
pub(crate) fn of_agent(agent: &AgentId) -> Rights {
    let mut publish = own_subjects(agent);
    publish.extend(jetstream_services(agent).into_iter().map(|(subject, _)| subject));
    publish.push(questions_of(agent));
    Rights { publish, subscribe: heard_by(agent), responds: true }
}

/// Of someone who runs the fleet.
pub(crate) fn of_controller(name: &str) -> Rights {
    let publish = [&all_commands(), ALL_DURABLE_COMMANDS, ASK_FLEET, "$SRV.>", "$JS.API.>", "$JS.ACK.>"]
        .map(str::to_owned)
        .into();
    Rights { publish, subscribe: seen_by(name), responds: false }
}

/// Of someone who only reads events and heartbeats.
pub(crate) fn of_auditor(name: &str) -> Rights {
    let mut publish: Vec<String> =
        ["STREAM.INFO", "CONSUMER.CREATE"].map(|call| format!("$JS.API.{call}.{EVENT_STREAM}")).into();
    publish.extend(
        ["CONSUMER.CREATE", "CONSUMER.INFO", "CONSUMER.DELETE", "CONSUMER.MSG.NEXT"]
            .map(|call| format!("$JS.API.{call}.{EVENT_STREAM}.>")),
    );
    publish.push(ASK_FLEET.to_owned());
    Rights { publish, subscribe: seen_by(name), responds: false }
}

fn seen_by(name: &str) -> Vec<String> {
    let all = [ALL_HEARTBEATS, ALL_EVENTS, ALL_PROGRESS].map(str::to_owned);
    all.into_iter().chain([format!("{}.>", user_inbox(name))]).collect()
}

/// What everybody is asked: the fleet, and micro services.
const QUESTIONS: [&str; 2] = [ASK_FLEET, "$SRV.>"];

/// Where people wait for answers. An agent may publish there only what it was asked for (`allow_responses`).
fn inboxes(users: &BusUsers) -> Vec<String> {
    let people = users.controllers.iter().chain(&users.auditors);
    people.map(|user| format!("{}.>", user_inbox(&user.name))).collect()
}

/// What an agent says of itself.
fn own_subjects(agent: &AgentId) -> Vec<String> {
    let [heartbeat, progress] = streams_of(agent);
    vec![heartbeat, progress, events_of(agent)]
}

fn streams_of(agent: &AgentId) -> [String; 2] {
    let host = encode_host(agent);
    [form::heartbeat(&host), progress_of(agent)]
}

/// What an agent hears.
fn heard_by(agent: &AgentId) -> Vec<String> {
    let asked_as_donor = form::seed(&encode_host(agent), "*", ">");
    let inbox = format!("{}.>", agent_inbox(agent));
    // Its own heartbeats, to notice another process that speaks in its name.
    let [heartbeats, _] = streams_of(agent);
    vec![commands_of(agent), ASK_FLEET.to_owned(), inbox, "$SRV.>".to_owned(), asked_as_donor, heartbeats]
}

/// How a service of JetStream answers.
#[derive(Debug, Clone, Copy)]
enum Answers {
    Once,
    Often,
}

impl Answers {
    fn response_type(self) -> &'static str {
        match self {
            Self::Once => "",
            Self::Often => ", response_type: \"Stream\"",
        }
    }
}

/// What an agent needs of JetStream.
fn jetstream_services(agent: &AgentId) -> Vec<(String, Answers)> {
    [vec![last_event(agent)], store_services(agent), queue_services(agent)].concat()
}

/// The last event of its own that the stream has, to see after a lost connection whether it still has what it acknowledged.
fn last_event(agent: &AgentId) -> (String, Answers) {
    (format!("$JS.API.{}", last_of(EVENT_STREAM, &events_of(agent))), Answers::Once)
}

/// What it needs for the commands that were left for it: its own consumer, which it may neither make nor change.
fn queue_services(agent: &AgentId) -> Vec<(String, Answers)> {
    let consumer = consumer_of(agent);
    vec![
        (format!("$JS.API.CONSUMER.INFO.{COMMAND_STREAM}.{consumer}"), Answers::Once),
        (format!("$JS.API.CONSUMER.MSG.NEXT.{COMMAND_STREAM}.{consumer}"), Answers::Often),
        (format!("$JS.ACK.{COMMAND_STREAM}.{consumer}.>"), Answers::Once),
        // Newer servers put their domain and the account's hash before the stream.
        (format!("$JS.ACK.*.*.{COMMAND_STREAM}.{consumer}.>"), Answers::Once),
    ]
}

/// What an agent needs of JetStream for seeds through the object store: its own bucket as a donor (to fill, empty and remove it,
/// never to make or read one), and the consumers in its name as a recipient. Who makes a consumer in its name lets it read.
fn store_services(agent: &AgentId) -> Vec<(String, Answers)> {
    let (bucket, stream, consumer) = (bucket_of(agent), stream_of(agent), consumer_in_buckets_of(agent));
    let mut services = vec![(format!("$O.{bucket}.>"), Answers::Once)];
    services.extend(
        ["INFO", "PURGE", "DELETE"].map(|call| (format!("$JS.API.STREAM.{call}.{stream}"), Answers::Once)),
    );
    services.push((format!("$JS.API.CONSUMER.INFO.{stream}.*"), Answers::Once));
    services.push((format!("$JS.API.CONSUMER.INFO.*.{consumer}"), Answers::Once));
    services.push((format!("$JS.API.CONSUMER.MSG.NEXT.*.{consumer}"), Answers::Often));
    services
}

/// A subject of the common account as an agent's own account names it.
fn in_agents_account(subject: &str) -> String {
    match subject.strip_prefix("$JS.API.") {
        Some(call) => format!("{STRICT_JETSTREAM_PREFIX}.{call}"),
        None => subject.to_owned(),
    }
}

/// Questions of one recipient to one donor about data that go through the object store.
fn questions(donor: &AgentId, recipient: &AgentId) -> String {
    form::seed(&encode_host(donor), &encode_host(recipient), ">")
}

/// All questions of a recipient, to whatever donor.
fn questions_of(recipient: &AgentId) -> String {
    form::seed("*", &encode_host(recipient), ">")
}

fn account_of(agent: &AgentId) -> String {
    format!("agent-{}", encode_host(agent))
}

fn write_user(text: &mut String, key: &str, rights: &Rights) -> std::fmt::Result {
    let Rights { publish, subscribe, responds } = rights;
    writeln!(text, "      {{ nkey: {key:?}\n        permissions {{")?;
    writeln!(text, "          publish {{ allow: {publish:?} }}")?;
    writeln!(text, "          subscribe {{ allow: {subscribe:?} }}")?;
    if *responds {
        writeln!(
            text,
            "          allow_responses {{ max: 1, expires: \"{}s\" }}",
            ONE_REPLY_WITHIN.as_secs()
        )?;
    }
    writeln!(text, "      }} }}")
}

#[cfg(test)]
mod tests {
    use nkeys::KeyPair;

    use super::*;

    #[test]
    fn seeds_doubles_and_odd_names_are_refused() {
        let user = |name: &str, key: String| NamedUser { name: name.into(), key };
        let config = |controllers| {
            server_config(&BusUsers { controllers, ..BusUsers::default() }, Profile::Simple).map(drop)
        };
        let key = KeyPair::new_user();
        config(vec![user("alice", key.public_key())]).unwrap();
        config(vec![user("alice", key.seed().unwrap())]).unwrap_err();
        config(vec![user("a", key.public_key()), user("b", key.public_key())]).unwrap_err();
        config(vec![user("a b", key.public_key())]).unwrap_err();
        config(vec![user("alice", KeyPair::new_account().public_key())]).unwrap_err();
    }
}
