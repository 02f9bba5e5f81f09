//! Tests that can fail: `tests/mutants.toml` takes a mend out of the code, and the tests that it names must then be red.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail, ensure};
use regex::Regex;
use serde::Deserialize;

use crate::Files;

const LIST: &str = "tests/mutants.toml";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    mutant: Vec<Mutant>,
}

/// One mend taken out.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mutant {
    /// What is wrong with the code then.
    what: String,
    /// Those of one set are taken out together.
    set: u32,
    /// Tests that must be red.
    red: Vec<String>,
    edit: Vec<Edit>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Edit {
    file: String,
    find: String,
    put: String,
}

/// Says which entries have outlived the code that they speak of.
pub(crate) fn stale(files: &Files) -> anyhow::Result<Vec<String>> {
    let Some(list) = files.get(LIST) else { return Ok(Vec::new()) };
    let list: List = toml::from_str(list).context(LIST)?;
    let mut found = Vec::new();
    for mutant in &list.mutant {
        let what = &mutant.what;
        for Edit { file, find, .. } in &mutant.edit {
            let times = files.get(file).map_or(0, |text| text.matches(find.as_str()).count());
            if times != 1 {
                found.push(format!("{LIST}: {what}: {file} has {find:?} {times} times, and not once"));
            }
        }
        for test in &mutant.red {
            let is_test = Regex::new(&format!(r"\bfn {test}\("))?;
            if !files.values().any(|text| is_test.is_match(text)) {
                found.push(format!("{LIST}: {what}: there is no test {test}"));
            }
        }
    }
    Ok(found)
}

/// Takes each set's mends, or only that set's, out of a copy of what is committed, and says which tests are green all the same.
///
/// # Errors
/// When a set does not compile, or an edit does not fit.
pub fn run(root: &Path, only: Option<u32>) -> anyhow::Result<Vec<String>> {
    let list: List = toml::from_str(&fs::read_to_string(root.join(LIST))?).context(LIST)?;
    let copy = root.join("target/mutants");
    let mut sets: BTreeSet<u32> = list.mutant.iter().map(|mutant| mutant.set).collect();
    sets.retain(|set| only.is_none_or(|only| only == *set));
    let mut found = Vec::new();
    for set in sets {
        let mutants: Vec<&Mutant> = list.mutant.iter().filter(|mutant| mutant.set == set).collect();
        check_out(root, &copy)?;
        for edit in mutants.iter().flat_map(|mutant| &mutant.edit) {
            apply(&copy, edit)?;
        }
        let red = red_of(&copy, &mutants)?;
        for mutant in mutants {
            for test in &mutant.red {
                let is_red = red.contains(test.as_str());
                println!("{}  {test}: {}", if is_red { "red  " } else { "GREEN" }, mutant.what);
                if !is_red {
                    found.push(format!("{test} does not notice that {}", mutant.what));
                }
            }
        }
    }
    git(root, &["worktree", "remove", "--force", &copy.display().to_string()])?;
    Ok(found)
}

fn git(root: &Path, arguments: &[&str]) -> anyhow::Result<bool> {
    Ok(Command::new("git").current_dir(root).args(arguments).status()?.success())
}

/// A fresh tree of the commit.
fn check_out(root: &Path, copy: &Path) -> anyhow::Result<()> {
    let path = copy.display().to_string();
    if copy.exists() {
        git(root, &["worktree", "remove", "--force", &path])?;
    }
    ensure!(git(root, &["worktree", "add", "--quiet", "--force", "--detach", &path])?, "git worktree add");
    Ok(())
}

fn apply(copy: &Path, edit: &Edit) -> anyhow::Result<()> {
    let path = copy.join(&edit.file);
    let text = fs::read_to_string(&path).with_context(|| edit.file.clone())?;
    ensure!(text.matches(edit.find.as_str()).count() == 1, "{}: {:?} does not fit", edit.file, edit.find);
    Ok(fs::write(path, text.replace(&edit.find, &edit.put))?)
}

/// The names of those tests that fail.
fn red_of(copy: &Path, mutants: &[&Mutant]) -> anyhow::Result<BTreeSet<String>> {
    let names: Vec<&str> = mutants.iter().flat_map(|mutant| &mutant.red).map(String::as_str).collect();
    let cargo = |arguments: &[&str]| {
        let mut command = Command::new("cargo");
        // A place of its own, also where CARGO_TARGET_DIR is set: cargo would take what is built here for what the repository has.
        command.current_dir(copy).args(arguments).env("CARGO_TARGET_DIR", copy.with_extension("build"));
        command.env("CARGO_INCREMENTAL", "0").env("OA_PROGRAMS", copy.with_extension("build").join("debug"));
        command
    };
    if !cargo(&["build", "--quiet", "--workspace", "--bins"]).status()?.success() {
        bail!("a set of {LIST} does not compile");
    }
    // A test that runs on several servers is a module of that name.
    let only = format!("test(/(^|::)({})(::|$)/)", names.join("|"));
    let run = ["nextest", "run", "--workspace", "--no-fail-fast", "--status-level", "all", "-E", &only];
    let output = cargo(&run).output().context("cargo nextest")?;
    let log = String::from_utf8_lossy(&output.stderr);
    fs::write(copy.with_extension("log"), log.as_bytes())?;
    ensure!(log.contains(" run: "), "the tests of a set do not compile: see target/mutants.log");
    let red = Regex::new(r"(?m)^\s*(?:FAIL|SIG[A-Z]+|TIMEOUT) .* ([a-z0-9_:]+)$")?;
    let parts =
        red.captures_iter(&log).flat_map(|found| found[1].split("::").map(str::to_owned).collect::<Vec<_>>());
    Ok(parts.collect())
}
