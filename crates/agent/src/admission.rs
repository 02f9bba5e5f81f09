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

/// What a kind of job claims; an unknown kind claims everything alone. `through_store`: its data go through the bucket.
#[must_use]
pub(crate) fn claims(kind: &str, through_store: bool) -> &'static [(Resource, Claim)] {
    use Claim::{Alone, Shared};
    use Resource::{Bucket, Datadir, Seed, Service, Snapshots};
    match kind {
        "seed.offer" if through_store => &[(Seed, Shared), (Bucket, Alone)],
        "seed.start" | "seed.undo" => &[(Service, Alone), (Datadir, Alone), (Seed, Alone)],
        "seed.offer" => &[(Seed, Shared)],
        "mysql.start" | "mysql.stop" | "mysql.restart" => &[(Service, Alone)],
        "mysql.start-on-snapshot" | "mysql.leave-snapshot" => &[(Service, Alone), (Datadir, Alone)],
        "datadir.clear" | "datadir.post-copy" => &[(Service, Shared), (Datadir, Alone)],
        "snapshot.create" => &[(Service, Shared), (Datadir, Shared), (Snapshots, Alone)],
        "snapshot.remove" => &[(Snapshots, Alone)],
        "binlog.apply" => &[(Service, Shared), (Datadir, Shared)],
        "snapshot.verify" | "custom.run" => &[],
        _ => &[(Service, Alone), (Datadir, Alone), (Snapshots, Alone), (Seed, Alone), (Bucket, Alone)],
    }
}

/// A job that is not finished.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    /// Its id.
    pub(crate) id: JobId,
    /// The command that made it.
    pub(crate) kind: String,
    /// Who asked for it.
    pub(crate) actor: String,
    /// Its data go through the bucket of this agent.
    pub(crate) through_store: bool,
}

/// Decides whether a job of `kind` may begin beside those that run.
pub(crate) fn admit(running: &[Running], kind: &str, through_store: bool) -> Result<(), WireError> {
    let wanted = claims(kind, through_store);
    for job in running {
        for (resource, claim) in claims(&job.kind, job.through_store) {
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

#[cfg(test)]
mod tests {
    use protocol::command::{Class, Command};

    use super::*;

    fn running(kind: &str) -> Vec<Running> {
        running_through(kind, false)
    }

    fn running_through(kind: &str, through_store: bool) -> Vec<Running> {
        vec![Running { id: JobId::generate(), kind: kind.into(), actor: "alice".into(), through_store }]
    }

    fn jobs() -> impl Iterator<Item = &'static str> {
        Command::SPECS.iter().filter(|s| s.class == Class::Job || s.name == "seed.offer").map(|s| s.name)
    }

    #[test]
    fn refusal_is_mutual_and_names_the_holder() {
        for one in jobs() {
            for other in jobs() {
                let there = admit(&running(one), other, false);
                let back = admit(&running(other), one, false);
                assert_eq!(there.is_ok(), back.is_ok(), "{one} and {other}");
                if let Err(error) = there {
                    assert!(error.message.contains(one) && error.message.contains("alice"), "{error}");
                    assert!(error.retryable);
                }
            }
        }
    }

    #[test]
    fn a_recipient_does_nothing_else_to_its_data() {
        for other in
            ["seed.start", "seed.offer", "mysql.start", "datadir.clear", "snapshot.create", "seed.undo"]
        {
            assert!(admit(&running("seed.start"), other, false).is_err(), "{other}");
        }
        assert!(admit(&running("seed.offer"), "seed.offer", false).is_ok(), "one donor, several recipients");
        assert!(admit(&running("seed.offer"), "snapshot.create", false).is_ok());
        assert!(admit(&running("seed.offer"), "mysql.restart", false).is_ok());
    }

    #[test]
    fn one_seed_at_a_time_is_given_through_the_bucket() {
        let through = running_through("seed.offer", true);
        let refused = admit(&through, "seed.offer", true).unwrap_err();
        assert!(refused.message.contains("object store") && refused.message.contains("alice"), "{refused}");
        assert!(admit(&through, "seed.offer", false).is_ok(), "over TCP any number");
        assert!(admit(&running("seed.offer"), "seed.offer", true).is_ok());
    }

    #[test]
    fn every_job_has_its_claims_written_down() {
        for kind in jobs() {
            assert_ne!(
                claims(kind, false),
                claims("no.such-kind", false),
                "{kind} falls through to the default"
            );
        }
    }
}
