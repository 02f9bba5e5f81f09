//! What can be wrong, and its words.

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) enum Grade {
    /// Somebody should get up.
    Bad,
    /// Worth a look in daylight.
    Weak,
}

/// What can be wrong, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) enum Kind {
    BusAway,
    BusSilent,
    Lost,
    Missing,
    Duplicate,
    MysqlDown,
    OnSnapshot,
    DiskFull,
    SnapshotFull,
    NoSnapshot,
    SeedStalled,
    SeedFailed,
    EventsLost,
    EventsWait,
    Unreadable,
    Silent,
    NoAccess,
    NoProof,
    Lag,
    Stopped,
    Unsigned,
}

impl Kind {
    /// All of them.
    pub(in super::super) const ALL: [Self; 21] = [
        Self::BusAway,
        Self::BusSilent,
        Self::Lost,
        Self::Missing,
        Self::Duplicate,
        Self::MysqlDown,
        Self::OnSnapshot,
        Self::DiskFull,
        Self::SnapshotFull,
        Self::NoSnapshot,
        Self::SeedStalled,
        Self::SeedFailed,
        Self::EventsLost,
        Self::EventsWait,
        Self::Unreadable,
        Self::Silent,
        Self::NoAccess,
        Self::NoProof,
        Self::Lag,
        Self::Stopped,
        Self::Unsigned,
    ];

    /// As it stands in a URL.
    pub(in super::super) fn as_str(self) -> &'static str {
        match self {
            Self::BusAway => "bus-away",
            Self::BusSilent => "bus-silent",
            Self::Lost => "lost",
            Self::Missing => "missing",
            Self::Duplicate => "duplicate",
            Self::MysqlDown => "mysql-down",
            Self::OnSnapshot => "on-snapshot",
            Self::DiskFull => "disk-full",
            Self::SnapshotFull => "snapshot-full",
            Self::NoSnapshot => "no-snapshot",
            Self::SeedStalled => "seed-stalled",
            Self::SeedFailed => "seed-failed",
            Self::EventsLost => "events-lost",
            Self::EventsWait => "events-wait",
            Self::Unreadable => "events-unreadable",
            Self::Silent => "silent",
            Self::NoAccess => "no-access",
            Self::NoProof => "no-proof",
            Self::Lag => "lag",
            Self::Stopped => "stopped",
            Self::Unsigned => "unsigned",
        }
    }

    /// In words.
    pub(in super::super) fn title(self) -> &'static str {
        match self {
            Self::BusAway => "No connection to the bus",
            Self::BusSilent => "The bus is silent",
            Self::Lost => "Host lost",
            Self::Missing => "Host missing",
            Self::Duplicate => "Two processes in one name",
            Self::MysqlDown => "MySQL is down",
            Self::OnSnapshot => "MySQL runs on a snapshot",
            Self::DiskFull => "Datadir nearly full",
            Self::SnapshotFull => "Snapshot nearly full",
            Self::NoSnapshot => "No usable snapshot for a day",
            Self::SeedStalled => "Seed stalled",
            Self::SeedFailed => "Seed failed",
            Self::EventsLost => "Events were lost",
            Self::EventsWait => "Events wait on the host",
            Self::Unreadable => "Events cannot be read",
            Self::Silent => "Host silent",
            Self::NoAccess => "No access to MySQL",
            Self::NoProof => "No proof for a day",
            Self::Lag => "Replica far behind",
            Self::Stopped => "Agent stopped",
            Self::Unsigned => "Unsigned commands are taken",
        }
    }

    /// What it means, and what is behind it most often.
    pub(in super::super) fn meaning(self) -> &'static str {
        match self {
            Self::BusAway => {
                "Nothing below is known to be true any more; hosts and seeds go on without the bus."
            }
            Self::BusSilent => {
                "Every host is overdue at once: the bus, or this machine's way to it, is at fault and not the hosts."
            }
            Self::Lost => "The host is down, cut off from the bus, or its agent does not run.",
            Self::Missing => {
                "The stream of events knows it, and nothing is heard of it: it is down, cut off, or was taken away."
            }
            Self::Duplicate => "Most often a cloned machine or a copied agent.id: commands may reach either.",
            Self::MysqlDown => {
                "The agent is there, its server does not answer, and no seed is at work on the host."
            }
            Self::OnSnapshot => {
                "What is written there goes with the snapshot; the host's own data wait beside it."
            }
            Self::DiskFull => "MySQL stops writing when it is gone. Old snapshots are the first that can go.",
            Self::SnapshotFull => {
                "When the store overflows the snapshot is lost; with a thin pool the datadir is in danger."
            }
            Self::NoSnapshot => "No host of the cluster has a young snapshot that a seed could begin from.",
            Self::SeedStalled => {
                "Nothing has moved for a minute: donor, network or disk is at fault. It fails by itself at its limit."
            }
            Self::SeedFailed => "The old data are in place, unless it was begun with --replace.",
            Self::EventsLost => {
                "An agent's spool was full while the stream could not be written: the audit log has a hole."
            }
            Self::EventsWait => {
                "The agent has a connection, and no stream takes what it tells: it is missing, full, or without quorum."
            }
            Self::Unreadable => {
                "The stream is missing, has no leader, or this gateway may not read it: history stands still."
            }
            Self::Silent => "It has missed three heartbeats; a minute of silence makes it lost.",
            Self::NoAccess => "It runs, but not for these credentials: lag and coordinates are out of reach.",
            Self::NoProof => {
                "Whether its snapshots can be seeded from is not known: no server came up on a young one."
            }
            Self::Lag => {
                "It cannot keep up, or a long transaction holds it. One that will not catch up is seeded anew."
            }
            Self::Stopped => "It said goodbye: an upgrade, a reboot or a person.",
            Self::Unsigned => "Whoever may publish on the bus can stop and seed these hosts.",
        }
    }

    /// How bad it is.
    pub(in super::super) fn grade(self) -> Grade {
        if self <= Self::EventsLost { Grade::Bad } else { Grade::Weak }
    }
}
