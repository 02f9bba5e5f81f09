//! The option files of MySQL and MariaDB (`my.cnf`), read as the servers read them.
//!
//! The grammar is total: whatever a file holds, reading it ends, and what the servers would refuse is kept as a
//! [`Problem`] instead of stopping the agent. General INI libraries know neither `!includedir`, nor the comment and
//! quote rules, nor that `-` and `_` are the same letter here.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use protocol::mysql::{Flavor, ServerVersion};

use crate::error::{Error, Result};

/// Includes nest this deep in both servers.
const MAX_INCLUDE_DEPTH: usize = 10;
/// Larger files are not option files.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// Files read by the servers when no `--defaults-file` is given, in order.
const DEFAULT_FILES: [&str; 2] = ["/etc/my.cnf", "/etc/mysql/my.cnf"];

/// A set of option files, read in the servers' order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OptionFiles {
    entries: Vec<Entry>,
    /// Files read, in order.
    pub files: Vec<PathBuf>,
    /// What the servers would warn of or refuse.
    pub problems: Vec<Problem>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    group: String,
    name: String,
    value: Option<String>,
}

/// Something in an option file that the servers would warn of or refuse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub path: PathBuf,
    /// Line, from 1; 0 for the file as a whole.
    pub line: usize,
    /// What is wrong.
    pub text: String,
}

/// The options in force for some groups: the last one wins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    values: BTreeMap<String, Option<String>>,
}

impl OptionFiles {
    /// Reads what the server reads: `defaults_file` alone, or the default files.
    #[must_use]
    pub fn load(defaults_file: Option<&Path>) -> Self {
        Self::load_under(Path::new("/"), defaults_file)
    }

    /// Like [`load`](Self::load), but every absolute path is taken below `root`, as for a server in a chroot.
    #[must_use]
    pub fn load_under(root: &Path, defaults_file: Option<&Path>) -> Self {
        let mut reader = Reader { root: root.to_owned(), ..Reader::default() };
        match defaults_file {
            Some(path) => reader.file(path, 0, true),
            None => {
                for path in DEFAULT_FILES {
                    reader.file(Path::new(path), 0, false);
                }
            }
        }
        reader.read
    }

    /// Reads one file with its includes.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::OptionFile`] for the first problem in it.
    pub fn load_file(path: &Path) -> Result<Self> {
        fs::metadata(path).map_err(Error::io("read", path))?;
        let read = Self::load(Some(path));
        match read.problems.first() {
            None => Ok(read),
            Some(p) => Err(Error::OptionFile { path: p.path.clone(), line: p.line, problem: p.text.clone() }),
        }
    }

    /// The options in force for a program that reads these groups.
    #[must_use]
    pub fn effective(&self, groups: &[impl AsRef<str>]) -> Options {
        let mut options = Options::default();
        for entry in &self.entries {
            if groups.iter().any(|g| g.as_ref() == entry.group) {
                options.set(&entry.name, entry.value.clone());
            }
        }
        options
    }

    /// Every group name that occurs, sorted.
    #[must_use]
    pub fn groups(&self) -> BTreeSet<&str> {
        self.entries.iter().map(|e| e.group.as_str()).collect()
    }
}

