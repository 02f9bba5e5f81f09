//! The guards of a seed: each decides one thing from facts and says what to do about it.

mod layout;

use protocol::mysql::Flavor;
use protocol::seed::{DonorFacts, Guard, GuardResult, SeedOptions, Transport, Verdict};
use protocol::snapshot::Validity;

use self::layout::layout_compatible;
use crate::jobs::seed::facts::{Reach, RecipientFacts, SourceSays, human_u64};
use crate::usage::InUse;

/// A classic snapshot fuller than this may overflow before the copy ends.
const FILL_REFUSED_PERCENT: f64 = 90.0;
const FILL_WARNED_PERCENT: f64 = 70.0;
/// Space left free beside the copy: the journal, the error log, the first redo.
const RESERVE_BYTES: u64 = 64 << 20;

/// Every guard's verdict, and how the data go.
pub(super) fn all(
    donor: &DonorFacts,
    me: &RecipientFacts,
    options: &SeedOptions,
    space: &Space,
) -> (Transport, Vec<GuardResult>) {
    let (transport, reachable) = transport(donor, me, options);
    let mut guards = vec![
        not_onto_itself(donor, me),
        same_cluster(donor, me, options),
        datadir_known(me),
        no_other_seed(me),
        mysql_may_stop(me, options),
        not_a_primary(me, options),
        version_compatible(donor, me),
        layout_compatible(donor, me),
        snapshot_valid(donor),
        snapshot_proven(donor, options),
        space.guard(options),
        inodes_suffice(donor, me),
        donor_healthy(donor, options),
        keys_present(donor, me),
        binlogs_available(me),
        reachable,
    ];
    guards.extend(options.plain.then(|| plain_allowed(donor, me)));
    (transport, guards)
}

/// Bytes free on the recipient's file system; negative where they do not suffice.
pub(super) struct Space {
    /// At the narrowest point.
    pub(super) lowest: i64,
    /// Once the seed is done.
    pub(super) after: i64,
}

impl Space {
    pub(super) fn of(donor: &DonorFacts, me: &RecipientFacts, options: &SeedOptions) -> Self {
        let available = if options.replace { me.free_bytes + me.datadir_bytes } else { me.free_bytes };
        let lowest = i128::from(available) - i128::from(donor.moved_bytes()) - i128::from(RESERVE_BYTES);
        let freed = if options.keep_old_s > 0 && !options.replace { 0 } else { me.datadir_bytes };
        let after = i128::from(me.free_bytes) + i128::from(freed) - i128::from(donor.moved_bytes());
        let bounded =
            |bytes: i128| i64::try_from(bytes).unwrap_or(if bytes < 0 { i64::MIN } else { i64::MAX });
        Self { lowest: bounded(lowest), after: bounded(after) }
    }

    fn guard(&self, options: &SeedOptions) -> GuardResult {
        if self.lowest >= 0 {
            return pass(
                Guard::SpaceSuffices,
                format!("{} stay free at the narrowest point", human(self.lowest)),
            );
        }
        let missing = human(self.lowest.saturating_neg());
        let hint = if options.replace {
            "free some space"
        } else {
            "free some space, or give leave to remove the old datadir first (--replace)"
        };
        refuse(Guard::SpaceSuffices, format!("{missing} are missing on the recipient's file system: {hint}"))
    }
}

fn not_onto_itself(donor: &DonorFacts, me: &RecipientFacts) -> GuardResult {
    let guard = Guard::NotOntoItself;
    if donor.agent == me.agent {
        return refuse(guard, format!("{} is the donor: name another recipient", me.agent));
    }
    let looks_alike = donor.machine_id.is_some()
        && donor.machine_id == me.machine_id
        && donor.datadir.is_some()
        && donor.datadir == me.server.datadir;
    let recipient = &me.agent;
    match (&donor.datadir_identity, &me.datadir_identity) {
        (Some(theirs), Some(ours)) if theirs == ours => refuse(
            guard,
            format!(
                "{} and {recipient} are agents of one datadir on one machine: seed another host",
                donor.agent
            ),
        ),
        (Some(_), Some(_)) if looks_alike => warn(
            guard,
            format!(
                "{} and {recipient} are two machines with one /etc/machine-id, as clones have: give {recipient} its own (empty \
                 the file, run systemd-machine-id-setup, restart)",
                donor.agent
            ),
        ),
        (Some(_), Some(_)) => pass(guard, format!("{} → {recipient}", donor.agent)),
        // An older agent, or a datadir that is not there.
        _ if looks_alike => refuse(
            guard,
            format!(
                "{} and {recipient} have one /etc/machine-id and the same datadir path, and nothing tells them apart: if they are \
                 clones, give {recipient} its own machine-id (empty the file, run systemd-machine-id-setup, restart the agent)",
                donor.agent
            ),
        ),
        _ => pass(guard, format!("{} → {recipient}", donor.agent)),
    }
}

