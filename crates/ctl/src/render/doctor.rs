//! What was found on hosts, worst first, with what mends it below.

use std::fmt::Write as _;

use protocol::host::{Finding, FindingState};
use protocol::ids::AgentId;
use schemars::JsonSchema;
use serde::Serialize;

use super::{pairs, word};

/// One host that was looked at.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Examined {
    /// Which.
    pub host: AgentId,
    /// What was found there.
    pub findings: Vec<Finding>,
    /// Why it could not be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Each host with what is not as it should be, and with `all` the rest too.
#[must_use]
pub fn doctor(examined: &[Examined], all: bool) -> String {
    let mut text = String::new();
    for host in examined {
        if let Some(error) = &host.error {
            let _ = writeln!(text, "{}: {}", host.host, super::line(error));
            continue;
        }
        let fine = host.findings.iter().filter(|finding| finding.state == FindingState::Fine).count();
        let _ = writeln!(text, "{}: {fine} of {} things are fine", host.host, host.findings.len());
        let mut shown: Vec<&Finding> =
            host.findings.iter().filter(|finding| all || finding.state != FindingState::Fine).collect();
        shown.sort_by_key(|finding| std::cmp::Reverse(finding.state));
        for finding in shown {
            let names = format!("  {:<8} {} {}", word(&finding.state), finding.area, finding.what);
            text.push_str(&pairs(&[(&names, Some(finding.detail.clone()))]));
            if let Some(mend) = &finding.mend {
                text.push_str(&pairs(&[("           →", Some(mend.clone()))]));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_comes_first_with_what_mends_it_and_fine_things_are_counted() {
        let finding = |state, what: &str, mend: Option<&str>| Finding {
            area: "mysql".into(),
            what: what.into(),
            state,
            detail: format!("about {what}"),
            mend: mend.map(str::to_owned),
        };
        let host = Examined {
            host: "db1".parse().unwrap(),
            findings: vec![
                finding(FindingState::Fine, "log-in", None),
                finding(FindingState::Weak, "server_id", Some("server_id = 7")),
                finding(FindingState::Missing, "binary log", Some("log_bin = binlog")),
            ],
            error: None,
        };
        let text = doctor(std::slice::from_ref(&host), false);
        let at = |words: &str| text.find(words).unwrap_or_else(|| panic!("no {words}: {text}"));
        assert!(at("db1: 1 of 3 things are fine") < at("missing"));
        assert!(at("binary log") < at("log_bin = binlog") && at("log_bin = binlog") < at("server_id"));
        assert!(!text.contains("log-in"));
        assert!(doctor(&[host], true).contains("about log-in"));
    }
}
