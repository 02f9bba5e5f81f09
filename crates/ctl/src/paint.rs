//! Verdicts stand out on a terminal. Colour only repeats what the words say, and is put on after what comes from hosts was made harmless.

const RED: &str = "\x1b[31m";
const YELLOW: &str = "\x1b[33m";
const PLAIN: &str = "\x1b[0m";

/// A cell that is one of these, or begins with it as `failed at swap` does, is bad.
const BAD: [&str; 8] = ["REFUSE", "REFUSED", "ALTERED", "DUPLICATE", "missing", "failed", "lost", "wrong:"];
/// Likewise: worth a look.
const WEAK: [&str; 5] = ["WARN", "weak", "suspect", "aborted", "stopped"];
/// What a failure begins with on stderr.
const FAILURE: &str = "error:";

/// Whether a person wants none: <https://no-color.org>.
#[must_use]
pub fn is_off() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// The same text with the verdicts in it coloured: cells of tables, which two spaces part, and the words that lines begin with.
#[must_use]
pub fn verdicts(text: &str) -> String {
    text.split_inclusive('\n').map(painted).collect()
}

fn painted(line: &str) -> String {
    let mut painted = String::new();
    let mut rest = line;
    while let Some(start) = rest.find(|c: char| !c.is_whitespace()) {
        painted.push_str(&rest[..start]);
        rest = &rest[start..];
        let end = rest.find("  ").or_else(|| rest.find('\n')).unwrap_or(rest.len());
        let (cell, behind) = rest.split_at(end);
        match verdict(cell) {
            Some((word, colour)) => {
                let (before, after) = cell.split_once(word).unwrap_or_default();
                painted.push_str(&format!("{before}{colour}{word}{PLAIN}{after}"));
            }
            None => painted.push_str(cell),
        }
        rest = behind;
    }
    painted.push_str(rest);
    painted
}

/// The verdict in a cell: the word that it begins with, or in capitals at its end.
fn verdict(cell: &str) -> Option<(&str, &'static str)> {
    let first = cell.split(' ').next()?;
    let last = cell.rsplit(' ').next().filter(|word| word.chars().all(|c| c.is_ascii_uppercase()));
    let colour = |word: &str| match word {
        FAILURE => Some(RED),
        word if BAD.contains(&word) => Some(RED),
        word if WEAK.contains(&word) => Some(YELLOW),
        _ => None,
    };
    [Some(first), last].into_iter().flatten().find_map(|word| Some((word, colour(word)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_coloured_and_all_else_stays() {
        for (text, wanted) in [
            ("REFUSE   mysql_may_stop   MySQL runs\n", "<r>REFUSE<>   mysql_may_stop   MySQL runs\n"),
            ("ok       not_onto_itself  two hosts\n", "ok       not_onto_itself  two hosts\n"),
            ("WARN  binlogs  a  WARN\n", "<y>WARN<>  binlogs  a  <y>WARN<>\n"),
            (
                "db9  shop  dc2  missing  last event 3h ago\n",
                "db9  shop  dc2  <r>missing<>  last event 3h ago\n",
            ),
            ("db1  shop  0.1.0 DUPLICATE  up\n", "db1  shop  0.1.0 <r>DUPLICATE<>  up\n"),
            ("  weak     mysql server_id  7\n", "  <y>weak<>     mysql server_id  7\n"),
            ("db7  seed.start  failed at swap\n", "db7  seed.start  <r>failed<> at swap\n"),
            (
                "error: db7: agent.info failed\n  because: no",
                "<r>error:<> db7: agent.info failed\n  because: no",
            ),
            ("2 hosts answer, 1 missing\n", "2 hosts answer, 1 missing\n"),
            ("\n  \n", "\n  \n"),
            ("", ""),
        ] {
            let wanted = wanted.replace("<r>", RED).replace("<y>", YELLOW).replace("<>", PLAIN);
            assert_eq!(verdicts(text), wanted, "{text}");
        }
    }
}
