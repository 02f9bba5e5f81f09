//! Accounts and users that a server believes because an operator's key signed them, so that a host joins without a word to any server.
//! Pure text, but for [`push`].
//!
//! An account names three keys, one for each role ([`UserRole`]), and beside each what its users may do. Who has such a key makes users
//! offline; a server gives them the role's rights with the user's name in the place of `{{name()}}`, whatever their token says. A stolen key
//! of agents makes agents, and no controller. (Scoped signing keys: docs.nats.io, "Signing keys"; the claims: `nats-io/jwt` v2.)
//! nats-server 2.9 knows the name only as a whole part of a subject, which ours mostly have not: for it an account has one key, and each
//! user's rights stand in its own token ([`Signers::One`]).

use std::collections::BTreeMap;
use std::time::Duration;

use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD};
use futures_util::StreamExt as _;
use jiff::Timestamp;
use nkeys::KeyPair;
use protocol::subject::encode_host;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha512_256};
use tokio::time::{Instant, timeout_at};

use crate::config::check_domain;
use crate::conn::Bus;
use crate::error::{BusError, Result};
use crate::permissions::{self, ONE_REPLY_WITHIN, Rights, agent_inbox, user_inbox};

/// What a server puts a user's name in the place of (from nats-server 2.10 on, in the middle of a part too).
const NAME: &str = "{{name()}}";
/// A host and a person that no fleet has: what they may do is the template of what all may.
const NOBODY: &str = "nobody-of-this-name";
/// Tag of an account that names its JetStream domain.
const DOMAIN: &str = "jetstream-domain:";
/// Where servers take the newest token of an account.
const UPDATE: &str = "$SYS.REQ.CLAIMS.UPDATE";
/// Servers answer an update within this, and then none for so long.
const ANSWERS: (Duration, Duration) = (Duration::from_secs(5), Duration::from_millis(500));

/// What a user of the bus is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UserRole {
    /// Hears its own commands and speaks as itself.
    Agent,
    /// Sends commands to all, reads all, makes streams.
    Controller,
    /// Reads heartbeats, events and progress.
    Auditor,
}

impl UserRole {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Agent, Self::Controller, Self::Auditor];

    /// Its name, as the account's token has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Controller => "controller",
            Self::Auditor => "auditor",
        }
    }

    fn rights(self, who: &str) -> Result<Rights> {
        let (rights, inbox) = match self {
            Self::Agent => {
                let agent = who.parse().map_err(|_| no_user(who))?;
                (permissions::of_agent(&agent), agent_inbox(&agent))
            }
            Self::Controller => (permissions::of_controller(who), user_inbox(who)),
            Self::Auditor => (permissions::of_auditor(who), user_inbox(who)),
        };
        let (_, own) = self.names(who)?;
        let heard = rights.subscribe.into_iter().map(|subject| match subject.strip_prefix(&inbox) {
            Some(rest) => format!("{own}{rest}"),
            None => subject,
        });
        Ok(Rights { subscribe: heard.collect(), ..rights })
    }

    fn template(self) -> Result<Rights> {
        let rights = self.rights(NOBODY)?;
        let general = |of: Vec<String>| of.into_iter().map(|subject| subject.replace(NOBODY, NAME)).collect();
        Ok(Rights { publish: general(rights.publish), subscribe: general(rights.subscribe), ..rights })
    }

    /// The name that a server knows a user by, and the inbox prefix that the user must set. It names the role: whoever makes users of one role
    /// chooses their names, and none of them may hear the answers to users of another.
    fn names(self, who: &str) -> Result<(String, String)> {
        let name = match self {
            Self::Agent => encode_host(&who.parse().map_err(|_| no_user(who))?),
            Self::Controller | Self::Auditor => permissions::check_name(who).map(|()| who.to_owned())?,
        };
        let inbox = format!("_INBOX_{}_{name}", self.name().to_uppercase());
        Ok((name, inbox))
    }
}

