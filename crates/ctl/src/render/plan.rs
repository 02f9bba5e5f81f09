//! A seed's plan and the choice of its donor.

use protocol::ids::AgentId;
use protocol::seed::{Guard, GuardResult, SeedPlan, Transport, Verdict};

use super::{pairs, table, word};
use crate::donor::Choice;
use crate::units;

/// Why this donor was taken, and what was passed over.
#[must_use]
pub fn choice(recipient: &AgentId, choice: &Choice) -> String {
    let mut text = format!("{recipient}: donor {}: {}\n", choice.donor, choice.reasons.join(", "));
    for passed in &choice.passed_over {
        text.push_str(&format!("  passed over {}: {}\n", passed.agent, passed.why));
    }
    text
}

/// What a seed would do, with every guard and its verdict.
#[must_use]
pub fn plan(plan: &SeedPlan) -> String {
    let mut text = format!("Seed {} from {} ({})\n\n", plan.recipient, plan.donor, source(plan));
    text.push_str(&table(&["VERDICT", "GUARD", "FOUND"], plan.guards.iter().map(guard).collect()));
    text.push('\n');
    text.push_str(&pairs(&[
        ("data", Some(format!("{} in {} files", units::size(plan.bytes), plan.files))),
        ("free now", Some(units::size(plan.free_before_bytes))),
        ("free at the least", Some(units::signed_size(plan.free_lowest_bytes))),
        ("free afterwards", Some(units::signed_size(plan.free_after_bytes))),
        ("free on the donor", plan.donor_free_bytes.map(|free| format!("{} (unchanged)", units::size(free)))),
        ("way", Some(way(plan).to_owned())),
        ("expected time", Some(expected(plan))),
        ("plan", Some(plan.digest.clone())),
    ]));
    text.push_str("\nIt will:\n");
    text.push_str(&actions(&plan.actions));
    let refused: Vec<String> = plan.refusals().map(|g| name(g.guard)).collect();
    if !refused.is_empty() {
        text.push_str(&format!("\nRefused by {}: nothing was touched.\n", refused.join(", ")));
    }
    text
}

/// Several plans in one display; actions that are the same on all hosts are told once.
#[must_use]
pub fn plans(plans: &[&SeedPlan]) -> String {
    let row = |plan: &&SeedPlan| {
        vec![
            plan.recipient.to_string(),
            plan.donor.to_string(),
            plan.snapshot.as_ref().map_or_else(|| source(plan), ToString::to_string),
            units::size(plan.bytes),
            units::size(plan.free_before_bytes),
            units::signed_size(plan.free_lowest_bytes),
            units::signed_size(plan.free_after_bytes),
            expected(plan),
            if plan.refusals().next().is_some() { "REFUSED" } else { "ok" }.to_owned(),
            plan.digest.clone(),
        ]
    };
    let headers = [
        "RECIPIENT",
        "DONOR",
        "SNAPSHOT",
        ">DATA",
        ">FREE NOW",
        ">AT THE LEAST",
        ">AFTERWARDS",
        "TIME",
        "VERDICT",
        "PLAN",
    ];
    let mut text = table(&headers, plans.iter().map(row).collect());
    text.push('\n');
    let guards = plans.iter().flat_map(|plan| {
        plan.guards.iter().map(|result| [vec![plan.recipient.to_string()], guard(result)].concat())
    });
    text.push_str(&table(&["RECIPIENT", "VERDICT", "GUARD", "FOUND"], guards.collect()));
    let same = plans.windows(2).all(|pair| pair[0].actions == pair[1].actions);
    for plan in plans.iter().take(if same { 1 } else { plans.len() }) {
        let who = if same { "Each".to_owned() } else { plan.recipient.to_string() };
        text.push_str(&format!("\n{who} will:\n{}", actions(&plan.actions)));
    }
    text
}

fn guard(result: &GuardResult) -> Vec<String> {
    let verdict = match result.verdict {
        Verdict::Pass => "ok",
        Verdict::Warn => "WARN",
        Verdict::Refuse => "REFUSE",
    };
    vec![verdict.to_owned(), name(result.guard), result.message.clone()]
}

/// A guard's name, spelt as in JSON.
#[must_use]
pub fn name(guard: Guard) -> String {
    word(&guard)
}

fn source(plan: &SeedPlan) -> String {
    match (&plan.snapshot, &plan.stream) {
        (Some(snapshot), _) => format!("snapshot {snapshot}"),
        (None, Some(stream)) => format!("stream {stream}"),
        (None, None) => "nothing to send".to_owned(),
    }
}

fn way(plan: &SeedPlan) -> &'static str {
    match plan.transport {
        Transport::Store => "through the object store of the bus",
        Transport::Tcp | Transport::Auto if plan.plain => "direct TCP IN CLEAR (--plain)",
        Transport::Tcp | Transport::Auto => "direct TCP with TLS",
    }
}

fn expected(plan: &SeedPlan) -> String {
    plan.expected_s.map_or_else(|| "no rate known yet".to_owned(), units::duration)
}

fn actions(actions: &[String]) -> String {
    actions.iter().enumerate().map(|(index, action)| format!("  {}. {action}\n", index + 1)).collect()
}
