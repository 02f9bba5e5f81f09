//! `send`: from here on the two agents need nobody. Survey, plan, offer and start as a person's tool does it.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bus::{BusError, CallOptions, Client};
use protocol::command::Call;
use protocol::ids::{AgentId, SnapshotId};
use protocol::params::{
    SeedOfferParams, SeedPlanParams, SeedReleaseParams, SeedStartParams, SeedSurveyParams,
};
use protocol::seed::{Offer, SeedOptions, SeedPlan, Transport};

use super::record::{Given, Outcome};
use super::{Seed, follow};
use crate::ask::Ask;
use crate::failure::Failure;

/// A donor counts its files for a survey, and mounts for an offer.
const CALL_LIMIT: Duration = Duration::from_secs(40);

/// What a seed is begun with.
#[derive(Debug, Clone)]
pub(crate) struct Beginning {
    /// Asks agents.
    pub(crate) ask: Ask,
    /// Gives orders in the name of whoever asked for it.
    pub(crate) client: Client,
    /// What is allowed.
    pub(crate) options: SeedOptions,
}

/// Begins a seed; one that cannot be begun has ended. A repetition tells what became of the first.
pub(crate) async fn begin(
    with: &Beginning,
    seed: &Arc<Seed>,
    donor: AgentId,
    snapshot: Result<SnapshotId, Failure>,
) -> Result<(), Failure> {
    let _work = seed.work.lock().await;
    let record = seed.now();
    if let Some(outcome) = &record.outcome {
        return Err(Failure::new(format!("seed {record} has ended: {}", outcome.why)));
    }
    match record.donor() {
        Some(other) if *other != donor => {
            return Err(Failure::new(format!("seed {record} is from another donor than {donor}")));
        }
        Some(_) => return Ok(()),
        None => {}
    }
    let begun = match snapshot {
        Ok(snapshot) => try_begin(with, seed, donor, snapshot).await,
        Err(failure) => Err(failure),
    };
    if let Err(failure) = &begun {
        seed.end(Outcome::failed(failure.to_string())).await;
    } else {
        follow::spawn(with.ask.client().clone(), seed.clone());
    }
    begun
}

async fn try_begin(
    with: &Beginning,
    seed: &Seed,
    donor: AgentId,
    snapshot: SnapshotId,
) -> Result<(), Failure> {
    let recipient = seed.now().recipient;
    if recipient == donor {
        return Err(Failure::new(format!("{donor} cannot be seeded from itself")));
    }
    let survey = SeedSurveyParams { snapshot: Some(snapshot.clone()), foreign: false, stream: None };
    let facts = call(with, &donor, survey, CallOptions::default()).await?;
    let plan = SeedPlanParams { donor: facts, options: with.options.clone() };
    let plan = call(with, &recipient, plan, CallOptions::default()).await?;
    refusals(&plan)?;
    if plan.transport == Transport::Store {
        make_bucket(with, &donor, &recipient).await?;
    }
    let given = Given { snapshot: Some(snapshot.clone()), ..Given::new(donor.clone()) };
    seed.change(|record| record.given = Some(given.clone())).await?;
    let offer = offer(with, &given, &plan, snapshot).await?;
    seed.change(|record| {
        if let Some(given) = &mut record.given {
            given.offer = Some(offer.id);
        }
    })
    .await?;
    let id = offer.id;
    let start = SeedStartParams { offer, options: with.options.clone(), plan_digest: Some(plan.digest) };
    let options = CallOptions { request_id: Some(given.start_request), ..CallOptions::default() };
    match with.client.call_surely(&recipient, start, &options).await {
        Ok(accepted) => seed.change(|record| record.job = Some(accepted.job)).await,
        // It may have been heard, and then it needs the offer: who follows the seed finds out.
        Err(BusError::TimedOut { .. } | BusError::Closed) => Ok(()),
        Err(error) => {
            let release = SeedReleaseParams { offer: id };
            if let Err(error) = call(with, &donor, release, CallOptions::default()).await {
                tracing::warn!(seed = %seed.now(), %error, "an offer could not be released; it lapses by itself");
            }
            Err(Failure::command(&recipient, SeedStartParams::SPEC.name, &error))
        }
    }
}

async fn offer(
    with: &Beginning,
    given: &Given,
    plan: &SeedPlan,
    snapshot: SnapshotId,
) -> Result<Offer, Failure> {
    let params = SeedOfferParams {
        recipient: plan.recipient.clone(),
        snapshot: Some(snapshot),
        foreign: false,
        stream: None,
        plain: false,
        transport: plan.transport,
        // An older agent tells no key; the donor decides whether it makes an offer all the same.
        seal_to: plan.seal_key.clone(),
    };
    let options = CallOptions { request_id: Some(given.offer_request), ..CallOptions::default() };
    call(with, &given.donor, params, options).await
}

async fn call<C: Call + Clone>(
    with: &Beginning,
    host: &AgentId,
    params: C,
    options: CallOptions,
) -> Result<C::Reply, Failure> {
    let options = CallOptions { timeout: CALL_LIMIT, ..options };
    let answer = with.client.call_surely(host, params, &options).await;
    answer.map_err(|error| Failure::command(host, C::SPEC.name, &error))
}

/// Makes the bucket that the data go through: agents of least privilege may use it and not make it.
async fn make_bucket(with: &Beginning, donor: &AgentId, recipient: &AgentId) -> Result<(), Failure> {
    let bus = with.client.bus();
    match bus::store::make_bucket(bus, donor, recipient, bus::store::WINDOW_BYTES).await {
        // The donor may be allowed to.
        Ok(()) | Err(BusError::NotPermitted { .. }) => Ok(()),
        Err(error) => Err(Failure::new(format!(
            "the object store bucket for {donor} cannot be made: {}",
            sys::error::line(&error)
        ))),
    }
}

fn refusals(plan: &SeedPlan) -> Result<(), Failure> {
    let mut reasons = String::new();
    for guard in plan.refusals() {
        let _ = write!(reasons, "; {}", guard.message);
    }
    match reasons.strip_prefix("; ") {
        None => Ok(()),
        Some(reasons) => Err(Failure::new(format!("{} cannot be seeded: {reasons}", plan.recipient))),
    }
}
