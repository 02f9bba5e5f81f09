//! The closed set of commands: the whole public interface. NATS, ctl and the gateway all parse into [`Command`].

use std::future::Future;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::envelope::bad_request;
use crate::error::{ErrorCode, WireError};
use crate::heartbeat::Heartbeat;
use crate::host::{AgentInfo, DiskFree, DiskUsage, Finding};
use crate::job::{JobAccepted, JobView};
use crate::mysql::ServerInfo;
use crate::params::*;
use crate::seed::{DonorFacts, Offer, SeedPlan};

/// How a command is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Reads; never waits behind a job.
    Query,
    /// Short; serialised per agent.
    Change,
    /// Long; replies at once with a job id.
    Job,
}

/// What a signer must be trusted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Look at everything that holds no data.
    Read,
    /// Run the service and its snapshots.
    Operate,
    /// Give and take whole copies of the data.
    Seed,
    /// Remove data.
    Destroy,
}

/// What is known of a command without running it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    /// `family.verb`, the last two tokens of the subject.
    pub name: &'static str,
    /// How it is run.
    pub class: Class,
    /// Who may call it.
    pub role: Role,
    /// The original's endpoints that it replaces, below `/api/`; empty when it is new.
    pub replaces: &'static str,
    /// One line for people.
    pub about: &'static str,
}

/// Ties a command's parameters to its name and result.
pub trait Call: Serialize + DeserializeOwned + JsonSchema + Send + Sync + 'static {
    /// What is known of the command.
    const SPEC: Spec;
    /// Its result.
    type Reply: Serialize + DeserializeOwned + JsonSchema + Send + 'static;
    /// The command with these parameters.
    fn into_command(self) -> Command;
}

/// Answers the command whose parameters are `P`, with its own reply and no other.
pub trait Answer<P: Call> {
    /// Runs the command.
    fn answer(&self, params: P) -> impl Future<Output = Result<P::Reply, WireError>> + Send;
}

/// The schema of a command's parameters and result.
#[derive(Debug, Clone)]
pub struct CommandSchema {
    /// The command.
    pub spec: Spec,
    /// JSON Schema of `params`.
    pub params: Value,
    /// JSON Schema of `result`.
    pub result: Value,
}

