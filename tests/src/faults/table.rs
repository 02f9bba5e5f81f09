//! Every fault of the suite, where it strikes, and what must come of it: the suite runs these cells, and
//! `docs/reliability.md` lists these and no others.

use protocol::job::JobState;
use protocol::seed::SeedStage;

use super::points::{DONOR_STEPS, Moment};

/// What becomes of a seed. There is nothing else that may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The recipient runs on the complete, proven new data.
    Seeded,
    /// As [`Self::Seeded`], and the server that the test killed after it had answered is down.
    SeededDown,
    /// The seed has failed by name, and the recipient is as it was before.
    Undone,
    /// The seed was aborted, and the recipient is as it was before.
    Aborted,
    /// It was refused before anything began.
    Refused,
    /// `--replace`: the seed has failed by name on complete, proven new data, since there are no others.
    NewDataKept,
    /// `--replace`: the seed has failed by name, and there are no data, as its plan had said.
    NoData,
}

impl Outcome {
    /// In the tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Seeded => "seeded",
            Self::SeededDown => "seeded, server down",
            Self::Undone => "as before",
            Self::Aborted => "aborted, as before",
            Self::Refused => "refused, as before",
            Self::NewDataKept => "new data kept",
            Self::NoData => "no data, as planned",
        }
    }

    /// The states in which the recipient's job may end.
    #[must_use]
    pub fn states(self) -> &'static [JobState] {
        match self {
            Self::Seeded | Self::SeededDown => &[JobState::Succeeded],
            Self::Aborted => &[JobState::Aborted],
            Self::Undone | Self::Refused => &[JobState::Failed],
            Self::NewDataKept | Self::NoData => &[JobState::Failed, JobState::Aborted],
        }
    }
}

/// One cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// Which fault.
    pub fault: Fault,
    /// At which stage or step.
    pub stage: &'static str,
    /// At its beginning or end, or meanwhile.
    pub moment: &'static str,
    /// What must come of it.
    pub outcome: Outcome,
}

impl Cell {
    /// A name for its record.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{:?}.{}.{}", self.fault, self.stage, self.moment).to_lowercase().replace(' ', "-")
    }
}

/// What is done to the seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each has its title below")]
pub enum Fault {
    KillRecipient,
    KillDonor,
    KillCtl,
    KillBus,
    KillServers,
    BusAway,
    Abort,
    RunTwice,
    StageFails,
    KillInUndo,
    UndoTwice,
    CutForATime,
    CutForEver,
    ClockAhead,
    ClockBack,
    DonorSteps,
    DonorGone,
    CutMidway,
    DiskFull,
    TruncatedFile,
    LostSnapshot,
    OfferLapsed,
    TwoSeeds,
    NeverReady,
    PostCopyFails,
    PostCopyHangs,
    PostCopyFloods,
    ReplaceAborted,
    ReplacePostCopyFails,
    ReplaceNeverReady,
    ReplaceKilled,
    StreamAborted,
    StreamKillDonor,
    StreamKillRecipient,
}

impl Fault {
    /// The faults that strike at every stage.
    pub const MATRIX: [Self; 15] = [
        Self::KillRecipient,
        Self::KillDonor,
        Self::KillCtl,
        Self::KillBus,
        Self::KillServers,
        Self::BusAway,
        Self::Abort,
        Self::RunTwice,
        Self::StageFails,
        Self::KillInUndo,
        Self::UndoTwice,
        Self::CutForATime,
        Self::CutForEver,
        Self::ClockAhead,
        Self::ClockBack,
    ];

