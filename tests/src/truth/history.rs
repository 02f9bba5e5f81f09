//! What may have happened on the servers before the seed and while it ran.

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each has its title below")]
pub enum History {
    UnderWrites,
    LogsRotated,
    DonorIsReplica,
    DonorIsDelayed,
    DonorHasChannels,
    DonorCrashed,
    DonorWasStopped,
    RecipientWasPrimary,
    RecipientWasReplica,
    SourceReset,
    LogsPurged,
    GtidsOff,
    EventsOn,
    XaPrepared,
    OpenTransaction,
    Ddl,
    EqualServerIds,
    NonTransactional,
    SourceFilters,
    MixedFormat,
    LongTransaction,
    LongStatement,
    Settings,
    SourceCrashed,
    LogsWrapped,
    LogCompressed,
    NoChecksums,
    SeveralDomains,
    DonorLogsNoneOfIts,
    DonorAppliesInParallel,
    DonorWasPromoted,
    DonorIsMember,
    EqualUuids,
    Persisted,
    MemoryTable,
    TemporaryTable,
    ReplicasTemporaryTable,
    DiscardedTable,
    OddNames,
    ImpatientServers,
}

impl History {
    /// Every one.
    pub const ALL: [Self; 40] = [
        Self::UnderWrites,
        Self::LogsRotated,
        Self::DonorIsReplica,
        Self::DonorIsDelayed,
        Self::DonorHasChannels,
        Self::DonorCrashed,
        Self::DonorWasStopped,
        Self::RecipientWasPrimary,
        Self::RecipientWasReplica,
        Self::SourceReset,
        Self::LogsPurged,
        Self::GtidsOff,
        Self::EventsOn,
        Self::XaPrepared,
        Self::OpenTransaction,
        Self::Ddl,
        Self::EqualServerIds,
        Self::NonTransactional,
        Self::SourceFilters,
        Self::MixedFormat,
        Self::LongTransaction,
        Self::LongStatement,
        Self::Settings,
        Self::SourceCrashed,
        Self::LogsWrapped,
        Self::LogCompressed,
        Self::NoChecksums,
        Self::SeveralDomains,
        Self::DonorLogsNoneOfIts,
        Self::DonorAppliesInParallel,
        Self::DonorWasPromoted,
        Self::DonorIsMember,
        Self::EqualUuids,
        Self::Persisted,
        Self::MemoryTable,
        Self::TemporaryTable,
        Self::ReplicasTemporaryTable,
        Self::DiscardedTable,
        Self::OddNames,
        Self::ImpatientServers,
    ];

