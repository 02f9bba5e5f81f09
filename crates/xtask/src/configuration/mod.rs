//! `docs/configuration.md`: every key of agent and gateway, written from the structs that read their files and compared with the samples.

mod source;
mod tables;
mod value;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use regex::Regex;

use source::Source;
use tables::{Key, Table};
use value::Unset;

/// The page.
pub(crate) const PAGE: &str = "docs/configuration.md";

/// One program and where its configuration is defined.
struct Program {
    title: &'static str,
    /// The section's first words, in the page's own.
    about: &'static str,
    sources: &'static [&'static str],
    sample: &'static str,
    /// Tables that the sample shows in part: another page or sample has them whole.
    in_part: &'static [&'static str],
    /// Where the keys stand that wait for a restart; none: all do.
    reload: Option<&'static str>,
}

const AGENT: Program = Program {
    title: "orchestrator-agent",
    about: "`/etc/orchestrator-agent/agent.toml`, or the file that `--config` names; [agent.toml](../ops/config/agent.toml) is a sample. The \
            environment wins over the file (`ORCH_AGENT__` and the key with `__` between its parts: `ORCH_AGENT__MYSQL__DATADIR`), `--set \
            KEY=VALUE` over both. `orchestrator-agent --check-config` names what is wrong. At a reload (SIGHUP, `systemctl reload`) keys of which *reload* says yes change at once; the log names those that wait for a restart. Files of credentials and certificates of the bus are read \
            again.",
    sources: &[
        "crates/agent/src/config/mod.rs",
        "crates/agent/src/config/streams.rs",
        "crates/bus/src/auth.rs",
        "crates/bus/src/config.rs",
        "crates/mysql/src/config.rs",
        "crates/protocol/src/command.rs",
        "crates/snapshot/src/guardian.rs",
        "crates/snapshot/src/provider.rs",
        "crates/snapshot/src/registry.rs",
        "crates/snapshot/src/settings.rs",
        "crates/trace/src/export.rs",
    ],
    sample: "ops/config/agent.toml",
    in_part: &[],
    reload: Some("crates/agent/src/config/live.rs"),
};

const GATEWAY: Program = Program {
    title: "orchestrator-gateway",
    about: "`/etc/orchestrator-gateway/gateway.toml`, or the file that `--config` names; [gateway.toml](../ops/config/gateway.toml) is a \
            sample. `orchestrator-gateway --check` names what is wrong. Each change wants a restart.",
    sources: &[
        "crates/gateway/src/address.rs",
        "crates/gateway/src/config/mod.rs",
        "crates/bus/src/config.rs",
        "crates/protocol/src/seed.rs",
        "crates/trace/src/export.rs",
    ],
    sample: "ops/config/gateway.toml",
    in_part: &["bus", "seed"],
    reload: None,
};

/// The page as the code has it.
pub(crate) fn page(root: &Path) -> anyhow::Result<String> {
    let mut page = "<!-- Written by `make schemas` from the configurations' own types; do not edit. -->\n\
         # Configuration\n\n\
         Every key of both programs. A file need not name any that has a default; an unknown key is refused. Secrets stand in files of \
         their own, closed to others.\n"
        .to_owned();
    for program in [AGENT, GATEWAY] {
        let tables = tables_of(root, &program)?;
        let waiting = program.reload.map(|file| waiting(root, file)).transpose()?;
        page.push_str(&format!("\n## {}\n\n{}\n", program.title, program.about));
        tables.iter().for_each(|table| page.push_str(&section(table, waiting.as_ref())));
    }
    Ok(page)
}

/// Says, one line each, which keys the samples lack.
pub(crate) fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for program in [AGENT, GATEWAY] {
        let sample = fs::read_to_string(root.join(program.sample)).context(program.sample)?;
        found.extend(lacking(&sample, &tables_of(root, &program)?, &program));
    }
    Ok(found)
}

fn tables_of(root: &Path, program: &Program) -> anyhow::Result<Vec<Table>> {
    tables::tables(&Source::read(root, program.sources)?, "Config").context(program.title)
}

