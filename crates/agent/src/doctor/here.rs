//! `orchestrator-agent doctor`: this host looked at by its own program, without the bus and whether or not its agent runs.

use mysql::Instance;
use protocol::host::{Finding, FindingState};
use sys::text::{json as harmless_json, line};

use super::{Place, around, bus};
use crate::config::Config;
use crate::queries::agent::capabilities;

/// Everything that can be looked at from here.
///
/// # Errors
/// The host has no name.
pub(crate) async fn here(config: &Config) -> anyhow::Result<Vec<Finding>> {
    let id = crate::app::agent_id(config)?;
    let instance = Instance::new(config.mysql.clone());
    let provider = crate::app::provider(config);
    let capability = provider.as_ref().map(|provider| provider.probe());
    let capabilities = capabilities(capability.as_ref().map_err(|reason| *reason));
    let place = Place { id: &id, config, instance: &instance, provider, capabilities: &capabilities };
    let mut found = vec![
        bus::connection(config, &format!("orchestrator-agent doctor {id}")).await,
        bus::commands(config),
    ];
    found.extend(around(&place).await);
    Ok(found)
}

/// Whether something that a command needs is not there.
pub(crate) fn lacks(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.state == FindingState::Missing)
}

/// For people: the worst first, each with what mends it below; `all`: what is fine, too.
pub(crate) fn text(findings: &[Finding], all: bool) -> String {
    let fine = findings.iter().filter(|finding| finding.state == FindingState::Fine).count();
    let mut lines = vec![format!("{fine} of {} things are fine", findings.len())];
    let mut shown: Vec<&Finding> =
        findings.iter().filter(|finding| all || finding.state != FindingState::Fine).collect();
    shown.sort_by_key(|finding| std::cmp::Reverse(finding.state));
    for finding in shown {
        let state = format!("{:?}", finding.state).to_lowercase();
        lines.push(format!("  {state:<8} {} {}: {}", finding.area, finding.what, line(&finding.detail)));
        lines.extend(finding.mend.as_deref().map(|mend| format!("           → {}", line(mend))));
    }
    lines.join("\n")
}

/// As `orchestrator-ctl --json doctor` has them for each host.
pub(crate) fn json(findings: &[Finding]) -> String {
    harmless_json(&serde_json::json!({ "findings": findings }).to_string()).into_owned()
}
