//! What pages and messages tell people to type, so that each program can try it with its own command line.

mod literals;
mod pages;
mod shell;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::error::ErrorKind;

/// A command that a text names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// File and line.
    pub place: String,
    /// As it stands there.
    pub text: String,
    /// What the program would be given.
    pub arguments: Vec<String>,
    /// What the lines above it set, by `export`.
    pub variables: Vec<(String, String)>,
    /// A line to copy; otherwise it is named within a sentence and may lack what is plain from there.
    pub is_whole: bool,
}

/// What README, pages, samples and alerts tell to type, for one program. Within a sentence a command may begin with one of `verbs`, the
/// program's own subcommands.
///
/// # Errors
/// A page cannot be read.
pub fn by_pages(program: &str, verbs: &[&str]) -> anyhow::Result<Vec<Told>> {
    let reader = Reader { program, verbs };
    let files = pages::files(&repository())?;
    Ok(files.iter().flat_map(|(name, text)| pages::told(name, text, &reader)).collect())
}

/// What the words in the source files below `directories` tell to type, likewise.
///
/// # Errors
/// A file cannot be read, or is no Rust.
pub fn by_messages(directories: &[&str], program: &str, verbs: &[&str]) -> anyhow::Result<Vec<Told>> {
    let reader = Reader { program, verbs };
    let mut found = Vec::new();
    for directory in directories {
        for (name, text) in literals::files(&repository(), directory)? {
            found.extend(literals::told(&name, &text, &reader).with_context(|| name.clone())?);
        }
    }
    Ok(found)
}

/// What a text of several lines tells to type: lines that begin with the program are to be copied, what stands between backticks is
/// within a sentence.
#[must_use]
pub fn by_text(place: &str, text: &str, program: &str, verbs: &[&str]) -> Vec<Told> {
    let reader = Reader { program, verbs };
    let lines = text.lines().filter(|line| line.trim().starts_with(program));
    let mut found: Vec<Told> = lines.flat_map(|line| reader.whole(place, line)).collect();
    found.extend(reader.in_sentence(place, text));
    found
}

/// Says, one line each, what the program would not take: `read` is its command line.
pub fn misread(told: &[Told], read: impl Fn(&Told) -> Result<(), clap::Error>) -> Vec<String> {
    let wrong = |told: &Told| {
        let error = read(told).err()?;
        let lacks_only = matches!(
            error.kind(),
            ErrorKind::MissingRequiredArgument
                | ErrorKind::MissingSubcommand
                | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        );
        let asks = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
        let text = error.to_string();
        let why = text.lines().next().unwrap_or_default();
        (!asks && (told.is_whole || !lacks_only)).then(|| format!("{}: {}\n    {why}", told.place, told.text))
    };
    told.iter().filter_map(wrong).collect()
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Finds one program's commands.
struct Reader<'a> {
    program: &'a str,
    verbs: &'a [&'a str],
}

impl Reader<'_> {
    /// The commands of this program in a line to copy.
    fn whole(&self, place: &str, line: &str) -> Vec<Told> {
        let is_in_front = |word: &String| {
            matches!(word.as_str(), "sudo" | "exec" | "time" | "while" | "if" | "then" | "do")
        };
        let ours = |words: Vec<String>| {
            let mut words = words.into_iter().skip_while(is_in_front);
            // Perhaps by its path.
            words.next().filter(|first| first.rsplit('/').next() == Some(self.program))?;
            Some(Told {
                place: place.to_owned(),
                text: line.trim().to_owned(),
                variables: Vec::new(),
                arguments: words.filter_map(|word| shell::filled_in(&word)).collect(),
                is_whole: true,
            })
        };
        shell::commands(line).into_iter().filter_map(ours).collect()
    }

    /// The command that stands between two backticks of a sentence, with each of its alternatives.
    fn within(&self, place: &str, span: &str) -> Vec<Told> {
        let first = span.split_whitespace().next().unwrap_or_default();
        let is_verb = self.verbs.contains(&first);
        if span.trim() == first || first != self.program && !is_verb {
            return Vec::new();
        }
        let line = |line: String| if is_verb { format!("{} {line}", self.program) } else { line };
        shell::alternatives(span)
            .into_iter()
            .flat_map(|one| self.whole(place, &line(one)))
            .map(|told| Told { text: span.to_owned(), is_whole: false, ..told })
            .collect()
    }

    /// The commands between backticks of a text.
    fn in_sentence(&self, place: &str, text: &str) -> Vec<Told> {
        text.split('`').skip(1).step_by(2).flat_map(|span| self.within(place, span)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_in_lines_and_in_sentences() {
        let reader = Reader { program: "ctl", verbs: &["seed", "fleet"] };
        let arguments =
            |told: Vec<Told>| told.iter().map(|told| told.arguments.join(" ")).collect::<Vec<_>>();
        assert_eq!(
            arguments(reader.whole("", "sudo /usr/bin/ctl fleet | ctl seed list; other ctl x y")),
            ["fleet", "seed list"]
        );
        let text =
            "see `fleet`, `ctl`, `seed list [-n N]`, `seed start\\|stop db1`, `ctl fleet` and `cat ctl`";
        assert_eq!(
            arguments(reader.in_sentence("", text)),
            ["seed list -n 3", "seed start db1", "seed stop db1", "fleet"]
        );
    }
}
