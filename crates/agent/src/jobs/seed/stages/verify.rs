//! What arrived is a datadir, belongs to the right user and holds nothing that must not be cloned.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use job::{Scope, Step, StepError};
use mysql::datadir::{self, ClonePolicy, LogNames};
use protocol::error::{ErrorCode, WireError};
use protocol::params::SeedStartParams;
use protocol::seed::SeedStage;
use serde_json::Value;

use super::super::notes::Verified;
use super::super::{Target, stream};
use crate::errors::system;
use crate::host::{Host, blocking};
use crate::jobs::offer::clone_policy;
use crate::jobs::output;

/// What arrived is a datadir, belongs to the right user and holds nothing that must not be cloned.
#[derive(Debug)]
pub(super) struct Verify;

#[async_trait]
impl Step<Host> for Verify {
    fn name(&self) -> &'static str {
        SeedStage::Verify.as_str()
    }

    async fn run(&self, host: &Host, scope: &Scope) -> Result<Value, StepError> {
        let params: SeedStartParams = scope.params()?;
        let target = Target::of(scope)?;
        let layout = target.layout(scope.job_id())?;
        let coordinates = match &params.offer.facts.stream {
            Some(name) if !layout.is_swapped().unwrap_or(false) => {
                stream::prepare(host, scope, &params, name, &layout).await?
            }
            _ => None,
        };
        let keep_buffer_pool = host.config.seed.keep_buffer_pool;
        let named = datadir::named_directories(&host.instance.settings().await);
        let verified = blocking(move || {
            // A crash after the swap began runs no earlier stage again; this is for a journal restored by hand.
            if layout.is_swapped().map_err(|e| system("the staging directory cannot be looked at", &e))? {
                return Ok(None);
            }
            let held = layout.hold().map_err(|e| system("the staging directory cannot be used", &e))?;
            // Through what is held: somebody may put another directory in its place.
            let removed = prove(&held.staging(), &params, &target, keep_buffer_pool, &named)
                .map_err(|error| held.in_words(error))?;
            Ok(Some(Verified { removed, coordinates }))
        })
        .await?;
        output(&verified)
    }

    async fn undo(&self, _host: &Host, _scope: &Scope) -> Result<(), StepError> {
        Ok(())
    }
}

/// Makes of what was received a datadir of the recipient's: complete, without what is the donor's alone, owned and on disk.
/// Returns how many entries were removed.
fn prove(
    staging: &Path,
    params: &SeedStartParams,
    target: &Target,
    keep_buffer_pool: bool,
    named: &[PathBuf],
) -> Result<usize, WireError> {
    if !datadir::looks_like_datadir(staging) {
        return Err(WireError::new(
            ErrorCode::Transfer,
            "what the donor sent does not look like a MySQL datadir; look at its snapshot.datadir_inside",
        ));
    }
    let policy = params.offer.facts.snapshot.as_ref().map(|_| clone_policy()).unwrap_or_default();
    let policy = ClonePolicy { keep_buffer_pool, ..policy };
    let layout = params.offer.facts.layout.as_ref();
    let names = LogNames::default().with_data_files(layout.and_then(|l| l.innodb_data_file_path.as_deref()));
    let entries = datadir::top(staging)?;
    let entries = entries.iter().map(|(name, is_dir)| (name.as_str(), *is_dir));
    let removed = datadir::clean(staging, &datadir::cleanup_plan(entries, &policy, &names))?;
    mysql::binlog::localize_indexes(staging)?;
    datadir::make_directories(staging, named)?;
    if nix::unistd::geteuid().is_root() {
        datadir::give_to(staging, &target.owner)?;
    }
    let made = sys::dir::Dir::open(staging).and_then(|dir| dir.set_mode(target.mode));
    made.map_err(|e| system(format!("cannot set the mode of {}", staging.display()), &e))?;
    // Before the swap, or a power cut leaves a datadir whose names are there and whose bytes are not.
    flush(staging)?;
    Ok(removed.len())
}

/// Everything below is on disk: a power cut after the swap finds no file of it empty.
pub(super) fn flush(staging: &Path) -> Result<(), WireError> {
    std::fs::File::open(staging)
        .and_then(|dir| nix::unistd::syncfs(dir).map_err(Into::into))
        .map_err(|e| system(format!("cannot flush the file system of {}", staging.display()), &e))
}
