//! A start that no application writes through: the server is read-only from its first moment.
//!
//! A server that the agent spawns is told so by its arguments. One that systemd starts is told by the variable which the units of
//! both vendors pass on to it (`ExecStart=… $MYSQLD_OPTS`), in a drop-in that lives for one start and does not outlive a reboot.
//! Whether it was heeded the server alone can say.

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::hold::{drop_in_named, remove, write};
use crate::instance::Instance;

const FILE: &str = "zzz-orchestrator-agent-closed.conf";
/// Drop-ins that a reboot takes away.
const UNITS: &str = "/run/systemd/system";

fn file(unit: &str) -> PathBuf {
    drop_in_named(Path::new(UNITS), unit, FILE)
}

/// `None` for options that a unit file would read otherwise than they are meant.
fn render(unit: &str, options: &str) -> Option<String> {
    let file = file(unit);
    let file = file.display();
    let is_plain = !options.contains(['"', '\\', '%', '\n']);
    is_plain.then(|| {
        format!(
            "# The next start of {unit} is read-only: orchestrator-agent makes it a replica, and nobody may write before.\n\
             # It goes once the server is up. To end it by hand: rm {file} && systemctl daemon-reload\n\
             [Service]\nEnvironment=\"MYSQLD_OPTS={}\"\n",
            format!("{options} --read-only=ON").trim_start()
        )
    })
}

impl Instance {
    /// Has the service's next start be read-only, until [`open_starts`](Self::open_starts). Nothing is done where no systemd runs it.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io), [`Error::Program`](crate::Error::Program).
    pub async fn close_starts(&self) -> Result<()> {
        let Some(facts) = self.unit_facts().await? else { return Ok(()) };
        let Some(text) = render(&facts.unit, &facts.server_options()) else { return Ok(()) };
        write(&file(&facts.unit), &text)?;
        self.systemctl(&["daemon-reload"]).await
    }

    /// Ends what [`close_starts`](Self::close_starts) did, also that of an agent that died.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io), [`Error::Program`](crate::Error::Program): then the next start is read-only too.
    pub async fn open_starts(&self) -> Result<()> {
        let Some(facts) = self.unit_facts().await? else { return Ok(()) };
        let file = file(&facts.unit);
        if !file.exists() {
            return Ok(());
        }
        remove(&file)?;
        self.systemctl(&["daemon-reload"]).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_unit_says_already_stays() {
        let text = render("mariadb.service", "").unwrap();
        assert!(text.ends_with("[Service]\nEnvironment=\"MYSQLD_OPTS=--read-only=ON\"\n"), "{text}");
        assert!(
            text.contains("rm /run/systemd/system/mariadb.service.d/zzz-orchestrator-agent-closed.conf &&")
        );
        let text = render("mariadb.service", "--skip-name-resolve --port=3307").unwrap();
        assert!(text.contains("\"MYSQLD_OPTS=--skip-name-resolve --port=3307 --read-only=ON\""), "{text}");
        assert_eq!(render("mariadb.service", "--init-connect=\"x\""), None);
    }
}
