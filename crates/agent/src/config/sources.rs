//! Whom this host may follow: the replication account is shown to no other server.

use serde::Deserialize;
use serde::de::Error as _;

/// `seed.sources`. Names are compared as they are given in a command, not looked up: who answers to a name is the business of TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Sources(Vec<Pattern>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    /// In lower case; with a leading dot it is the end of a name.
    host: String,
    port: Option<u16>,
}

impl Sources {
    /// Whether there is no list.
    pub(crate) fn is_any(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a server may be followed; without a list any may.
    pub(crate) fn allow(&self, host: &str, port: u16) -> bool {
        let host = host.to_ascii_lowercase();
        self.is_any() || self.0.iter().any(|pattern| pattern.fits(&host, port))
    }
}

impl Pattern {
    fn fits(&self, host: &str, port: u16) -> bool {
        let is_host = match self.host.strip_prefix('.') {
            Some(_) => host.len() > self.host.len() && host.ends_with(&self.host),
            None => host == self.host,
        };
        is_host && self.port.is_none_or(|own| own == port)
    }

    fn parse(text: &str) -> Option<Self> {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                (host, Some(port.parse().ok()?))
            }
            _ => (text, None),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let name = host.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(host);
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        let is_name = !name.trim_matches('.').is_empty() && name.chars().all(is_plain);
        let ends = name.starts_with('.') != host.starts_with('*');
        (is_name && !ends).then(|| Self { host: name.to_ascii_lowercase(), port })
    }
}

impl<'de> Deserialize<'de> for Sources {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let patterns = Vec::<String>::deserialize(deserializer)?.into_iter().map(|text| {
            Pattern::parse(&text).ok_or_else(|| {
                D::Error::custom(format!("{text:?} is none of \"host\", \"host:port\" and \"*.domain\""))
            })
        });
        Ok(Self(patterns.collect::<Result<_, _>>()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(list: &[&str]) -> Result<Sources, serde_json::Error> {
        serde_json::from_value(serde_json::json!(list))
    }

    #[test]
    fn a_source_is_allowed_by_name_port_and_domain_and_no_other() {
        let list =
            sources(&["db1", "DB2.example:3307", "*.prod.example", "[fd00::1]:3306", "10.0.0.7"]).unwrap();
        for (host, port) in [
            ("db1", 3306),
            ("DB1", 1),
            ("db2.example", 3307),
            ("a.b.prod.example", 3306),
            ("fd00::1", 3306),
            ("10.0.0.7", 3306),
        ] {
            assert!(list.allow(host, port), "{host}:{port}");
        }
        for (host, port) in [
            ("db11", 3306),
            ("db2.example", 3306),
            ("prod.example", 3306),
            (".prod.example", 3306),
            ("xprod.example", 3306),
            ("a.prod.example.evil", 3306),
            ("fd00::1", 3307),
            ("10.0.0.70", 3306),
            ("", 0),
        ] {
            assert!(!list.allow(host, port), "{host}:{port}");
        }
        assert!(Sources::default().allow("anything", 1));
    }

    #[test]
    fn what_is_no_pattern_is_an_error_by_name() {
        for text in ["", "*", "db*", "*db", "10.0.0.0/8", "db1:", "db1:x", "a b", ".example", "[]:1"] {
            let error = sources(&[text]).unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }
}
