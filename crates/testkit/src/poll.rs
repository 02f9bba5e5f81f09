//! Waiting for something to become true, with a deadline. The one place where tests may sleep.

use std::fmt::Display;
use std::future::Future;
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_millis(20);

/// Asks `probe` until it gives a value; panics at the deadline with what was awaited.
///
/// # Panics
/// When `limit` passes without a value.
#[track_caller]
pub fn until<T>(limit: Duration, what: impl Display, mut probe: impl FnMut() -> Option<T>) -> T {
    match within(limit, &mut probe) {
        Some(value) => value,
        None => panic!("waited {limit:?} in vain for {what}"),
    }
}

/// Asks `probe` until it gives a value, or `limit` has passed.
pub fn within<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        let found = probe();
        if found.is_some() || Instant::now() >= deadline {
            return found;
        }
        std::thread::sleep(INTERVAL);
    }
}

/// As [`until`], for a condition.
///
/// # Panics
/// When `limit` passes and the condition never held.
#[track_caller]
pub fn until_true(limit: Duration, what: impl Display, mut condition: impl FnMut() -> bool) {
    until(limit, what, || condition().then_some(()));
}

/// As [`until`], for a probe that waits itself. A probe that hangs is dropped at the deadline.
///
/// # Panics
/// When `limit` passes without a value.
pub async fn until_async<T, F: Future<Output = Option<T>>>(
    limit: Duration,
    what: impl Display,
    mut probe: impl FnMut() -> F,
) -> T {
    let found = tokio::time::timeout(limit, async {
        loop {
            if let Some(value) = probe().await {
                return value;
            }
            tokio::time::sleep(INTERVAL).await;
        }
    });
    match found.await {
        Ok(value) => value,
        Err(_) => panic!("waited {limit:?} in vain for {what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_ends_the_wait() {
        let mut asked = 0;
        let value = until(Duration::from_secs(5), "three questions", || {
            asked += 1;
            (asked == 3).then_some(asked)
        });
        assert_eq!(value, 3);
    }

    #[test]
    #[should_panic(expected = "in vain for a miracle")]
    fn the_deadline_names_what_was_awaited() {
        until_true(Duration::from_millis(30), "a miracle", || false);
    }

    #[tokio::test]
    #[should_panic(expected = "in vain for an answer")]
    async fn a_hanging_probe_ends_at_the_deadline() {
        until_async(Duration::from_millis(30), "an answer", std::future::pending::<Option<()>>).await;
    }
}
