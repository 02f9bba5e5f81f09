//! A configuration in the making.

use std::fmt::Write as _;

use toml::{Table, Value};

use super::Outcome;

/// Where the files of an import are meant to lie.
pub(super) const HOME: &str = "/etc/orchestrator-agent";

/// One key of the original, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) key: String,
    pub(crate) outcome: Outcome,
    /// In a sentence: where it is now, what it means now, or what there is to do.
    pub(crate) says: String,
}

/// A file that an import makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) name: &'static str,
    pub(crate) mode: u32,
    pub(crate) text: String,
}

/// The configuration, the files that it names, and the account of each key.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    agent: Table,
    gateway: Table,
    keys_to_decide: Vec<String>,
    tables_to_decide: Vec<String>,
    files: Vec<File>,
    accounts: Vec<Account>,
}

impl Draft {
    pub(crate) fn accounts(&self) -> &[Account] {
        &self.accounts
    }

    /// Says what became of a key.
    pub(super) fn account(&mut self, key: &str, outcome: Outcome, says: impl Into<String>) {
        self.accounts.push(Account { key: key.to_owned(), outcome, says: says.into() });
    }

    /// Sets a key of the agent's, with dots.
    pub(super) fn set(&mut self, key: &str, value: impl Into<Value>) {
        set(&mut self.agent, key, value.into());
    }

    /// Sets a key of the gateway's, with dots.
    pub(super) fn set_gateway(&mut self, key: &str, value: impl Into<Value>) {
        set(&mut self.gateway, key, value.into());
    }

    /// A key of the agent's that waits for a person, as a comment.
    pub(super) fn propose(&mut self, line: impl Into<String>) {
        self.keys_to_decide.push(line.into());
    }

    /// Lines of a table that waits for a person, likewise.
    pub(super) fn propose_table(&mut self, lines: impl Into<String>) {
        self.tables_to_decide.push(lines.into());
    }

    /// A file of its own; where it will lie.
    pub(super) fn file(&mut self, name: &'static str, mode: u32, text: String) -> String {
        self.files.push(File { name, mode, text });
        format!("{HOME}/{name}")
    }

    /// The agent's configuration.
    pub(crate) fn agent_toml(&self) -> String {
        let mut text = String::from(
            "# Made from a configuration of the original by `orchestrator-agent import FILE`.\n\n",
        );
        // Keys with dots come before the first table, and tables after all others, or they would mean another's.
        comment(&mut text, &self.keys_to_decide);
        text.push_str(&toml::to_string(&self.agent).unwrap_or_default());
        text.push('\n');
        comment(&mut text, &self.tables_to_decide);
        text
    }

    /// All that is to be written.
    pub(crate) fn files(&self) -> Vec<File> {
        let mut files = vec![File { name: "agent.toml", mode: 0o644, text: self.agent_toml() }];
        if !self.gateway.is_empty() {
            let text = toml::to_string(&self.gateway).unwrap_or_default();
            let head = "# For orchestrator-gateway, once for the whole fleet: see docs/orchestrator.md for what else it needs.\n\n";
            files.push(File { name: "gateway.toml", mode: 0o644, text: format!("{head}{text}") });
        }
        files.extend(self.files.iter().cloned());
        files
    }
}

fn comment(text: &mut String, proposals: &[String]) {
    for line in proposals.iter().flat_map(|proposal| proposal.lines()) {
        let _ = writeln!(text, "# {line}");
    }
    if !proposals.is_empty() {
        text.push('\n');
    }
}

fn set(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        None => drop(table.insert(key.to_owned(), value)),
        Some((parent, rest)) => {
            let below = table.entry(parent).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(below) = below {
                set(below, rest, value);
            }
        }
    }
}
