//! Figures and words of the instance.

use std::path::PathBuf;

use protocol::error::{ErrorCode, WireError};
use protocol::host::{DiskFree, DiskUsage};
use protocol::params::{MysqlDiskUsageParams, MysqlErrorLogParams};

use super::host::{free_of, usage_of};
use crate::host::Host;

/// `mysql.disk-usage`.
pub(crate) async fn disk_usage(host: &Host, params: &MysqlDiskUsageParams) -> Result<DiskUsage, WireError> {
    usage_of(host, datadir(host).await?, params.fresh).await
}

/// `mysql.disk-free`.
pub(crate) async fn disk_free(host: &Host) -> Result<DiskFree, WireError> {
    free_of(datadir(host).await?).await
}

/// `mysql.error-log`.
pub(crate) async fn error_log(host: &Host, params: &MysqlErrorLogParams) -> Result<Vec<String>, WireError> {
    if !(1..=1000).contains(&params.lines) {
        return Err(WireError::new(ErrorCode::BadRequest, "lines must be 1 to 1000"));
    }
    host.instance.error_log_tail(params.lines as usize).await.map_err(WireError::from)
}

/// The datadir of the instance.
pub(crate) async fn datadir(host: &Host) -> Result<PathBuf, WireError> {
    if let Some(datadir) = host.seen().server.datadir.clone() {
        return Ok(datadir);
    }
    host.instance.info().await.datadir.ok_or_else(|| {
        WireError::new(
            ErrorCode::NotFound,
            format!("the datadir of {} is not known: set mysql.datadir in its configuration", host.id),
        )
    })
}