/// Keys, or whole tables, that wait for a restart: what `keep!` lists.
fn waiting(root: &Path, file: &str) -> anyhow::Result<BTreeSet<String>> {
    let text = fs::read_to_string(root.join(file)).with_context(|| format!("cannot read {file}"))?;
    let list = text
        .split_once("\n    keep! {")
        .and_then(|(_, rest)| rest.split_once("\n    }"))
        .map(|(list, _)| list);
    let list = list.with_context(|| format!("{file} has no list keep! any more"))?;
    let line = Regex::new(r#""([a-z_.]+)" = "#)?;
    let waiting: BTreeSet<String> = line.captures_iter(list).map(|found| found[1].to_owned()).collect();
    ensure!(!waiting.is_empty(), "{file}: keep! lists nothing");
    Ok(waiting)
}

fn section(table: &Table, waiting: Option<&BTreeSet<String>>) -> String {
    let header = match table.path.split_once("[]") {
        Some((list, _)) => format!("`[[{list}]]`"),
        None if table.path.is_empty() => "at the top".to_owned(),
        None => format!("`[{}]`", table.path),
    };
    let choice = table.choice.as_ref().map(|choice| format!(" with {choice}")).unwrap_or_default();
    let mut text = format!("\n### {header}{choice}\n\n");
    if !table.about.is_empty() {
        text.push_str(&format!("{}\n\n", escaped(&table.about)));
    }
    let (title, line) = waiting.map_or(("", ""), |_| (" reload |", " --- |"));
    text.push_str(&format!("| key | takes | default |{title} meaning |\n| --- | --- | --- |{line} --- |\n"));
    for key in &table.keys {
        let reload = waiting.map(|waiting| format!(" {} |", reload(&table.path, &key.name, waiting)));
        text.push_str(&format!(
            "| `{}` | {} | {} |{} {} |\n",
            key.name,
            escaped(&key.kind),
            default(key),
            reload.unwrap_or_default(),
            escaped(&key.about)
        ));
    }
    text
}

fn reload(table: &str, key: &str, waiting: &BTreeSet<String>) -> &'static str {
    let key = format!("{table}.{key}");
    let waits = |listed: &String| key == *listed || key.starts_with(&format!("{listed}."));
    if waiting.iter().any(waits) { "restart" } else { "yes" }
}

fn default(key: &Key) -> String {
    match &key.default {
        Unset::Value(value) => format!("`{value}`"),
        Unset::Absent => "absent".to_owned(),
        Unset::Table => "as below".to_owned(),
        Unset::Required => "**required**".to_owned(),
    }
}

fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "\\<")
}

/// Keys that the sample neither sets nor shows. Of what the person names, and of several tables to choose from, it shows one.
fn lacking(sample: &str, tables: &[Table], program: &Program) -> Vec<String> {
    let shown = shown(sample);
    let chosen = |table: &&Table| {
        let is_part = program
            .in_part
            .iter()
            .any(|part| table.path == *part || table.path.starts_with(&format!("{part}.")));
        !table.is_one_of && !table.path.contains('<') && !is_part
    };
    let keys = tables.iter().filter(chosen).flat_map(|table| {
        table.keys.iter().map(|key| format!("{}.{}", table.path, key.name).replace("[]", ""))
    });
    let is_shown =
        |key: &String| shown.iter().any(|text| text == key || text.starts_with(&format!("{key}.")));
    keys.filter(|key| !is_shown(key)).map(|key| format!("{} lacks {key}", program.sample)).collect()
}

/// Keys with their tables in front, those in comments too.
fn shown(sample: &str) -> BTreeSet<String> {
    let (mut table, mut shown) = (String::new(), BTreeSet::new());
    for line in sample.lines() {
        // `#[table]` is an example; behind `# ` are words, in which a key may be shown with a value all the same.
        let code = line.strip_prefix('#').unwrap_or(line);
        if let Some((name, _)) = code.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            table = name.trim_start_matches('[').to_owned();
        }
        for (words, _) in line.match_indices(" = ").map(|(at, _)| line.split_at(at)) {
            let key = words.rsplit([' ', '#', '{', '(']).next().unwrap_or_default();
            shown.insert(format!("{table}.{key}"));
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(path: &str, key: &str) -> Table {
        let default = Unset::Value("7".into());
        let key = Key { name: key.into(), kind: "a|b".into(), default, about: "See <x>.".into() };
        Table { keys: vec![key], ..Table::at(path, "About it.") }
    }

    #[test]
    fn a_table_is_told_with_what_a_reload_takes() {
        let waiting = BTreeSet::from(["bus".to_owned(), "agent.id".to_owned()]);
        assert_eq!(
            section(&table("bus.tls", "ca"), Some(&waiting)),
            "\n### `[bus.tls]`\n\nAbout it.\n\n| key | takes | default | reload | meaning |\n\
             | --- | --- | --- | --- | --- |\n| `ca` | a\\|b | `7` | restart | See \\<x>. |\n"
        );
        assert_eq!(reload("agent", "id", &waiting), "restart");
        assert_eq!(reload("agent", "ids", &waiting), "yes");
        assert_eq!(reload("business", "x", &waiting), "yes");
        assert!(section(&table("auth.trusted[]", "key"), None).starts_with("\n### `[[auth.trusted]]`\n"));
    }

    #[test]
    fn what_a_sample_lacks_is_named() {
        let sample = "# Words = and more\n[a]\nx = 1\n# [b] and (v = 2) too.\n#y.z = 2\n#[[b.c]]\n#k = 3\n";
        let tables = [
            table("a", "x"),
            table("a", "v"),
            table("a", "y"),
            table("a", "w"),
            table("b.c[]", "k"),
            table("d.<name>", "q"),
        ];
        assert_eq!(lacking(sample, &tables, &AGENT), ["ops/config/agent.toml lacks a.w"]);
    }
}
