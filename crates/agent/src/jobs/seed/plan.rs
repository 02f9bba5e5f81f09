//! The plan of a seed, made from facts, purely, before anything is touched; `guards` decides whether it may be.

use std::path::PathBuf;

use protocol::seed::{DonorFacts, SeedOptions, SeedPlan, Transport};
use sha2::{Digest as _, Sha256};

use super::facts::{RecipientFacts, human_u64};
use super::guards::{self, Space};

/// Decides every guard and writes down what the seed would do.
#[must_use]
pub(crate) fn plan(donor: &DonorFacts, me: &RecipientFacts, options: &SeedOptions) -> SeedPlan {
    let space = Space::of(donor, me, options);
    let (transport, guards) = guards::all(donor, me, options, &space);
    let mut plan = SeedPlan {
        recipient: me.agent.clone(),
        donor: donor.agent.clone(),
        snapshot: donor.snapshot.as_ref().map(|snapshot| snapshot.id.clone()),
        stream: donor.stream.clone(),
        guards,
        bytes: donor.bytes,
        files: donor.files,
        free_before_bytes: me.free_bytes,
        free_lowest_bytes: space.lowest,
        free_after_bytes: space.after,
        donor_free_bytes: donor.free_bytes,
        transport,
        plain: options.plain,
        can_relay: transport == Transport::Tcp
            && me.relays
            && donor.stream.is_none()
            && !options.plain
            && !options.delta,
        expected_s: expected_s(donor.moved_bytes(), me.measured_rate, options.throttle_bytes_per_s),
        actions: actions(donor, me, options),
        digest: String::new(),
        seal_key: None,
    };
    plan.digest = digest(&plan, donor, me, options);
    plan
}

/// The measured rate counts, and the limit where it is lower or nothing was measured.
fn expected_s(bytes: u64, measured: Option<u64>, limit: u64) -> Option<u64> {
    let limit = Some(limit).filter(|limit| *limit > 0);
    let rate = measured.filter(|rate| *rate > 0).into_iter().chain(limit).min()?;
    Some(bytes / rate + 1)
}

fn actions(donor: &DonorFacts, me: &RecipientFacts, options: &SeedOptions) -> Vec<String> {
    let datadir = me.server.datadir.clone().unwrap_or_else(|| PathBuf::from("(unknown datadir)"));
    let datadir = datadir.display();
    let running = me.server.state.may_be_running();
    let mut actions = Vec::new();
    let early = options.replace || options.delta;
    if early && running {
        actions.push("stop MySQL".to_owned());
    }
    if options.replace {
        actions.push(format!(
            "REMOVE {datadir} ({}) before the copy: whatever fails later, these data do not come back",
            human_u64(me.datadir_bytes)
        ));
    }
    if let Some(base) = me.base.as_ref().filter(|_| options.delta && !options.reread) {
        actions.push(format!(
            "move only what differs from {base}, which was kept here, if {} still has it as it was; else compare with the old data",
            donor.agent
        ));
    }
    actions.push(match &donor.stream {
        None => format!(
            "copy {} in {} files from {} into a staging directory beside {datadir}",
            human_u64(donor.bytes),
            donor.files,
            donor.agent
        ),
        Some(stream) => format!(
            "take about {} as one stream of {stream} from {} into a staging directory beside {datadir}",
            human_u64(donor.bytes),
            donor.agent
        ),
    });
    match &donor.stream {
        None => actions.push("prove every chunk and the manifest".to_owned()),
        Some(stream) => actions.push(format!(
            "unpack and prepare what {stream} sends; a broken stream cannot be resumed and begins anew"
        )),
    }
    actions.push(
        "recover the copy by a private server of this host's own, and make it this host's data".to_owned(),
    );
    if !early && running {
        actions.push("stop MySQL".to_owned());
    }
    if !options.replace {
        actions.push(format!("swap: the old {datadir} is kept aside"));
    }
    if me.has_post_copy {
        actions.push("run the configured post-copy command".to_owned());
    }
    if options.start_mysql {
        actions.push(match options.replace {
            false => "start MySQL; if it does not answer, put the old datadir back".to_owned(),
            true => "start MySQL; if it does not answer, leave it stopped on the new data".to_owned(),
        });
    }
    if let Some(source) = &options.replicate_from {
        actions.push(format!("replicate from {}:{}", source.host, source.port));
    }
    if !options.replace {
        actions.push(match options.keep_old_s {
            0 => "remove the old datadir".to_owned(),
            seconds => format!("keep the old datadir for {seconds} s, then remove it"),
        });
    }
    actions
}

/// Digest over what must still hold when the seed begins; free space and sizes move all the time and are not in it.
pub(super) fn digest(
    plan: &SeedPlan,
    donor: &DonorFacts,
    me: &RecipientFacts,
    options: &SeedOptions,
) -> String {
    let refusals: Vec<_> = plan.refusals().map(|g| g.guard).collect();
    let material = serde_json::json!({
        "donor": donor.agent,
        "recipient": me.agent,
        "snapshot": donor.snapshot.as_ref().map(|snapshot| &snapshot.id),
        "created": donor.snapshot.as_ref().map(|snapshot| snapshot.created_at),
        "stream": donor.stream,
        "datadir": me.server.datadir,
        "running": me.server.state.may_be_running(),
        // By which way the same bytes come is no part of what was looked at.
        "options": SeedOptions { relay: false, ..options.clone() },
        "refusals": refusals,
    });
    let digest = Sha256::digest(material.to_string().as_bytes());
    sys::hex::encode(&digest[..16])
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
