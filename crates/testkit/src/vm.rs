//! Runs a test's own executable inside a small virtual machine, for what the host's kernel cannot do: LVM,
//! device-mapper, netem.
//!
//! The guest boots a Debian kernel under QEMU's software emulation (never KVM: the device may exist and not work)
//! and sees the host's own root, read-only, under an overlay in RAM. So it runs the host's `lvm`, `mkfs.xfs`,
//! `mariadbd`, and the test binary that cargo has just built, by the same paths. Whatever the guest writes is gone
//! afterwards; data belong on the virtio disks that a run asks for (`/dev/vda`, `/dev/vdb`, …).
//! Boot and power-off cost about 8 s, one LVM command 0.6–1 s: put several cases into one boot.
//!
//! # A suite that runs in the VM
//!
//! A test binary **whose name begins with `vm_`** (that is what `make test-vm` and the nextest group look for), with
//! `harness = false`. On the host each [`Group`] is one test, listed and run by cargo and nextest as any other; it
//! boots the VM, which runs this same executable and in it every case of the group, and reports each case by name.
//!
//! ```toml
//! # crates/snapshot/Cargo.toml
//! [[test]]
//! name = "vm_lvm"
//! harness = false
//! ```
//!
//! ```no_run
//! // crates/snapshot/tests/vm_lvm.rs
//! use std::process::ExitCode;
//! use std::time::Duration;
//! use testkit::vm::{DiskSpec, Group, Guest, suite_main};
//!
//! fn main() -> ExitCode {
//!     suite_main(vec![
//!         Group::new("lvm_classic")
//!             .disk(DiskSpec::mib(1024))
//!             .time_limit(Duration::from_secs(120))
//!             .setup(make_volume_group)              // once per boot; its failure fails the group
//!             .case("lists_a_snapshot", lists_a_snapshot)
//!             .case("overflow_is_seen", overflow_is_seen),
//!     ])
//! }
//!
//! fn make_volume_group(guest: &Guest) -> anyhow::Result<()> {
//!     guest.run(&["vgcreate", "vg0", guest.disk(0)])?;
//!     Ok(())
//! }
//! // A case fails by an Err or by a panic (so assert! works); the next case of the group runs all the same.
//! fn lists_a_snapshot(guest: &Guest) -> anyhow::Result<()> {
//!     assert!(guest.run(&["lvs", "vg0"])?.is_empty());
//!     Ok(())
//! }
//! fn overflow_is_seen(_guest: &Guest) -> anyhow::Result<()> { Ok(()) }
//! ```
//!
//! Run one suite with `cargo nextest run -p snapshot --test vm_lvm`, and of a group only the cases whose name
//! contains a text with `VM_CASES=overflow cargo nextest run …`. Without QEMU the groups are listed as ignored, with
//! "skipped, because …" as their kind, never as passed; with `CI` or `VM_REQUIRED` set they fail instead.
//!
//! [`VmRun`] below is the plain form: one executable, its exit status and output.

mod image;
mod prepare;
mod qemu;
mod suite;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

pub use suite::{Group, Guest, HostTest, suite_main, suite_main_with};

/// Set to `1` in the environment of everything that runs inside the guest.
pub const IN_VM_ENV: &str = "TESTKIT_IN_VM";

/// In the guest, the path of a file to write whose content comes back as [`VmOutcome::results`].
pub const RESULTS_ENV: &str = "TESTKIT_VM_RESULTS";

/// A disk of the guest; the first is `/dev/vda`.
#[derive(Debug, Clone)]
pub enum DiskSpec {
    /// A new, empty, sparse disk that vanishes with the run.
    Empty { size_bytes: u64 },
    /// A raw image on the host; what the guest writes stays in it.
    Image(PathBuf),
}

impl DiskSpec {
    /// A new, empty, sparse disk of so many MiB.
    pub fn mib(size_mib: u64) -> Self {
        Self::Empty { size_bytes: size_mib << 20 }
    }
}

/// One boot: an executable with its arguments, and the machine that it wants.
#[derive(Debug, Clone)]
pub struct VmRun {
    /// Absolute path on the host (the guest sees the same path).
    pub binary: PathBuf,
    pub args: Vec<OsString>,
    /// Added to a small fixed environment; the host's own is not passed on.
    pub env: Vec<(OsString, OsString)>,
    pub disks: Vec<DiskSpec>,
    pub memory_mib: u32,
    /// From the start of QEMU to the guest's power-off; then the guest is killed.
    pub time_limit: Duration,
    /// Gives the guest a network in which the host's loopback is 10.0.2.2.
    pub host_network: bool,
}

impl VmRun {
    /// A run with 1 GiB of memory, no disks, no network and a limit of two minutes.
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            args: Vec::new(),
            env: Vec::new(),
            disks: Vec::new(),
            memory_mib: 1024,
            time_limit: Duration::from_secs(120),
            host_network: false,
        }
    }

    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    #[must_use]
    pub fn disk(mut self, disk: DiskSpec) -> Self {
        self.disks.push(disk);
        self
    }

    #[must_use]
    pub fn memory_mib(mut self, memory_mib: u32) -> Self {
        self.memory_mib = memory_mib;
        self
    }

    #[must_use]
    pub fn time_limit(mut self, time_limit: Duration) -> Self {
        self.time_limit = time_limit;
        self
    }

    /// Boots, runs, powers off. Blocks for the whole run; the first run on a machine also prepares the kernel (~20 s).
    ///
    /// # Errors
    /// [`VmError::Unavailable`] when this machine cannot run a VM at all; [`VmError::Harness`] when something that
    /// should work did not. How the guest ended is no error: it is in [`VmOutcome::end`].
    pub fn run(&self) -> Result<VmOutcome, VmError> {
        let prepared = prepare::prepared()?;
        qemu::run(self, &prepared)
    }
}

/// How a guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestEnd {
    /// The executable ended with this status; killed by signal n is 128 + n, not found 127, as in a shell.
    Exited(i32),
    /// The guest went away before the executable ended: a kernel panic, or a power-off by the executable itself.
    Died,
    /// Killed at [`VmRun::time_limit`].
    TimedOut,
}

/// What a run left.
#[derive(Debug, Clone)]
pub struct VmOutcome {
    pub end: GuestEnd,
    /// At most the last 4 MiB, as are `stderr` and `results`.
    pub stdout: String,
    pub stderr: String,
    /// What was written to the file named by [`RESULTS_ENV`].
    pub results: String,
    /// Of a guest that was killed at its time limit: what each of its tasks waited for, some seconds before.
    pub hang_report: String,
    /// The last 8 KiB of the kernel's console: the panic's text is here.
    pub console_tail: String,
    pub elapsed: Duration,
}

impl VmOutcome {
    /// The executable's exit status; `None` when the guest died or was killed.
    pub fn exit_status(&self) -> Option<i32> {
        match self.end {
            GuestEnd::Exited(status) => Some(status),
            GuestEnd::Died | GuestEnd::TimedOut => None,
        }
    }
}

/// Why no guest ran.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// Say "skipped, because …" with this reason; the machine lacks what a VM needs.
    #[error("no VM can run on this machine: {0}")]
    Unavailable(String),
    #[error("the VM harness failed: {what}")]
    Harness { what: String, source: anyhow::Error },
}

impl VmError {
    pub(crate) fn harness(what: impl Into<String>) -> impl FnOnce(anyhow::Error) -> Self {
        let what = what.into();
        move |source| Self::Harness { what, source }
    }
}

/// Tells why no VM can run here, without preparing anything; `None` when one can.
pub fn unavailable_reason() -> Option<String> {
    prepare::missing_tool()
}