fn no_user(who: &str) -> BusError {
    BusError::Config { key: "users", why: format!("{who:?} is no name of a host") }
}

/// Whose signature makes a user of an account; public keys (`A…`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signers {
    /// A key for each role, whose rights the account says.
    ByRole(BTreeMap<UserRole, String>),
    /// One key for all, and the rights are in the user's token: whoever has it makes users with any.
    One(String),
}

impl Signers {
    fn of(&self, role: UserRole) -> Option<&String> {
        match self {
            Self::ByRole(keys) => keys.get(&role),
            Self::One(key) => Some(key),
        }
    }
}

/// The account of a fleet, as its token tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its public key (`A…`).
    pub key: String,
    /// Who signs its users.
    pub signers: Signers,
    /// The JetStream domain that keeps everything, where users come through leaf nodes.
    pub domain: Option<String>,
    /// Users that are no longer let in (`U…`): those of their tokens that were made up to then (seconds since 1970).
    pub revoked: BTreeMap<String, i64>,
    /// When its last token was signed (seconds since 1970); 0: never.
    pub issued: i64,
}

/// Each file has a key of its own, so all tokens of a key that is revoked are meant, also one that a clock ahead of ours has dated.
pub const FOR_EVER: Timestamp = Timestamp::MAX;

impl Account {
    /// Its token, signed by the operator's key. It is dated after the one before whatever the clock says: servers pass over an older one, and
    /// answer that all is well.
    ///
    /// # Errors
    /// The key cannot sign.
    pub fn token(&self, operator: &KeyPair) -> Result<String> {
        let mut scopes = Vec::new();
        match &self.signers {
            Signers::One(key) => scopes.push(json!(key)),
            Signers::ByRole(keys) => {
                for (role, key) in keys {
                    let template = may(&role.template()?.in_domain(self.domain.as_deref()));
                    scopes.push(json!({ "kind": "user_scope", "key": key, "role": role.name(), "template": template }));
                }
            }
        }
        let mut limits = no_limits();
        for of_streams in ["mem_storage", "disk_storage", "streams", "consumer"] {
            limits[of_streams] = json!(-1);
        }
        if let Some(domain) = &self.domain {
            check_domain(domain)?;
        }
        let tags: Vec<_> = self.domain.iter().map(|domain| format!("{DOMAIN}{domain}")).collect();
        let claims = json!({ "limits": limits, "signing_keys": scopes, "revocations": self.revoked, "tags": tags,
            "default_permissions": { "pub": {}, "sub": {} }, "type": "account", "version": 2 });
        let issued = Timestamp::now().as_second().max(self.issued.saturating_add(1));
        sign_at(issued, operator, &self.key, ("ORCH", None), &claims)
    }

