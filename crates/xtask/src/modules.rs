//! Inside a crate too data flow one way: no circle of modules. A child that uses its parent, or a parent its child, is none.
//!
//! Reads texts, not meanings: `crate::` and `super::` paths outside of tests, as rustfmt leaves them. What goes through a re-export of
//! the crate's root counts as a use of the root.

use std::collections::{BTreeMap, BTreeSet};

use crate::Files;

/// Crates whose circle is not dissolved yet, and the number of modules in it: it may shrink, not grow.
const KNOWN: [(&str, usize); 0] = [];

type Uses = BTreeMap<String, BTreeSet<String>>;

/// Says, one line each, which modules of a crate use one another in a circle.
pub(crate) fn circles(files: &Files) -> Vec<String> {
    let mut crates: BTreeMap<&str, BTreeMap<String, &str>> = BTreeMap::new();
    for (path, text) in files {
        if let Some((directory, module)) = module_of(path) {
            crates.entry(directory).or_default().insert(module, text);
        }
    }
    let mut found = Vec::new();
    for (directory, modules) in &crates {
        let known = KNOWN.iter().find(|(name, _)| name == directory).map_or(0, |(_, count)| *count);
        let uses = uses(modules);
        for circle in knots(&uses) {
            if circle.len() > known {
                found.push(format!(
                    "{directory}: a circle of {} modules: {}",
                    circle.len(),
                    told(&uses, &circle)
                ));
            }
        }
    }
    found
}

/// `crates/bus/src/serve/mod.rs` is the module `serve` of `crates/bus`; tests and further binaries are no modules of it.
fn module_of(path: &str) -> Option<(&str, String)> {
    let (directory, file) = path.split_once("/src/")?;
    let name = file.strip_suffix(".rs")?;
    if name.starts_with("bin/") || name.ends_with("tests") {
        return None;
    }
    let name = name.strip_suffix("/mod").unwrap_or(name);
    let is_root = matches!(name, "lib" | "main" | "mod");
    Some((directory, if is_root { String::new() } else { name.replace('/', "::") }))
}

fn uses(modules: &BTreeMap<String, &str>) -> Uses {
    let mut uses = Uses::new();
    for (name, text) in modules {
        let known: BTreeSet<String> = paths(text)
            .into_iter()
            .filter_map(|path| absolute(name, &path))
            .map(|path| deepest(&path, modules))
            .filter(|used| !is_within(used, name) && !is_within(name, used))
            .collect();
        uses.insert(name.clone(), known);
    }
    uses
}

/// Whether `module` is `outer` or lies in it.
fn is_within(module: &str, outer: &str) -> bool {
    outer.is_empty()
        || module == outer
        || module.strip_prefix(outer).is_some_and(|rest| rest.starts_with("::"))
}

/// The path from the crate's root that a path in `module` means.
fn absolute(module: &str, path: &[String]) -> Option<Vec<String>> {
    let (first, rest) = path.split_first()?;
    let mut base: Vec<String> = if first == "crate" {
        Vec::new()
    } else {
        let mut base: Vec<String> = module.split("::").map(str::to_owned).collect();
        base.pop();
        base
    };
    for part in rest {
        if part == "super" {
            base.pop();
        } else {
            base.push(part.clone());
        }
    }
    Some(base)
}

/// The module that the path leads into: its longest beginning that is one.
fn deepest(path: &[String], modules: &BTreeMap<String, &str>) -> String {
    (0..=path.len())
        .rev()
        .map(|length| path[..length].join("::"))
        .find(|name| modules.contains_key(name))
        .unwrap_or_default()
}

/// All paths of a text that begin with `crate` or `super`, groups in braces taken apart. Comments and tests are left out.
fn paths(text: &str) -> Vec<Vec<String>> {
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let code: String = code.lines().map(|line| line.split("//").next().unwrap_or_default()).fold(
        String::new(),
        |mut code, line| {
            code.push_str(line);
            code.push('\n');
            code
        },
    );
    let mut found = Vec::new();
    for start in ["crate::", "super::"] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            if before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':' && c != '$') {
                tree(&mut code[at..].chars().peekable(), Vec::new(), &mut found);
            }
        }
    }
    found
}