fn same_cluster(donor: &DonorFacts, me: &RecipientFacts, options: &SeedOptions) -> GuardResult {
    if donor.cluster == me.cluster {
        return pass(Guard::SameCluster, format!("both belong to {:?}", me.cluster));
    }
    let found = format!("the donor belongs to {:?}, the recipient to {:?}", donor.cluster, me.cluster);
    if options.allow_other_cluster {
        return warn(Guard::SameCluster, format!("{found}, as --allow-other-cluster gives leave"));
    }
    refuse(
        Guard::SameCluster,
        format!("{found}: name a donor of {:?}, or give leave with --allow-other-cluster", me.cluster),
    )
}

fn datadir_known(me: &RecipientFacts) -> GuardResult {
    match (&me.datadir_problem, &me.server.datadir) {
        (Some(problem), _) => refuse(Guard::DatadirKnown, problem.clone()),
        (None, None) => refuse(
            Guard::DatadirKnown,
            "no datadir was found: set mysql.datadir in the agent's configuration".to_owned(),
        ),
        (None, Some(datadir)) => pass(Guard::DatadirKnown, datadir.display().to_string()),
    }
}

fn no_other_seed(me: &RecipientFacts) -> GuardResult {
    match &me.other_seed {
        Some(seed) => refuse(Guard::NoOtherSeed, format!("{seed} is not finished: wait for it or abort it")),
        None => pass(Guard::NoOtherSeed, "no other seed on this agent".to_owned()),
    }
}

fn plain_allowed(donor: &DonorFacts, me: &RecipientFacts) -> GuardResult {
    let refusing = |host| {
        format!(
            "{host} does without TLS only with seed.allow_plain in its configuration: set it, or leave --plain away"
        )
    };
    match (donor.gives_plain, me.takes_plain) {
        (Some(false), _) => refuse(Guard::PlainAllowed, refusing(&donor.agent)),
        (_, false) => refuse(Guard::PlainAllowed, refusing(&me.agent)),
        _ => warn(Guard::PlainAllowed, "the data go over the network in clear".to_owned()),
    }
}

fn mysql_may_stop(me: &RecipientFacts, options: &SeedOptions) -> GuardResult {
    let starts = options.start_mysql || options.replicate_from.is_some();
    if let Some(unit) = me.unit.as_ref().filter(|unit| unit.is_masked() && starts) {
        let unit = &unit.unit;
        return refuse(
            Guard::MysqlMayStop,
            format!("{unit} is masked, so the seed could not start MySQL again: systemctl unmask {unit}"),
        );
    }
    if !me.server.state.may_be_running() {
        return pass(Guard::MysqlMayStop, format!("MySQL is stopped{}", held(me)));
    }
    if options.stop_mysql {
        return pass(Guard::MysqlMayStop, format!("MySQL will be stopped for the swap{}", held(me)));
    }
    let message = match me.server.state {
        protocol::mysql::ServerState::Unknown => {
            "whether MySQL runs could not be told, so it counts as running: give leave to stop it (--stop-mysql)"
        }
        _ => "MySQL runs: stop it, or give leave to stop it (--stop-mysql)",
    };
    refuse(Guard::MysqlMayStop, message.to_owned())
}

/// What keeps the service down while its datadir is changed, or that nothing does.
fn held(me: &RecipientFacts) -> String {
    match &me.unit {
        Some(unit) => match unit.starters() {
            Some(starters) => format!("; {} is held down meanwhile, also against {starters}", unit.unit),
            None => format!("; {} is held down meanwhile", unit.unit),
        },
        None => "; no systemd unit runs it, so nothing holds it down: a watchdog that restarts it must rest"
            .to_owned(),
    }
}

fn not_a_primary(me: &RecipientFacts, options: &SeedOptions) -> GuardResult {
    use protocol::mysql::ServerState;
    // A server that is down or does not answer serves nobody; one that answers to others but not to us may.
    let answers =
        matches!(me.server.state, ServerState::Ready | ServerState::ReadyNoAccess | ServerState::Unknown);
    let message = match (me.server.replicas, &me.in_use) {
        (Some(replicas), _) if replicas > 0 => format!("{replicas} replica(s) follow this server"),
        (_, InUse::Yes(how)) => how.clone(),
        (_, InUse::Unknown(why)) if answers => why.clone(),
        (None, _) if answers => "whether replicas follow it could not be told".to_owned(),
        (_, InUse::No(watched)) if answers => {
            let watched = watched.as_secs();
            return pass(
                Guard::NotAPrimary,
                format!("no replicas follow it, and for {watched} s no client and no write was seen"),
            );
        }
        _ => return pass(Guard::NotAPrimary, "it answers nobody".to_owned()),
    };
    if options.allow_primary {
        warn(Guard::NotAPrimary, format!("{message}; allowed by --allow-primary"))
    } else {
        refuse(
            Guard::NotAPrimary,
            format!("{message}: move its traffic away, or give leave (--allow-primary)"),
        )
    }
}