    /// What a token says that this operator has signed.
    ///
    /// # Errors
    /// It is no such token, or another key signed it.
    pub fn read(token: &str, operator: &str) -> Result<Self> {
        let claims = verified(token, operator)?;
        let (nats, keys) = (&claims["nats"], &claims["nats"]["signing_keys"]);
        let signers = match keys[0].as_str() {
            Some(one) => Signers::One(one.to_owned()),
            None => Signers::ByRole(keys.as_array().into_iter().flatten().filter_map(scope).collect()),
        };
        let mut tags = nats["tags"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let revoked = nats["revocations"].as_object().into_iter().flatten();
        Ok(Self {
            key: claims["sub"].as_str().unwrap_or_default().to_owned(),
            signers,
            domain: tags.find_map(|tag| tag.strip_prefix(DOMAIN)).map(str::to_owned),
            issued: claims["iat"].as_i64().unwrap_or_default(),
            revoked: revoked.filter_map(|(key, at)| Some((key.clone(), at.as_i64()?))).collect(),
        })
    }
}

fn scope(scope: &Value) -> Option<(UserRole, String)> {
    let role = serde_json::from_value(scope["role"].clone()).ok()?;
    Some((role, scope["key"].as_str()?.to_owned()))
}

/// Rights as tokens have them.
fn may(rights: &Rights) -> Value {
    let mut may = json!({ "pub": { "allow": rights.publish }, "sub": { "allow": rights.subscribe },
        "subs": -1, "data": -1, "payload": -1 });
    if rights.responds {
        let ttl = u64::try_from(ONE_REPLY_WITHIN.as_nanos()).unwrap_or(u64::MAX);
        may["resp"] = json!({ "max": 1, "ttl": ttl });
    }
    may
}

/// A user's token and key, as a `.creds` file has them.
#[derive(Debug, Clone)]
pub struct NewUser {
    /// Text of the file; a secret.
    pub creds: String,
    /// The public key (`U…`).
    pub key: String,
    /// The inbox prefix that the user must set.
    pub inbox_prefix: String,
}

/// Makes a user: a host of this id, or a person of this name.
///
/// # Errors
/// A name that is not valid, or a key that is not the account's for this role.
pub fn new_user(
    account: &Account,
    (role, signer): (UserRole, &KeyPair),
    who: &str,
    expires: Option<Timestamp>,
) -> Result<NewUser> {
    let (name, inbox_prefix) = role.names(who)?;
    let key = KeyPair::new_user();
    if account.signers.of(role) != Some(&signer.public_key()) {
        let why = format!("this key signs no {}s of the account {}", role.name(), account.key);
        return Err(BusError::Config { key: "keys", why });
    }
    // Where the role's rights are the account's, a server refuses a user that claims any.
    let mut claims = match account.signers {
        Signers::ByRole(_) => json!({}),
        Signers::One(_) => may(&role.rights(who)?.in_domain(account.domain.as_deref())),
    };
    claims["issuer_account"] = json!(account.key);
    claims["type"] = json!("user");
    claims["version"] = json!(2);
    let token = sign(signer, &key.public_key(), &name, expires, &claims)?;
    let creds = creds(&token, &key)?;
    Ok(NewUser { creds, key: key.public_key(), inbox_prefix })
}

/// What a new operator gives its servers.
#[derive(Debug, Clone)]
pub struct Operator {
    /// Its token.
    pub token: String,
    /// Public key and token of the account that servers speak with one another in.
    pub system: (String, String),
    /// A user of it that may only tell servers of accounts, as a `.creds` file; a secret.
    pub system_creds: String,
}

/// Makes an operator with its system account. The account's key signs its one user and is forgotten.
///
/// # Errors
/// The key cannot sign.
pub fn new_operator(operator: &KeyPair) -> Result<Operator> {
    let (system, user) = (KeyPair::new_account(), KeyPair::new_user());
    let claims = json!({ "system_account": system.public_key(), "type": "operator", "version": 2 });
    let token = sign(operator, &operator.public_key(), "orchestrator-agent", None, &claims)?;
    let claims = json!({ "limits": no_limits(), "default_permissions": { "pub": {}, "sub": {} },
        "type": "account", "version": 2 });
    let of_system = sign(operator, &system.public_key(), "SYS", None, &claims)?;
    let claims = json!({ "pub": { "allow": [UPDATE] }, "sub": { "allow": ["_INBOX.>"] },
        "subs": -1, "data": -1, "payload": -1, "type": "user", "version": 2 });
    let of_user = sign(&system, &user.public_key(), "claims", None, &claims)?;
    Ok(Operator { token, system: (system.public_key(), of_system), system_creds: creds(&of_user, &user)? })
}

/// The public key of the operator that made a token of itself.
///
/// # Errors
/// It is no such token.
pub fn operator_of(token: &str) -> Result<String> {
    let claimed = claims_of(token)?["sub"].as_str().unwrap_or_default().to_owned();
    verified(token, &claimed).map(|_| claimed)
}

/// The part of a server's configuration that makes it believe the operator, to be included by the server's own. Of each account its public
/// key and token; `store` is the directory in which each server keeps the accounts that it was told.
#[must_use]
pub fn server_config(operator: &str, system: (&str, &str), account: (&str, &str), store: &str) -> String {
    format!(
        "# Made by `ctl bus init`; no secret stands here.\n\
         operator: {operator}\nsystem_account: {}\n\
         resolver {{ type: full, dir: {store:?}, allow_delete: false, interval: \"2m\" }}\n\
         resolver_preload {{\n  {}: {}\n  {}: {}\n}}\n",
        system.0, system.0, system.1, account.0, account.1
    )
}

/// What one server said to an update.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Told {
    /// Name of the server.
    pub server: String,
    /// Why it does not take it.
    pub refused: Option<String>,
}

