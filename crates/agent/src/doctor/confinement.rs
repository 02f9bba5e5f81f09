//! What the kernel lets the server do, whoever it runs as: a confined one cannot come up on staged data or on a snapshot.

use std::fs;
use std::path::Path;

use protocol::host::Finding;
use protocol::mysql::ServerInfo;

use super::{Place, fine, weak};

const AREA: &str = "mysql";
const WHAT: &str = "confinement";

/// Nothing where the server does not run.
pub(super) fn of_server(place: &Place<'_>, info: &ServerInfo) -> Option<Finding> {
    let context = fs::read_to_string(format!("/proc/{}/attr/current", info.pid?)).unwrap_or_default();
    let staged =
        info.datadir.as_deref().and_then(Path::parent).unwrap_or(Path::new("/")).join(".orch-seed-*");
    Some(told(context.trim_matches(['\0', '\n']), &staged, &place.config.snapshot.mount_root))
}

fn told(context: &str, staged: &Path, mounts: &Path) -> Finding {
    let (staged, mounts) = (staged.display(), mounts.display());
    let fails = format!("recovery of a seed in {staged} and a look at a snapshot below {mounts} fail");
    if let Some(profile) = context.strip_suffix(" (enforce)") {
        let file = profile.trim_start_matches('/').replace('/', ".");
        let mend = format!(
            "add \"{staged}/** rwk,\" and \"{mounts}/** rwk,\" to /etc/apparmor.d/local/{file}, then: systemctl reload apparmor"
        );
        return weak(
            AREA,
            WHAT,
            format!("AppArmor confines it ({profile}): {fails} unless its profile allows them"),
            mend,
        );
    }
    if context.split(':').nth(2).is_some_and(|kind| kind.starts_with("mysqld")) {
        let mend = format!(
            "semanage fcontext -a -t mysqld_db_t '{staged}(/.*)?'; restorecon -R; setenforce 0 shows whether it is that"
        );
        return weak(
            AREA,
            WHAT,
            format!("SELinux confines it ({context}): {fails} without the type mysqld_db_t"),
            mend,
        );
    }
    fine(AREA, WHAT, "neither AppArmor nor SELinux confines the server")
}

#[cfg(test)]
mod tests {
    use protocol::host::FindingState;

    use super::*;

    #[test]
    fn a_confined_server_is_told_with_the_lines_that_its_profile_lacks() {
        let of = |context| {
            told(context, Path::new("/var/lib/.orch-seed-*"), Path::new("/run/orchestrator-agent/mounts"))
        };
        for free in
            ["", "unconfined", "/usr/sbin/mysqld (complain)", "system_u:system_r:unconfined_service_t:s0"]
        {
            assert_eq!(of(free).state, FindingState::Fine, "{free}");
        }
        let armoured = of("/usr/sbin/mysqld (enforce)");
        let mend = armoured.mend.unwrap();
        assert!(mend.contains("/var/lib/.orch-seed-*/** rwk,"), "{mend}");
        assert!(mend.contains("/etc/apparmor.d/local/usr.sbin.mysqld"), "{mend}");
        assert_eq!(of("system_u:system_r:mysqld_t:s0").state, FindingState::Weak);
    }
}
