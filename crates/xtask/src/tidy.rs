//! What neither rustfmt nor clippy sees and a reviewer should not have to: long files, unfinished code, tests that
//! sleep for a fixed time, paths of one machine, unsafe code outside its one module, unused dependencies, circles of modules,
//! what bypasses the ground floor, and pages that name what is not there.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use regex::Regex;

use crate::ground::Ground;
use crate::{Files, layering, modules, mutants, named};

const MAX_LINES: usize = 500;
/// Longer than that and not split yet.
const LONG_FILES: [&str; 1] = ["crates/transfer/tests/faults.rs"];

/// A function outside of tests fits a screen.
const MAX_FUNCTION_LINES: usize = 70;
/// Longer than that and not split yet.
const LONG_FUNCTIONS: [(&str, &str); 0] = [];

/// A line with this text says why a test sleeps right below.
const SLEEP_REASON: &str = "// sleeps because ";

/// A sleep so few lines below a look at the clock is the pause of a poll with a deadline.
const POLL_LINES: usize = 6;

/// Says, one line each as `file:line: what`, what is untidy among the files that git knows or would add.
pub fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let files = files(root)?;
    let rules = Rules::new()?;
    let mut found: Vec<String> = files.iter().flat_map(|(path, text)| rules.file(path, text)).collect();
    found.extend(unsafe_homes(&files));
    found.extend(modules::circles(&files));
    found.extend(mutants::stale(&files)?);
    found.extend(named::missing(&files, |path| root.join(path).exists())?);
    found.extend(unused_dependencies(root, &files)?);
    Ok(found)
}

fn files(root: &Path) -> anyhow::Result<Files> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("cannot start git")?;
    ensure!(
        output.status.success(),
        "git ls-files failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let names = String::from_utf8(output.stdout).context("a file name is not UTF-8")?;
    let mut files = Files::new();
    for name in names.split_terminator('\0') {
        if let Ok(text) = fs::read_to_string(root.join(name)) {
            files.insert(name.to_owned(), text);
        }
    }
    ensure!(!files.is_empty(), "git lists no file in {}", root.display());
    Ok(files)
}

struct Rules {
    function: Regex,
    ground: Ground,
    machine_path: Regex,
    lock_source: Regex,
    unfinished: Regex,
    ignored: Regex,
    sleep: Regex,
    poll: Regex,
    /// A stand-in that plays a slow host.
    played_delay: Regex,
}

