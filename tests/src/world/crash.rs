//! Crashes in the middle of a transfer, after which the seed goes on by itself.

use protocol::ids::JobId;
use protocol::job::JobView;

use super::World;

const MIB: u64 = 1 << 20;

/// Who crashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    /// The agent that gives.
    DonorsAgent,
    /// The agent that takes.
    RecipientsAgent,
    /// nats-server.
    Bus,
}

impl Party {
    /// Bytes that should have arrived when it crashes: of a recipient so many that some of them are proven on its disk.
    fn struck_after(self) -> u64 {
        match self {
            Self::RecipientsAgent => 40 * MIB,
            Self::DonorsAgent | Self::Bus => 10 * MIB,
        }
    }
}

impl World {
    /// Kills a party, starts it again, and waits until whoever had to come back serves.
    ///
    /// # Panics
    /// When it did not run or does not come back.
    pub async fn crash(&mut self, party: Party) {
        if party == Party::Bus {
            self.nats.kill9();
            self.nats.restart().unwrap();
            self.serving(&self.donor.id()).await;
            return self.serving(&self.recipient.id()).await;
        }
        let host = if party == Party::DonorsAgent { &mut self.donor } else { &mut self.recipient };
        host.agent.kill9().and_then(|()| host.agent.boot()).unwrap();
        let id = host.id();
        self.serving(&id).await;
    }

    /// Sees a seed that was begun slowly to its good end, with a crash in mid-transfer; the end, and all bytes that had to
    /// travel.
    ///
    /// # Panics
    /// When the seed is over before the crash, or ends otherwise.
    pub async fn succeeds_despite_a_crash(&mut self, job: JobId, party: Party) -> (JobView, u64) {
        let all = self.in_transfer(job, party.struck_after()).await;
        self.crash(party).await;
        self.hurry(job).await;
        (self.succeeded(&self.recipient, job).await, all)
    }
}

/// A figure of the transfer of a seed that succeeded.
///
/// # Panics
/// When the view does not have it.
#[must_use]
pub fn transferred(view: &JobView, what: &str) -> u64 {
    let result = view.result.as_ref().expect("a seed that succeeded has a result");
    result["transfer"][what].as_u64().unwrap_or_else(|| panic!("no {what} in {result}"))
}

/// Fails unless only those of `all` bytes travelled again that had not been proven before the crash, which are some.
///
/// # Panics
/// When it is otherwise.
pub fn assert_resumed(view: &JobView, all: u64) {
    let (moved, resumed) = (transferred(view, "bytes_moved"), transferred(view, "bytes_resumed"));
    assert!(resumed >= 5 * MIB, "{resumed} bytes were there already");
    assert_eq!(moved + resumed, all, "only what was missing travelled");
    assert!(moved > 0);
}
