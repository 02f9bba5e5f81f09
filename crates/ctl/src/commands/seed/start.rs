//! Starts seeds: plan, offer, start, watch. From the start on the two agents need nobody.

use bus::BusError;
use futures_util::future;
use protocol::ids::{AgentId, JobId};
use protocol::params::{SeedOfferParams, SeedReleaseParams, SeedStartParams};
use protocol::seed::{Offer, SeedOptions, Transport};

use super::super::settle;
use super::plan::prepare;
use crate::args::{DonorArgs, RunArgs, SeedOptionArgs};
use crate::error::{CtlError, Result};
use crate::interrupt::Interrupt;
use crate::lines::{Line, Planned, SeedNews};
use crate::session::Session;
use crate::watch::follow;

pub(super) async fn run(
    session: &Session,
    recipients: Vec<AgentId>,
    donor: &DonorArgs,
    args: &SeedOptionArgs,
    plans: &[String],
    run: &RunArgs,
) -> Result<()> {
    let options = args.to_wire();
    let (planned, mut failures) = prepare(session, recipients, donor, &options).await?;
    let (planned, changed): (Vec<_>, Vec<_>) =
        planned.into_iter().partition(|planned| plans.is_empty() || plans.contains(&planned.plan.digest));
    failures.extend(changed.into_iter().map(|planned| CtlError::Refused {
        host: planned.recipient,
        reasons: vec![format!(
            "the plan asked for no longer holds: the one shown is {}; look at it and start that",
            planned.plan.digest
        )],
        guards: Vec::new(),
    }));
    if planned.is_empty() {
        return settle(session, failures);
    }
    let relaying = if args.no_relay { Vec::new() } else { relaying(&planned) };
    if let [first, _, ..] = relaying.as_slice() {
        session.out.note(&format!(
            "{} recipients of {}'s snapshot hand on to one another what they have: {} sends little more than one copy",
            relaying.len(),
            first.plan.donor,
            first.plan.donor
        ));
    }
    let names: Vec<&str> = planned.iter().map(|p| p.recipient.as_str()).collect();
    super::super::confirm(session, &format!("Seed {} now?", names.join(", ")))?;

    // Listening from here on: a Ctrl-C between offer and start must not leave an offer behind.
    let mut interrupt = Interrupt::listen()?;
    let begun = planned.iter().map(|planned| {
        let relay = relaying.iter().any(|other| other.recipient == planned.recipient);
        begin(session, planned, donor.foreign, SeedOptions { relay, ..options.clone() })
    });
    let mut jobs = Vec::new();
    let mut donors = Vec::new();
    for (planned, result) in planned.iter().zip(future::join_all(begun).await) {
        match result {
            Ok(job) => {
                say_begun(session, planned, job);
                jobs.push((planned.recipient.clone(), job));
                donors.push(planned.plan.donor.clone());
            }
            Err(failure) => failures.push(failure),
        }
    }
    donors.sort_unstable();
    donors.dedup();
    if !run.detach && !jobs.is_empty() {
        // Failures so far are told now, not after hours of watching.
        let several = !failures.is_empty() || jobs.len() > 1;
        if several {
            failures.iter().for_each(|failure| crate::report(&session.out, failure));
            failures = failures.iter().map(|failure| CtlError::Told(failure.exit())).collect();
        }
        if let Err(failure) = follow(session, jobs, &donors, &mut interrupt).await {
            failures.push(failure);
        }
    }
    settle(session, failures)
}

/// Those that hand on to one another: recipients of one snapshot that can, if they are several.
fn relaying(planned: &[Planned]) -> Vec<&Planned> {
    let shares = |one: &Planned, other: &Planned| {
        let (one_plan, other_plan) = (&one.plan, &other.plan);
        one.recipient != other.recipient
            && one_plan.can_relay
            && other_plan.can_relay
            && one_plan.snapshot.is_some()
            && (&one_plan.donor, &one_plan.snapshot) == (&other_plan.donor, &other_plan.snapshot)
    };
    planned.iter().filter(|one| planned.iter().any(|other| shares(one, other))).collect()
}

fn say_begun(session: &Session, planned: &Planned, job: JobId) {
    let (recipient, donor) = (&planned.recipient, &planned.plan.donor);
    let news = SeedNews::Begun { donor, snapshot: planned.plan.snapshot.as_ref() };
    let line = Line { host: recipient, job: Some(job), news };
    session.out.result(&line, |_| format!("{recipient}: seed {job} from {donor} has begun"));
}

/// Offer on the donor, start on the recipient; an offer that came to nothing is released.
async fn begin(session: &Session, planned: &Planned, foreign: bool, options: SeedOptions) -> Result<JobId> {
    let (recipient, donor) = (&planned.recipient, &planned.plan.donor);
    let (snapshot, stream) = (planned.plan.snapshot.clone(), planned.plan.stream.clone());
    let (transport, plain) = (planned.plan.transport, options.plain);
    if transport == Transport::Store {
        make_bucket(session, donor, recipient).await?;
    }
    let recipient_id = recipient.clone();
    // An older agent tells no key; the donor decides whether it makes an offer all the same.
    let seal_to = planned.plan.seal_key.clone();
    let params =
        SeedOfferParams { recipient: recipient_id, snapshot, foreign, stream, plain, transport, seal_to };
    let offer = match session.call_surely(donor, params).await {
        Ok(offer) => offer,
        Err(source) => return Err(session.explain(donor, "seed.offer", source).await),
    };
    let params =
        SeedStartParams { offer: offer.clone(), options, plan_digest: Some(planned.plan.digest.clone()) };
    match session.call_surely(recipient, params).await {
        Ok(accepted) => Ok(accepted.job),
        Err(source) => Err(give_up(session, recipient, donor, &offer, source).await),
    }
}

/// Makes the bucket that the data go through: agents of least privilege may use it and not make it.
async fn make_bucket(session: &Session, donor: &AgentId, recipient: &AgentId) -> Result<()> {
    let bus = session.client.bus();
    match bus::store::make_bucket(bus, donor, recipient, bus::store::WINDOW_BYTES).await {
        Ok(()) => Ok(()),
        Err(error @ BusError::NotPermitted { .. }) => {
            session.out.note(&format!(
                "this user may not make the bucket for {donor}'s data ({error}); {donor} tries"
            ));
            Ok(())
        }
        Err(source) => Err(CtlError::bus("cannot make the object store bucket", source)),
    }
}

async fn give_up(
    session: &Session,
    recipient: &AgentId,
    donor: &AgentId,
    offer: &Offer,
    source: BusError,
) -> CtlError {
    if matches!(source, BusError::TimedOut { .. } | BusError::Closed) {
        // It may have begun, and then it needs the offer; an unused one lapses by itself.
        let hint = format!(
            "the seed may have begun: `orchestrator-ctl seed watch {recipient}` tells; if not, the offer on {donor} lapses at {}",
            crate::units::time(offer.expires_at)
        );
        return CtlError::call(recipient, "seed.start", source, Some(hint));
    }
    if let Err(error) = session.call_surely(donor, SeedReleaseParams { offer: offer.id }).await {
        session.out.note(&format!(
            "warning: the offer {} on {donor} could not be released ({error}); it lapses at {}",
            offer.id,
            crate::units::time(offer.expires_at)
        ));
    }
    session.explain(recipient, "seed.start", source).await
}