impl Rules {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            function: Regex::new(
                r"^(?<indent> *)(pub(\([a-z]+\))? )?((const|async|unsafe) )*fn (?<name>\w+).*[^;]$",
            )?,
            ground: Ground::new()?,
            // Split so that the rules do not find themselves.
            machine_path: Regex::new(concat!(
                r"(^|[^\w.])/wo",
                r"rk/|\.\./sha",
                r"red/|/ho",
                r"me/[a-z]+/|/Us",
                r"ers/[a-z]+/|/tmp/tar",
                "get-"
            ))?,
            lock_source: Regex::new(r#"^source = "(?P<source>[^"]*)""#)?,
            unfinished: Regex::new(concat!(
                r"\bto",
                r"do!\s*\(|\bunimple",
                r"mented!\s*\(|\b(TO",
                "DO|FIX",
                r"ME|XX",
                r"X)\b"
            ))?,
            ignored: Regex::new(r#"^\s*#\[ignore(\s*=\s*"\s*")?\s*\]"#)?,
            sleep: Regex::new(r"(^|[^\w.])sleep\s*\(")?,
            poll: Regex::new(r"deadline|elapsed\(\)|Instant::now\(\)")?,
            played_delay: Regex::new(r"sleep\((self\.)?delay\)")?,
        })
    }

    fn file(&self, path: &str, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        let is_rust = path.ends_with(".rs");
        if is_rust {
            found.extend(self.long_functions(path, text));
        }
        if is_rust && text.lines().count() > MAX_LINES && !LONG_FILES.contains(&path) {
            found.push(format!("{path}: {} lines, more than {MAX_LINES}: split it", text.lines().count()));
        }
        let mut in_tests = path.contains("tests/");
        let lines: Vec<&str> = text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            in_tests |= is_rust && line.trim_start().starts_with("#[cfg(test)]");
            let mut say = |what: &str| found.push(format!("{path}:{}: {what}", index + 1));
            if self.machine_path.is_match(line) {
                say("a path of one machine or of one person");
            }
            if path == "Cargo.lock" && !self.is_public_source(line) {
                say("a package from somewhere else than crates.io");
            }
            if is_rust {
                if self.unfinished.is_match(line) {
                    say("unfinished code");
                }
                if self.ignored.is_match(line) {
                    say("an ignored test without a reason");
                }
                if !in_tests && !path.ends_with("tests.rs") {
                    self.ground.line(path, line).into_iter().for_each(&mut say);
                }
                let sleeps = self.sleep.is_match(line) && !self.played_delay.is_match(line);
                if in_tests && sleeps && !self.may_sleep(&lines[..index]) {
                    say("a test that sleeps for a fixed time: poll with a deadline (testkit::poll)");
                }
            }
        }
        found
    }

    /// The functions that do not fit a screen: from `fn` to the brace below it, as rustfmt sets it.
    fn long_functions(&self, path: &str, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        if path.contains("tests/") || path.ends_with("tests.rs") {
            return found;
        }
        let lines: Vec<&str> = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).collect();
        for (index, line) in lines.iter().enumerate() {
            let Some(function) = self.function.captures(line) else { continue };
            let (indent, name) = (&function["indent"], &function["name"]);
            let end = lines[index..].iter().position(|below| *below == format!("{indent}}}"));
            let length = end.map_or(0, |end| end + 1);
            if length > MAX_FUNCTION_LINES && !LONG_FUNCTIONS.contains(&(path, name)) {
                found.push(format!(
                    "{path}:{}: {name} has {length} lines, more than {MAX_FUNCTION_LINES}: split it",
                    index + 1
                ));
            }
        }
        found
    }

    /// Whether the lines above a sleep give it a reason.
    fn may_sleep(&self, above: &[&str]) -> bool {
        let near = &above[above.len().saturating_sub(POLL_LINES)..];
        near.last().is_some_and(|line| line.contains(SLEEP_REASON))
            || near.iter().any(|line| self.poll.is_match(line))
    }

    fn is_public_source(&self, line: &str) -> bool {
        self.lock_source.captures(line).is_none_or(|found| {
            matches!(
                &found["source"],
                "registry+https://github.com/rust-lang/crates.io-index" | "sparse+https://index.crates.io/"
            )
        })
    }
}

/// Unsafe code has one home per crate.
fn unsafe_homes(files: &Files) -> Vec<String> {
    let mut homes: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (path, text) in files {
        let lifts = |line: &str| {
            let line = line.trim_start();
            line.starts_with("#")
                && line.contains("unsafe_code")
                && (line.contains("allow") || line.contains("expect"))
        };
        if path.ends_with(".rs") && text.lines().any(lifts) {
            homes.entry(crate_directory(path)).or_default().push(path);
        }
    }
    homes
        .into_iter()
        .filter(|(_, paths)| paths.len() > 1)
        .map(|(name, paths)| format!("{name}: unsafe code in more than one module: {}", paths.join(", ")))
        .collect()
}

/// `crates/bus/src/lib.rs` belongs to `crates/bus`, `tests/tests/x.rs` to `tests`.
fn crate_directory(path: &str) -> &str {
    let depth = if path.starts_with("crates/") { 2 } else { 1 };
    path.match_indices('/').nth(depth - 1).map_or(path, |(end, _)| &path[..end])
}

