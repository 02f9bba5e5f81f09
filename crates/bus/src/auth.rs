//! Who may do what: signatures of commands checked against trusted keys and their roles.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use protocol::command::Role;
use protocol::error::{ErrorCode, WireError};
use protocol::signature::{self, Verifier};
use protocol::subject::Subject;
use serde::Deserialize;

use crate::error::{BusError, Result};

/// The rules, as they stand in a config file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthorityConfig {
    /// Take unsigned commands of every role. For demos and closed test networks only.
    pub accept_unsigned: bool,
    /// Keys whose signatures are accepted.
    pub trusted: Vec<TrustedKey>,
}

/// A key and what its holder may do.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustedKey {
    /// The public nkey (`U…`).
    pub key: String,
    /// Who holds it, for the audit.
    pub name: String,
    /// What it may do; each role stands for itself.
    pub roles: Vec<Role>,
}

/// Who asks, as far as it is proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// The signer's name from the config; for an unsigned request what it claims.
    pub name: String,
    /// The signer's public key; absent for an unsigned request.
    pub key: Option<String>,
}

impl std::fmt::Display for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.key {
            Some(key) => write!(f, "{} ({}…)", self.name, key.get(..9).unwrap_or(key)),
            None => write!(f, "{} (unsigned)", self.name),
        }
    }
}

/// The rules in force; replaced as a whole while commands are served.
#[derive(Debug)]
pub struct Authority {
    rules: RwLock<Arc<Rules>>,
}

#[derive(Debug)]
struct Rules {
    accept_unsigned: bool,
    trusted: HashMap<String, Trusted>,
}

/// A trusted key, read once for all the commands that it will sign.
#[derive(Debug)]
struct Trusted {
    entry: TrustedKey,
    verifier: Verifier,
}

impl Authority {
    /// Checks the rules and puts them in force.
    pub fn new(config: AuthorityConfig) -> Result<Self> {
        Ok(Self { rules: RwLock::new(Arc::new(Rules::new(config)?)) })
    }

    /// Takes every command, signed or not.
    #[must_use]
    pub fn accept_all() -> Self {
        Self { rules: RwLock::new(Arc::new(Rules { accept_unsigned: true, trusted: HashMap::new() })) }
    }

    /// Puts other rules in force for the commands that come from now on; the old ones stay when these are invalid.
    pub fn reload(&self, config: AuthorityConfig) -> Result<()> {
        let rules = Arc::new(Rules::new(config)?);
        *self.rules.write() = rules;
        Ok(())
    }

    /// True when unsigned commands are taken; the heartbeat says so.
    #[must_use]
    pub fn accepts_unsigned(&self) -> bool {
        self.rules().accept_unsigned
    }

    /// Finds who asks. `key` and `signature` are the headers, `claimed` the actor that the request names.
    pub fn authenticate(
        &self,
        subject: &Subject,
        body: &[u8],
        key: Option<&str>,
        signature: Option<&str>,
        claimed: &str,
    ) -> Result<Actor, WireError> {
        let unauthenticated = |why: String| Err(WireError::new(ErrorCode::Unauthenticated, why));
        let rules = self.rules();
        let (Some(key), Some(signature)) = (key, signature) else {
            if key.is_some() || signature.is_some() {
                return unauthenticated("a signed command carries both the key and the signature".into());
            }
            if rules.accept_unsigned {
                return Ok(Actor { name: claimed.to_owned(), key: None });
            }
            return unauthenticated("this agent takes signed commands only; give a key file".into());
        };
        let Some(trusted) = rules.trusted.get(key) else {
            // Where unsigned commands are taken anyway, an unknown key is no worse, but its name is not believed.
            if rules.accept_unsigned && signature::verify(key, signature, subject, body).is_ok() {
                return Ok(Actor { name: claimed.to_owned(), key: None });
            }
            return unauthenticated(format!("the key {} is not trusted here", printable(key)));
        };
        match trusted.verifier.verify(signature, subject, body) {
            Ok(()) => Ok(Actor { name: trusted.entry.name.clone(), key: Some(trusted.entry.key.clone()) }),
            Err(error) => {
                Err(WireError::caused(ErrorCode::Unauthenticated, "the command is not authentic", &error))
            }
        }
    }

    /// Whether the actor has this role.
    pub fn has(&self, actor: &Actor, role: Role) -> bool {
        let rules = self.rules();
        match &actor.key {
            None => rules.accept_unsigned,
            Some(key) => rules.trusted.get(key).is_some_and(|trusted| trusted.entry.roles.contains(&role)),
        }
    }

    /// Checks that the actor may do what takes this role.
    pub fn authorize(&self, actor: &Actor, role: Role) -> Result<(), WireError> {
        if self.has(actor, role) {
            return Ok(());
        }
        let role = format!("{role:?}").to_lowercase();
        Err(WireError::new(ErrorCode::Forbidden, format!("{} lacks the role {role} here", actor.name)))
    }

    fn rules(&self) -> Arc<Rules> {
        self.rules.read().clone()
    }
}

impl Rules {
    fn new(config: AuthorityConfig) -> Result<Self> {
        let mut trusted = HashMap::new();
        for entry in config.trusted {
            let bad = |why| Err(BusError::Config { key: "trusted", why });
            let Ok(verifier) = Verifier::new(&entry.key) else {
                return bad(format!("{:?} of {:?} is no public nkey", printable(&entry.key), entry.name));
            };
            if entry.roles.is_empty() {
                return bad(format!("{:?} has no role", entry.name));
            }
            let key = entry.key.clone();
            if let Some(double) = trusted.insert(key, Trusted { entry, verifier }) {
                return bad(format!("the key of {:?} stands there twice", double.entry.name));
            }
        }
        Ok(Self { accept_unsigned: config.accept_unsigned, trusted })
    }
}

/// A text from outside, short and harmless enough for a message. A seed given by mistake is not shown.
fn printable(text: &str) -> String {
    if text.starts_with('S') {
        return "(a seed, not a public key)".into();
    }
    text.chars().take(64).map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect()
}
