//! Replication runs, when it was asked for. The point of no return.

use std::time::Duration;

use async_trait::async_trait;
use job::{Scope, Step, StepError};
use mysql::history::{Availability, Follower, Recorded};
use mysql::replicate::{CatchUp, Credentials, Source};
use protocol::error::{ErrorCode, WireError};
use protocol::mysql::Coordinates;
use protocol::params::SeedStartParams;
use protocol::seed::{DonorFacts, ReplicationSource, SeedStage};
use serde_json::{Value, json};

use super::super::notes::{Note, Recovered, Verified};
use super::super::{SOURCE_LIMIT, follower};
use crate::host::Host;
use crate::jobs::service;

/// Replication runs, when it was asked for. The point of no return.
#[derive(Debug)]
pub(super) struct Replicate;

#[async_trait]
impl Step<Host> for Replicate {
    fn name(&self) -> &'static str {
        SeedStage::Replicate.as_str()
    }

    async fn run(&self, host: &Host, scope: &Scope) -> Result<Value, StepError> {
        let params: SeedStartParams = scope.params()?;
        // It may have died since it answered: what comes now cannot be taken back.
        if params.options.replicate_from.is_some() {
            service::start_closed(host, scope).await?;
        } else if params.options.start_mysql {
            service::start(host, scope).await?;
        }
        let Some(from) = &params.options.replicate_from else { return Ok(Value::Null) };
        let coordinates = coordinates(scope, &params)?;
        let facts = &params.offer.facts;
        let coordinates =
            coordinates.ok_or_else(|| StepError::new(ErrorCode::Refused, no_position(facts)))?;
        let source = source(host, from)?;
        let patience = Duration::from_secs(host.config.seed.replicate_patience_s);
        let report =
            |progress: mysql::Progress| scope.report(0, None, json!({ "message": progress.message }));
        // On the new data it has another uuid than the source may still know it by.
        let follower = Follower { server_uuid: None, ..follower(host, &host.instance.info().await) };
        still_available(host, &source, &coordinates, &params, &follower).await?;
        let follow = async {
            mysql::replicate::start(&host.instance, &source, &coordinates).await?;
            let goal = CatchUp { patience, ..CatchUp::default() };
            mysql::replicate::wait(&host.instance, &source, &coordinates, goal, &report).await
        };
        let following = tokio::select! {
            following = follow => following?,
            () = scope.cancelled() => return Err(StepError::stopped()),
        };
        if Note::is_closed(scope) {
            mysql::replicate::unpersist_read_only(&host.instance).await?;
        }
        Ok(json!({
            "lag_seconds": following.lag_seconds,
            "took_ms": millis(following.took),
            "source": following.source,
            "applied": following.applied,
        }))
    }

    async fn undo(&self, _host: &Host, _scope: &Scope) -> Result<(), StepError> {
        // The swap back takes the replica's settings away with the data that they lie in.
        Ok(())
    }

    fn commits(&self) -> bool {
        true
    }
}

/// What is missing, why as far as the snapshot knows, and what to do.
pub(in crate::jobs::seed) fn no_position(donor: &DonorFacts) -> String {
    let meta = donor.snapshot.as_ref().and_then(|snapshot| snapshot.meta.as_ref());
    let why = meta.and_then(|meta| meta.no_position.as_deref());
    format!(
        "the snapshot has no recorded position to replicate from ({}): take another one",
        why.unwrap_or("snapshot.lock_wait_s was 0, or the donor's agent could not log in")
    )
}

/// Where the data stand; see [`standing`].
pub(super) fn coordinates(scope: &Scope, params: &SeedStartParams) -> Result<Option<Coordinates>, StepError> {
    let recovered: Option<Recovered> = scope.output(SeedStage::Recover.as_str())?;
    standing(scope, params, || recovered?.coordinates)
}

/// Where the data stand: recorded with the snapshot, told by the stream's program with its last bytes, or told by the recovered
/// data themselves where the snapshot knows that they have everything up to its instant.
pub(super) fn standing(
    scope: &Scope,
    params: &SeedStartParams,
    recovered: impl FnOnce() -> Option<Coordinates>,
) -> Result<Option<Coordinates>, StepError> {
    if let Some(recorded) = &params.offer.facts.coordinates {
        return Ok(Some(recorded.clone()));
    }
    if params.offer.facts.at_least().is_some() {
        return Ok(recovered());
    }
    let verified: Option<Verified> = scope.output(SeedStage::Verify.as_str())?;
    Ok(verified.and_then(|verified| verified.coordinates))
}

/// The server to replicate from, with the account of this host's file: only one of those that may have it.
pub(in crate::jobs::seed) fn source(host: &Host, from: &ReplicationSource) -> Result<Source, WireError> {
    if !host.config.seed.sources.allow(&from.host, from.port) {
        let (source, port) = (&from.host, from.port);
        return Err(WireError::new(
            ErrorCode::Refused,
            format!("{source}:{port} is none of the sources that {} may follow (seed.sources)", host.id),
        ));
    }
    let file = host.config.seed.replication_credentials.clone().ok_or_else(|| {
        WireError::new(
            ErrorCode::MissingCapability,
            format!("seed.replication_credentials is not set in the configuration of {}", host.id),
        )
    })?;
    Ok(Source { host: from.host.clone(), port: from.port, credentials: Credentials::OptionFile(file) })
}

/// The plan's look at the source, once more: it may have been reset or purged during the copy.
pub(super) async fn still_available(
    host: &Host,
    source: &Source,
    from: &Coordinates,
    params: &SeedStartParams,
    follower: &Follower,
) -> Result<(), StepError> {
    match mysql::history::check_source(source, &recorded(&params.offer.facts, from), follower, SOURCE_LIMIT)
        .await
    {
        Ok(Availability::Gone(why)) => {
            Err(StepError::new(ErrorCode::Refused, format!("{} cannot follow its source: {why}", host.id)))
        }
        // A source that is away for a moment is waited for.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// These coordinates, with what the donor tells of them.
pub(in crate::jobs::seed) fn recorded<'a>(donor: &'a DonorFacts, from: &'a Coordinates) -> Recorded<'a> {
    let snapshot = donor.snapshot.as_ref();
    let meta = snapshot.and_then(|snapshot| snapshot.meta.as_ref());
    // Between a lower bound and the instant the server may have begun another log.
    let told_of =
        meta.and_then(|meta| meta.coordinates.as_ref().or(meta.at_least.as_deref())?.binlog.as_ref());
    let is_same = told_of.map(|at| &at.file) == from.binlog.as_ref().map(|at| &at.file);
    Recorded {
        from,
        log: meta.and_then(|meta| meta.log.as_ref()).filter(|_| is_same),
        at: snapshot.map(|snapshot| snapshot.created_at),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
