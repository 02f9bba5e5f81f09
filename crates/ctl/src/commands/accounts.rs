//! Operators, accounts and users by signed tokens: all but telling the servers needs no bus.

use std::time::Duration;

use bus::jwt::{self, UserRole};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::accounts::Keys;
use crate::args::{Global, InitArgs, PushArgs, RevokeArgs, UserArgs};
use crate::error::{CtlError, Result};
use crate::exit::Exit;
use crate::output::Out;
use crate::session::Session;

const CLOSES_WITHIN: Duration = Duration::from_millis(500);

/// Makes an operator with its account.
pub(super) fn init(args: &InitArgs, domain: Option<String>, out: &Out) -> Result<()> {
    let keys = Keys::make(&args.keys, &args.store, args.explicit, domain)?;
    let (file, account) = (keys.server_file(), keys.account()?);
    out.result(&json!({"account": account.key, "server_config": file}), |_| file.display().to_string());
    out.note(&format!(
        "each server includes this file; its user must be able to write in {}",
        args.store.display()
    ));
    out.note("whoever reads operator.nk in this directory owns the bus: keep it where no database host can read it");
    Ok(())
}

/// Makes credentials.
pub(super) fn users(args: &UserArgs, out: &Out) -> Result<()> {
    let agents = args.agents.iter().map(|agent| (UserRole::Agent, agent.to_string()));
    let controllers = args.controllers.iter().map(|name| (UserRole::Controller, name.clone()));
    let auditors = args.auditors.iter().map(|name| (UserRole::Auditor, name.clone()));
    let all: Vec<_> = agents.chain(controllers).chain(auditors).collect();
    if all.is_empty() {
        return Err(CtlError::usage("who?", "give --agent HOST, --controller NAME or --auditor NAME"));
    }
    let expires = args.valid.map(|valid| {
        let valid = SignedDuration::from_secs(i64::try_from(valid).unwrap_or(i64::MAX));
        Timestamp::now().checked_add(valid).unwrap_or(Timestamp::MAX)
    });
    let keys = Keys::at(&args.keys);
    for (role, name) in all {
        let (user, file) = keys.user(role, &name, expires, &args.into)?;
        let made = json!({"user": name, "role": role, "key": user.key, "creds": file,
            "inbox_prefix": user.inbox_prefix, "expires": expires});
        out.result(&made, |_| file.display().to_string());
        out.note(&format!("{name} must set the inbox prefix {}", user.inbox_prefix));
    }
    Ok(())
}

/// Has users let in no longer.
pub(super) async fn revoke(args: &RevokeArgs, global: Global, out: Out) -> Result<()> {
    let keys = Keys::at(&args.keys);
    let mut gone = Vec::new();
    for who in &args.users {
        let known = keys.known(who)?;
        if known.is_empty() {
            return Err(CtlError::usage(
                format!("no file was made here for {who:?}; nothing was changed"),
                "the file `users` in the directory of keys has all names and public keys",
            ));
        }
        gone.extend(known);
    }
    keys.revoke(&gone)?;
    for user in &gone {
        out.result(&json!({"user": user.name, "key": user.key, "revoked": true}), |_| {
            format!("{} ({}) is revoked", user.name, user.key)
        });
    }
    if args.offline {
        out.note(&format!(
            "the servers do not know yet: `orchestrator-ctl bus push --keys {}` tells them",
            args.keys.display()
        ));
        return Ok(());
    }
    tell(&keys, global, out).await
}

/// Tells the servers what the account is now.
pub(super) async fn push(args: &PushArgs, global: Global, out: Out) -> Result<()> {
    let keys = Keys::at(&args.keys);
    keys.renew()?;
    tell(&keys, global, out).await
}

async fn tell(keys: &Keys, global: Global, out: Out) -> Result<()> {
    let account = keys.account()?;
    // The user that may tell servers of accounts, whoever the person is otherwise.
    let global = Global {
        creds: Some(keys.system_creds()),
        nkey_file: None,
        sign_key: None,
        inbox_prefix: Some("_INBOX".to_owned()),
        ..global
    };
    let session = Session::open(global, out).await?;
    let failed = |source| CtlError::bus(format!("no server was told of the account {}", account.key), source);
    let told = jwt::push(session.client.bus(), &keys.account_token()?).await.map_err(failed)?;
    session.client.bus().close(CLOSES_WITHIN).await;
    for one in &told {
        session.out.result(one, |one| match &one.refused {
            None => format!("{} knows it", one.server),
            Some(why) => format!("{} does not take it: {why}", one.server),
        });
    }
    match told.iter().any(|one| one.refused.is_some()) {
        true => Err(CtlError::Told(Exit::Failed)),
        false => Ok(()),
    }
}
