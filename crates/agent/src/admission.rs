//! Which jobs may run beside which: a pure decision from what runs now and what is asked.
//!
//! Every kind of job claims resources of the host, shared or alone. Two jobs run at once unless one of them claims
//! alone what the other claims at all. Mounted snapshots are not a resource here: leases hold them.

use protocol::error::{ErrorCode, WireError};
use protocol::ids::JobId;

/// What a job can claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resource {
    /// The MySQL service: whether it runs.
    Service,
    /// The content of the live datadir.
    Datadir,
    /// The set of snapshots.
    Snapshots,
    /// The role in seeds: one recipient, or any number of donors.
    Seed,
    /// The object store bucket in which this agent gives data: those of two seeds would mix.
    Bucket,
}

/// How it is claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    /// Others may claim it shared too.
    Shared,
    /// Nobody else.
    Alone,
}

/// What one job claims.
pub(crate) type Claims = &'static [(Resource, Claim)];

/// What a job of an unknown kind claims.
pub(crate) const EVERYTHING: Claims = {
    use Claim::Alone;
    use Resource::{Bucket, Datadir, Seed, Service, Snapshots};
    &[(Service, Alone), (Datadir, Alone), (Snapshots, Alone), (Seed, Alone), (Bucket, Alone)]
};

/// A job that is not finished.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    /// Its id.
    pub(crate) id: JobId,
    /// The command that made it.
    pub(crate) kind: String,
    /// Who asked for it.
    pub(crate) actor: String,
    /// What it claims.
    pub(crate) claims: Claims,
}

/// Decides whether a job of `kind` that claims `wanted` may begin beside those that run.
pub(crate) fn admit(running: &[Running], kind: &str, wanted: Claims) -> Result<(), WireError> {
    for job in running {
        for (resource, claim) in job.claims {
            let clash = wanted.iter().any(|(other, other_claim)| {
                other == resource && (*claim == Claim::Alone || *other_claim == Claim::Alone)
            });
            if clash {
                return Err(busy(job, *resource, kind));
            }
        }
    }
    Ok(())
}

fn busy(holder: &Running, resource: Resource, kind: &str) -> WireError {
    let what = match resource {
        Resource::Service => "the MySQL service",
        Resource::Datadir => "the datadir",
        Resource::Snapshots => "the set of snapshots",
        Resource::Seed => "this agent's part in seeds",
        Resource::Bucket => "this agent's object store bucket",
    };
    WireError::new(
        ErrorCode::Busy,
        format!(
            "{kind} needs {what}, which {} {} (asked by {}) holds; wait for it or abort it",
            holder.kind, holder.id, holder.actor
        ),
    )
    .retryable()
}