/// Dependencies whose name never occurs in their crate's sources.
fn unused_dependencies(root: &Path, files: &Files) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for package in layering::metadata(root)?.workspace_packages() {
        let manifest = package.manifest_path.as_std_path();
        let directory = manifest.parent().unwrap_or(manifest);
        let directory = directory.strip_prefix(root).unwrap_or(directory).to_string_lossy().into_owned();
        let sources: Vec<&String> = files
            .iter()
            .filter(|(path, _)| path.ends_with(".rs") && crate_directory(path) == directory)
            .map(|(_, text)| text)
            .collect();
        for dependency in &package.dependencies {
            let name = dependency.rename.as_ref().unwrap_or(&dependency.name).replace('-', "_");
            let word = Regex::new(&format!(r"\b{}\b", regex::escape(&name)))?;
            if !sources.iter().any(|text| word.is_match(text)) {
                found.push(format!("{directory}/Cargo.toml: {} is never used", dependency.name));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(path: &str, text: &str) -> Vec<String> {
        Rules::new().unwrap().file(path, text)
    }

    #[test]
    fn a_long_file_is_found() {
        assert_eq!(judged("a.rs", &"\n".repeat(MAX_LINES)).len(), 0);
        assert_eq!(judged("a.rs", &"\n".repeat(MAX_LINES + 1)).len(), 1);
        assert_eq!(judged("a.md", &"\n".repeat(MAX_LINES + 1)).len(), 0);
    }

    #[test]
    fn a_function_longer_than_a_screen_is_found() {
        let function =
            |lines| format!("    pub async fn f() {{\n{}    }}\n", "        g();\n".repeat(lines - 2));
        assert_eq!(judged("src/a.rs", &function(MAX_FUNCTION_LINES)).len(), 0);
        let long = function(MAX_FUNCTION_LINES + 1);
        assert_eq!(judged("src/a.rs", &long), ["src/a.rs:1: f has 71 lines, more than 70: split it"]);
        assert_eq!(judged("tests/a.rs", &long).len(), 0);
        assert_eq!(judged("src/a.rs", &format!("#[cfg(test)]\nmod tests {{\n{long}")).len(), 0);
    }

    #[test]
    fn unfinished_code_is_found() {
        let line = concat!("    to", "do!()");
        assert_eq!(judged("src/a.rs", line), ["src/a.rs:1: unfinished code"]);
    }

    #[test]
    fn an_ignored_test_needs_a_reason() {
        assert_eq!(judged("src/a.rs", concat!("    #[ign", "ore]")).len(), 1);
        assert_eq!(judged("src/a.rs", concat!("    #[ign", r#"ore = ""]"#)).len(), 1);
        assert_eq!(judged("src/a.rs", concat!("    #[ign", r#"ore = "needs a GPU"]"#)).len(), 0);
    }

    #[test]
    fn sleeping_is_for_code_not_for_tests() {
        let line = concat!("    thread::sle", "ep(Duration::from_secs(1));");
        assert_eq!(judged("crates/a/src/b.rs", line).len(), 0);
        assert_eq!(judged("crates/a/tests/b.rs", line).len(), 1);
        assert_eq!(judged("crates/a/src/b.rs", &format!("#[cfg(test)]\nmod tests {{\n{line}")).len(), 1);
        let with_reason = format!("    {SLEEP_REASON}the writer must run for a while\n{line}");
        assert_eq!(judged("crates/a/tests/b.rs", &with_reason).len(), 0);
        let poll = format!("    assert!(Instant::now() < deadline);\n{line}");
        assert_eq!(judged("crates/a/tests/b.rs", &poll).len(), 0);
        let python = concat!("    [\"-c\", \"time.sle", "ep(600)\"]");
        assert_eq!(judged("crates/a/tests/b.rs", python).len(), 0);
    }

    #[test]
    fn paths_of_one_machine_are_found_in_any_file() {
        let line = concat!("see /ho", "me/someone/notes");
        assert_eq!(judged("README.md", line).len(), 1);
        assert_eq!(judged("README.md", concat!("see target/wo", "rk/x and /usr/share")).len(), 0);
    }

    #[test]
    fn a_lock_file_names_the_public_registry_only() {
        assert_eq!(judged("Cargo.lock", r#"source = "registry+https://mirror.example/index""#).len(), 1);
        assert_eq!(
            judged("Cargo.lock", r#"source = "registry+https://github.com/rust-lang/crates.io-index""#).len(),
            0
        );
    }

    #[test]
    fn unsafe_code_has_one_home_per_crate() {
        let lifted = "#![allow(unsafe_code)]".to_owned();
        let mut files = Files::from([("crates/a/src/sys.rs".to_owned(), lifted.clone())]);
        assert!(unsafe_homes(&files).is_empty());
        files.insert("crates/a/src/other.rs".to_owned(), lifted);
        assert_eq!(unsafe_homes(&files).len(), 1);
    }
}
