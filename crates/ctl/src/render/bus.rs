//! The bus: what is kept where, and what goes with each server.

use bus::status::{BusStatus, ServerStatus, StreamStatus};

use super::{or_dash, table};
use crate::units;

/// The bus as tables, then what is wrong.
#[must_use]
pub fn bus_status(status: &BusStatus) -> String {
    let mut text = String::new();
    if !status.streams.is_empty() {
        let headers = ["STREAM", "HOLDS", ">REPLICAS", "LEADER", ">MESSAGES", ">SIZE", "COPIES"];
        text.push_str(&table(&headers, status.streams.iter().map(stream).collect()));
    }
    for waiting in status.streams.iter().flat_map(|stream| &stream.waiting) {
        let (host, all) = (&waiting.host, waiting.undelivered.saturating_add(waiting.unacknowledged));
        text.push_str(&format!(
            "{all} command(s) wait for {host}, {} of them delivered\n",
            waiting.unacknowledged
        ));
    }
    if !status.servers.is_empty() {
        text.push('\n');
        let headers = ["SERVER", "WHILE IT IS AWAY, STANDS STILL", "LOST WITH ITS DISK"];
        text.push_str(&table(&headers, status.servers.iter().map(server).collect()));
    }
    for missing in &status.missing_rights {
        text.push_str(&format!(
            "cannot see: {}, because this user may not publish to {}; ask with a controller's key\n",
            missing.what, missing.subject
        ));
    }
    for problem in &status.problems {
        text.push_str(&format!("wrong: {}\n", problem.what));
        if let Some(next) = &problem.next {
            text.push_str(&format!("  next: {next}\n"));
        }
    }
    if status.problems.is_empty() && status.missing_rights.is_empty() {
        text.push_str("nothing is wrong\n");
    }
    text
}

fn stream(stream: &StreamStatus) -> Vec<String> {
    let size = match stream.max_bytes {
        Some(most) => format!("{} of {}", units::size(stream.bytes), units::size(most)),
        None => units::size(stream.bytes),
    };
    let copies = stream.copies.iter().map(|copy| match copy.state {
        "current" => copy.server.clone(),
        state => format!("{} ({state})", copy.server),
    });
    vec![
        stream.name.clone(),
        stream.holds.clone(),
        stream.replicas.to_string(),
        or_dash(stream.leader.clone()),
        stream.messages.to_string(),
        size,
        copies.collect::<Vec<_>>().join(", "),
    ]
}

fn server(server: &ServerStatus) -> Vec<String> {
    let list = |all: &[String]| if all.is_empty() { "nothing".to_owned() } else { all.join(", ") };
    vec![server.name.clone(), list(&server.stands_still), list(&server.lost_with_disk)]
}