/// Tells all servers the newest token of an account, over a connection of the system account's user. Users that it no longer lets in are cut
/// off at once.
///
/// # Errors
/// The connection, or no server that takes tokens so.
pub async fn push(bus: &Bus, token: &str) -> Result<Vec<Told>> {
    let inbox = format!("{}.{}", bus.config().inbox(), KeyPair::new_user().public_key());
    let mut answers = bus.subscribe(inbox.clone()).await?;
    let sent = bus.client().publish_with_reply(UPDATE, inbox, token.to_owned().into()).await;
    sent.map_err(|error| BusError::Unsendable { what: UPDATE.to_owned(), why: error.to_string() })?;
    let (whole, quiet) = ANSWERS;
    let (end, mut told) = (Instant::now() + whole, Vec::new());
    loop {
        let until = if told.is_empty() { end } else { end.min(Instant::now() + quiet) };
        let Ok(Some(answer)) = timeout_at(until, answers.next()).await else { break };
        let answer: Value = serde_json::from_slice(&answer.payload).unwrap_or_default();
        let refused = answer["error"]["description"].as_str().map(str::to_owned);
        if refused.is_none() && answer["data"]["code"] != 200 {
            continue;
        }
        let server = answer["server"]["name"].as_str().unwrap_or("a server without name").to_owned();
        told.push(Told { server, refused });
    }
    match told.is_empty() {
        true => Err(BusError::NoResponders { subject: UPDATE.to_owned() }),
        false => Ok(told),
    }
}