    /// In a cell's key.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::UnderWrites => "under-writes",
            Self::LogsRotated => "logs-rotated",
            Self::DonorIsReplica => "donor-is-replica",
            Self::DonorIsDelayed => "donor-is-delayed",
            Self::DonorHasChannels => "donor-has-channels",
            Self::DonorCrashed => "donor-crashed",
            Self::DonorWasStopped => "donor-was-stopped",
            Self::RecipientWasPrimary => "recipient-was-primary",
            Self::RecipientWasReplica => "recipient-was-replica",
            Self::SourceReset => "source-reset",
            Self::LogsPurged => "logs-purged",
            Self::GtidsOff => "gtids-off",
            Self::EventsOn => "events-on",
            Self::XaPrepared => "xa-prepared",
            Self::OpenTransaction => "open-transaction",
            Self::Ddl => "ddl",
            Self::EqualServerIds => "equal-server-ids",
            Self::NonTransactional => "non-transactional",
            Self::SourceFilters => "source-filters",
            Self::MixedFormat => "mixed-format",
            Self::LongTransaction => "long-transaction",
            Self::LongStatement => "long-statement",
            Self::Settings => "settings",
            Self::SourceCrashed => "source-crashed",
            Self::LogsWrapped => "logs-wrapped",
            Self::LogCompressed => "log-compressed",
            Self::NoChecksums => "no-checksums",
            Self::SeveralDomains => "several-domains",
            Self::DonorLogsNoneOfIts => "donor-logs-none-of-its",
            Self::DonorAppliesInParallel => "donor-applies-in-parallel",
            Self::DonorWasPromoted => "donor-was-promoted",
            Self::DonorIsMember => "donor-is-member",
            Self::EqualUuids => "equal-uuids",
            Self::Persisted => "persisted",
            Self::MemoryTable => "memory-table",
            Self::TemporaryTable => "temporary-table",
            Self::ReplicasTemporaryTable => "replicas-temporary-table",
            Self::DiscardedTable => "discarded-table",
            Self::OddNames => "odd-names",
            Self::ImpatientServers => "impatient-servers",
        }
    }

    /// For the page.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::UnderWrites => "the source is written to all the time",
            Self::LogsRotated => "the source changed its log file several times after the snapshot",
            Self::DonorIsReplica => "the donor is a replica; the new one follows its source",
            Self::DonorIsDelayed => "the donor is a replica that is delayed on purpose",
            Self::DonorHasChannels => "the donor has another channel, whose source is away",
            Self::DonorCrashed => "the donor's server was killed before the snapshot, and came back",
            Self::DonorWasStopped => "the donor's server was stopped cleanly for the snapshot",
            Self::RecipientWasPrimary => "the recipient was the primary, and wrote after the snapshot",
            Self::RecipientWasReplica => "the recipient was a replica of the same source before",
            Self::SourceReset => "the source forgot its history after the snapshot",
            Self::LogsPurged => "the source purged the logs that are needed",
            Self::GtidsOff => "GTIDs are off",
            Self::EventsOn => "events run on both hosts",
            Self::XaPrepared => "an XA transaction is prepared in the snapshot and committed later",
            Self::OpenTransaction => "a transaction is open in the snapshot and committed later",
            Self::Ddl => "tables are made, changed and dropped after the snapshot",
            Self::EqualServerIds => "donor and recipient have the same server_id",
            Self::NonTransactional => "a MyISAM table is written to",
            Self::SourceFilters => "the source leaves a schema out of its log",
            Self::MixedFormat => "the source logs statements where they are safe (MIXED)",
            Self::LongTransaction => "one transaction of 20,000 rows after the snapshot",
            Self::LongStatement => "a statement that reads for minutes runs on the donor during the snapshot",
            Self::Settings => "the donor has a time zone, a collation and a read-only state of its own",
            Self::SourceCrashed => "the source's server was killed after the snapshot, and came back",
            Self::LogsWrapped => "the number of the log grows beyond six digits",
            Self::LogCompressed => "the source's log is compressed",
            Self::NoChecksums => "the source's log has no checksums",
            Self::SeveralDomains => {
                "the source writes in several replication domains (MariaDB), with tags in its GTIDs (MySQL)"
            }
            Self::DonorLogsNoneOfIts => "the donor is a replica that does not log what it applies",
            Self::DonorAppliesInParallel => "the donor is a replica that commits out of its source's order",
            Self::DonorWasPromoted => {
                "the donor was a replica, logged nothing of its source, and writes itself now"
            }
            Self::DonorIsMember => "the donor is a member of a replication group",
            Self::Persisted => "the recipient was told by `SET PERSIST` to pass over missing rows",
            Self::EqualUuids => "the recipient was cloned with its `auto.cnf`",
            Self::MemoryTable => "a table of the engine MEMORY has rows",
            Self::TemporaryTable => {
                "statements are logged, and a session has a temporary table during the snapshot"
            }
            Self::ReplicasTemporaryTable => "the donor is a replica whose applier has a temporary table open",
            Self::DiscardedTable => "a table's tablespace was discarded",
            Self::OddNames => {
                "names that files spell otherwise, partitions, views of what is gone, triggers, foreign keys"
            }
            Self::ImpatientServers => "idle sessions and long statements are ended within a second or two",
        }
    }

    /// Whether a server can have it.
    #[must_use]
    pub fn is_possible(self, is_mysql: bool) -> bool {
        is_mysql || !matches!(self, Self::GtidsOff | Self::DonorIsMember | Self::EqualUuids | Self::Persisted)
    }

    /// The plan's words where it must refuse.
    #[must_use]
    pub fn refused(self, is_mysql: bool) -> Option<&'static str> {
        match self {
            Self::RecipientWasPrimary => Some(if is_mysql { "itself wrote" } else { "server_id" }),
            Self::SourceReset => Some("was reset since"),
            Self::DonorCrashed | Self::ReplicasTemporaryTable => Some("no recorded position"),
            Self::LogsPurged => Some("take a newer snapshot"),
            Self::EqualServerIds => Some("server_id"),
            Self::SourceFilters => Some("binlog-ignore-db"),
            Self::EqualUuids => Some("server_uuid"),
            Self::Persisted => Some("replica-exec-mode = IDEMPOTENT"),
            Self::MemoryTable => Some("MEMORY"),
            Self::TemporaryTable => Some("binlog_format"),
            _ => None,
        }
    }

    /// Lines for both option files, and more for the donor's.
    pub(super) fn lines(self, is_mysql: bool) -> (Vec<String>, Vec<String>) {
        let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
        match self {
            Self::GtidsOff => (lines(&["gtid-mode=OFF", "enforce-gtid-consistency=OFF"]), Vec::new()),
            Self::EventsOn => (lines(&["event-scheduler=ON"]), Vec::new()),
            Self::EqualServerIds => (lines(&["server-id=77"]), Vec::new()),
            Self::SourceFilters => (Vec::new(), lines(&["binlog-ignore-db=hidden"])),
            Self::MixedFormat => (Vec::new(), lines(&["binlog-format=MIXED"])),
            Self::LogCompressed if is_mysql => (Vec::new(), lines(&["binlog-transaction-compression=ON"])),
            Self::LogCompressed => {
                (Vec::new(), lines(&["log-bin-compress=ON", "log-bin-compress-min-len=10"]))
            }
            Self::NoChecksums => (lines(&["binlog-checksum=NONE"]), Vec::new()),
            Self::DonorLogsNoneOfIts | Self::DonorWasPromoted => {
                (Vec::new(), lines(&["log-slave-updates=OFF"]))
            }
            Self::DonorAppliesInParallel if is_mysql => {
                (Vec::new(), lines(&["replica-parallel-workers=4", "replica-preserve-commit-order=OFF"]))
            }
            Self::DonorAppliesInParallel => {
                (Vec::new(), lines(&["slave-parallel-threads=4", "slave-parallel-mode=optimistic"]))
            }
            Self::TemporaryTable => (Vec::new(), lines(&["binlog-format=STATEMENT"])),
            Self::DonorIsMember => (Vec::new(), lines(MEMBER)),
            Self::ImpatientServers => {
                let longest = if is_mysql { "max-execution-time=1000" } else { "max-statement-time=2" };
                (lines(&["wait-timeout=1", "interactive-timeout=1", longest]), Vec::new())
            }
            Self::Settings => (
                Vec::new(),
                lines(&[
                    "default-time-zone=+05:30",
                    "character-set-server=utf8mb4",
                    "collation-server=utf8mb4_bin",
                ]),
            ),
            _ => (Vec::new(), Vec::new()),
        }
    }

    /// Whether its source's server ends after the snapshot.
    pub(super) fn ends_source(self) -> bool {
        self == Self::SourceCrashed
    }

    /// Whether the source is a third server.
    pub(super) fn has_primary(self) -> bool {
        matches!(
            self,
            Self::DonorIsReplica
                | Self::DonorIsDelayed
                | Self::DonorLogsNoneOfIts
                | Self::DonorAppliesInParallel
                | Self::ReplicasTemporaryTable
        )
    }
}

/// A group of one.
const MEMBER: &[&str] = &[
    "plugin-load-add=group_replication.so",
    "loose-group-replication-group-name=aaaaaaaa-0000-4000-8000-000000000001",
    "loose-group-replication-start-on-boot=OFF",
];
