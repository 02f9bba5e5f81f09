//! What pages name is there: targets of the Makefile, scripts, and the files that links lead to.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use regex::Regex;

use crate::Files;

/// Says, one line each, what a page names that is not there. `exists` is asked for paths from the root that git does not list.
pub(crate) fn missing(files: &Files, exists: impl Fn(&Path) -> bool) -> anyhow::Result<Vec<String>> {
    let code = Regex::new(r"`([^`]+)`")?;
    let target = Regex::new(r"(?:^|[\s;&|$(])make(?: [A-Z_]+=\S+)* ([a-z][a-z-]*)")?;
    let script = Regex::new(r"(?:^|[^\w/.-])(scripts/[a-z][\w-]*)")?;
    let link = Regex::new(r"\]\(([^)#\s]+)[^)]*\)")?;
    let targets = targets(files)?;
    let known = |path: &Path| files.contains_key(&*path.to_string_lossy()) || exists(path);
    let mut found = Vec::new();
    for (page, text) in files.iter().filter(|(path, _)| path.ends_with(".md")) {
        let mut is_block = false;
        for (index, line) in text.lines().enumerate() {
            let mut say = |what: String| found.push(format!("{page}:{}: {what}", index + 1));
            if line.trim_start().starts_with("```") {
                is_block = !is_block;
            }
            let spans: Vec<&str> = match is_block {
                true => vec![line],
                false => code.captures_iter(line).filter_map(|span| Some(span.get(1)?.as_str())).collect(),
            };
            for named in spans.iter().flat_map(|span| target.captures_iter(span)) {
                if !targets.contains(&named[1]) {
                    say(format!("make {}: the Makefile has no such target", &named[1]));
                }
            }
            for named in script.captures_iter(line) {
                if !known(Path::new(&named[1])) {
                    say(format!("{} is not there", &named[1]));
                }
            }
            for named in link.captures_iter(line).filter(|named| !is_block && !named[1].contains(':')) {
                if !known(&beside(page, &named[1])) {
                    say(format!("the link to {} leads nowhere", &named[1]));
                }
            }
        }
    }
    Ok(found)
}

fn targets(files: &Files) -> anyhow::Result<BTreeSet<String>> {
    let line = Regex::new(r"(?m)^([a-z][a-z-]*):")?;
    let makefile = files.get("Makefile").map(String::as_str).unwrap_or_default();
    Ok(line.captures_iter(makefile).map(|target| target[1].to_owned()).collect())
}

/// A link's path from the root.
fn beside(page: &str, link: &str) -> PathBuf {
    let mut path = Path::new(page).parent().map(Path::to_owned).unwrap_or_default();
    for part in Path::new(link).components() {
        match part {
            Component::ParentDir => drop(path.pop()),
            Component::Normal(name) => path.push(name),
            _ => {}
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_named_with_its_line() {
        let page = "Run `make test`, [x](a.md), [y](../scripts/lint#z) and [z](https://example.com/q).\n\
                    They make haste: `make haste SEED=1`, see scripts/gone and [w](../docs/b.md).\n\
                    ```console\n$ make HOURS=2 soak; make rest KEEP=1\n```\n";
        let files = Files::from([
            ("Makefile".to_owned(), "test: x ## Tests\n\nsoak:\n".to_owned()),
            ("docs/p.md".to_owned(), page.to_owned()),
            ("docs/a.md".to_owned(), String::new()),
        ]);
        let missing = missing(&files, |path| path == Path::new("scripts/lint")).unwrap();
        assert_eq!(
            missing,
            [
                "docs/p.md:2: make haste: the Makefile has no such target",
                "docs/p.md:2: scripts/gone is not there",
                "docs/p.md:2: the link to ../docs/b.md leads nowhere",
                "docs/p.md:4: make rest: the Makefile has no such target",
            ]
        );
    }
}