fn no_limits() -> Value {
    json!({ "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1 })
}

fn creds(token: &str, key: &KeyPair) -> Result<String> {
    let seed = key.seed().map_err(|error| unsigned(&error))?;
    Ok(format!(
        "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    ))
}

fn sign(
    key: &KeyPair,
    subject: &str,
    name: &str,
    expires: Option<Timestamp>,
    nats: &Value,
) -> Result<String> {
    sign_at(Timestamp::now().as_second(), key, subject, (name, expires), nats)
}

fn sign_at(
    issued: i64,
    key: &KeyPair,
    subject: &str,
    (name, expires): (&str, Option<Timestamp>),
    nats: &Value,
) -> Result<String> {
    let mut claims = json!({ "iat": issued, "iss": key.public_key(), "jti": "",
        "name": name, "sub": subject, "nats": nats });
    if let Some(expires) = expires {
        claims["exp"] = json!(expires.as_second());
    }
    claims["jti"] = json!(BASE32_NOPAD.encode(&Sha512_256::digest(claims.to_string())));
    let header = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let text = format!("{}.{}", part(&header), part(&claims));
    let signature = key.sign(text.as_bytes()).map_err(|error| unsigned(&error))?;
    Ok(format!("{text}.{}", BASE64URL_NOPAD.encode(&signature)))
}

fn unsigned(error: &nkeys::error::Error) -> BusError {
    BusError::Config { key: "keys", why: format!("a key cannot sign: {error}") }
}

fn bad(why: &str) -> BusError {
    BusError::Config { key: "account", why: format!("its token {why}") }
}

fn decoded(part: &str) -> Result<Vec<u8>> {
    BASE64URL_NOPAD.decode(part.as_bytes()).map_err(|_| bad("is cut or changed"))
}

/// Unverified.
fn claims_of(token: &str) -> Result<Value> {
    let claims = token.split('.').nth(1).ok_or_else(|| bad("is none"))?;
    serde_json::from_slice(&decoded(claims)?).map_err(|_| bad("is no JSON"))
}

fn verified(token: &str, issuer: &str) -> Result<Value> {
    let token = token.trim();
    let (text, signature) = token.rsplit_once('.').ok_or_else(|| bad("is none"))?;
    let key = KeyPair::from_public_key(issuer).map_err(|_| bad("is compared with no public key"))?;
    let signed = key.verify(text.as_bytes(), &decoded(signature)?);
    signed.map_err(|_| bad("was not signed by this operator's key"))?;
    claims_of(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> (Account, [KeyPair; 3]) {
        let keys = [(); 3].map(|()| KeyPair::new_account());
        let signers = UserRole::ALL.into_iter().zip(keys.iter().map(KeyPair::public_key)).collect();
        let key = KeyPair::new_account().public_key();
        (
            Account {
                key,
                signers: Signers::ByRole(signers),
                domain: None,
                revoked: BTreeMap::new(),
                issued: 0,
            },
            keys,
        )
    }

    #[test]
    fn an_account_is_read_as_it_was_signed_and_by_nobody_else() {
        let operator = KeyPair::new_operator();
        let (mut account, _) = account();
        account.revoked.insert("UABC".to_owned(), 1_764_000_000);
        let token = account.token(&operator).unwrap();
        let read = Account::read(&token, &operator.public_key()).unwrap();
        assert_eq!(Account { issued: 0, ..read.clone() }, account);
        // Signed at once, or by a clock that is behind: later all the same.
        let again = Account::read(&read.token(&operator).unwrap(), &operator.public_key()).unwrap();
        assert!(again.issued > read.issued);
        Account::read(&token, &KeyPair::new_operator().public_key()).unwrap_err();
        let one = Account {
            signers: Signers::One(KeyPair::new_account().public_key()),
            domain: Some("hub".to_owned()),
            ..account
        };
        let of_one = one.token(&operator).unwrap();
        let read = Account::read(&of_one, &operator.public_key()).unwrap();
        assert_eq!(Account { issued: 0, ..read }, one);
        let longer = token.replacen('.', ".x", 1);
        Account::read(&longer, &operator.public_key()).unwrap_err();
    }

    #[test]
    fn the_rights_of_a_role_name_nobody() {
        for role in UserRole::ALL {
            let rights = role.template().unwrap();
            let all = [rights.publish, rights.subscribe].concat();
            assert!(all.iter().all(|subject| !subject.contains(NOBODY)), "{role:?}: {all:?}");
            assert!(all.iter().any(|subject| subject.contains(NAME)), "{role:?}: {all:?}");
        }
    }

    #[test]
    fn no_name_lets_a_user_of_one_role_hear_the_answers_to_another() {
        let heard = |role: UserRole| role.template().unwrap().subscribe;
        for role in UserRole::ALL {
            let inboxes: Vec<_> =
                heard(role).into_iter().filter(|subject| subject.contains("INBOX")).collect();
            // What stands before the name ends it for all others, whatever the name is.
            assert_eq!(inboxes, [format!("_INBOX_{}_{NAME}.>", role.name().to_uppercase())]);
        }
    }

    #[test]
    fn a_key_makes_users_of_its_own_role_only() {
        let (account, [agents, controllers, _]) = account();
        let user = new_user(&account, (UserRole::Agent, &agents), "db1.example.com", None).unwrap();
        assert_eq!(user.inbox_prefix, "_INBOX_AGENT_db1_example_com");
        new_user(&account, (UserRole::Controller, &agents), "alice", None).unwrap_err();
        new_user(&account, (UserRole::Agent, &controllers), "db1", None).unwrap_err();
        for odd in ["", "a b", "a.>", "*", "{{name()}}"] {
            new_user(&account, (UserRole::Controller, &controllers), odd, None).unwrap_err();
            new_user(&account, (UserRole::Agent, &agents), odd, None).unwrap_err();
        }
    }
}
