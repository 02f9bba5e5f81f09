//! Where the parts of a database lie in a snapshot, as against where the live server has them.

use std::path::{Path, PathBuf};

use protocol::error::{ErrorCode, WireError};
use protocol::mysql::{Layout, ServerInfo};
use snapshot::Mounted;

/// The layout of the live data as it is in a mounted snapshot. A directory that the snapshot does not hold is refused:
/// a server on the copy would open the live one.
pub(crate) fn layout_in(
    layout: Option<&Layout>,
    live_datadir: &Path,
    mounted: &Mounted,
) -> Result<Option<Layout>, WireError> {
    let Some(layout) = layout else { return Ok(None) };
    let inside = mounted.datadir.strip_prefix(&mounted.path).unwrap_or(Path::new(""));
    let depth = inside.components().count();
    let root = live_datadir.ancestors().nth(depth).filter(|_| live_datadir.ends_with(inside));
    let moved = |path: &Option<PathBuf>| match path {
        None => Ok(None),
        Some(path) => match root.and_then(|root| path.strip_prefix(root).ok()) {
            Some(rest) if mounted.path.join(rest).exists() => Ok(Some(mounted.path.join(rest))),
            _ => Err(WireError::new(
                ErrorCode::Refused,
                format!("snapshot {} does not hold {}, which its server needs", mounted.id, path.display()),
            )),
        },
    };
    Ok(Some(Layout {
        innodb_data_home_dir: moved(&layout.innodb_data_home_dir)?,
        innodb_log_group_home_dir: moved(&layout.innodb_log_group_home_dir)?,
        innodb_undo_directory: moved(&layout.innodb_undo_directory)?,
        log_bin: None,
        ..layout.clone()
    }))
}

/// The service keeps its own options: whatever they place outside the datadir would be the live files.
pub(super) fn all_in_datadir(server: &ServerInfo, datadir: &Path) -> Result<(), WireError> {
    let Some(layout) = &server.layout else { return Ok(()) };
    let named = [
        &layout.innodb_data_home_dir,
        &layout.innodb_log_group_home_dir,
        &layout.innodb_undo_directory,
        &layout.log_bin,
    ];
    match named.into_iter().flatten().chain(&layout.further_dirs).find(|path| !path.starts_with(datadir)) {
        None => Ok(()),
        Some(path) => Err(WireError::new(
            ErrorCode::Refused,
            format!(
                "the service would go on using {}, which lies outside its datadir {}: run a second server on the \
                 snapshot instead (--port)",
                path.display(),
                datadir.display()
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use snapshot::{MountIdentity, MountMode};

    use super::*;

    fn layout(redo: &Path) -> Layout {
        Layout {
            innodb_page_size: 16 << 10,
            lower_case_table_names: 0,
            innodb_data_file_path: None,
            innodb_data_home_dir: None,
            innodb_log_group_home_dir: Some(redo.to_owned()),
            innodb_undo_directory: None,
            log_bin: Some("/srv/mysql/data/binlog".into()),
            further_dirs: vec![],
        }
    }

    #[test]
    fn a_server_on_a_copy_never_opens_the_live_redo() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("data")).unwrap();
        std::fs::create_dir_all(root.path().join("redo")).unwrap();
        let mounted = Mounted {
            id: "vg0/s".parse().unwrap(),
            path: root.path().to_owned(),
            datadir: root.path().join("data"),
            mode: MountMode::Writable,
            identity: MountIdentity::of(Path::new("/")).unwrap(),
            view: None,
        };
        let live = Path::new("/srv/mysql/data");
        let found = layout_in(Some(&layout(Path::new("/srv/mysql/redo"))), live, &mounted).unwrap().unwrap();
        assert_eq!(found.innodb_log_group_home_dir, Some(root.path().join("redo")));
        assert_eq!(found.log_bin, None);
        for elsewhere in ["/srv/other/redo", "/srv/mysql/gone"] {
            let error = layout_in(Some(&layout(Path::new(elsewhere))), live, &mounted).unwrap_err();
            assert!(error.message.contains(elsewhere), "{error}");
        }
    }
}
