//! Which host should give its data: a pure choice from heartbeats alone.
//!
//! The same order serves `seed start` without a donor and `snapshot find`: the recipient's own DC first, proven
//! snapshots first, the newest first.

use std::cmp::Reverse;
use std::fmt;

use jiff::Timestamp;
use protocol::heartbeat::{Heartbeat, SnapshotSummary};
use protocol::ids::{AgentId, SnapshotId};
use protocol::mysql::ServerVersion;
use schemars::JsonSchema;
use serde::Serialize;

/// A classic LVM snapshot this full may overflow, and lose its data, before a seed has read it.
const NEARLY_FULL_PERCENT: f64 = 90.0;

/// What the choice must respect.
#[derive(Debug, Clone, Default)]
pub struct DonorOptions {
    /// Only this snapshot.
    pub snapshot: Option<SnapshotId>,
    /// Only snapshots that `snapshot verify` has passed.
    pub require_proven: bool,
}

/// A donor with its snapshot, and why it was taken.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Choice {
    /// Who gives.
    pub donor: AgentId,
    /// What it gives.
    pub snapshot: SnapshotId,
    /// Why this one, in words.
    pub reasons: Vec<String>,
    /// Every other host of the cluster, and why it was not taken.
    pub passed_over: Vec<PassedOver>,
}

/// A host that was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PassedOver {
    /// Who.
    pub agent: AgentId,
    /// Why not, in words.
    pub why: String,
}

/// No host can give its data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct NoDonor {
    /// For whom.
    pub recipient: AgentId,
    /// The cluster that was searched.
    pub cluster: String,
    /// Every host of the cluster, and why it was not taken.
    pub passed_over: Vec<PassedOver>,
}

impl fmt::Display for NoDonor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no donor for {} in cluster {}", self.recipient, self.cluster)?;
        if self.passed_over.is_empty() {
            return write!(f, ": no other host of that cluster is in the fleet");
        }
        self.passed_over.iter().try_for_each(|p| write!(f, "\n  {}: {}", p.agent, p.why))
    }
}

/// A snapshot somewhere in the fleet.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Candidate {
    /// The host that has it.
    pub host: AgentId,
    /// That host's data centre.
    pub dc: String,
    /// Its cluster.
    pub cluster: String,
    /// The snapshot.
    pub snapshot: SnapshotSummary,
    /// True when the host's DC is the one asked for.
    pub local: bool,
}

/// Every usable snapshot of a cluster, best first: in `local_dc`, proven, newest.
#[must_use]
pub fn find_snapshots(fleet: &[Heartbeat], cluster: &str, local_dc: Option<&str>) -> Vec<Candidate> {
    let mut found: Vec<Candidate> = fleet
        .iter()
        .flat_map(|beat| beat.snapshots.iter().map(move |snapshot| (beat, snapshot)))
        .filter(|(beat, snapshot)| {
            snapshot.usable && snapshot.cluster.as_deref().unwrap_or(&beat.cluster) == cluster
        })
        .map(|(beat, snapshot)| Candidate {
            host: beat.agent.clone(),
            dc: beat.dc.clone(),
            cluster: beat.cluster.clone(),
            snapshot: snapshot.clone(),
            local: local_dc == Some(beat.dc.as_str()),
        })
        .collect();
    found.sort_by(|a, b| {
        rank(a.local, &a.snapshot)
            .cmp(&rank(b.local, &b.snapshot))
            .then_with(|| (&a.host, &a.snapshot.id).cmp(&(&b.host, &b.snapshot.id)))
    });
    found
}

/// Smaller is better.
fn rank(local: bool, snapshot: &SnapshotSummary) -> (bool, bool, Reverse<Timestamp>) {
    (!local, !snapshot.proven, Reverse(snapshot.created_at))
}

/// Chooses who gives its data to `recipient`, from the heartbeats of hosts that are alive.
///
/// # Errors
/// [`NoDonor`] with the reason for every host of the cluster.
pub fn choose_donor(
    fleet: &[Heartbeat],
    recipient: &Heartbeat,
    options: &DonorOptions,
) -> Result<Choice, NoDonor> {
    let mut able: Vec<(&Heartbeat, &SnapshotSummary)> = Vec::new();
    let mut passed_over = Vec::new();
    for beat in fleet.iter().filter(|b| b.agent != recipient.agent && b.cluster == recipient.cluster) {
        match best_snapshot(beat, recipient, options) {
            Ok(snapshot) => able.push((beat, snapshot)),
            Err(why) => passed_over.push(PassedOver { agent: beat.agent.clone(), why }),
        }
    }
    let local = |beat: &Heartbeat| beat.dc == recipient.dc;
    able.sort_by(|(a, s), (b, t)| {
        rank(local(a), s).cmp(&rank(local(b), t)).then_with(|| a.agent.cmp(&b.agent))
    });
    let Some((&(donor, snapshot), rest)) = able.split_first() else {
        return Err(NoDonor {
            recipient: recipient.agent.clone(),
            cluster: recipient.cluster.clone(),
            passed_over,
        });
    };
    let mut others: Vec<PassedOver> = rest
        .iter()
        .map(|(beat, other)| PassedOver {
            agent: beat.agent.clone(),
            why: why_worse((local(donor), snapshot), (local(beat), other), &beat.dc),
        })
        .collect();
    others.append(&mut passed_over);
    Ok(Choice {
        donor: donor.agent.clone(),
        snapshot: snapshot.id.clone(),
        reasons: reasons(donor, snapshot, recipient, rest.is_empty()),
        passed_over: others,
    })
}

