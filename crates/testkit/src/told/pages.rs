//! Commands in Markdown: blocks of lines to copy, and code within sentences.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, ensure};

use super::{Reader, Told, shell};

/// Directories whose pages are read, beside those at the top.
const DIRECTORIES: [&str; 5] = ["docs", "ops", "ops/nats", "ops/docker", "schemas"];

/// Samples and alerts, whose comments and words tell commands too.
const PROSE: [&str; 4] = [
    "ops/config/agent.toml",
    "ops/config/gateway.toml",
    "ops/docker/agent.toml",
    "ops/prometheus/orchestrator.rules.yml",
];

/// Each page by its path from the root.
pub(super) fn files(root: &Path) -> anyhow::Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for directory in [""].into_iter().chain(DIRECTORIES) {
        let Ok(entries) = fs::read_dir(root.join(directory)) else { continue };
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "md") {
                let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
                found.push((name, fs::read_to_string(&path)?));
            }
        }
    }
    ensure!(found.len() > 20, "only {} pages are there", found.len());
    for name in PROSE {
        found.push((name.to_owned(), fs::read_to_string(root.join(name)).context(name)?));
    }
    Ok(found)
}

/// What the words of a sample or of alerts tell to type. A command may go on in the next line.
fn prose(name: &str, text: &str, reader: &Reader<'_>) -> Vec<Told> {
    let mut line = 1;
    let mut found = Vec::new();
    for (index, span) in text.split('`').enumerate() {
        if index % 2 == 1 {
            let words = span.split_whitespace().filter(|word| *word != "#").collect::<Vec<_>>().join(" ");
            let words = words.replace("{{ $labels.host }}", "db1").replace("{{ $labels.cluster }}", "shop");
            found.extend(reader.within(&format!("{name}:{line}"), &words));
        }
        line += span.matches('\n').count();
    }
    found
}

/// What a page tells to type.
pub(super) fn told(name: &str, text: &str, reader: &Reader<'_>) -> Vec<Told> {
    if !name.ends_with(".md") {
        return prose(name, text, reader);
    }
    let mut found = Vec::new();
    let mut block: Option<&str> = None;
    let (mut joined, mut variables) = (String::new(), Vec::new());
    // A sentence may break inside of a command.
    let (mut paragraph, mut begin) = (String::new(), 1);
    for (index, line) in text.lines().enumerate() {
        let place = format!("{name}:{}", index + 1);
        let fence = line.trim_start().strip_prefix("```");
        match (block, fence) {
            (None, Some(language)) => block = Some(language.trim()),
            (Some(_), Some(_)) => block = None,
            (Some(language), None) => {
                let Some(command) = command(language, line, reader.program, !joined.is_empty()) else {
                    continue;
                };
                joined.push_str(command.trim_end().trim_end_matches('\\'));
                if !command.trim_end().ends_with('\\') {
                    variables.extend(shell::exported(&joined));
                    let whole = reader.whole(&place, &std::mem::take(&mut joined)).into_iter();
                    found.extend(whole.map(|told| Told { variables: variables.clone(), ..told }));
                }
                continue;
            }
            (None, None) if !line.trim().is_empty() && !line.starts_with('|') => {
                if paragraph.is_empty() {
                    begin = index + 1;
                }
                paragraph.push_str(line);
                paragraph.push(' ');
                continue;
            }
            (None, None) => found.extend(reader.in_sentence(&place, line)),
        }
        found.extend(reader.in_sentence(&format!("{name}:{begin}"), &std::mem::take(&mut paragraph)));
    }
    found.extend(reader.in_sentence(&format!("{name}:{begin}"), &paragraph));
    found
}

/// The part of a block's line that is typed; none where it is an answer.
fn command<'a>(language: &str, line: &'a str, program: &str, goes_on: bool) -> Option<&'a str> {
    let line = line.trim();
    match line.strip_prefix("$ ").or_else(|| line.strip_prefix("# ").filter(|_| language == "console")) {
        Some(command) => Some(command),
        None if goes_on || matches!(language, "sh" | "bash") => Some(line),
        None => Some(line).filter(|line| language.is_empty() && line.starts_with(program)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_in_samples_and_alerts_may_break_over_lines() {
        let text = "# Not ctl.\nx: |\n  Run `ctl a\n  {{ $labels.host }}`.\n# `ctl b\n# --c`, `x`\n";
        let told = told("f.yml", text, &Reader { program: "ctl", verbs: &[] });
        let found: Vec<_> = told.iter().map(|told| (told.place.as_str(), told.arguments.join(" "))).collect();
        assert_eq!(found, [("f.yml:3", "a db1".to_owned()), ("f.yml:5", "b --c".to_owned())]);
    }

    #[test]
    fn lines_to_copy_are_told_from_answers_and_from_sentences() {
        let page = "Say `ctl a\nb`, or\n\n```console\n$ ctl c \\\n    --d\nctl is no command here\n$ other | ctl e\n```\n\
                    | `seed f\\|g` | x |\n1. Do\n   ```sh\n   export A=1 B=x\n   ctl h\n   ```\n```toml\nctl = 1\n```\n```\nctl i\n```\nlast `ctl j`";
        let told = told("p.md", page, &Reader { program: "ctl", verbs: &["seed"] });
        let found: Vec<(&str, String, bool)> =
            told.iter().map(|told| (told.place.as_str(), told.arguments.join(" "), told.is_whole)).collect();
        let wanted = [
            ("p.md:1", "a b", false),
            ("p.md:6", "c --d", true),
            ("p.md:8", "e", true),
            ("p.md:10", "seed f", false),
            ("p.md:10", "seed g", false),
            ("p.md:14", "h", true),
            ("p.md:20", "i", true),
            ("p.md:22", "j", false),
        ];
        assert_eq!(found, wanted.map(|(place, arguments, whole)| (place, arguments.to_owned(), whole)));
        let set = [("A", "1"), ("B", "x")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!((told[1].variables.len(), told[5].variables.as_slice()), (0, set.as_slice()));
    }
}
