//! The fence around a program that handles bytes of another host: as the owner of the data, without a way to more rights, and
//! where the kernel has Landlock with nothing to write to but what it was given.
//!
//! A program is fenced between fork and exec, and not by a helper process: there is nothing of ours left in it that could be talked
//! into anything, and nothing more to install.

use std::path::PathBuf;
use std::process::Command;

use landlock::{
    ABI, AccessFs, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _, RulesetCreated,
    RulesetCreatedAttr as _, RulesetError, path_beneath_rules,
};

use crate::process::User;

/// The rights to write that are fenced; later kernels know more, and deny them as little as earlier ones do.
const RIGHTS: ABI = ABI::V3;

/// What a program may do.
#[derive(Debug, Clone, Default)]
pub struct Fence {
    /// Whom it runs as; absent: the agent's own user.
    pub user: Option<User>,
    /// The directories and files below which it may write. What it inherits open is not fenced.
    pub writable: Vec<PathBuf>,
    /// Where its temporary files go; must lie below `writable`.
    pub temporary: Option<PathBuf>,
}

impl Fence {
    /// Puts it around a program that is about to be started. False where this kernel has no Landlock: then the user's rights alone keep
    /// the program in.
    pub fn put_around(&self, command: &mut Command) -> bool {
        match self.user {
            Some(user) => user.give_to(command),
            None => crate::before_exec::without_new_privileges(command),
        }
        if let Some(temporary) = &self.temporary {
            command.env("TMPDIR", temporary);
        }
        match self.rules() {
            Ok(rules) => {
                crate::before_exec::restricted(command, rules);
                true
            }
            Err(_) => false,
        }
    }

    fn rules(&self) -> Result<RulesetCreated, RulesetError> {
        let writable = self.writable.iter().map(PathBuf::as_path).chain([std::path::Path::new("/dev/null")]);
        let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        let ruleset = ruleset.handle_access(AccessFs::from_write(ABI::V1))?;
        let ruleset = ruleset.set_compatibility(CompatLevel::BestEffort);
        let ruleset = ruleset.handle_access(AccessFs::from_write(RIGHTS))?;
        ruleset.create()?.add_rules(path_beneath_rules(writable, AccessFs::from_write(RIGHTS)))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_fenced_program_writes_where_it_may_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let [inside, outside] = ["inside", "outside"].map(|name| dir.path().join(name));
        for made in [&inside, &outside] {
            fs::create_dir(made).unwrap();
        }
        let fence = Fence { writable: vec![inside.clone()], ..Fence::default() };
        let touch = |path: PathBuf| {
            let mut command = Command::new("touch");
            command.arg(path);
            let fenced = fence.put_around(&mut command);
            (fenced, command.output().unwrap().status.success())
        };
        assert!(touch(inside.join("file")).1);
        let (fenced, wrote) = touch(outside.join("file"));
        if !fenced {
            testkit::skip!(odd: "this kernel has no Landlock");
        }
        assert!(!wrote && !outside.join("file").exists());
        assert!(!touch(inside.join("../outside/file")).1);
    }
}
