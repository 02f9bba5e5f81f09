//! Answers of agents, kept for a moment: orchestrator asks nine things of a host in a row and from several nodes at once, which must
//! not become as many questions on the bus. Whoever asks what is being asked already waits for that answer.

use std::any::Any;
use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use protocol::ids::AgentId;

use crate::failure::Failure;

/// Slots that may be there; beyond it the idle ones go.
const MAX_SLOTS: usize = 16_384;

type Kept = Result<Arc<dyn Any + Send + Sync>, Arc<Failure>>;

/// One question to one host: who asks it first holds the lock until the answer is there.
type Slot = Arc<tokio::sync::Mutex<Option<(Instant, Kept)>>>;

/// The answers of all hosts.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    slots: Mutex<HashMap<AgentId, HashMap<String, Slot>>>,
}

impl Cache {
    /// The answer to `question`, kept for `ttl`, else the one that `ask` gets. Failures are kept as well: a host that is away would
    /// be waited for by each in turn.
    pub(crate) async fn get<T, F>(
        &self,
        host: &AgentId,
        question: String,
        ttl: Duration,
        ask: F,
    ) -> Result<Arc<T>, Failure>
    where
        T: Send + Sync + 'static,
        F: Future<Output = Result<T, Failure>>,
    {
        let slot = self.slot(host, question);
        let mut held = slot.lock().await;
        if let Some((at, kept)) = &*held
            && at.elapsed() < ttl
        {
            return read(kept);
        }
        let kept: Kept = match ask.await {
            Ok(answer) => Ok(Arc::new(answer)),
            Err(failure) => Err(Arc::new(failure)),
        };
        let answer = read(&kept);
        *held = Some((Instant::now(), kept));
        answer
    }

    /// Drops what is known of a host: something was done to it, or it has left.
    pub(crate) fn forget(&self, host: &AgentId) {
        self.slots.lock().remove(host);
    }

    fn slot(&self, host: &AgentId, question: String) -> Slot {
        let mut slots = self.slots.lock();
        if slots.values().map(HashMap::len).sum::<usize>() >= MAX_SLOTS {
            for questions in slots.values_mut() {
                questions.retain(|_, slot| Arc::strong_count(slot) > 1);
            }
            slots.retain(|_, questions| !questions.is_empty());
        }
        slots.entry(host.clone()).or_default().entry(question).or_default().clone()
    }
}

fn read<T: Send + Sync + 'static>(kept: &Kept) -> Result<Arc<T>, Failure> {
    match kept {
        Ok(answer) => answer
            .clone()
            .downcast()
            .map_err(|_| Failure::new("an answer of another kind is kept under this question")),
        Err(failure) => Err(failure.clone().into()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn many_who_ask_the_same_cost_one_question() {
        let cache = Arc::new(Cache::default());
        let host: AgentId = "db1".parse().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let question = |ttl| {
            let (cache, host, asked) = (cache.clone(), host.clone(), asked.clone());
            async move {
                cache
                    .get(&host, "mysql.info".to_owned(), ttl, async {
                        tokio::task::yield_now().await;
                        Ok(asked.fetch_add(1, Ordering::Relaxed))
                    })
                    .await
            }
        };
        let answers = futures_util::future::join_all((0..50).map(|_| question(LONG))).await;
        assert!(answers.iter().all(|answer| **answer.as_ref().unwrap() == 0));
        cache.forget(&host);
        assert_eq!(*question(LONG).await.unwrap(), 1, "what was forgotten is asked again");
        assert_eq!(*question(Duration::ZERO).await.unwrap(), 2, "what is old is asked again");
    }

    #[tokio::test]
    async fn a_failure_is_kept_and_one_who_gives_up_holds_nobody_up() {
        let cache = Cache::default();
        let host: AgentId = "db1".parse().unwrap();
        let forever = cache.get::<u8, _>(&host, "q".to_owned(), LONG, std::future::pending());
        assert!(tokio::time::timeout(Duration::from_millis(1), forever).await.is_err());
        let failed =
            cache.get::<u8, _>(&host, "q".to_owned(), LONG, async { Err(Failure::new("away")) }).await;
        assert_eq!(failed.unwrap_err().to_string(), "away");
        let again = cache.get::<u8, _>(&host, "q".to_owned(), LONG, async { Ok(1) }).await;
        assert!(again.is_err());
    }
}