impl Options {
    /// The value of an option; `-` and `_` are the same. An option without a value is `""`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(&normal(name)).map(|v| v.as_deref().unwrap_or(""))
    }

    /// A path option; absent when it has no value.
    #[must_use]
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).filter(|v| !v.is_empty()).map(PathBuf::from)
    }

    /// A switch: present without a value, or with any value but the servers' words for "off".
    #[must_use]
    pub fn is_on(&self, name: &str) -> Option<bool> {
        self.get(name).map(|v| !["0", "off", "false", "no"].contains(&v.to_ascii_lowercase().as_str()))
    }

    /// All options by normal name (`-` between words).
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.values.iter().map(|(name, value)| (name.as_str(), value.as_deref()))
    }

    /// Adds what a command line says, which beats the files.
    pub fn add_command_line<'a>(&mut self, args: impl IntoIterator<Item = &'a str>) {
        for arg in args {
            let Some(option) = arg.strip_prefix("--") else { continue };
            match option.split_once('=') {
                Some((name, value)) => self.set(name, Some(value.to_owned())),
                None => self.set(option, None),
            }
        }
    }

    /// `skip-x` and `disable-x` are `x=0`, `enable-x` is `x=1`, `loose-` is only about unknown names.
    fn set(&mut self, name: &str, value: Option<String>) {
        let name = normal(name);
        let name = name.strip_prefix("loose-").unwrap_or(&name);
        if let Some(rest) = name.strip_prefix("skip-").or_else(|| name.strip_prefix("disable-")) {
            let off = value.as_deref().is_none_or(|v| !["0", "off", "false"].contains(&v));
            self.values.insert(rest.to_owned(), Some(if off { "0" } else { "1" }.to_owned()));
            // `skip-networking` and its kin are options of their own as well.
            self.values.insert(name.to_owned(), value);
        } else if let Some(rest) = name.strip_prefix("enable-") {
            self.values.insert(rest.to_owned(), Some("1".to_owned()));
        } else {
            self.values.insert(name.to_owned(), value);
        }
    }
}

/// The groups that a server of this version reads, in no order of rank: the last entry in the files wins.
#[must_use]
pub fn server_groups(
    flavor: Option<Flavor>,
    version: Option<&ServerVersion>,
    suffix: Option<&str>,
) -> Vec<String> {
    let mut names = vec!["mysqld".to_owned(), "server".to_owned()];
    let series = version.map(|v| format!("{}.{}", v.number[0], v.number[1]));
    if let Some(series) = &series {
        names.push(format!("mysqld-{series}"));
    }
    if flavor != Some(Flavor::Mysql) {
        for base in ["mariadb", "mariadbd"] {
            names.push(base.to_owned());
            if let Some(series) = &series {
                names.push(format!("{base}-{series}"));
            }
        }
        names.extend(["client-server".to_owned(), "galera".to_owned()]);
    }
    if let Some(suffix) = suffix {
        names.extend(names.clone().into_iter().map(|name| name + suffix));
    }
    names
}

/// Option names compare with `_` read as `-`.
fn normal(name: &str) -> String {
    name.trim().replace('_', "-")
}

#[derive(Debug, Default)]
struct Reader {
    root: PathBuf,
    read: OptionFiles,
    /// Files being read now, to stop at a cycle.
    open: Vec<PathBuf>,
}

impl Reader {
    fn file(&mut self, path: &Path, depth: usize, must_exist: bool) {
        let real = self.below_root(path);
        let text = match read_text(&real) {
            Ok(Some(text)) => text,
            Ok(None) => return self.problem(path, 0, "world-writable, the servers ignore it"),
            Err(e) if e.kind() == io::ErrorKind::NotFound && !must_exist => return,
            Err(e) => return self.problem(path, 0, &e.to_string()),
        };
        let identity = fs::canonicalize(&real).unwrap_or(real);
        if self.open.contains(&identity) {
            return self.problem(path, 0, "includes itself");
        }
        self.open.push(identity);
        self.read.files.push(path.to_owned());
        self.lines(path, &text, depth);
        self.open.pop();
    }

    fn lines(&mut self, path: &Path, text: &str, depth: usize) {
        let mut group = None;
        for (line, raw) in text.lines().enumerate().map(|(i, raw)| (i + 1, raw.trim())) {
            match parse_line(raw) {
                Line::Blank => {}
                Line::Group(name) => group = Some(name.to_owned()),
                Line::Include(target) => self.include(path, line, target, depth, Self::file_included),
                Line::IncludeDir(target) => self.include(path, line, target, depth, Self::directory),
                Line::Bad(text) => self.problem(path, line, text),
                Line::Option(name, value) => match &group {
                    Some(group) => {
                        self.read.entries.push(Entry { group: group.clone(), name: name.to_owned(), value });
                    }
                    None => self.problem(path, line, "an option before the first [group]"),
                },
            }
        }
    }