/// Reads one path, or one entry of a group, with what precedes it.
fn tree(
    code: &mut std::iter::Peekable<std::str::Chars<'_>>,
    mut path: Vec<String>,
    found: &mut Vec<Vec<String>>,
) {
    loop {
        while code.next_if(|c| c.is_whitespace()).is_some() {}
        if code.next_if_eq(&'{').is_some() {
            while code.peek().is_some_and(|c| *c != '}') {
                tree(code, path.clone(), found);
                while code.next_if(|c| !matches!(c, ',' | '}')).is_some() {}
                code.next_if_eq(&',');
                while code.next_if(|c| c.is_whitespace()).is_some() {}
            }
            code.next();
            return;
        }
        let mut word = String::new();
        while let Some(c) = code.next_if(|c| c.is_alphanumeric() || *c == '_') {
            word.push(c);
        }
        if !word.is_empty() {
            path.push(word);
        }
        if code.next_if_eq(&':').is_none() || code.next_if_eq(&':').is_none() {
            found.push(path);
            return;
        }
    }
}

/// Groups of modules that reach one another.
fn knots(uses: &Uses) -> Vec<BTreeSet<String>> {
    let reach: BTreeMap<&String, BTreeSet<&String>> =
        uses.keys().map(|name| (name, reached(uses, name))).collect();
    let mut knots: BTreeSet<BTreeSet<String>> = BTreeSet::new();
    for (name, others) in &reach {
        let knot: BTreeSet<String> = others
            .iter()
            .filter(|other| reach[**other].contains(name))
            .map(|other| (*other).clone())
            .collect();
        if knot.len() > 1 {
            knots.insert(knot);
        }
    }
    knots.into_iter().collect()
}

fn reached<'a>(uses: &'a Uses, from: &'a String) -> BTreeSet<&'a String> {
    let mut seen = BTreeSet::new();
    let mut next: Vec<&String> = uses[from].iter().collect();
    while let Some(name) = next.pop() {
        if seen.insert(name) {
            next.extend(&uses[name]);
        }
    }
    seen
}

/// Each module of a circle with those of it that it uses.
fn told(uses: &Uses, circle: &BTreeSet<String>) -> String {
    let arrows = circle.iter().map(|name| {
        let used: Vec<&str> = uses[name].intersection(circle).map(String::as_str).collect();
        format!("{name} -> {}", used.join(", "))
    });
    arrows.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(files: &[(&str, &str)]) -> Vec<String> {
        circles(
            &files.iter().map(|(path, text)| (format!("crates/a/src/{path}"), (*text).to_owned())).collect(),
        )
    }

    #[test]
    fn a_circle_is_told_with_its_arrows() {
        let found = judged(&[
            ("lib.rs", "mod b; mod c; mod d;"),
            ("b.rs", "use crate::{c::{self, C}, Error};"),
            ("c/mod.rs", "fn f() { crate::d::g(); }"),
            ("d.rs", "use super::b::B;"),
        ]);
        assert_eq!(found, ["crates/a: a circle of 3 modules: b -> c; c -> d; d -> b"]);
    }

    #[test]
    fn a_child_and_its_parent_are_no_circle_nor_are_tests_and_comments() {
        let found = judged(&[
            ("lib.rs", "mod b; mod c; pub use b::B; use crate::c::d::D;"),
            ("b.rs", "use crate::c::d::D;\n// crate::c\n#[cfg(test)]\nmod tests { use crate::c::C; }"),
            ("c/mod.rs", "mod d; use crate::B; use self::d::D;"),
            ("c/d.rs", "use super::C; use crate::c; use crate::Error;"),
            ("c/d_tests.rs", "use crate::b::B;"),
        ]);
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn siblings_below_a_parent_may_make_one() {
        let found = judged(&[
            ("c/mod.rs", ""),
            ("c/d.rs", "use super::e::E;"),
            ("c/e.rs", "use crate::c::{d::{D}};"),
        ]);
        assert_eq!(found, ["crates/a: a circle of 2 modules: c::d -> c::e; c::e -> c::d"]);
    }
}
