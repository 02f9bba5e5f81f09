//! As whom a program runs.

use std::ffi::CString;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;

use nix::unistd::{Gid, Uid, getgrouplist};

/// A user with its groups; nothing else of the agent's rights reaches a program that runs as it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub(super) uid: Uid,
    pub(super) gid: Gid,
    pub(super) groups: Vec<Gid>,
}

impl User {
    /// A user by numbers, in this one group only.
    #[must_use]
    pub fn new(uid: u32, gid: u32) -> Self {
        Self { uid: Uid::from_raw(uid), gid: Gid::from_raw(gid), groups: Vec::new() }
    }

    /// The owner and the group of a file.
    #[must_use]
    pub fn owner_of(file: &Metadata) -> Self {
        Self::new(file.uid(), file.gid())
    }

    /// A user of this host by name, with all groups that it is in.
    ///
    /// # Errors
    /// There is no such user, or the databases of users and groups cannot be read.
    pub fn named(name: &str) -> io::Result<Self> {
        let unknown = || io::Error::new(io::ErrorKind::NotFound, format!("no user {name:?} on this host"));
        let user = nix::unistd::User::from_name(name)?.ok_or_else(unknown)?;
        let name = CString::new(name).map_err(|_| unknown())?;
        let groups = getgrouplist(&name, user.gid)?;
        Ok(Self { uid: user.uid, gid: user.gid, groups })
    }

    /// Its number.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.uid.as_raw()
    }

    /// The number of its first group.
    #[must_use]
    pub fn gid(&self) -> u32 {
        self.gid.as_raw()
    }
}