    fn include(
        &mut self,
        from: &Path,
        line: usize,
        target: &str,
        depth: usize,
        read: fn(&mut Self, &Path, usize),
    ) {
        if target.is_empty() {
            self.problem(from, line, "an include without a path");
        } else if depth >= MAX_INCLUDE_DEPTH {
            self.problem(from, line, "includes nest too deep");
        } else {
            // The servers resolve a relative path against their own working directory; only the file's own is sane here.
            let base = from.parent().unwrap_or(Path::new("/"));
            read(self, &base.join(target), depth + 1);
        }
    }

    fn file_included(&mut self, path: &Path, depth: usize) {
        self.file(path, depth, false);
    }

    /// Only `*.cnf`, by name.
    fn directory(&mut self, path: &Path, depth: usize) {
        let names: BTreeSet<_> = match fs::read_dir(self.below_root(path)) {
            Ok(entries) => entries.filter_map(|e| Some(e.ok()?.file_name())).collect(),
            Err(e) => return self.problem(path, 0, &e.to_string()),
        };
        for name in names {
            if Path::new(&name).extension() == Some(OsStr::new("cnf")) {
                self.file(&path.join(name), depth, false);
            }
        }
    }

    fn below_root(&self, path: &Path) -> PathBuf {
        match path.strip_prefix("/") {
            Ok(rest) => self.root.join(rest),
            Err(_) => path.to_owned(),
        }
    }

    fn problem(&mut self, path: &Path, line: usize, text: &str) {
        self.read.problems.push(Problem { path: path.to_owned(), line, text: text.to_owned() });
    }
}

/// The file's text; absent when anybody may write it.
fn read_text(path: &Path) -> io::Result<Option<String>> {
    let meta = fs::metadata(path)?;
    if !meta.is_file() || meta.len() > MAX_FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a file of an option file's size"));
    }
    if meta.mode() & 0o002 != 0 {
        return Ok(None);
    }
    Ok(Some(String::from_utf8_lossy(&fs::read(path)?).into_owned()))
}

enum Line<'a> {
    Blank,
    Group(&'a str),
    Include(&'a str),
    IncludeDir(&'a str),
    Option(&'a str, Option<String>),
    Bad(&'static str),
}

fn parse_line(raw: &str) -> Line<'_> {
    match raw.as_bytes().first() {
        None | Some(b'#' | b';') => Line::Blank,
        Some(b'!') => match raw[1..].split_once(char::is_whitespace) {
            Some(("include", path)) => Line::Include(path.trim()),
            Some(("includedir", path)) => Line::IncludeDir(path.trim()),
            _ => Line::Bad("an unknown directive"),
        },
        Some(b'[') => match raw.split_once(']') {
            Some((name, _)) => Line::Group(name[1..].trim()),
            None => Line::Bad("a group without its closing bracket"),
        },
        Some(_) => {
            let text = without_comment(raw);
            match text.split_once('=') {
                Some((name, _)) if name.trim().is_empty() => Line::Bad("a value without a name"),
                Some((name, value)) => Line::Option(name.trim(), Some(unquote(value.trim()))),
                None => Line::Option(text, None),
            }
        }
    }
}

/// A `#` outside quotes starts a comment.
fn without_comment(line: &str) -> &str {
    let mut quote = None;
    let mut escaped = false;
    for (i, c) in line.char_indices() {
        if (c == '\'' || c == '"') && !escaped {
            match quote {
                None => quote = Some(c),
                Some(open) if open == c => quote = None,
                Some(_) => {}
            }
        }
        if quote.is_none() && c == '#' {
            return line[..i].trim_end();
        }
        escaped = quote.is_some() && c == '\\' && !escaped;
    }
    line
}

/// Takes off one pair of quotes and resolves the escapes `\b \t \n \r \\ \s \" \'`; others stay as they are.
fn unquote(value: &str) -> String {
    let inner = ['"', '\'']
        .into_iter()
        .find_map(|q| value.strip_prefix(q).and_then(|v| v.strip_suffix(q)))
        .unwrap_or(value);
    let mut out = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('r') => out.push('\r'),
            Some('b') => out.push('\u{8}'),
            Some('s') => out.push(' '),
            Some(c @ ('"' | '\'' | '\\')) => out.push(c),
            Some(c) => out.extend(['\\', c]),
            None => out.push('\\'),
        }
    }
    out
}
