//! Secrets that travel over the bus for one host's eyes.
//!
//! The token of an offer is enough to copy a database, and its way leads over the donor's reply and the start command: whoever
//! hears one of them on the bus would have it. So the donor seals it to the recipient's key: an X25519 key of the bus's own kind
//! (`xkey`, as NATS itself uses for auth callout), made at the agent's first start, kept in its state directory, and told by
//! `agent.info`.

use nkeys::XKey;
use protocol::error::{ErrorCode, WireError};
use protocol::ids::AgentId;
use protocol::params::SeedOfferParams;
use protocol::seed::Secret;

use crate::config::Config;

/// The key that this host opens sealed secrets with.
pub(crate) struct SealKey(XKey);

impl std::fmt::Debug for SealKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SealKey").field(&self.0.public_key()).finish()
    }
}

impl SealKey {
    pub(crate) fn new(key: XKey) -> Self {
        Self(key)
    }

    /// What others seal to.
    pub(crate) fn public(&self) -> String {
        self.0.public_key()
    }

    /// Opens what was sealed to this host.
    pub(crate) fn open(&self, sealed: &Secret, by: &str) -> Result<Secret, WireError> {
        let bad = || {
            WireError::new(
                ErrorCode::BadRequest,
                "the offer's token was sealed to another key than this host's: ask the donor for a new offer",
            )
        };
        let donor = XKey::from_public_key(by).map_err(|_| bad())?;
        let bytes = sys::hex::decode(sealed.expose()).ok_or_else(bad)?;
        let text = self.0.open(&bytes, &donor).map_err(|_| bad())?;
        String::from_utf8(text).map(Secret::new).map_err(|_| bad())
    }
}

/// A secret as it may be heard, and the public half of the key that was made to seal it.
pub(crate) struct Sealed {
    pub(crate) text: Secret,
    pub(crate) by: String,
}

fn seal(secret: &str, to: &XKey) -> Result<Sealed, WireError> {
    let own = XKey::new();
    let bytes = own
        .seal(secret.as_bytes(), to)
        .map_err(|e| WireError::caused(ErrorCode::Internal, "the offer's token cannot be sealed", &e))?;
    Ok(Sealed { text: Secret::new(sys::hex::encode(bytes)), by: own.public_key() })
}

/// To which key a donor seals an offer's token.
pub(crate) struct Envelope(Option<XKey>);

impl Envelope {
    /// Where the configuration names recipients' keys, that of this one and no other. An offer that asks for no seal is refused
    /// where others may hear it.
    pub(crate) fn of(config: &Config, donor: &AgentId, params: &SeedOfferParams) -> Result<Self, WireError> {
        let refuse = |why: String| Err(WireError::new(ErrorCode::Refused, why));
        let known = &config.seed.recipient_keys;
        let recipient = &params.recipient;
        let pinned = known.get(recipient.as_str());
        if !known.is_empty() && pinned.is_none() {
            return refuse(format!("{donor} knows no key of {recipient} (seed.recipient_keys)"));
        }
        let Some(asked) = params.seal_to.as_ref().or(pinned) else {
            let heard = config.bus.servers.iter().any(|server| !is_loopback(server));
            return match heard && !config.seed.allow_unsealed {
                true => refuse(format!(
                    "the offer's token could be read on the bus, and {recipient} tells no key to seal it to (an older agent or \
                     orchestrator-ctl): upgrade it, or set seed.allow_unsealed on {donor}"
                )),
                false => Ok(Self(None)),
            };
        };
        if pinned.is_some_and(|pinned| pinned != asked) {
            return refuse(format!(
                "{recipient} tells another key than {donor} knows of it (seed.recipient_keys): was it rebuilt?"
            ));
        }
        match XKey::from_public_key(asked) {
            Ok(key) => Ok(Self(Some(key))),
            Err(_) => refuse(format!("{asked:?} is no key to seal to: it begins with X")),
        }
    }

    /// The token as it goes over the bus.
    pub(crate) fn put(&self, token: &str) -> Result<(Secret, Option<String>), WireError> {
        match &self.0 {
            None => Ok((Secret::new(token.to_owned()), None)),
            Some(key) => seal(token, key).map(|sealed| (sealed.text, Some(sealed.by))),
        }
    }
}

/// Whether nobody hears a server but this host's own processes.
fn is_loopback(server: &str) -> bool {
    let rest = server.split_once("://").map_or(server, |(_, rest)| rest);
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    let host = match host.strip_prefix('[') {
        Some(six) => six.split(']').next().unwrap_or(six),
        None => host.split([':', '/']).next().unwrap_or(host),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_secret_is_opened_by_its_host_alone() {
        let key = SealKey(XKey::new());
        let to = XKey::from_public_key(&key.public()).unwrap();
        let sealed = seal("secret", &to).unwrap();
        assert!(!sealed.text.expose().contains("secret"));
        assert_eq!(key.open(&sealed.text, &sealed.by).unwrap().expose(), "secret");
        let other = SealKey(XKey::new());
        assert!(other.open(&sealed.text, &sealed.by).unwrap_err().message.contains("another key"));
        assert!(key.open(&sealed.text, &other.public()).is_err(), "of another donor's key");
        for bad in ["", "x", "00"] {
            assert!(key.open(&Secret::new(bad.to_owned()), &sealed.by).is_err());
        }
    }

    #[test]
    fn whoever_listens_off_the_loopback_gets_no_token_in_clear() {
        let mut config = Config::default();
        let donor: AgentId = "db1".parse().unwrap();
        let params = |seal_to: Option<String>| SeedOfferParams {
            recipient: "db2".parse().unwrap(),
            snapshot: None,
            foreign: false,
            stream: None,
            plain: false,
            transport: protocol::seed::Transport::Tcp,
            seal_to,
        };
        let of = |config: &Config, to| Envelope::of(config, &donor, &params(to)).map_err(|e| e.message);
        assert!(of(&config, None).is_ok_and(|envelope| envelope.0.is_none()), "the loopback");
        for server in ["nats://bus1:4222", "tls://10.0.0.1", "nats://u:p@[2001:db8::1]:4222"] {
            config.bus.servers = vec!["nats://127.0.0.1:4222".into(), server.into()];
            assert!(of(&config, None).err().unwrap().contains("seed.allow_unsealed"), "{server}");
        }
        let key = XKey::new().public_key();
        assert!(of(&config, Some(key.clone())).is_ok_and(|envelope| envelope.0.is_some()));
        assert!(of(&config, Some("XNONSENSE".into())).err().unwrap().contains("no key to seal to"));
        config.seed.recipient_keys.insert("db2".into(), key.clone());
        assert!(of(&config, Some(key)).is_ok());
        assert!(of(&config, None).is_ok_and(|envelope| envelope.0.is_some()), "the known key is used");
        let false_key = XKey::new().public_key();
        assert!(of(&config, Some(false_key)).err().unwrap().contains("another key"));
        config.seed.recipient_keys = [("db3".to_owned(), String::new())].into();
        assert!(of(&config, None).err().unwrap().contains("knows no key"));
    }

    #[test]
    fn what_only_this_host_hears() {
        for own in
            ["nats://127.0.0.1:4222", "localhost:4222", "tls://[::1]:4222", "nats://user:word@127.0.0.2"]
        {
            assert!(is_loopback(own), "{own}");
        }
        for heard in ["nats://10.0.0.1:4222", "bus.example.com", "nats://localhost.example.com:4222", ""] {
            assert!(!is_loopback(heard), "{heard}");
        }
    }
}
