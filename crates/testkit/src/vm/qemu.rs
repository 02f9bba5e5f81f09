//! One QEMU process: its argv, its end, and what it left in the share.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::prepare::Prepared;
use super::{DiskSpec, GuestEnd, IN_VM_ENV, RESULTS_ENV, VmError, VmOutcome, VmRun};

const STAGE2: &str = include_str!("stage2.sh");
const SHARE_IN_GUEST: &str = "/run/vm/share";
const OUTPUT_LIMIT_BYTES: u64 = 4 << 20;
const CONSOLE_LIMIT_BYTES: u64 = 8 << 10;
/// A guest that still runs so long before its time limit tells what it waits for.
const HANG_REPORT_BEFORE_LIMIT: Duration = Duration::from_secs(15);
/// What is gone of the time limit when the guest begins to count.
const BOOT: Duration = Duration::from_secs(10);
/// From the moment that the status is known to the power-off; the rest is not worth waiting for.
const POWER_OFF_LIMIT: Duration = Duration::from_secs(15);

/// No AVX, so that software emulation is quick; the random numbers come from the emulated instruction.
const CPU: &str = "Nehalem,+rdrand";
const KERNEL_ARGS: &str = "console=ttyS0 panic=-1 quiet nokaslr mitigations=off random.trust_cpu=1";

pub(super) fn run(run: &VmRun, prepared: &Prepared) -> Result<VmOutcome, VmError> {
    run_in_share(run, prepared).map_err(VmError::harness(format!("running {}", run.binary.display())))
}

fn run_in_share(run: &VmRun, prepared: &Prepared) -> anyhow::Result<VmOutcome> {
    let dir = tempfile::Builder::new().prefix("vm-").tempdir()?;
    let share = dir.path().join("share");
    fs::create_dir(&share)?;
    fs::write(share.join("stage2.sh"), STAGE2)?;
    fs::write(share.join("modules-path"), prepared.modules.as_os_str().as_bytes())?;
    fs::write(share.join("command.sh"), guest_script(run))?;
    let report_after = run.time_limit.saturating_sub(BOOT).saturating_sub(HANG_REPORT_BEFORE_LIMIT);
    fs::write(share.join("report-after-s"), report_after.as_secs().max(3).to_string())?;
    let console = dir.path().join("console");
    let disks = make_disks(run, dir.path())?;

    let started = Instant::now();
    let mut guest = Qemu::start(&qemu_args(run, prepared, &share, &console, &disks))?;
    let end = wait(&mut guest, &share.join("status"), started + run.time_limit)?;
    drop(guest);

    Ok(VmOutcome {
        end,
        stdout: tail(&share.join("stdout"), OUTPUT_LIMIT_BYTES)?,
        stderr: tail(&share.join("stderr"), OUTPUT_LIMIT_BYTES)?,
        results: tail(&share.join("results"), OUTPUT_LIMIT_BYTES)?,
        hang_report: match end {
            GuestEnd::TimedOut => tail(&share.join("hang"), OUTPUT_LIMIT_BYTES)?,
            GuestEnd::Exited(_) | GuestEnd::Died => String::new(),
        },
        console_tail: tail(&console, CONSOLE_LIMIT_BYTES)?,
        elapsed: started.elapsed(),
    })
}

/// The process and its group; killed on drop, and by the kernel when the test that started it dies.
struct Qemu(Child);

impl Qemu {
    fn start(args: &[OsString]) -> anyhow::Result<Self> {
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("cannot start QEMU")?;
        Ok(Self(child))
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = killpg(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGKILL);
            let _ = self.0.wait();
        }
    }
}