macro_rules! commands {
    ($( $(#[doc = $about:literal])+ $variant:ident = $name:literal, $class:ident, $role:ident, $params:ty => $reply:ty, replaces $replaces:literal; )+) => {
        /// One command with its parameters.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(tag = "command", content = "params")]
        pub enum Command {
            $( $(#[doc = $about])+ #[serde(rename = $name)] $variant($params), )+
        }

        $( impl Call for $params {
            const SPEC: Spec = Spec {
                name: $name, class: Class::$class, role: Role::$role, replaces: $replaces,
                about: concat!($($about),+),
            };
            type Reply = $reply;
            fn into_command(self) -> Command {
                Command::$variant(self)
            }
        } )+

        impl Command {
            /// All commands, in the order of the documentation.
            pub const SPECS: &'static [Spec] = &[$( <$params as Call>::SPEC ),+];

            /// What is known of this command.
            #[must_use]
            pub fn spec(&self) -> &'static Spec {
                match self {
                    $( Self::$variant(_) => { const SPEC: Spec = <$params as Call>::SPEC; &SPEC } )+
                }
            }

            /// A role that these parameters demand beside that of the command.
            #[must_use]
            pub fn further_role(&self) -> Option<Role> {
                match self {
                    Self::SeedStart(params) if params.options.replace => Some(Role::Destroy),
                    _ => None,
                }
            }

            /// Reads a command from its name and untrusted parameters.
            pub fn parse(name: &str, params: Value) -> Result<Self, WireError> {
                match name {
                    $( $name => serde_path_to_error::deserialize::<_, $params>(params)
                        .map(Self::$variant).map_err(bad_request), )+
                    _ => Err(WireError::new(
                        ErrorCode::UnknownCommand,
                        format!("there is no command {:?}; see docs/commands.md", shortened(name)),
                    )),
                }
            }

            /// The parameters as they travel.
            #[must_use]
            pub fn params(&self) -> Value {
                match self {
                    $( Self::$variant(params) => serde_json::to_value(params).unwrap_or(Value::Null), )+
                }
            }

            /// Has `who` answer, and writes the reply as it travels. Whoever answers at all has a reply for every command,
            /// and of the type that the table names.
            ///
            /// # Errors
            /// The answer's own, or a reply that cannot be written as JSON.
            pub async fn answered_by<A>(self, who: &A) -> Result<Value, WireError>
            where
                A: Sync + $( Answer<$params> + )+
            {
                match self {
                    $( Self::$variant(params) => written(&<A as Answer<$params>>::answer(who, params).await?), )+
                }
            }

            /// Schemas of all commands.
            #[must_use]
            pub fn schemas() -> Vec<CommandSchema> {
                vec![$( CommandSchema {
                    spec: <$params as Call>::SPEC,
                    params: schemars::schema_for!($params).into(),
                    result: schemars::schema_for!($reply).into(),
                } ),+]
            }
        }
    };
}

fn written<R: Serialize>(reply: &R) -> Result<Value, WireError> {
    serde_json::to_value(reply).map_err(|error| {
        WireError::caused(ErrorCode::Internal, "the result cannot be written as JSON", &error)
    })
}

fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}

commands! {
    /// Version, identity, capabilities found and missing with the reason.
    AgentInfo = "agent.info", Query, Read, AgentInfoParams => AgentInfo, replaces "hostname";
    /// The heartbeat, made now.
    AgentStatus = "agent.status", Query, Read, AgentStatusParams => Heartbeat, replaces "status";
    /// What a seed, a snapshot or a replica would lack on this host, each with what mends it.
    AgentDoctor = "agent.doctor", Query, Read, AgentDoctorParams => Vec<Finding>, replaces "";
    /// Jobs, newest first.
    JobsList = "jobs.list", Query, Read, JobsListParams => Vec<JobView>, replaces "";
    /// One job.
    JobsShow = "jobs.show", Query, Read, JobsShowParams => JobView, replaces "seed-command-completed/:seedId, seed-command-succeeded/:seedId";
    /// A job's journal as it lies on the host, every record chained to the one before by its hash.
    JobsRecord = "jobs.record", Query, Read, JobsRecordParams => JournalPart, replaces "";
    /// Ends a running job and takes back what it did.
    JobsAbort = "jobs.abort", Change, Seed, JobsAbortParams => JobView, replaces "abort-seed/:seedId";

    /// Bytes used below an allow-listed path.
    HostDiskUsage = "host.disk-usage", Query, Read, HostDiskUsageParams => DiskUsage, replaces "du?path=";
    /// Space of the file system of an allow-listed path.
    HostDiskFree = "host.disk-free", Query, Read, HostDiskFreeParams => DiskFree, replaces "";
    /// Logical volumes, all or by name.
    HostVolumes = "host.volumes", Query, Read, HostVolumesParams => Vec<crate::host::Volume>, replaces "lvs, lvs/:pattern, lv, lv/:lv";

    /// Snapshots of the MySQL data, newest first.
    SnapshotList = "snapshot.list", Query, Read, SnapshotListParams => Vec<crate::snapshot::Snapshot>, replaces "lvs-snapshots, available-snapshots-local, available-snapshots";
    /// Makes a snapshot of the live datadir.
    SnapshotCreate = "snapshot.create", Job, Operate, SnapshotCreateParams => JobAccepted, replaces "create-snapshot";
    /// Removes a snapshot that nobody holds.
    SnapshotRemove = "snapshot.remove", Job, Destroy, SnapshotRemoveParams => JobAccepted, replaces "removelv?lv=";
    /// Mounts a snapshot and holds it in the operator's name.
    SnapshotMount = "snapshot.mount", Change, Operate, SnapshotMountParams => crate::snapshot::SnapshotMount, replaces "mountlv?lv=";
    /// Gives up the operator's hold and unmounts when nobody else holds it.
    SnapshotUnmount = "snapshot.unmount", Change, Operate, SnapshotUnmountParams => Empty, replaces "umount";
    /// What is mounted where, and who holds it.
    SnapshotMountStatus = "snapshot.mount-status", Query, Read, SnapshotMountStatusParams => Vec<MountStatus>, replaces "mount";
    /// Starts a private server on a snapshot and checks its tables.
    SnapshotVerify = "snapshot.verify", Job, Operate, SnapshotVerifyParams => JobAccepted, replaces "";

    /// The server: state, pid, port, datadir, version, coordinates.
    MysqlInfo = "mysql.info", Query, Read, MysqlInfoParams => ServerInfo, replaces "mysql-status, mysql-port";
    /// Starts the server; done when it answers.
    MysqlStart = "mysql.start", Job, Operate, MysqlStartParams => JobAccepted, replaces "mysql-start";
    /// Stops the server cleanly.
    MysqlStop = "mysql.stop", Job, Operate, MysqlStopParams => JobAccepted, replaces "mysql-stop";
    /// Stops and starts the server.
    MysqlRestart = "mysql.restart", Job, Operate, MysqlRestartParams => JobAccepted, replaces "";
    /// Runs the host's service, or a second server on another port, on a mounted snapshot.
    MysqlStartOnSnapshot = "mysql.start-on-snapshot", Job, Operate, MysqlStartOnSnapshotParams => JobAccepted, replaces "";
    /// Ends the server on a snapshot and gives the service its own datadir back; what was written meanwhile goes.
    MysqlLeaveSnapshot = "mysql.leave-snapshot", Job, Destroy, MysqlLeaveSnapshotParams => JobAccepted, replaces "";
    /// Bytes used by the datadir.
    MysqlDiskUsage = "mysql.disk-usage", Query, Read, MysqlDiskUsageParams => DiskUsage, replaces "mysql-du";
    /// Space where the datadir lies.
    MysqlDiskFree = "mysql.disk-free", Query, Read, MysqlDiskFreeParams => DiskFree, replaces "mysql-datadir-available-space";
    /// The last lines of the error log.
    MysqlErrorLog = "mysql.error-log", Query, Read, MysqlErrorLogParams => Vec<String>, replaces "mysql-error-log-tail";

    /// Empties the datadir of a stopped server.
    DatadirClear = "datadir.clear", Job, Destroy, DatadirClearParams => JobAccepted, replaces "delete-mysql-datadir";
    /// Removes what must not be cloned and runs the configured argv.
    DatadirPostCopy = "datadir.post-copy", Job, Operate, DatadirPostCopyParams => JobAccepted, replaces "post-copy";

    /// Binary log files of the server, oldest first.
    BinlogFiles = "binlog.files", Query, Read, BinlogFilesParams => Vec<LogFile>, replaces "";
    /// Relay log files, oldest first, with the index file.
    BinlogRelayFiles = "binlog.relay-files", Query, Read, BinlogRelayFilesParams => RelayFiles, replaces "mysql-relay-log-index-file, mysql-relay-log-files";
    /// Where the last relay log ends.
    BinlogRelayEnd = "binlog.relay-end", Query, Read, BinlogRelayEndParams => crate::mysql::BinlogPosition, replaces "mysql-relay-log-end-coordinates";
    /// Events from a position as text, in bounded chunks.
    BinlogText = "binlog.text", Query, Seed, BinlogTextParams => LogChunk, replaces "mysql-binlog-contents, mysql-relaylog-contents-tail/:relaylog/:start";
    /// Events from a position as the log's own bytes, its header stitched in front, in bounded chunks.
    BinlogBinary = "binlog.binary", Query, Seed, BinlogBinaryParams => LogChunk, replaces "mysql-binlog-binary-contents";
    /// Brings a piece of a log that is too large for one request.
    BinlogUpload = "binlog.upload", Change, Seed, BinlogUploadParams => Uploaded, replaces "";
    /// Applies events to the server.
    BinlogApply = "binlog.apply", Job, Seed, BinlogApplyParams => JobAccepted, replaces "POST apply-relaylog-contents";

    /// What this donor would send, without holding anything.
    SeedSurvey = "seed.survey", Query, Read, SeedSurveyParams => DonorFacts, replaces "";
    /// Mounts and holds a snapshot and listens for one recipient.
    SeedOffer = "seed.offer", Change, Seed, SeedOfferParams => Offer, replaces "send-mysql-seed-data/:targetHost/:seedId";
    /// What a seed onto this recipient would do, with every guard; touches nothing.
    SeedPlan = "seed.plan", Query, Seed, SeedPlanParams => SeedPlan, replaces "";
    /// Seeds this recipient from an offer.
    SeedStart = "seed.start", Job, Seed, SeedStartParams => JobAccepted, replaces "receive-mysql-seed-data/:seedId";
    /// Changes the limit of a running seed, on the recipient.
    SeedThrottle = "seed.throttle", Change, Seed, SeedThrottleParams => Empty, replaces "";
    /// Gives up an offer on the donor; a seed that uses it fails.
    SeedRelease = "seed.release", Change, Seed, SeedReleaseParams => Empty, replaces "";
    /// Puts the old datadir back while it is kept.
    SeedUndo = "seed.undo", Job, Destroy, SeedUndoParams => JobAccepted, replaces "";

    /// The allow-listed commands of this host.
    CustomList = "custom.list", Query, Read, CustomListParams => Vec<CustomCommand>, replaces "";
    /// Runs an allow-listed command.
    CustomRun = "custom.run", Job, Operate, CustomRunParams => JobAccepted, replaces "custom-commands/:cmd";
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_are_subject_tokens_and_unique() {
        let mut names: Vec<_> = Command::SPECS.iter().map(|s| s.name).collect();
        for name in &names {
            let (family, verb) = name.split_once('.').unwrap();
            assert!(format!("{family}{verb}").bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{name}");
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Command::SPECS.len());
    }

    /// A list of what is allowed: a command that comes to be is no reader's until it stands here.
    #[test]
    fn who_may_only_look_copies_nothing_and_has_no_host_reach_another() {
        let read = Command::SPECS.iter().filter(|s| s.role == Role::Read).map(|s| s.name);
        let known = "agent.info agent.status agent.doctor jobs.list jobs.show jobs.record host.disk-usage host.disk-free host.volumes \
                     snapshot.list snapshot.mount-status mysql.info mysql.disk-usage mysql.disk-free mysql.error-log binlog.files \
                     binlog.relay-files binlog.relay-end seed.survey custom.list";
        assert_eq!(read.collect::<Vec<_>>().join(" "), known);
    }

    #[test]
    fn to_replace_data_takes_the_role_of_who_may_destroy_them() {
        let example: Value =
            serde_json::from_str(include_str!("../../../schemas/v1/examples/seed.start.json")).unwrap();
        let mut params = example["request"]["params"].clone();
        for (replace, role) in [(false, None), (true, Some(Role::Destroy))] {
            params["options"]["replace"] = json!(replace);
            assert_eq!(Command::parse("seed.start", params.clone()).unwrap().further_role(), role);
        }
    }

    #[test]
    fn an_unknown_command_or_field_is_a_typed_error() {
        assert_eq!(Command::parse("host.reboot", json!({})).unwrap_err().code, ErrorCode::UnknownCommand);
        let error = Command::parse("agent.info", json!({"verbose": true})).unwrap_err();
        assert_eq!(error.code, ErrorCode::BadRequest);
        let error = Command::parse("snapshot.remove", json!({"snapshot": "../etc"})).unwrap_err();
        assert!(error.message.contains("snapshot"), "{}", error.message);
    }

    #[test]
    fn params_travel_and_come_back() {
        let command = Command::parse("mysql.error-log", json!({"lines": 5})).unwrap();
        assert_eq!(Command::parse(command.spec().name, command.params()).unwrap(), command);
    }
}
