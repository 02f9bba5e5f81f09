//! Commands in what programs say: the string literals of their sources, without tests and comments.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, anyhow, ensure};
use proc_macro2::{TokenStream, TokenTree};

use super::{Reader, Told, shell};

/// The source files below a directory, by their paths from the root.
pub(super) fn files(root: &Path, directory: &str) -> anyhow::Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    let mut directories = vec![root.join(directory)];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !is_test(&path) {
                let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
                found.push((name, fs::read_to_string(&path)?));
            }
        }
    }
    ensure!(!found.is_empty(), "no sources below {directory}");
    Ok(found)
}

fn is_test(path: &Path) -> bool {
    path.file_stem().is_some_and(|name| name.to_string_lossy().ends_with("tests"))
}

/// What the literals of a file tell to type.
pub(super) fn told(name: &str, text: &str, reader: &Reader<'_>) -> anyhow::Result<Vec<Told>> {
    let text = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let tokens: TokenStream = text.parse().map_err(|error| anyhow!("no Rust: {error}"))?;
    let mut literals = Vec::new();
    collect(tokens, &mut literals);
    let find = |(line, text): (usize, String)| {
        let place = format!("{name}:{line}");
        // What stands in a message as a command is copied from there.
        let mut found: Vec<Told> = reader
            .in_sentence(&place, &text)
            .into_iter()
            .map(|told| Told { is_whole: true, ..told })
            .collect();
        // A line of its own, which a person copies as it is.
        let is_line =
            |line: &&str| line.trim().strip_prefix(reader.program).is_some_and(|rest| rest.starts_with(' '));
        found.extend(text.lines().filter(is_line).flat_map(|line| reader.whole(&place, line)));
        // All of it is filled in elsewhere.
        found.retain(|told| told.arguments != [shell::ANYTHING]);
        found
    };
    Ok(literals.into_iter().map(|(line, text)| (line, shown(&text))).flat_map(find).collect())
}

/// Literals with their lines. Comments for readers of the source come as attributes `doc`; others have messages, too.
fn collect(tokens: TokenStream, found: &mut Vec<(usize, String)>) {
    let is_doc = |tokens: &TokenStream| match tokens.clone().into_iter().next() {
        Some(TokenTree::Ident(name)) => name == "doc",
        _ => false,
    };
    for token in tokens {
        match token {
            TokenTree::Group(group) if !is_doc(&group.stream()) => collect(group.stream(), found),
            TokenTree::Literal(literal) => {
                let line = literal.span().start().line;
                if let syn::Lit::Str(text) = syn::Lit::new(literal) {
                    found.push((line, text.value()));
                }
            }
            _ => {}
        }
    }
}

/// A literal with something in place of what is filled in while the program runs. It is a host, a job or a snapshot.
fn shown(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('{') {
        shown.push_str(before);
        rest = match behind.split_once('}') {
            Some((name, behind)) if !name.contains(['{', ' ', '"']) => {
                shown.push_str(if name == "public" { shell::KEY } else { shell::ANYTHING });
                behind
            }
            _ => {
                shown.push('{');
                behind
            }
        };
    }
    shown + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_in_literals_are_found_wherever_they_stand() {
        let text = r##"
            /// Not `seed a`.
            #[error("but `seed b`")]
            fn f() {
                // Not `seed c`.
                let x = format!("see `seed show {host} {}` and \
                     `ctl d`", 7);
                note(r#"ctl e "f g""#);
            }
        "##
        .to_owned()
            + "\n#[cfg(test)]\nmod tests {\n    const X: &str = \"`seed h`\";\n}\n";
        let told = told("f.rs", &text, &Reader { program: "ctl", verbs: &["seed"] }).unwrap();
        let found: Vec<(&str, String, bool)> =
            told.iter().map(|told| (told.place.as_str(), told.arguments.join(" "), told.is_whole)).collect();
        let wanted = [
            ("f.rs:3", "seed b", true),
            ("f.rs:6", "seed show 00ab12cd 00ab12cd", true),
            ("f.rs:6", "d", true),
            ("f.rs:8", "e f g", true),
        ];
        assert_eq!(found, wanted.map(|(place, arguments, whole)| (place, arguments.to_owned(), whole)));
    }
}
