//! The directory with an operator's keys, from which hosts and people get their credentials.
//!
//! What makes users of one role is in three files (`ROLE.nk`, `account.jwt`, `operator.jwt`), so that a machine which installs hosts need
//! hold no key that makes people. `operator.nk` is needed to revoke only.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use bus::BusError;
use bus::jwt::{self, Account, NewUser, Signers, UserRole};
use jiff::Timestamp;
use nkeys::{KeyPair, KeyPairType};

use crate::error::{CtlError, Result};
use crate::keys;

/// Who was given a file: a line each, `ROLE NAME KEY MADE EXPIRES`.
const USERS: &str = "users";
/// The account's token.
const ACCOUNT: &str = "account.jwt";
const OPERATOR: &str = "operator.jwt";
const OPERATOR_KEY: &str = "operator.nk";
const SYSTEM: &str = "system.jwt";
/// What servers are told of accounts with.
const SYSTEM_CREDS: &str = "system.creds";
/// What servers include.
const SERVER: &str = "accounts.conf";
/// Where each server keeps accounts.
const STORE: &str = "store";

/// One who was given a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Host or name.
    pub name: String,
    /// Public key.
    pub key: String,
}

/// The directory.
#[derive(Debug, Clone)]
pub struct Keys {
    dir: PathBuf,
}

impl Keys {
    /// One that was made before.
    #[must_use]
    pub fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Makes the directory, its keys and what servers include. `store` is where each of them keeps accounts; `explicit` as
    /// [`Signers::One`].
    ///
    /// # Errors
    /// There is one already, or it cannot be written.
    pub fn make(dir: &Path, store: &Path, explicit: bool, domain: Option<String>) -> Result<Self> {
        let this = Self::at(dir);
        sys::file::create_dir(dir, 0o700).map_err(|error| this.failed("make keys in", "", error.source))?;
        let operator_key = KeyPair::new_operator();
        this.write_key(OPERATOR_KEY, &operator_key)?;
        let make_signer = |name| {
            let key = KeyPair::new_account();
            this.write_key(name, &key).map(|()| key.public_key())
        };
        let signers = match explicit {
            true => Signers::One(make_signer(KEY_OF_ALL)?),
            false => {
                let each = UserRole::ALL.map(|role| Ok((role, make_signer(key_of(role))?)));
                Signers::ByRole(each.into_iter().collect::<Result<_>>()?)
            }
        };
        let operator = jwt::new_operator(&operator_key).map_err(unsigned)?;
        let system = format!("{} {}", operator.system.0, operator.system.1);
        let store = store.display().to_string();
        for (name, text, mode) in [
            (SYSTEM_CREDS, &operator.system_creds, 0o600),
            (OPERATOR, &operator.token, 0o644),
            (SYSTEM, &system, 0o644),
            (STORE, &store, 0o644),
        ] {
            this.create(name, text, mode)?;
        }
        // Nobody needs the account's own key: the operator's signs what it may do, the roles' keys its users.
        let key = KeyPair::new_account().public_key();
        this.put_account(
            &Account { key, signers, domain, revoked: BTreeMap::new(), issued: 0 },
            &operator_key,
        )?;
        Ok(this)
    }

    /// What servers include, with the account as it is now.
    #[must_use]
    pub fn server_file(&self) -> PathBuf {
        self.dir.join(SERVER)
    }

    /// The credentials that servers are told with.
    #[must_use]
    pub fn system_creds(&self) -> PathBuf {
        self.dir.join(SYSTEM_CREDS)
    }

    /// The account's token.
    ///
    /// # Errors
    /// It cannot be read, or somebody else could have written it.
    pub fn account_token(&self) -> Result<String> {
        self.read(ACCOUNT)
    }

    /// The account.
    ///
    /// # Errors
    /// As [`Keys::account_token`], or the operator has not signed it.
    pub fn account(&self) -> Result<Account> {
        let token = self.account_token()?;
        let account =
            jwt::operator_of(&self.read(OPERATOR)?).and_then(|operator| Account::read(&token, &operator));
        account.map_err(|source| CtlError::bus(format!("{} cannot be used", self.dir.display()), source))
    }

    /// Makes a user and writes down whom.
    ///
    /// # Errors
    /// A name that is not valid, no key of its role here, or a file that cannot be written.
    pub fn user(
        &self,
        role: UserRole,
        name: &str,
        expires: Option<Timestamp>,
        into: &Path,
    ) -> Result<(NewUser, PathBuf)> {
        let account = self.account()?;
        let file = if matches!(account.signers, Signers::One(_)) { KEY_OF_ALL } else { key_of(role) };
        let signer = keys::read_seed(&self.dir.join(file))?;
        let user = jwt::new_user(&account, (role, &signer), name, expires).map_err(unsigned)?;
        let path = into.join(format!("{name}.creds"));
        let until = expires.map_or_else(|| "-".to_owned(), |at| at.to_string());
        // Written down first: a file that nobody knows of could not be revoked by name.
        self.append(&format!("{} {name} {} {} {until}\n", role.name(), user.key, Timestamp::now()))?;
        sys::file::create(&path, user.creds.as_bytes(), 0o600).map_err(|error| CtlError::File {
            action: "make credentials",
            path: path.clone(),
            source: error.source,
        })?;
        Ok((user, path))
    }