fn version_compatible(donor: &DonorFacts, me: &RecipientFacts) -> GuardResult {
    let (Some(theirs), Some(ours)) = (&donor.version, &me.server.version) else {
        return warn(Guard::VersionCompatible, "a version is unknown: compare them by hand".to_owned());
    };
    if theirs.flavor != ours.flavor {
        return refuse(
            Guard::VersionCompatible,
            format!("the donor runs {}, the recipient {}", vendor(theirs.flavor), vendor(ours.flavor)),
        );
    }
    if ours.number < theirs.number {
        return refuse(
            Guard::VersionCompatible,
            format!(
                "the recipient's {} is older than the donor's {}: upgrade it first",
                ours.text, theirs.text
            ),
        );
    }
    // Oracle's own rule: data may be one series older at the most (Upgrading MySQL, "Upgrade Paths").
    if ours.number[0] > theirs.number[0] + 1 {
        return warn(
            Guard::VersionCompatible,
            format!("{} to {}: more than one major version apart", theirs.text, ours.text),
        );
    }
    pass(Guard::VersionCompatible, format!("{} → {}", theirs.text, ours.text))
}

fn snapshot_valid(donor: &DonorFacts) -> GuardResult {
    let Some(snapshot) = &donor.snapshot else {
        return match &donor.stream {
            Some(stream) => pass(Guard::SnapshotValid, format!("no snapshot: {stream} makes the stream")),
            None => refuse(Guard::SnapshotValid, format!("{} has nothing to send", donor.agent)),
        };
    };
    if let (Some(why), true) = (&snapshot.foreign, snapshot.is_readable()) {
        return warn(
            Guard::SnapshotValid,
            format!("{} is no snapshot of the datadir of {}: {why}", snapshot.id, donor.agent),
        );
    }
    match &snapshot.validity {
        Validity::Invalid(reason) => {
            return refuse(Guard::SnapshotValid, format!("{} is invalid: {reason}", snapshot.id));
        }
        Validity::Unknown(reason) => {
            return warn(Guard::SnapshotValid, format!("{} may be invalid: {reason}", snapshot.id));
        }
        Validity::Valid => {}
    }
    match snapshot.fill_percent {
        Some(fill) if fill >= FILL_REFUSED_PERCENT => refuse(
            Guard::SnapshotValid,
            format!("{} is {fill:.0} % full and may overflow during the copy: take a new one", snapshot.id),
        ),
        Some(fill) if fill >= FILL_WARNED_PERCENT => {
            warn(Guard::SnapshotValid, format!("{} is {fill:.0} % full", snapshot.id))
        }
        _ => pass(Guard::SnapshotValid, format!("{} is valid", snapshot.id)),
    }
}

fn snapshot_proven(donor: &DonorFacts, options: &SeedOptions) -> GuardResult {
    let proof = donor.snapshot.as_ref().and_then(|snapshot| snapshot.meta.as_ref()?.proof.as_ref());
    match proof {
        None if options.require_proven && donor.stream.is_some() => refuse(
            Guard::SnapshotProven,
            "a stream cannot be verified beforehand: seed from a snapshot, or leave --require-proven away"
                .to_owned(),
        ),
        Some(proof) if proof.passed && proof.unchecked_tables > 0 && options.require_proven => refuse(
            Guard::SnapshotProven,
            format!(
                "{} tables of it were never checked: run snapshot verify with a larger --budget",
                proof.unchecked_tables
            ),
        ),
        Some(proof) if proof.passed && proof.unchecked_tables > 0 => pass(
            Guard::SnapshotProven,
            format!("proven in part at {:.0}: {}", proof.checked_at, proof.detail),
        ),
        Some(proof) if proof.passed => pass(Guard::SnapshotProven, format!("proven at {}", proof.checked_at)),
        Some(proof) => refuse(Guard::SnapshotProven, format!("its verification failed: {}", proof.detail)),
        None if options.require_proven => {
            refuse(Guard::SnapshotProven, "it was never verified: run snapshot verify first".to_owned())
        }
        None => pass(Guard::SnapshotProven, "not verified, and not demanded".to_owned()),
    }
}

