//! Plans: which donor, and what the seed would do; nothing is touched.

use futures_util::future;
use protocol::heartbeat::Heartbeat;
use protocol::ids::{AgentId, SnapshotId};
use protocol::params::{SeedPlanParams, SeedSurveyParams};
use protocol::seed::{DonorFacts, SeedOptions, SeedPlan};

use super::super::settle;
use crate::args::{DonorArgs, SeedOptionArgs};
use crate::donor::{Choice, DonorOptions, choose_donor};
use crate::error::{CtlError, Result};
use crate::lines::{Line, Planned, SeedNews};
use crate::render;
use crate::session::Session;

pub(super) async fn run(
    session: &Session,
    recipients: Vec<AgentId>,
    donor: &DonorArgs,
    options: &SeedOptionArgs,
) -> Result<()> {
    let (_, failures) = prepare(session, recipients, donor, &options.to_wire()).await?;
    settle(session, failures)
}

/// Plans for all recipients at once, shown one after the other; refused ones are among the failures.
pub(super) async fn prepare(
    session: &Session,
    mut recipients: Vec<AgentId>,
    donor: &DonorArgs,
    options: &SeedOptions,
) -> Result<(Vec<Planned>, Vec<CtlError>)> {
    let mut seen = std::collections::HashSet::new();
    recipients.retain(|recipient| seen.insert(recipient.clone()));
    let fleet = if donor.from.is_some() { Vec::new() } else { session.fleet().await? };
    let fleet = &fleet;
    // One donor for all is asked once, and all get the same snapshot, whatever appears meanwhile.
    let surveyed = match &donor.from {
        Some(from) => Some(survey(session, from, donor.snapshot.clone(), donor).await?),
        None => None,
    };
    let surveyed = surveyed.as_ref();
    let planned =
        recipients.into_iter().map(|recipient| plan_one(session, recipient, donor, options, fleet, surveyed));
    let mut plans = Vec::new();
    let mut failures = Vec::new();
    for result in future::join_all(planned).await {
        match result {
            Ok(planned) => plans.push(planned),
            Err(error) => failures.push(error),
        }
    }
    show(session, &plans);
    let mut good = Vec::new();
    for planned in plans {
        match refusal(&planned.plan) {
            None => good.push(planned),
            Some(refusal) => failures.push(refusal),
        }
    }
    Ok((good, failures))
}

async fn plan_one(
    session: &Session,
    recipient: AgentId,
    donor: &DonorArgs,
    options: &SeedOptions,
    fleet: &[Heartbeat],
    surveyed: Option<&DonorFacts>,
) -> Result<Planned> {
    let choice = match &donor.from {
        Some(_) => None,
        None => Some(choose(session, &recipient, donor, options, fleet).await?),
    };
    let (from, snapshot) = match (&donor.from, &choice) {
        (Some(from), _) => (from.clone(), donor.snapshot.clone()),
        (None, Some(choice)) => (choice.donor.clone(), Some(choice.snapshot.clone())),
        (None, None) => return Err(CtlError::Usage { what: "no donor".to_owned(), hint: None }),
    };
    let facts = match surveyed {
        Some(facts) => facts.clone(),
        None => survey(session, &from, snapshot, donor).await?,
    };
    let params = SeedPlanParams { donor: facts, options: options.clone() };
    let plan = session.call(&recipient, params).await?;
    Ok(Planned { recipient, choice, plan })
}

async fn survey(
    session: &Session,
    from: &AgentId,
    snapshot: Option<SnapshotId>,
    donor: &DonorArgs,
) -> Result<DonorFacts> {
    let params = SeedSurveyParams { snapshot, foreign: donor.foreign, stream: donor.stream.clone() };
    session.call(from, params).await
}

async fn choose(
    session: &Session,
    recipient: &AgentId,
    donor: &DonorArgs,
    options: &SeedOptions,
    fleet: &[Heartbeat],
) -> Result<Choice> {
    let Some(beat) = fleet.iter().find(|beat| beat.agent == *recipient) else {
        let gone = bus::BusError::NoAgent(recipient.clone());
        return Err(session.explain(recipient, "seed.plan", gone).await);
    };
    let demands = DonorOptions { snapshot: donor.snapshot.clone(), require_proven: options.require_proven };
    Ok(choose_donor(fleet, beat, &demands)?)
}

fn show(session: &Session, plans: &[Planned]) {
    if session.out.json() {
        for planned in plans {
            let news = SeedNews::Plan(planned);
            session.out.json_line(&Line { host: &planned.recipient, job: None, news });
        }
        return;
    }
    for planned in plans {
        if let Some(choice) = &planned.choice {
            session.out.text(&render::choice(&planned.recipient, choice));
        }
    }
    let plans: Vec<&SeedPlan> = plans.iter().map(|planned| &planned.plan).collect();
    match plans.as_slice() {
        [one] => session.out.text(&render::plan(one)),
        several => session.out.text(&render::plans(several)),
    }
}

fn refusal(plan: &SeedPlan) -> Option<CtlError> {
    let reasons: Vec<String> =
        plan.refusals().map(|guard| format!("{}: {}", render::name(guard.guard), guard.message)).collect();
    let guards = plan.refusals().map(|guard| guard.guard).collect();
    (!reasons.is_empty()).then(|| CtlError::Refused { host: plan.recipient.clone(), reasons, guards })
}
