//! A line of a page as a shell would take it apart, and what stands for what a reader fills in.

/// The words of each simple command in a line: quotes are taken away, comments, redirections and variables in front left out.
pub(super) fn commands(line: &str) -> Vec<Vec<String>> {
    let mut reader = Reader::default();
    let mut rest = line.chars().peekable();
    while let Some(c) = rest.next() {
        match (reader.quote, c) {
            (Some(quote), c) if c == quote => reader.quote = None,
            (Some(_), c) => reader.push(c),
            (None, '\'' | '"') => {
                reader.quote = Some(c);
                reader.word.get_or_insert_default();
            }
            (None, '\\') => rest.next().into_iter().for_each(|c| reader.push(c)),
            (None, '#') if reader.word.is_none() => break,
            (None, '>' | '<') if rest.peek() != Some(&'(') => reader.redirect(),
            (None, '|' | ';' | '&' | '(' | ')' | '>' | '<' | '\n') => reader.end_command(),
            (None, c) if c.is_whitespace() => reader.end_word(),
            (None, c) => reader.push(c),
        }
    }
    reader.end_command();
    reader.commands
}

/// What a line sets for those below it.
pub(super) fn exported(line: &str) -> Vec<(String, String)> {
    let exports = commands(line).into_iter().filter(|words| words[0] == "export").flatten();
    exports
        .filter_map(|word| word.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())))
        .collect()
}

#[derive(Default)]
struct Reader {
    commands: Vec<Vec<String>>,
    words: Vec<String>,
    word: Option<String>,
    quote: Option<char>,
    /// The next word names the file of a redirection.
    is_file: bool,
}

impl Reader {
    fn push(&mut self, c: char) {
        self.word.get_or_insert_default().push(c);
    }

    fn end_word(&mut self) {
        if let Some(word) = self.word.take()
            && !std::mem::take(&mut self.is_file)
        {
            self.words.push(word);
        }
    }

    fn redirect(&mut self) {
        // `2>` is no argument.
        if self.word.as_ref().is_some_and(|word| word.bytes().all(|b| b.is_ascii_digit())) {
            self.word = None;
        }
        self.end_word();
        self.is_file = true;
    }

    fn end_command(&mut self) {
        self.end_word();
        self.is_file = false;
        let is_variable = |word: &String| {
            let name = word.split_once('=').map_or("", |(name, _)| name);
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')
        };
        let mut words = std::mem::take(&mut self.words);
        let begin = words.iter().position(|word| !is_variable(word)).unwrap_or(words.len());
        words.drain(..begin);
        if !words.is_empty() {
            self.commands.push(words);
        }
    }
}

/// Any public key of a user, where a page says `U…`.
pub(super) const KEY: &str = "UCIAFD6QLPBQJV2B77BRROJEFKHYC6WMBI4J6XVG7LM6BZWAZNHVJSSX";

/// Names a host as well as a job or a snapshot.
pub(super) const ANYTHING: &str = "00ab12cd";

/// What a reader fills in, and something that the program could be given there.
const FILLED_IN: [(&str, &str); 17] = [
    ("U…", KEY),
    ("KEY", KEY),
    ("COUNT", "5"),
    ("FILE", "file"),
    ("JOB", ANYTHING),
    ("JSON", "{}"),
    ("K", "snapshot"),
    ("KIND", "snapshot"),
    ("LINES", "5"),
    ("N", "3"),
    ("PATH", "/var/lib/mysql"),
    ("PORT", "3307"),
    ("RATE", "80M"),
    ("SIZE", "20GiB"),
    ("TIME", "2h"),
    ("URL", "nats://bus1.example.com:4222"),
    ("ON_PORT", "3307"),
];

/// The word with what a reader fills in; none for marks that say how to read a synopsis.
pub(super) fn filled_in(word: &str) -> Option<String> {
    let filled = |part: &str| {
        let known = FILLED_IN.iter().find(|(name, _)| *name == part);
        known.map_or_else(|| part.trim_end_matches('…').to_owned(), |(_, value)| (*value).to_owned())
    };
    match word {
        "…" | "..." | "options" => None,
        word => Some(match word.split_once('=') {
            Some((name, value)) => format!("{}={}", name, filled(value)),
            None => filled(word),
        }),
    }
}

/// The lines that a synopsis stands for: `a [--b C] d|e` is `a --b C d` and `a --b C e`.
pub(super) fn alternatives(synopsis: &str) -> Vec<String> {
    let synopsis = synopsis.replace("\\|", "|").replace("]…", "]");
    let mut lines = vec![String::new()];
    let mut rest = synopsis.as_str();
    while !rest.is_empty() {
        let end = match rest.strip_prefix('[') {
            Some(inside) => inside.find(']').map_or(rest.len(), |end| end + 2),
            None => rest.find([' ', '[']).map_or(rest.len(), |end| end.max(1)),
        };
        let (part, behind) = rest.split_at(end);
        rest = behind;
        let choices: Vec<&str> = part.trim_matches(['[', ']']).split('|').collect();
        lines = lines
            .iter()
            .flat_map(|line| choices.iter().map(move |choice| format!("{line}{choice}")))
            .collect();
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_taken_apart_as_a_shell_does_it() {
        for (line, wanted) in [
            ("a b  c # d", vec!["a b c"]),
            ("X=1 LONG_NAME=$PWD/x a --set k=v", vec!["a --set k=v"]),
            ("a 2>/dev/null >b | c; d && e", vec!["a", "c", "d", "e"]),
            ("source <(a b) > f", vec!["source", "a b"]),
            ("a 'b c' \"d;e\" f\\ g ''", vec!["a b c d;e f g "]),
            ("a U… #x", vec!["a U…"]),
            ("# a", vec![]),
            ("export A=1 B=2", vec!["export A=1 B=2"]),
        ] {
            let commands: Vec<String> = commands(line).iter().map(|words| words.join(" ")).collect();
            assert_eq!(commands, wanted, "{line}");
        }
    }

    #[test]
    fn what_a_reader_fills_in_is_filled_in() {
        for (word, wanted) in [
            ("HOST", Some("HOST")),
            ("HOST…", Some("HOST")),
            ("…", None),
            ("N", Some("3")),
            ("db1=U…", Some(concat!("db1=", "UCIAFD6QLPBQJV2B77BRROJEFKHYC6WMBI4J6XVG7LM6BZWAZNHVJSSX"))),
            ("--keep", Some("--keep")),
        ] {
            assert_eq!(filled_in(word).as_deref(), wanted, "{word}");
        }
    }

    #[test]
    fn a_synopsis_stands_for_its_lines() {
        assert_eq!(alternatives("a b"), ["a b"]);
        assert_eq!(alternatives("a start\\|stop [-n N]"), ["a start -n N", "a stop -n N"]);
        assert_eq!(alternatives("f C [--dc DC | --prefer-dc DC]"), ["f C --dc DC ", "f C  --prefer-dc DC"]);
        assert_eq!(alternatives("c [--agent HOST=KEY]… [--strict]"), ["c --agent HOST=KEY --strict"]);
    }
}
