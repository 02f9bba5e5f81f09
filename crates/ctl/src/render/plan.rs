//! A seed's plan and the choice of its donor.

use protocol::seed::{SeedPlan, Verdict};

use super::{or_dash, pairs, table, word};
use crate::donor::Choice;
use crate::units;

/// Why this donor was taken, and what was passed over.
#[must_use]
pub fn choice(choice: &Choice) -> String {
    let mut text = format!("donor {}: {}\n", choice.donor, choice.reasons.join(", "));
    for passed in &choice.passed_over {
        text.push_str(&format!("  passed over {}: {}\n", passed.agent, passed.why));
    }
    text
}

/// What a seed would do, with every guard and its verdict.
#[must_use]
pub fn plan(plan: &SeedPlan) -> String {
    let mut text = format!("Seed {} from {} (snapshot {})\n\n", plan.recipient, plan.donor, plan.snapshot);
    let row = |g: &protocol::seed::GuardResult| {
        let verdict = match g.verdict {
            Verdict::Pass => "ok",
            Verdict::Warn => "WARN",
            Verdict::Refuse => "REFUSE",
        };
        vec![verdict.to_owned(), word(&g.guard).replace('_', "-"), g.message.clone()]
    };
    text.push_str(&table(&["VERDICT", "GUARD", "FOUND"], plan.guards.iter().map(row).collect()));
    text.push('\n');
    text.push_str(&pairs(&[
        ("data", Some(format!("{} in {} files", units::size(plan.bytes), plan.files))),
        ("free now", Some(units::size(plan.free_before_bytes))),
        ("free at the least", Some(units::signed_size(plan.free_lowest_bytes))),
        (
            "expected time",
            Some(plan.expected_s.map_or_else(|| "no rate known yet".to_owned(), units::duration)),
        ),
    ]));
    text.push_str("\nIt will:\n");
    for (index, action) in plan.actions.iter().enumerate() {
        text.push_str(&format!("  {}. {action}\n", index + 1));
    }
    let refusals: Vec<String> = plan.refusals().map(|g| word(&g.guard).replace('_', "-")).collect();
    if !refusals.is_empty() {
        let which = or_dash(Some(refusals.join(", ")));
        text.push_str(&format!("\nRefused by {which}: nothing was touched.\n"));
    }
    text
}
