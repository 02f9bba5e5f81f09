//! What orchestrator calls a host: its unique key there, and the name that it dials.

use protocol::ids::AgentId;

/// Makes names by a pattern such as `{host}` or `{host}.gateway.example.com`.
#[derive(Debug, Clone)]
pub(crate) struct Naming {
    before: String,
    after: String,
}

const MARK: &str = "{host}";

/// Longest name that orchestrator's tables hold.
const MAX_NAME: usize = 128;

impl Naming {
    /// Reads the pattern.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(crate) fn new(pattern: &str) -> Result<Self, String> {
        let part =
            |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
        match pattern.split_once(MARK) {
            Some((before, after)) if part(before) && part(after) => {
                Ok(Self { before: before.to_ascii_lowercase(), after: after.to_ascii_lowercase() })
            }
            _ => Err(format!("expected a host name with {MARK} in it, such as {MARK}.gateway.example.com")),
        }
    }

    /// The name of an agent; absent where it would be too long. The colon of an agent that shares its host becomes a dash, since
    /// what is dialled is name and port.
    pub(crate) fn name(&self, agent: &AgentId) -> Option<String> {
        let name = format!("{}{}{}", self.before, agent.as_str().replace(':', "-"), self.after);
        (name.len() <= MAX_NAME).then_some(name)
    }
}

/// The name in a `Host` header, without its port, as names are compared.
pub(crate) fn of_header(header: &str) -> String {
    let name = match header.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => header,
    };
    name.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_can_be_dialled_and_is_found_again_by_the_header() {
        let naming = Naming::new("{host}.gw.Example.com").unwrap();
        let name = naming.name(&"db1".parse().unwrap()).unwrap();
        assert_eq!(name, "db1.gw.example.com");
        for header in ["db1.gw.example.com", "DB1.gw.example.com:3002", "db1.gw.example.com.:80"] {
            assert_eq!(of_header(header), name, "{header}");
        }
        assert_eq!(naming.name(&"db1:3307".parse().unwrap()).unwrap(), "db1-3307.gw.example.com");
        assert_eq!(naming.name(&"d".repeat(120).parse().unwrap()), None);
        for bad in ["", "gw", "{host}/x", "{host}{host}", "{host} "] {
            assert!(Naming::new(bad).is_err(), "{bad:?}");
        }
    }
}
