//! Keys: those of people are made without a bus, those of hosts are asked for.

use bus::HostKeys;
use futures_util::{StreamExt as _, stream};
use protocol::ids::AgentId;
use protocol::params::AgentInfoParams;
use serde_json::json;

use crate::args::{Global, KeyCmd, KeyUse};
use crate::error::{CtlError, Result};
use crate::keys;
use crate::output::Out;
use crate::session::Session;

/// Hosts that are asked at once.
const AT_ONCE: usize = 64;

pub(super) fn run(command: &KeyCmd, out: &Out) -> Result<()> {
    let (public, file) = match command {
        KeyCmd::Generate { file, .. } => (keys::generate(file)?, file),
        KeyCmd::Show { file } => (keys::read_seed(file)?.public_key(), file),
        // Asks hosts: `pin` below.
        KeyCmd::Pin { .. } => return Ok(()),
    };
    out.result(&json!({"public_key": public, "file": file}), |_| public.clone());
    if let KeyCmd::Generate { uses, .. } = command {
        out.note(&format!("the secret seed is in {} (mode 0600)", file.display()));
        let asked = |one| uses.is_empty() || uses.contains(&one);
        if asked(KeyUse::Login) {
            out.note(&format!(
                "to log in: an agent names the file in bus.credentials.nkey_file, a person with --nkey-file; the server's accounts \
                 get the public key by `orchestrator-ctl bus config --agent HOST={public}` or `--controller NAME={public}`"
            ));
        }
        if asked(KeyUse::Signing) {
            out.note(
                "to sign: a person names the file with --sign-key; agents obey the public key once it stands in their auth.trusted",
            );
        }
        if !uses.contains(&KeyUse::Signing) {
            out.note("never put an agent's login key into auth.trusted: every trusted key commands agents");
        }
    }
    Ok(())
}

/// Asks hosts for the keys that they sign replies with, and writes down those that are new.
pub(super) async fn pin(mut global: Global, out: Out, hosts: Vec<AgentId>, replace: bool) -> Result<()> {
    // What is in the file must not keep its own replacement from being asked for.
    let Some(file) = global.host_keys.take() else {
        return Err(CtlError::usage(
            "which file?",
            "give --host-keys FILE or ORCH_HOST_KEYS; it is made when it is missing",
        ));
    };
    let pinned = match file.exists() {
        true => {
            HostKeys::read(&file).map_err(|source| CtlError::bus("cannot read the keys of hosts", source))?
        }
        false => HostKeys::none(&file),
    };
    let session = Session::open(global, out).await?;
    let hosts = match hosts.is_empty() {
        true => super::doctor::everyone(&session).await?,
        false => hosts,
    };
    let asked = stream::iter(hosts).map(|host| pin_one(&session, host, &pinned, replace)).buffered(AT_ONCE);
    let (told, failures): (Vec<_>, Vec<_>) =
        asked.collect::<Vec<_>>().await.into_iter().partition(Result::is_ok);
    let new: Vec<(AgentId, String)> = told.into_iter().filter_map(Result::ok).flatten().collect();
    if !new.is_empty() {
        keys::pin(&file, &new)?;
    }
    let settled = super::settle(&session, failures.into_iter().filter_map(Result::err).collect());
    session.close().await;
    settled
}

/// The key to write down, if it is not there yet.
async fn pin_one(
    session: &Session,
    host: AgentId,
    pinned: &HostKeys,
    replace: bool,
) -> Result<Option<(AgentId, String)>> {
    let info = session.call(&host, AgentInfoParams {}).await?;
    let refused = |why: String, hint: String| CtlError::NotPinned { host: host.clone(), why, hint };
    let Some(key) = info.reply_key else {
        let why = format!("it signs no replies: version {} is too old", info.version);
        return Err(refused(why, format!("update the agent on {host}")));
    };
    let before = pinned.of(&host);
    let state = match before {
        Some(before) if before == key => "known",
        Some(_) if replace => "replaced",
        Some(before) => {
            return Err(refused(
                format!("it tells {key}, the file has {before}"),
                format!(
                    "if it was rebuilt, compare what `orchestrator-ctl key show /var/lib/orchestrator-agent/reply.nk` prints there, \
                     then `orchestrator-ctl key pin --replace {host}`"
                ),
            ));
        }
        None => "new",
    };
    // Whoever names a key must have it.
    let with =
        pinned.clone().with(&host, &key).map_err(|source| CtlError::bus("cannot use its key", source))?;
    let sure = session.client.clone().with_host_keys(with);
    if let Err(source) = sure.call(&host, AgentInfoParams {}, &session.options()).await {
        return Err(session.explain(&host, "agent.info", source).await);
    }
    session
        .out
        .result(&json!({"host": host, "key": key, "state": state}), |_| format!("{host} {key} {state}"));
    Ok((state != "known").then_some((host, key)))
}
