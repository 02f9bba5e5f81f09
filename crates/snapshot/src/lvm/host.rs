//! Talks to the LVM of this host.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sys::process::{Output, Program};

use super::argv;
use super::parse::{self, Lv, Vg};
use crate::run::run;
use crate::{Error, mountinfo};

/// LVM, with a limit for each of its commands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Host {
    pub(crate) limit: Duration,
}

impl Host {
    /// Runs one command that must succeed.
    pub(crate) fn run(&self, words: &[String]) -> Result<Output, Error> {
        Ok(self.try_run(words)?.success()?)
    }

    fn try_run(&self, words: &[String]) -> Result<Output, Error> {
        run(words, &BTreeMap::new(), self.limit)
    }

    /// All volumes, by one call of `lvs`.
    pub(crate) fn volumes(&self) -> Result<Vec<Lv>, Error> {
        let out = self.try_run(&argv::lvs(None))?;
        let found = parse::lvs(&out.stdout);
        match found {
            // One damaged group makes `lvs` fail after it has listed the others.
            Ok(volumes) if out.status.code() == Some(0) || !volumes.is_empty() => Ok(volumes),
            Ok(_) => Err(out.failure().into()),
            Err(_) if out.status.code() != Some(0) => Err(out.failure().into()),
            Err(error) => Err(error),
        }
    }

    /// One volume; `None` when there is no such volume or group.
    pub(crate) fn volume(&self, full_name: &str) -> Result<Option<Lv>, Error> {
        let out = self.try_run(&argv::lvs(Some(full_name)))?;
        match out.status.code() {
            Some(0 | 5) => {}
            _ => return Err(out.failure().into()),
        }
        // LVM also takes tags and patterns: only the very volume counts.
        Ok(parse::lvs(&out.stdout)?.into_iter().find(|l| l.full_name() == full_name))
    }

    /// A group's free room.
    pub(crate) fn group(&self, name: &str) -> Result<Vg, Error> {
        let out = self.run(&argv::vgs(name))?;
        parse::vgs(&out.stdout)?.ok_or_else(|| Error::ToolOutput {
            program: "vgs".to_owned(),
            detail: format!("volume group {name} is not in it"),
        })
    }

    /// What this host lacks for LVM; `None` when it has all.
    pub(crate) fn missing(&self) -> Option<String> {
        if let Some(program) = ["lvs", "lvcreate", "lvremove"].into_iter().find(|p| !Program::is_installed(p))
        {
            return Some(format!("the program {program} is not installed (package lvm2)"));
        }
        if !nix::unistd::geteuid().is_root() {
            return Some("LVM needs root".to_owned());
        }
        match self.volumes() {
            // Asking makes the kernel load the module where it has one, so look only now.
            _ if !has_device_mapper() => Some("the kernel has no device-mapper (module dm_mod)".to_owned()),
            Err(error) => Some(error.to_string()),
            Ok(volumes) if volumes.is_empty() => Some("there is no logical volume on this host".to_owned()),
            Ok(_) => None,
        }
    }
}

fn has_device_mapper() -> bool {
    fs::read_to_string("/proc/misc").is_ok_and(|t| t.lines().any(|l| l.ends_with(" device-mapper")))
}

/// The volume that a directory lies on, and where in it.
pub(crate) fn volume_of<'a>(volumes: &'a [Lv], dir: &Path) -> Result<(&'a Lv, PathBuf), Error> {
    let refuse = |reason: String| Error::Origin { datadir: dir.to_owned(), reason };
    let table = mountinfo::read()?;
    let line = mountinfo::covering(&table, dir).ok_or_else(|| refuse("it is on no mount".to_owned()))?;
    let volume = volumes.iter().find(|l| l.device == Some(line.device)).ok_or_else(|| {
        let (major, minor) = line.device;
        refuse(format!(
            "{} is on device {major}:{minor}, which is no logical volume",
            line.mount_point.display()
        ))
    })?;
    let inside = mountinfo::inside_file_system(line, dir);
    Ok((volume, inside.strip_prefix("/").unwrap_or(&inside).to_owned()))
}
