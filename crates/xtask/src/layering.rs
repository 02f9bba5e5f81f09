//! The arrows between crates: data flow one way, and each crate knows only what its row below names.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// What a crate may lean on.
enum May {
    /// Only these crates of the workspace.
    Use(&'static [&'static str]),
    /// Anything; nobody may lean on it.
    UseAll,
}

/// One row per crate. `testkit` may be added as a dev-dependency by all but `protocol`, which it leans on itself.
const ARROWS: [(&str, May); 14] = [
    ("sys", May::Use(&[])),
    ("protocol", May::Use(&[])),
    ("trace", May::Use(&["sys"])),
    ("bus", May::Use(&["sys", "protocol", "trace"])),
    ("job", May::Use(&["sys", "protocol"])),
    ("snapshot", May::Use(&["sys", "protocol"])),
    ("mysql", May::Use(&["sys", "protocol"])),
    ("transfer", May::Use(&["sys", "protocol", "bus"])),
    (
        "orchestrator-agent",
        May::Use(&["sys", "protocol", "trace", "bus", "job", "snapshot", "mysql", "transfer"]),
    ),
    ("orchestrator-ctl", May::Use(&["sys", "protocol", "trace", "bus"])),
    ("orchestrator-gateway", May::Use(&["sys", "protocol", "trace", "bus"])),
    ("testkit", May::Use(&["protocol"])),
    ("xtask", May::UseAll),
    ("e2e", May::UseAll),
];

/// Crates of others that would break what a crate promises not to know.
const FORBIDDEN: [(&str, &[&str]); 6] = [
    ("sys", &["async-nats", "mysql_async", "serde"]),
    ("protocol", &["tokio", "async-nats", "nix", "libc"]),
    ("job", &["async-nats", "mysql_async"]),
    ("snapshot", &["async-nats", "mysql_async"]),
    ("mysql", &["async-nats"]),
    ("transfer", &["async-nats", "mysql_async"]),
];

/// One dependency as a manifest states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrow<'a> {
    pub from: &'a str,
    pub to: &'a str,
    pub is_dev: bool,
}

/// Reads the workspace's manifests and says, one line each, what breaks the rules.
pub fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let metadata = metadata(root)?;
    let mut arrows = Vec::new();
    for package in metadata.workspace_packages() {
        for dependency in &package.dependencies {
            let is_dev = dependency.kind == DependencyKind::Development;
            arrows.push(Arrow { from: &package.name, to: &dependency.name, is_dev });
        }
    }
    let crates: Vec<&str> =
        metadata.workspace_packages().iter().map(|package| package.name.as_str()).collect();
    Ok(violations(&crates, &arrows))
}

/// The manifests of the workspace, without asking a registry.
pub(crate) fn metadata(root: &Path) -> anyhow::Result<Metadata> {
    let mut command = MetadataCommand::new();
    command.manifest_path(root.join("Cargo.toml")).no_deps();
    command.exec().with_context(|| format!("cannot read the manifests of {}", root.display()))
}

/// Pure: what of `arrows` between and out of `crates` is not allowed.
pub fn violations(crates: &[&str], arrows: &[Arrow<'_>]) -> Vec<String> {
    let rows: BTreeMap<&str, &May> = ARROWS.iter().map(|(name, may)| (*name, may)).collect();
    let forbidden: BTreeMap<&str, &[&str]> = FORBIDDEN.into_iter().collect();
    let mut found = Vec::new();
    for name in crates {
        if !rows.contains_key(name) {
            found.push(format!("{name} has no row in the table of arrows: say what it may lean on"));
        }
    }
    for arrow in arrows {
        let Arrow { from, to, is_dev } = *arrow;
        if from == to {
            continue; // a crate's own tests may ask it for a feature
        }
        if !crates.contains(&to) {
            if !is_dev && forbidden.get(from).is_some_and(|names| names.contains(&to)) {
                found.push(format!("{from} must not know {to}"));
            }
            continue;
        }
        let allowed = match rows.get(from) {
            None => continue,
            Some(May::UseAll) => !matches!(rows.get(to), Some(May::UseAll)),
            Some(May::Use(names)) => names.contains(&to) || (is_dev && to == "testkit" && from != "protocol"),
        };
        if !allowed {
            let kind = if is_dev { "for its tests" } else { "in its code" };
            found.push(format!("{from} leans on {to} {kind}: the arrows forbid it"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const CRATES: [&str; 6] = ["protocol", "bus", "snapshot", "mysql", "testkit", "orchestrator-agent"];

    fn judged(from: &str, to: &str, is_dev: bool) -> Vec<String> {
        violations(&CRATES, &[Arrow { from, to, is_dev }])
    }

    #[test]
    fn arrows_of_the_table_are_allowed() {
        for (from, to) in [("bus", "protocol"), ("snapshot", "protocol"), ("orchestrator-agent", "mysql")] {
            assert_eq!(judged(from, to, false), Vec::<String>::new());
        }
        assert!(judged("snapshot", "testkit", true).is_empty());
        assert!(judged("snapshot", "snapshot", true).is_empty());
    }

    #[test]
    fn every_other_arrow_is_refused() {
        for (from, to) in
            [("snapshot", "mysql"), ("protocol", "bus"), ("bus", "testkit"), ("testkit", "snapshot")]
        {
            assert_eq!(judged(from, to, false).len(), 1, "{from} -> {to}");
        }
        assert_eq!(judged("protocol", "testkit", true).len(), 1);
        assert_eq!(judged("snapshot", "mysql", true).len(), 1);
    }

    #[test]
    fn a_crate_without_a_row_is_named() {
        assert!(violations(&["newcomer"], &[])[0].contains("newcomer has no row"));
    }

    #[test]
    fn the_protocol_knows_no_runtime() {
        assert_eq!(judged("protocol", "tokio", false), ["protocol must not know tokio"]);
    }
}
