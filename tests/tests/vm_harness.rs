//! The VM harness on itself: each way in which a guest can end is told apart, and LVM really works inside.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use testkit::vm::{DiskSpec, Group, Guest, GuestEnd, VmRun, suite_main_with};

fn main() -> ExitCode {
    suite_main_with(
        vec![
            Group::new("lvm_in_the_guest")
                .disk(DiskSpec::mib(2048))
                .time_limit(Duration::from_secs(180))
                .setup(make_volume_group)
                .case("classic_snapshot_keeps_the_old_content", classic_snapshot_keeps_the_old_content)
                .case("thin_snapshot_keeps_the_old_content", thin_snapshot_keeps_the_old_content)
                .case("modules_load_on_demand", modules_load_on_demand),
        ],
        vec![
            ("status_and_output_come_back", status_and_output_come_back),
            ("a_failing_program_is_told_by_its_status", a_failing_program_is_told_by_its_status),
            ("a_kernel_panic_is_no_exit", a_kernel_panic_is_no_exit),
            ("a_hanging_guest_is_killed_in_time", a_hanging_guest_is_killed_in_time),
        ],
    )
}

fn shell(script: &str) -> VmRun {
    VmRun::new("/bin/sh").arg("-c").arg(script).memory_mib(512)
}

fn status_and_output_come_back() -> anyhow::Result<()> {
    let outcome = shell("echo \"said $WORD\"; echo complained >&2; echo one >>$TESTKIT_VM_RESULTS")
        .env("WORD", "it's; $HOME")
        .run()?;
    ensure!(outcome.end == GuestEnd::Exited(0), "{outcome:?}");
    ensure!(outcome.stdout == "said it's; $HOME\n", "stdout: {:?}", outcome.stdout);
    ensure!(outcome.stderr == "complained\n", "stderr: {:?}", outcome.stderr);
    ensure!(outcome.results == "one\n", "results: {:?}", outcome.results);
    Ok(())
}

fn a_failing_program_is_told_by_its_status() -> anyhow::Result<()> {
    let outcome = shell("exit 101").run()?;
    ensure!(outcome.exit_status() == Some(101), "{outcome:?}");
    Ok(())
}

fn a_kernel_panic_is_no_exit() -> anyhow::Result<()> {
    let outcome = shell("echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger; sleep 60").run()?;
    ensure!(outcome.end == GuestEnd::Died, "{outcome:?}");
    ensure!(outcome.console_tail.contains("Kernel panic"), "console: {}", outcome.console_tail);
    Ok(())
}

fn a_hanging_guest_is_killed_in_time() -> anyhow::Result<()> {
    let limit = Duration::from_secs(25);
    let outcome = shell("echo begun; sleep 600").time_limit(limit).run()?;
    ensure!(outcome.end == GuestEnd::TimedOut, "{outcome:?}");
    ensure!(outcome.elapsed < limit + Duration::from_secs(5), "took {:?}", outcome.elapsed);
    let (task, rest) = outcome.hang_report.split_once("sleep 600").context("the hanging task is not told")?;
    ensure!(task.contains("/proc/") && rest.contains("nanosleep"), "report: {}", outcome.hang_report);
    Ok(())
}

fn make_volume_group(guest: &Guest) -> anyhow::Result<()> {
    guest.run(&["vgcreate", "vg0", guest.disk(0)])?;
    Ok(())
}

/// Writes a file, takes a snapshot by `lvcreate`, changes the file, and reads the old content from the snapshot.
fn check_snapshot(guest: &Guest, origin: &str, lvcreate: &[&str], activate: &[&str]) -> anyhow::Result<()> {
    let device = format!("/dev/vg0/{origin}");
    let snapshot = format!("/dev/vg0/{origin}-snap");
    let (live, frozen) = (format!("/mnt/{origin}"), format!("/mnt/{origin}-snap"));
    guest.run(&["mkfs.xfs", "-q", &device])?;
    guest.run(&["mkdir", "-p", &live, &frozen])?;
    guest.run(&["mount", &device, &live])?;
    std::fs::write(format!("{live}/file"), "before")?;
    guest.run(&["sync", "-f", &live])?;
    guest.run(lvcreate)?;
    if !activate.is_empty() {
        guest.run(activate)?;
    }
    std::fs::write(format!("{live}/file"), "after")?;
    guest.run(&["mount", "-o", "nouuid", &snapshot, &frozen]).context("mounting the snapshot")?;
    ensure!(std::fs::read_to_string(format!("{frozen}/file"))? == "before");
    ensure!(std::fs::read_to_string(format!("{live}/file"))? == "after");
    guest.run(&["umount", &frozen])?;
    guest.run(&["umount", &live])?;
    guest.run(&["lvremove", "-q", "-f", &format!("vg0/{origin}")])?;
    Ok(())
}

fn classic_snapshot_keeps_the_old_content(guest: &Guest) -> anyhow::Result<()> {
    guest.run(&["lvcreate", "-q", "-n", "data", "-L", "512m", "vg0"])?;
    check_snapshot(guest, "data", &["lvcreate", "-q", "-s", "-n", "data-snap", "-L", "128m", "vg0/data"], &[])
}

fn thin_snapshot_keeps_the_old_content(guest: &Guest) -> anyhow::Result<()> {
    guest.run(&["lvcreate", "-q", "--type", "thin-pool", "-n", "pool", "-L", "800m", "vg0"])?;
    guest.run(&["lvcreate", "-q", "-n", "thin", "-V", "512m", "--thinpool", "pool", "vg0"])?;
    check_snapshot(
        guest,
        "thin",
        &["lvcreate", "-q", "-s", "-n", "thin-snap", "vg0/thin"],
        &["lvchange", "-q", "-ay", "-K", "vg0/thin-snap"],
    )
}

fn modules_load_on_demand(guest: &Guest) -> anyhow::Result<()> {
    guest.run(&["ip", "link", "add", "veth0", "type", "veth", "peer", "name", "veth1"])?;
    guest.run(&["tc", "qdisc", "add", "dev", "veth0", "root", "netem", "delay", "50ms"])?;
    guest
        .run(&["dmsetup", "create", "flaky", "--table", &format!("0 8 flakey {} 0 1 1", guest.disk(0))])
        .map_or_else(
            // The disk is held by LVM; that the target is known is what matters.
            |error| if format!("{error:#}").contains("unknown target") { Err(error) } else { Ok(()) },
            |_| Ok(()),
        )?;
    ensure!(guest.run(&["dmsetup", "targets"])?.contains("flakey"), "dm-flakey was not loaded");
    Ok(())
}