fn wait(guest: &mut Qemu, status: &Path, deadline: Instant) -> anyhow::Result<GuestEnd> {
    let mut power_off_deadline = None;
    loop {
        let ended = guest.0.try_wait()?;
        let known = read_status(status)?;
        if let Some(status) = known
            && (ended.is_some() || power_off_deadline.is_some_and(|limit| Instant::now() >= limit))
        {
            return Ok(GuestEnd::Exited(status));
        }
        if let Some(ended) = ended {
            let mut said = String::new();
            if let Some(mut stderr) = guest.0.stderr.take() {
                stderr.read_to_string(&mut said)?;
            }
            // QEMU exits 0 also when the guest panicked; anything else is QEMU's own complaint.
            ensure!(ended.success(), "QEMU ended with {ended}: {}", said.trim());
            return Ok(GuestEnd::Died);
        }
        if known.is_some() && power_off_deadline.is_none() {
            power_off_deadline = Some(Instant::now() + POWER_OFF_LIMIT);
        }
        if known.is_none() && Instant::now() >= deadline {
            return Ok(GuestEnd::TimedOut);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn read_status(path: &Path) -> anyhow::Result<Option<i32>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().parse().with_context(|| format!("odd exit status {text:?}"))?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn make_disks(run: &VmRun, dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut disks = Vec::new();
    for (index, disk) in run.disks.iter().enumerate() {
        disks.push(match disk {
            DiskSpec::Empty { size_bytes } => {
                let path = dir.join(format!("disk{index}"));
                File::create(&path)?.set_len(*size_bytes)?;
                path
            }
            DiskSpec::Image(path) => path.clone(),
        });
    }
    Ok(disks)
}

fn qemu_args(
    run: &VmRun,
    prepared: &Prepared,
    share: &Path,
    console: &Path,
    disks: &[PathBuf],
) -> Vec<OsString> {
    let mut args: Vec<OsString> = Vec::new();
    let mut add = |name: &str, value: OsString| args.extend([name.into(), value]);
    add("-accel", "tcg,thread=multi".into());
    add("-M", "pc".into());
    add("-cpu", CPU.into());
    add("-smp", "1".into());
    add("-m", run.memory_mib.to_string().into());
    add("-display", "none".into());
    add("-serial", joined("file:", console, ""));
    add("-kernel", prepared.vmlinux.clone().into());
    add("-initrd", prepared.initramfs.clone().into());
    add("-append", KERNEL_ARGS.into());
    add("-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap".into());
    add("-device", "virtio-9p-pci,fsdev=root,mount_tag=root".into());
    add("-fsdev", joined("local,id=share,path=", share, ",security_model=none"));
    add("-device", "virtio-9p-pci,fsdev=share,mount_tag=share".into());
    for (index, disk) in disks.iter().enumerate() {
        let options = format!(",format=raw,if=none,id=disk{index},cache=unsafe,discard=unmap");
        add("-drive", joined("file=", disk, &options));
        add("-device", format!("virtio-blk-pci,drive=disk{index}").into());
    }
    if run.host_network {
        add("-netdev", "user,id=net0".into());
        add("-device", "virtio-net-pci,netdev=net0".into());
    }
    args.extend(["-nodefaults", "-no-user-config", "-no-reboot"].map(OsString::from));
    args
}

/// A path inside one of QEMU's comma-separated option lists: commas in it are doubled.
fn joined(before: &str, path: &Path, after: &str) -> OsString {
    let mut value = OsString::from(before);
    for (index, part) in path.as_os_str().as_bytes().split(|byte| *byte == b',').enumerate() {
        if index > 0 {
            value.push(",,");
        }
        value.push(OsStr::from_bytes(part));
    }
    value.push(after);
    value
}

/// The guest's command with a fixed environment, for the guest's shell.
fn guest_script(run: &VmRun) -> Vec<u8> {
    let mut script = b"exec env -i".to_vec();
    let results = format!("{SHARE_IN_GUEST}/results");
    let fixed = [
        ("HOME", "/root"),
        ("LANG", "C.UTF-8"),
        ("LVM_SUPPRESS_FD_WARNINGS", "1"),
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("RUST_BACKTRACE", "1"),
        (IN_VM_ENV, "1"),
        (RESULTS_ENV, &results),
    ];
    let fixed = fixed.map(|(name, value)| (OsString::from(name), OsString::from(value)));
    for (name, value) in fixed.iter().chain(&run.env) {
        let mut assignment = name.clone();
        assignment.push("=");
        assignment.push(value);
        push_quoted(&mut script, &assignment);
    }
    push_quoted(&mut script, run.binary.as_os_str());
    for arg in &run.args {
        push_quoted(&mut script, arg);
    }
    script.push(b'\n');
    script
}

fn push_quoted(script: &mut Vec<u8>, word: &OsStr) {
    script.extend_from_slice(b" '");
    for byte in word.as_bytes() {
        match byte {
            b'\'' => script.extend_from_slice(br"'\''"),
            other => script.push(*other),
        }
    }
    script.push(b'\'');
}

/// The last bytes of a file as text; empty when there is none.
fn tail(path: &Path, limit_bytes: u64) -> anyhow::Result<String> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(error.into()),
    };
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(limit_bytes)))?;
    let mut bytes = Vec::new();
    file.take(limit_bytes).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_the_guest_whole() {
        let mut script = Vec::new();
        push_quoted(&mut script, OsStr::new("it's $HOME; rm"));
        assert_eq!(script, br" 'it'\''s $HOME; rm'");
    }

    #[test]
    fn commas_in_paths_are_doubled() {
        assert_eq!(joined("file=", Path::new("/a,b"), ",if=none"), "file=/a,,b,if=none");
    }
}