fn inodes_suffice(donor: &DonorFacts, me: &RecipientFacts) -> GuardResult {
    match me.free_inodes {
        Some(free) if free < donor.files + 1024 => {
            refuse(Guard::InodesSuffice, format!("{} files need inodes, {free} are free", donor.files))
        }
        _ => pass(Guard::InodesSuffice, "inodes suffice".to_owned()),
    }
}

fn donor_healthy(donor: &DonorFacts, options: &SeedOptions) -> GuardResult {
    if donor.overloaded.is_empty() {
        return pass(Guard::DonorHealthy, format!("{} can bear a reader", donor.agent));
    }
    let problems = format!("{} is overloaded: {}", donor.agent, donor.overloaded.join(", "));
    if options.allow_busy_donor {
        return warn(Guard::DonorHealthy, format!("{problems}; allowed by --allow-busy-donor"));
    }
    refuse(
        Guard::DonorHealthy,
        format!("{problems}: wait, choose another donor, or give leave (--allow-busy-donor)"),
    )
}

fn keys_present(donor: &DonorFacts, me: &RecipientFacts) -> GuardResult {
    match (donor.encrypted_tablespaces, &me.key_source) {
        (Some(0), _) => pass(Guard::KeysPresent, "no tablespace is encrypted".to_owned()),
        (Some(count), Some(source)) => {
            pass(Guard::KeysPresent, format!("{count} encrypted tablespaces; keys come from {source}"))
        }
        (Some(count), None) => refuse(
            Guard::KeysPresent,
            format!(
                "{count} tablespaces are encrypted and {} has no key management configured: give it the donor's keys first",
                me.agent
            ),
        ),
        (None, Some(source)) => {
            pass(Guard::KeysPresent, format!("if any are needed, keys come from {source}"))
        }
        (None, None) => warn(
            Guard::KeysPresent,
            "whether tablespaces are encrypted could not be told, and the recipient has no keys".to_owned(),
        ),
    }
}

fn binlogs_available(me: &RecipientFacts) -> GuardResult {
    let guard = Guard::BinlogsAvailable;
    match &me.source {
        SourceSays::NotAsked => pass(guard, "no replication was asked for".to_owned()),
        SourceSays::Available => pass(guard, "the source has all binary logs from there on".to_owned()),
        SourceSays::Later => pass(guard, "the stream tells its position when it is done".to_owned()),
        SourceSays::Unknown(why) => warn(guard, format!("it could not be told: {why}")),
        SourceSays::Refused(why) => refuse(guard, why.clone()),
    }
}

/// How the data go, and whether they can.
fn transport(donor: &DonorFacts, me: &RecipientFacts, options: &SeedOptions) -> (Transport, GuardResult) {
    let guard = Guard::DonorReachable;
    let donor = &donor.agent;
    match (options.transport, &me.reach) {
        (Transport::Store, Reach::Reached(address)) => {
            let message =
                format!("through the object store, although {address} answers: direct TCP is faster");
            (Transport::Store, warn(guard, message))
        }
        (Transport::Store, _) => (Transport::Store, pass(guard, "through the object store".to_owned())),
        (Transport::Auto, Reach::Failed(why)) => {
            let message = format!(
                "{donor} cannot be reached ({why}): the data go through the object store of the bus, at the cost of its \
                 servers; for large data open the way for direct TCP"
            );
            (Transport::Store, warn(guard, message))
        }
        (Transport::Tcp, Reach::Failed(why)) => {
            let message = format!(
                "{donor} cannot be reached ({why}): open the way, set the donor's seed.advertise, or let the data go through \
                 the object store (--transport store)"
            );
            (Transport::Tcp, refuse(guard, message))
        }
        (_, Reach::Reached(address)) => (Transport::Tcp, pass(guard, format!("{address} answers"))),
        (_, Reach::NotTried) => (Transport::Tcp, pass(guard, "direct TCP, not tried yet".to_owned())),
    }
}

fn pass(guard: Guard, message: String) -> GuardResult {
    GuardResult { guard, verdict: Verdict::Pass, message }
}

fn warn(guard: Guard, message: String) -> GuardResult {
    GuardResult { guard, verdict: Verdict::Warn, message }
}

fn refuse(guard: Guard, message: String) -> GuardResult {
    GuardResult { guard, verdict: Verdict::Refuse, message }
}

fn vendor(flavor: Flavor) -> &'static str {
    match flavor {
        Flavor::Mysql => "MySQL",
        Flavor::Mariadb => "MariaDB",
    }
}

fn human(bytes: i64) -> String {
    human_u64(bytes.unsigned_abs())
}