/// The snapshot that this host would give, or why it gives none.
fn best_snapshot<'a>(
    beat: &'a Heartbeat,
    recipient: &Heartbeat,
    options: &DonorOptions,
) -> Result<&'a SnapshotSummary, String> {
    if let Some(job) = beat.jobs.iter().find(|j| !j.state.is_final() && j.kind.starts_with("seed.")) {
        let doing = if job.kind == "seed.offer" { "giving its data to another host" } else { "being seeded" };
        return Err(format!("busy {doing} (job {}); name it with --from to use it all the same", job.id));
    }
    if let (Some(theirs), Some(ours)) = (&beat.mysql.version, &recipient.mysql.version)
        && let Some(why) = incompatible(theirs, ours)
    {
        return Err(why);
    }
    let mut reason = match &options.snapshot {
        Some(id) => format!("has no snapshot {id}"),
        None => "has no snapshot".to_owned(),
    };
    let mut best: Option<&SnapshotSummary> = None;
    for snapshot in &beat.snapshots {
        if options.snapshot.as_ref().is_some_and(|id| *id != snapshot.id) {
            continue;
        }
        if let Some(why) = unfit(&beat.agent, snapshot, recipient, options) {
            reason = format!("snapshot {} {why}", snapshot.id);
        } else if best.is_none_or(|b| rank(true, snapshot) < rank(true, b)) {
            best = Some(snapshot);
        }
    }
    best.ok_or(reason)
}

fn unfit(
    host: &AgentId,
    snapshot: &SnapshotSummary,
    recipient: &Heartbeat,
    options: &DonorOptions,
) -> Option<String> {
    if snapshot.foreign {
        return Some(
            "is not of its datadir; name it with --from, --snapshot and --foreign to use it all the same"
                .to_owned(),
        );
    }
    if !snapshot.usable {
        return Some("has lost its data".to_owned());
    }
    if let Some(cluster) = snapshot.cluster.as_ref().filter(|c| **c != recipient.cluster) {
        return Some(format!("holds the data of cluster {cluster}"));
    }
    if options.require_proven && !snapshot.proven {
        return Some(format!(
            "is not proven; `orchestrator-ctl snapshot verify {host} {}` tries it",
            snapshot.id
        ));
    }
    let fill = snapshot.fill_percent?;
    (fill >= NEARLY_FULL_PERCENT).then(|| format!("is about to overflow ({fill:.0} % full)"))
}

fn incompatible(donor: &ServerVersion, recipient: &ServerVersion) -> Option<String> {
    let ours = &recipient.text;
    if donor.flavor != recipient.flavor {
        return Some(format!("its data are of another vendor ({}), the recipient has {ours}", donor.text));
    }
    (donor.number > recipient.number)
        .then(|| format!("its server ({}) is newer than the recipient's ({ours})", donor.text))
}

fn reasons(
    donor: &Heartbeat,
    snapshot: &SnapshotSummary,
    recipient: &Heartbeat,
    only_one: bool,
) -> Vec<String> {
    let mut reasons = vec![format!("same cluster {}", recipient.cluster)];
    if donor.dc == recipient.dc {
        reasons.push(format!("in the recipient's DC {}", donor.dc));
    } else {
        reasons.push(format!("in DC {}, none in {} can", donor.dc, recipient.dc));
    }
    let proven = if snapshot.proven { "proven" } else { "not proven" };
    let made = crate::units::time(snapshot.created_at);
    reasons.push(format!("snapshot of {made}, {proven}"));
    if only_one {
        reasons.push("the only host that can give".to_owned());
    }
    reasons
}

fn why_worse(taken: (bool, &SnapshotSummary), other: (bool, &SnapshotSummary), dc: &str) -> String {
    if taken.0 && !other.0 {
        format!("in another DC ({dc})")
    } else if taken.1.proven && !other.1.proven {
        format!("its snapshot {} is not proven", other.1.id)
    } else if other.1.created_at < taken.1.created_at {
        let made = crate::units::time(other.1.created_at);
        format!("its snapshot {} is older ({made})", other.1.id)
    } else {
        "as good; the first by name was taken".to_owned()
    }
}

#[cfg(test)]
#[path = "donor_tests.rs"]
mod tests;