    /// For people.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::KillRecipient => "kill -9 of the recipient's agent",
            Self::KillDonor => "kill -9 of the donor's agent",
            Self::KillCtl => "kill -9 of ctl",
            Self::KillBus => "kill -9 of nats-server",
            Self::KillServers => "kill -9 of both MySQL servers",
            Self::BusAway => "bus away during the stage",
            Self::Abort => "abort",
            Self::RunTwice => "the stage runs twice",
            Self::StageFails => "the stage fails at its end",
            Self::KillInUndo => "kill -9 of the recipient's agent while the stage is taken back",
            Self::UndoTwice => "the stage is taken back twice",
            Self::CutForATime => "network between the agents cut during the stage",
            Self::CutForEver => "network between the agents cut for ever",
            Self::ClockAhead => "the agents' clocks jump a day ahead",
            Self::ClockBack => "the agents' clocks jump a day back",
            Self::DonorSteps => "kill -9 of the donor's agent in its own steps",
            Self::DonorGone => "the donor's agent dies and stays away",
            Self::CutMidway => "network cut after part of the bytes, then healed",
            Self::DiskFull => "the recipient's disk fills up",
            Self::TruncatedFile => "a file of the snapshot is truncated while it is read",
            Self::LostSnapshot => "the snapshot goes away while it is read",
            Self::OfferLapsed => "the offer, and with it the token, has lapsed",
            Self::TwoSeeds => "two seeds are started on one recipient at once",
            Self::NeverReady => "MySQL never becomes ready on the new data, and does not stop",
            Self::PostCopyFails => "post-copy fails",
            Self::PostCopyHangs => "post-copy hangs, with a child in the background",
            Self::PostCopyFloods => "post-copy prints 1 GB",
            Self::ReplaceAborted => "`--replace`: abort",
            Self::ReplacePostCopyFails => "`--replace`: post-copy fails",
            Self::ReplaceNeverReady => "`--replace`: MySQL never becomes ready, and does not stop",
            Self::ReplaceKilled => "`--replace`: kill -9 of the recipient's agent",
            Self::StreamAborted => "`--stream`: abort",
            Self::StreamKillDonor => "`--stream`: kill -9 of the donor's agent",
            Self::StreamKillRecipient => "`--stream`: kill -9 of the recipient's agent",
        }
    }

    /// Its cells that are to be made happen in this run: all of them with `OA_CELLS=all`, else its share of [`some`].
    #[must_use]
    pub fn cells(self) -> Vec<Cell> {
        let whole = std::env::var("OA_CELLS").is_ok_and(|cells| cells == "all");
        let due = if whole { all() } else { some() };
        due.into_iter().filter(|cell| cell.fault == self).collect()
    }
}

/// Where some faults strike when each strikes once: where they do the most.
const TELLING: [(Fault, &str, &str); 9] = [
    (Fault::KillRecipient, "swap", "end"),
    (Fault::KillDonor, "transfer", "begin"),
    (Fault::KillServers, "replicate", "begin"),
    (Fault::KillInUndo, "swap", "begin"),
    (Fault::CutForATime, "transfer", "all of it"),
    (Fault::CutForEver, "transfer", "all of it"),
    (Fault::DonorSteps, "serve", "end"),
    (Fault::OfferLapsed, "transfer", "begin"),
    (Fault::StreamKillDonor, "transfer", "midway"),
];

/// Every fault once, [`TELLING`] or at a stage that the faults before it left out the most, so that every stage has its faults.
#[must_use]
pub fn some() -> Vec<Cell> {
    let all = all();
    let tells = |cell: &&Cell| TELLING.contains(&(cell.fault, cell.stage, cell.moment));
    let mut chosen: Vec<Cell> = all.iter().filter(tells).cloned().collect();
    for cell in &all {
        if chosen.iter().any(|other| other.fault == cell.fault) {
            continue;
        }
        let struck = |place: &Cell| {
            let at_stage = chosen.iter().filter(|other| other.stage == place.stage);
            (at_stage.clone().count(), at_stage.filter(|other| other.moment == place.moment).count())
        };
        let of_fault = all.iter().filter(|other| other.fault == cell.fault);
        chosen.extend(of_fault.min_by_key(|place| struck(place)).cloned());
    }
    chosen
}

/// Every cell of the suite.
#[must_use]
pub fn all() -> Vec<Cell> {
    let mut cells = Vec::new();
    for stage in SeedStage::ALL {
        for moment in [Moment::Begin, Moment::End] {
            let mut add = |fault, outcome| {
                cells.push(Cell { fault, stage: stage.as_str(), moment: moment.as_str(), outcome });
            };
            for fault in [Fault::KillRecipient, Fault::KillDonor, Fault::KillCtl, Fault::KillBus] {
                add(fault, Outcome::Seeded);
            }
            // The commit comes right after MySQL has answered once more.
            let committed = (stage, moment) >= (SeedStage::Replicate, Moment::End);
            add(Fault::KillServers, if committed { Outcome::SeededDown } else { Outcome::Seeded });
            let past = stage == SeedStage::Cleanup;
            add(Fault::Abort, if past { Outcome::Seeded } else { Outcome::Aborted });
            if !past {
                add(Fault::KillInUndo, Outcome::Aborted);
            }
        }
        let mut during = |fault, outcome| {
            cells.push(Cell { fault, stage: stage.as_str(), moment: "all of it", outcome });
        };
        for fault in
            [Fault::BusAway, Fault::RunTwice, Fault::CutForATime, Fault::ClockAhead, Fault::ClockBack]
        {
            during(fault, Outcome::Seeded);
        }
        let needs_donor = stage <= SeedStage::Transfer;
        during(Fault::CutForEver, if needs_donor { Outcome::Undone } else { Outcome::Seeded });
        if stage == SeedStage::Cleanup {
            during(Fault::StageFails, Outcome::Seeded);
        } else {
            during(Fault::StageFails, Outcome::Undone);
            during(Fault::UndoTwice, Outcome::Aborted);
        }
    }
    for step in DONOR_STEPS {
        for moment in [Moment::Begin, Moment::End] {
            // Before the recipient has heard of the offer there is no seed; the offer lapses.
            let unheard = step == "hold" || (step, moment) == ("serve", Moment::Begin);
            let outcome = if unheard { Outcome::Refused } else { Outcome::Seeded };
            cells.push(Cell { fault: Fault::DonorSteps, stage: step, moment: moment.as_str(), outcome });
        }
    }
    cells.extend(PLACES.map(|(fault, stage, moment, outcome)| Cell { fault, stage, moment, outcome }));
    cells
}

