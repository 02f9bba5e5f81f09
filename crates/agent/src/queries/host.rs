//! Disk figures of allowed paths, and logical volumes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use protocol::error::{ErrorCode, WireError};
use protocol::host::{DiskFree, DiskUsage, Volume};
use protocol::params::{HostDiskFreeParams, HostDiskUsageParams, HostVolumesParams};

use crate::errors::system;
use crate::host::{Host, blocking};

/// How long an answer waits for new figures where it has old ones.
const PATIENCE: Duration = Duration::from_secs(2);

/// `host.disk-usage`.
pub(crate) async fn disk_usage(host: &Host, params: &HostDiskUsageParams) -> Result<DiskUsage, WireError> {
    let path = allowed(host, &params.path).await?;
    usage_of(host, path, params.fresh).await
}

/// Bytes below a path that was checked.
pub(crate) async fn usage_of(host: &Host, path: PathBuf, fresh: bool) -> Result<DiskUsage, WireError> {
    let counted = async {
        if fresh {
            return host.instance.disk_usage_now(&path).await;
        }
        match host.instance.disk_usage_within(&path, PATIENCE).await? {
            Some(usage) => Ok(usage),
            None => host.instance.disk_usage(&path).await,
        }
    };
    let usage = counted.await?;
    Ok(DiskUsage {
        path,
        used_bytes: usage.allocated_bytes,
        apparent_bytes: usage.apparent_bytes,
        files: usage.files,
        counted_at: Timestamp::now() - usage.age,
    })
}

/// `host.disk-free`.
pub(crate) async fn disk_free(host: &Host, params: &HostDiskFreeParams) -> Result<DiskFree, WireError> {
    free_of(allowed(host, &params.path).await?).await
}

/// Space of the file system of a path that was checked.
pub(crate) async fn free_of(path: PathBuf) -> Result<DiskFree, WireError> {
    blocking(move || {
        let free = mysql::usage::disk_free(&path)?;
        Ok(DiskFree {
            path,
            total_bytes: free.total_bytes,
            available_bytes: free.available_bytes,
            available_inodes: free.available_inodes,
        })
    })
    .await
}

/// `host.volumes`.
pub(crate) async fn volumes(params: HostVolumesParams) -> Result<Vec<Volume>, WireError> {
    blocking(move || {
        let volumes = ::snapshot::volumes::list(params.pattern.as_deref())?;
        Ok(volumes)
    })
    .await
}

/// The path with its links resolved, if it lies below an allowed root.
async fn allowed(host: &Host, path: &Path) -> Result<PathBuf, WireError> {
    if !path.is_absolute() {
        return Err(WireError::new(ErrorCode::BadRequest, format!("{} is not absolute", path.display())));
    }
    let mut roots = host.config.agent.paths.clone();
    roots.extend(host.seen().server.datadir.clone());
    roots.push(host.config.snapshot.mount_root.clone());
    let path = path.to_owned();
    blocking(move || check_below(&path, &roots)).await
}

fn check_below(path: &Path, roots: &[PathBuf]) -> Result<PathBuf, WireError> {
    let refused = || {
        WireError::new(
            ErrorCode::Forbidden,
            format!("{} lies below none of the paths that agent.paths allows", path.display()),
        )
    };
    // Nothing outside the roots may be probed, not even whether it exists: first by name, then with links resolved.
    if !roots.iter().any(|root| path.starts_with(root)) || path.components().any(|c| c.as_os_str() == "..") {
        return Err(refused());
    }
    let resolved =
        path.canonicalize().map_err(|e| system(format!("cannot look at {}", path.display()), &e))?;
    let inside =
        roots.iter().filter_map(|root| root.canonicalize().ok()).any(|root| resolved.starts_with(root));
    if inside { Ok(resolved) } else { Err(refused()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_below_a_root_is_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap().join("data");
        std::fs::create_dir_all(root.join("inner")).unwrap();
        std::os::unix::fs::symlink("/etc", root.join("link")).unwrap();
        let roots = [root.clone()];
        assert_eq!(check_below(&root.join("inner"), &roots).unwrap(), root.join("inner"));
        for bad in [
            Path::new("/etc").to_owned(),
            root.join("link"),
            root.join("../data"),
            root.join("inner/../../x"),
        ] {
            let error = check_below(&bad, &roots).unwrap_err();
            assert_eq!(error.code, ErrorCode::Forbidden, "{bad:?}");
        }
        assert_eq!(check_below(&root.join("absent"), &roots).unwrap_err().code, ErrorCode::System);
    }
}
