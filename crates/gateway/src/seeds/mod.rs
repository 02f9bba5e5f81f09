//! Seeds that orchestrator drives: which number of its stands for which job of which agents.
//!
//! The mapping is kept on disk, a file per seed, written before each act. A journal of an agent knows no number of orchestrator's, so
//! nothing else could tell after a restart which seed a question is about; and what was under way when the gateway died is found by
//! the ids of its requests, which stand in the file before they are sent and in `jobs.list` once an agent has heard them. Thus a
//! restart at any moment neither loses a seed nor begins one twice.

mod begin;
mod follow;
mod record;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use protocol::ids::AgentId;
use tokio::sync::watch;

use crate::failure::Failure;

pub(crate) use begin::{Beginning, begin};
pub(crate) use follow::{abort, adopt, resume};
pub(crate) use record::{Outcome, Record};

/// Seeds that ended are remembered for so long: orchestrator asks again only for a few minutes.
const KEEP: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Orchestrator sends two seconds after it lets receive.
const SEND_WITHIN: SignedDuration = SignedDuration::from_mins(5);

/// One seed, as it stands.
#[derive(Debug)]
pub(crate) struct Seed {
    path: PathBuf,
    record: watch::Sender<Record>,
    /// Held while it is begun or aborted.
    work: tokio::sync::Mutex<()>,
}

impl Seed {
    /// What is known of it now.
    pub(crate) fn now(&self) -> Record {
        self.record.borrow().clone()
    }

    /// Changes what is known of it, on disk first.
    async fn change(&self, change: impl FnOnce(&mut Record)) -> Result<(), Failure> {
        let mut record = self.now();
        change(&mut record);
        write(&self.path, &record).await?;
        self.record.send_replace(record);
        Ok(())
    }

    /// Ends it, unless it has ended.
    async fn end(&self, outcome: Outcome) {
        if self.now().outcome.is_some() {
            return;
        }
        tracing::info!(seed = %self.now(), succeeded = outcome.succeeded, why = outcome.why, "a seed has ended");
        let ended = self.change(|record| record.outcome = Some(outcome.clone())).await;
        if let Err(error) = ended {
            tracing::error!(seed = %self.now(), %error, "the end of a seed could not be kept");
            self.record.send_modify(|record| record.outcome = Some(outcome));
        }
    }

    /// How it ended, waiting for it so long.
    pub(crate) async fn outcome(&self, within: Duration) -> Option<Outcome> {
        let mut record = self.record.subscribe();
        let ended = tokio::time::timeout(within, record.wait_for(|record| record.outcome.is_some())).await;
        ended.ok()?.ok()?.outcome.clone()
    }
}

/// All seeds.
#[derive(Debug)]
pub(crate) struct Seeds {
    dir: PathBuf,
    seeds: Mutex<BTreeMap<(AgentId, u64), Arc<Seed>>>,
}