/// The faults that strike in one place only.
const PLACES: [(Fault, &str, &str, Outcome); 35] = [
    (Fault::DonorGone, "transfer", "begin", Outcome::Undone),
    (Fault::CutMidway, "transfer", "midway", Outcome::Seeded),
    (Fault::DiskFull, "transfer", "begin", Outcome::Undone),
    (Fault::DiskFull, "swap", "begin", Outcome::Undone),
    (Fault::DiskFull, "start", "begin", Outcome::Undone),
    (Fault::TruncatedFile, "transfer", "midway", Outcome::Undone),
    (Fault::LostSnapshot, "transfer", "midway", Outcome::Undone),
    (Fault::OfferLapsed, "plan", "begin", Outcome::Refused),
    (Fault::OfferLapsed, "transfer", "begin", Outcome::Undone),
    (Fault::TwoSeeds, "plan", "begin", Outcome::Seeded),
    (Fault::NeverReady, "start", "midway", Outcome::Undone),
    (Fault::PostCopyFails, "post-copy", "midway", Outcome::Undone),
    (Fault::PostCopyHangs, "post-copy", "midway", Outcome::Undone),
    (Fault::PostCopyFloods, "post-copy", "midway", Outcome::Seeded),
    (Fault::ReplaceAborted, "plan", "end", Outcome::Aborted),
    (Fault::ReplaceAborted, "prepare", "end", Outcome::NoData),
    (Fault::ReplaceAborted, "transfer", "end", Outcome::NoData),
    (Fault::ReplaceAborted, "verify", "end", Outcome::NoData),
    (Fault::ReplaceAborted, "swap", "begin", Outcome::NewDataKept),
    (Fault::ReplaceAborted, "swap", "end", Outcome::NewDataKept),
    (Fault::ReplaceAborted, "replicate", "end", Outcome::NewDataKept),
    (Fault::ReplacePostCopyFails, "post-copy", "midway", Outcome::NewDataKept),
    (Fault::ReplaceNeverReady, "start", "midway", Outcome::NewDataKept),
    (Fault::ReplaceKilled, "prepare", "end", Outcome::Seeded),
    (Fault::ReplaceKilled, "swap", "begin", Outcome::Seeded),
    (Fault::ReplaceKilled, "swap", "end", Outcome::Seeded),
    (Fault::ReplaceKilled, "start", "end", Outcome::Seeded),
    (Fault::StreamAborted, "transfer", "midway", Outcome::Aborted),
    (Fault::StreamAborted, "verify", "end", Outcome::Aborted),
    (Fault::StreamKillDonor, "transfer", "begin", Outcome::Seeded),
    (Fault::StreamKillDonor, "transfer", "midway", Outcome::Undone),
    (Fault::StreamKillRecipient, "transfer", "begin", Outcome::Seeded),
    (Fault::StreamKillRecipient, "transfer", "end", Outcome::Seeded),
    (Fault::StreamKillRecipient, "verify", "begin", Outcome::Undone),
    (Fault::StreamKillRecipient, "swap", "begin", Outcome::Seeded),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn there_are_over_a_hundred_cells_and_each_is_there_once() {
        let cells = all();
        let keys: BTreeSet<String> = cells.iter().map(Cell::key).collect();
        assert_eq!(keys.len(), cells.len());
        assert!(cells.len() >= 100, "{}", cells.len());
    }

    #[test]
    fn some_cells_are_every_fault_once_and_every_stage() {
        let (some, all) = (some(), all());
        let faults = |cells: &[Cell]| cells.iter().map(|cell| cell.fault).collect::<BTreeSet<_>>();
        assert_eq!(faults(&some), faults(&all));
        assert_eq!(some.len(), faults(&all).len());
        for (fault, stage, moment) in TELLING {
            let is_it = |cell: &&Cell| (cell.fault, cell.stage, cell.moment) == (fault, stage, moment);
            assert!(some.iter().any(|cell| is_it(&cell)), "{fault:?} has no such cell");
        }
        for stage in SeedStage::ALL {
            assert!(some.iter().any(|cell| cell.stage == stage.as_str()), "nothing strikes {stage:?}");
        }
    }
}
