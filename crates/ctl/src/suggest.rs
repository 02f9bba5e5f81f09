//! "Did you mean": the known names nearest to a mistyped one.

/// The known names within a few typing errors of `given`, nearest first, at most three.
pub fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let given = given.to_ascii_lowercase();
    // One error in a short name is near; in a long one three still are.
    let limit = (given.chars().count() / 3).clamp(1, 3);
    let mut near: Vec<(usize, &str)> = known
        .into_iter()
        .filter_map(|name| {
            let same_start = name.split(['.', ':']).next() == Some(given.as_str());
            let distance =
                if same_start { 0 } else { strsim::osa_distance(&given, &name.to_ascii_lowercase()) };
            (distance <= limit).then_some((distance, name))
        })
        .collect();
    near.sort_unstable();
    near.dedup();
    near.into_iter().map(|(_, name)| name).take(3).collect()
}

/// `did you mean db7?`, or nothing when no name is near.
pub fn hint<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    match nearest(given, known).as_slice() {
        [] => None,
        [one] => Some(format!("did you mean {one}?")),
        [all @ .., last] => Some(format!("did you mean {} or {last}?", all.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_finds_the_host_meant() {
        let fleet = ["db1", "db2", "web-frontend.example.com", "db7"];
        assert_eq!(hint("bd7", fleet).as_deref(), Some("did you mean db7?"));
        assert_eq!(
            hint("web-fronted.example.com", fleet).as_deref(),
            Some("did you mean web-frontend.example.com?")
        );
        assert_eq!(hint("web-frontend", fleet).as_deref(), Some("did you mean web-frontend.example.com?"));
        assert_eq!(hint("db", fleet).as_deref(), Some("did you mean db1, db2 or db7?"));
        assert_eq!(hint("mail", fleet), None);
        assert_eq!(hint("db1", []), None);
    }
}
