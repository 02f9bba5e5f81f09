//! The instant of a snapshot, as every provider lets its caller have it.

use std::path::PathBuf;

use protocol::snapshot::SnapshotMeta;

use crate::Error;
use crate::provider::{AtInstant, CreateRequest, Observed, TakeFailed};

/// Calls the caller back once, and remembers how the taking itself went.
pub(crate) struct Instant<F> {
    take: Option<F>,
    outcome: Option<Result<(), Error>>,
}

impl<F: FnOnce() -> Result<(), Error>> Instant<F> {
    /// `take` makes the copy.
    pub(crate) fn new(take: F) -> Self {
        Self { take: Some(take), outcome: None }
    }

    /// The provider's own failure goes before the caller's, which is often only its echo.
    pub(crate) fn run(&mut self, at_instant: AtInstant<'_>) -> Result<Observed, Error> {
        let Self { take, outcome } = self;
        let observed = at_instant(&mut || match take.take() {
            Some(copy) => {
                let result = copy();
                let failed = result.is_err();
                *outcome = Some(result);
                if failed { Err(TakeFailed) } else { Ok(()) }
            }
            None => Err(TakeFailed),
        });
        match self.outcome.take() {
            Some(Err(error)) => Err(error),
            Some(Ok(())) => observed.map_err(|source| Error::Instant { source }),
            None => match observed {
                Err(source) => Err(Error::Instant { source }),
                Ok(_) => Err(Error::Instant { source: "it ended without taking the snapshot".into() }),
            },
        }
    }
}

/// The metadata of a new snapshot.
pub(crate) fn meta(request: &CreateRequest, observed: Observed, datadir: PathBuf) -> SnapshotMeta {
    SnapshotMeta {
        cluster: request.cluster.clone(),
        dc: request.dc.clone(),
        host: request.host.clone(),
        consistency: observed.consistency,
        freeze: observed.freeze,
        coordinates: observed.coordinates,
        at_least: observed.at_least.map(Box::new),
        log: observed.log,
        no_position: observed.no_position,
        server_version: observed.server_version,
        datadir,
        expires_at: request.expires_at,
        proof: None,
    }
}