    /// Those who were given files here under a name, or whoever has a public key.
    ///
    /// # Errors
    /// The list cannot be read.
    pub fn known(&self, who: &str) -> Result<Vec<Known>> {
        let text = if self.dir.join(USERS).exists() { self.read(USERS)? } else { String::new() };
        // One whose file was made elsewhere is known by its key only.
        if KeyPair::from_public_key(who).is_ok_and(|key| key.key_pair_type() == KeyPairType::User) {
            return Ok(vec![Known { name: who.to_owned(), key: who.to_owned() }]);
        }
        let users = text.lines().filter_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            Some(Known { name: words.next()?.to_owned(), key: words.next()?.to_owned() })
        });
        Ok(users.filter(|user| user.name == who).collect())
    }

    /// Has the account let in no longer whoever has one of these keys.
    ///
    /// # Errors
    /// The operator's key is not here, or a file cannot be written.
    pub fn revoke(&self, users: &[Known]) -> Result<()> {
        let operator = keys::read_seed(&self.dir.join(OPERATOR_KEY))?;
        let mut account = self.account()?;
        let for_ever = jwt::FOR_EVER.as_second();
        account.revoked.extend(users.iter().map(|user| (user.key.clone(), for_ever)));
        self.put_account(&account, &operator)
    }

    /// Signs the account anew, so that roles have the rights that this version gives them; where the operator's key is not here it stays.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn renew(&self) -> Result<()> {
        if !self.dir.join(OPERATOR_KEY).exists() {
            return Ok(());
        }
        self.put_account(&self.account()?, &keys::read_seed(&self.dir.join(OPERATOR_KEY))?)
    }

    fn put_account(&self, account: &Account, operator: &KeyPair) -> Result<()> {
        let token = account.token(operator).map_err(unsigned)?;
        let system = self.read(SYSTEM)?;
        let system = system.split_once(' ').unwrap_or_default();
        let config =
            jwt::server_config(&self.read(OPERATOR)?, system, (&account.key, &token), &self.read(STORE)?);
        for (name, text) in [(ACCOUNT, &token), (SERVER, &config)] {
            sys::file::write(&self.dir.join(name), text.as_bytes(), 0o644)
                .map_err(|error| self.failed("write", name, error.source))?;
        }
        Ok(())
    }

    fn read(&self, name: &str) -> Result<String> {
        let text = sys::file::read_trusted(&self.dir.join(name));
        text.map(|text| text.trim_end().to_owned()).map_err(|error| self.failed("read", name, error.source))
    }

    fn create(&self, name: &str, text: &str, mode: u32) -> Result<()> {
        sys::file::create(&self.dir.join(name), format!("{text}\n").as_bytes(), mode)
            .map_err(|error| self.failed("make", name, error.source))
    }

    fn write_key(&self, name: &str, key: &KeyPair) -> Result<()> {
        let seed = key.seed().map_err(|error| self.failed("make", name, io::Error::other(error)))?;
        self.create(name, &seed, 0o600)
    }

    fn append(&self, line: &str) -> Result<()> {
        let users = OpenOptions::new().append(true).create(true).mode(0o644).open(self.dir.join(USERS));
        let written = users.and_then(|mut users| {
            users.write_all(line.as_bytes())?;
            users.sync_all()
        });
        written.map_err(|source| self.failed("write", USERS, source))
    }

    fn failed(&self, action: &'static str, name: &str, source: io::Error) -> CtlError {
        CtlError::File { action, path: self.dir.join(name), source }
    }
}

/// The one key where the rights of users are in their own files.
const KEY_OF_ALL: &str = "users.nk";

fn key_of(role: UserRole) -> &'static str {
    match role {
        UserRole::Agent => "agent.nk",
        UserRole::Controller => "controller.nk",
        UserRole::Auditor => "auditor.nk",
    }
}

fn unsigned(source: BusError) -> CtlError {
    CtlError::bus("cannot make this user", source)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;

    #[test]
    fn a_machine_that_installs_hosts_needs_three_files_and_makes_no_people() {
        let dir = tempfile::tempdir().unwrap();
        let whole =
            Keys::make(&dir.path().join("keys"), Path::new("/var/lib/nats/jwt"), false, None).unwrap();
        let part = dir.path().join("part");
        fs::create_dir(&part).unwrap();
        for name in ["agent.nk", ACCOUNT, OPERATOR] {
            fs::copy(whole.dir.join(name), part.join(name)).unwrap();
        }
        let part = Keys::at(&part);
        let (user, path) = part.user(UserRole::Agent, "db1", None, dir.path()).unwrap();
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(part.known("db1").unwrap()[0].key, user.key);
        part.user(UserRole::Controller, "alice", None, dir.path()).unwrap_err();
        part.revoke(&part.known("db1").unwrap()).unwrap_err();
        assert!(part.user(UserRole::Agent, "db1", None, dir.path()).is_err(), "a file is never overwritten");
    }

    #[test]
    fn an_account_that_others_could_have_written_or_that_is_another_operators_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"]
            .map(|name| Keys::make(&dir.path().join(name), Path::new("/x"), false, None).unwrap());
        Keys::make(&one.dir, Path::new("/x"), false, None).unwrap_err();
        fs::copy(two.dir.join(ACCOUNT), one.dir.join(ACCOUNT)).unwrap();
        one.user(UserRole::Agent, "db1", None, dir.path()).unwrap_err();
        fs::set_permissions(two.dir.join(ACCOUNT), fs::Permissions::from_mode(0o666)).unwrap();
        two.user(UserRole::Agent, "db1", None, dir.path()).unwrap_err();
    }
}
