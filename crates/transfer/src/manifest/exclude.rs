//! Which paths stay at home.

/// Shell-like patterns for paths relative to the root. A pattern without `/` is matched against the last component
/// anywhere in the tree, one with `/` against the whole relative path. `*` and `?` do not match `/`, `**` does.
/// An excluded directory excludes all beneath it.
#[derive(Debug, Clone, Default)]
pub struct Exclude {
    patterns: Vec<Vec<u8>>,
}

impl Exclude {
    /// Excludes nothing.
    pub fn none() -> Self {
        Self::default()
    }

    /// Excludes what matches any of `patterns`.
    pub fn new<S: Into<String>>(patterns: impl IntoIterator<Item = S>) -> Self {
        let patterns = patterns
            .into_iter()
            .map(|pattern| pattern.into().trim_start_matches('/').trim_end_matches('/').as_bytes().to_vec());
        Self { patterns: patterns.filter(|pattern| !pattern.is_empty()).collect() }
    }

    /// Whether the entry at `path` (relative to the root) stays at home.
    pub fn matches(&self, path: &[u8]) -> bool {
        let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
        self.patterns.iter().any(|pattern| {
            let subject = if pattern.contains(&b'/') { path } else { name };
            glob(pattern, subject)
        })
    }
}

/// Iterative matching with one backtrack point each for `*` and `**`: linear in practice, never exponential.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    let mut double: Option<(usize, usize)> = None;
    loop {
        if pattern[p..].starts_with(b"**") {
            p += 2;
            double = Some((p, t));
            star = None;
            continue;
        }
        if p < pattern.len() && pattern[p] == b'*' {
            p += 1;
            star = Some((p, t));
            continue;
        }
        if p == pattern.len() && t == text.len() {
            return true;
        }
        if p < pattern.len()
            && t < text.len()
            && (pattern[p] == text[t] || (pattern[p] == b'?' && text[t] != b'/'))
        {
            p += 1;
            t += 1;
            continue;
        }
        match (&mut star, &mut double) {
            (Some((resume_p, resume_t)), _) if *resume_t < text.len() && text[*resume_t] != b'/' => {
                *resume_t += 1;
                (p, t) = (*resume_p, *resume_t);
            }
            (_, Some((resume_p, resume_t))) if *resume_t < text.len() => {
                *resume_t += 1;
                (p, t) = (*resume_p, *resume_t);
                star = None;
            }
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Exclude;

    #[test]
    fn patterns_match_names_or_whole_paths() {
        let exclude = Exclude::new(["*.pid", "auto.cnf", "#innodb_temp/*", "/logs/**/old", "db?/x.frm"]);
        for path in [
            "mysqld.pid",
            "sub/dir/a.pid",
            "auto.cnf",
            "sub/auto.cnf",
            "#innodb_temp/temp_1.ibt",
            "logs/a/b/old",
            "db1/x.frm",
        ] {
            assert!(exclude.matches(path.as_bytes()), "{path}");
        }
        for path in [
            "a.pid.bak",
            "xauto.cnf",
            "#innodb_temp",
            "#innodb_temp/a/b",
            "logs/old",
            "db12/x.frm",
            "a/db1/x.frm",
        ] {
            assert!(!exclude.matches(path.as_bytes()), "{path}");
        }
        assert!(!Exclude::none().matches(b"anything"));
    }
}
