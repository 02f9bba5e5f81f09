//! Which files and directories only root could have made: nothing else of root's is run or believed.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::unistd::Uid;

/// Set on a directory where everybody writes, but only owners rename and remove.
const STICKY: u32 = 0o1000;
const OTHERS_WRITE: u32 = 0o022;

/// True for a program that nobody but root (or the agent's own user, where it is not root) could have put there: the file and every
/// directory above it is theirs and closed for others.
pub(crate) fn is_trusted_program(path: &Path) -> bool {
    let Ok(path) = fs::canonicalize(path) else { return false };
    let Ok(file) = fs::symlink_metadata(&path) else { return false };
    let is_program = file.is_file() && file.mode() & 0o111 != 0;
    is_program && is_ours(&file) && file.mode() & OTHERS_WRITE == 0 && is_closed_above(&path)
}

/// True when nobody else could have exchanged what lies at this path, which holds no links.
fn is_closed_above(path: &Path) -> bool {
    path.ancestors().skip(1).all(|dir| {
        let Ok(meta) = fs::symlink_metadata(dir) else { return false };
        // In a sticky directory what is ours stays ours.
        meta.is_dir() && is_ours(&meta) && (meta.mode() & OTHERS_WRITE == 0 || meta.mode() & STICKY != 0)
    })
}

fn is_ours(meta: &Metadata) -> bool {
    meta.uid() == 0 || meta.uid() == Uid::effective().as_raw()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, chown};

    use super::*;

    #[test]
    fn a_program_is_run_only_where_nobody_else_could_have_put_it() {
        assert!(is_trusted_program(Path::new("/bin/sh")), "through a link of root's");
        assert!(!is_trusted_program(Path::new("/etc/passwd")), "no program");
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("mysqld");
        fs::copy("/bin/true", &program).unwrap();
        assert!(is_trusted_program(&program), "ours in a directory of ours, in a sticky one");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(!is_trusted_program(&program), "anybody may write it");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(!is_trusted_program(&program), "anybody may exchange it");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        if !Uid::effective().is_root() {
            testkit::skip!("only root can give files away");
        }
        chown(&program, Some(65_534), None).unwrap();
        assert!(!is_trusted_program(&program), "of another user");
        chown(&program, Some(0), None).unwrap();
        chown(dir.path(), Some(65_534), None).unwrap();
        assert!(!is_trusted_program(&program), "in a directory of another user");
    }
}
