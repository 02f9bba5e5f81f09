//! Accounts and users by signed tokens.

use std::path::PathBuf;

use clap::Args;
use protocol::ids::AgentId;
use sys::units;

/// Where an operator's keys go.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The directory that is made for its keys and tokens; keep it where no database host can read it
    pub keys: PathBuf,
    /// Where each server keeps the accounts that it was told; its own user must be able to write there
    #[arg(long, default_value = "/var/lib/nats/jwt", value_name = "DIR")]
    pub store: PathBuf,
    /// For nats-server 2.9: each user's rights stand in its own file, and one key, users.nk, makes users of every role
    #[arg(long)]
    pub explicit: bool,
}

/// Who gets a credentials file.
#[derive(Debug, Args)]
#[group(skip)]
pub struct UserArgs {
    /// The directory that `bus init` made, or the part of it that makes users of one role: ROLE.nk (or users.nk), account.jwt, operator.jwt
    #[arg(long, env = "ORCH_BUS_KEYS", value_name = "DIR")]
    pub keys: PathBuf,
    /// A host; repeat it
    #[arg(long = "agent", value_name = "HOST")]
    pub agents: Vec<AgentId>,
    /// Someone who runs the fleet; repeat it
    #[arg(long = "controller", value_name = "NAME")]
    pub controllers: Vec<String>,
    /// Someone who only reads events and heartbeats; repeat it
    #[arg(long = "auditor", value_name = "NAME")]
    pub auditors: Vec<String>,
    /// How long the file lets its user in [default: until it is revoked]
    #[arg(long, value_name = "TIME", value_parser = units::parse_seconds)]
    pub valid: Option<u64>,
    /// The directory that each NAME.creds is made in, mode 0600
    #[arg(long, default_value = ".", value_name = "DIR")]
    pub into: PathBuf,
}

/// Who is no longer let in.
#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// The directory that `bus init` made
    #[arg(long, env = "ORCH_BUS_KEYS", value_name = "DIR")]
    pub keys: PathBuf,
    /// Hosts, people, or public keys (U…): all files that were made for a name
    #[arg(required = true, value_name = "NAME")]
    pub users: Vec<String>,
    /// Only write it down; `bus push` tells the servers
    #[arg(long)]
    pub offline: bool,
}

/// What the servers are told.
#[derive(Debug, Args)]
pub struct PushArgs {
    /// The directory that `bus init` made
    #[arg(long, env = "ORCH_BUS_KEYS", value_name = "DIR")]
    pub keys: PathBuf,
}