impl Seeds {
    /// Reads what was under way, and forgets what ended long ago.
    pub(crate) fn open(state_dir: &Path) -> io::Result<Self> {
        let dir = state_dir.join("seeds");
        match sys::file::create_dir(&dir, 0o700) {
            Err(error) if error.source.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
            _ => {}
        }
        let seeds = Self { dir, seeds: Mutex::default() };
        for entry in std::fs::read_dir(&seeds.dir)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match std::fs::read(&path).and_then(|text| Ok(serde_json::from_slice::<Record>(&text)?)) {
                Ok(record) if record.is_older_than(KEEP) => sys::file::remove_file(&path)?,
                Ok(record) => _ = seeds.insert(record),
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "what is kept of a seed cannot be read and is left alone");
                }
            }
        }
        Ok(seeds)
    }

    fn insert(&self, record: Record) -> Arc<Seed> {
        let key = (record.recipient.clone(), record.seed);
        let path = self.dir.join(format!("{}@{}.json", record.seed, record.recipient));
        let seed =
            Arc::new(Seed { path, record: watch::Sender::new(record), work: tokio::sync::Mutex::default() });
        self.seeds.lock().insert(key, seed.clone());
        seed
    }

    /// All that have not ended.
    pub(crate) fn unfinished(&self) -> Vec<Arc<Seed>> {
        self.seeds.lock().values().filter(|seed| !seed.record.borrow().is_over()).cloned().collect()
    }

    /// The seed of that number in which `host` takes or gives.
    pub(crate) fn of(&self, host: &AgentId, number: u64) -> Option<Arc<Seed>> {
        let seeds = self.seeds.lock();
        if let Some(seed) = seeds.get(&(host.clone(), number)) {
            return Some(seed.clone());
        }
        let gives = |seed: &&Arc<Seed>| seed.record.borrow().donor() == Some(host);
        seeds.values().filter(|seed| seed.record.borrow().seed == number).find(gives).cloned()
    }

    /// The seed onto a host that has not ended.
    pub(crate) fn under_way_onto(&self, host: &AgentId) -> Option<Arc<Seed>> {
        self.newest(|record| record.recipient == *host && record.outcome.is_none())
    }

    /// The seed that ended last on a host, well and lately.
    pub(crate) fn done_onto(&self, host: &AgentId, within: SignedDuration) -> Option<Arc<Seed>> {
        let last = self.newest(|record| record.recipient == *host && record.job.is_some())?;
        let record = last.now();
        (record.outcome.as_ref().is_some_and(|outcome| outcome.succeeded) && !record.is_older_than(within))
            .then_some(last)
    }

    fn newest(&self, wanted: impl Fn(&Record) -> bool) -> Option<Arc<Seed>> {
        let seeds = self.seeds.lock();
        let wanted = seeds.values().filter(|seed| wanted(&seed.record.borrow()));
        wanted.max_by_key(|seed| seed.record.borrow().received_at).cloned()
    }

    /// Takes a seed in: `receive` came for it. A repetition changes nothing.
    pub(crate) async fn receive(&self, host: &AgentId, number: u64) -> Result<Arc<Seed>, Failure> {
        if let Some(seed) = self.seeds.lock().get(&(host.clone(), number)).cloned()
            && seed.now().outcome.is_none()
        {
            return Ok(seed);
        }
        if let Some(other) = self.under_way_onto(host)
            && other.now().given.is_none()
            && other.now().received_at.duration_until(Timestamp::now()) > SEND_WITHIN
        {
            other.end(Outcome::failed("orchestrator never had it sent")).await;
        }
        let busy = self.under_way_onto(host);
        let mut record = Record::new(number, host.clone());
        if let Some(busy) = &busy {
            record.outcome =
                Some(Outcome::failed(format!("{host} is being seeded already ({})", busy.now())));
        }
        let seed = self.insert(record.clone());
        write(&seed.path, &record).await?;
        self.forget_old();
        match record.outcome {
            Some(outcome) => Err(Failure::new(outcome.why)),
            None => Ok(seed),
        }
    }

    fn forget_old(&self) {
        self.seeds.lock().retain(|_, seed| {
            let old = seed.record.borrow().is_older_than(KEEP);
            if old && let Err(error) = sys::file::remove_file(&seed.path) {
                tracing::warn!(%error, "what is kept of an old seed cannot be removed");
            }
            !old
        });
    }
}

async fn write(path: &Path, record: &Record) -> Result<(), Failure> {
    let failed = |why: String| Failure::new(format!("seed {record} cannot be kept: {why}"));
    let text = serde_json::to_vec_pretty(record).map_err(|error| failed(error.to_string()))?;
    let path = path.to_owned();
    let written = tokio::task::spawn_blocking(move || sys::file::write(&path, &text, 0o600)).await;
    match written {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(failed(sys::error::line(&error))),
        Err(error) => Err(failed(error.to_string())),
    }
}

#[cfg(test)]
#[path = "seeds_tests.rs"]
mod tests;
