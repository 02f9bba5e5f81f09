//! A start that no application writes through: the server is read-only from its first moment.
//!
//! A server that the agent spawns is told so by its arguments. One that systemd starts is told by the variable which the units of
//! both vendors pass on to it (`ExecStart=… $MYSQLD_OPTS`), in a drop-in that lives for one start and does not outlive a reboot.
//! Whether it was heeded the server alone can say.

use std::path::{Path, PathBuf};

use protocol::mysql::Flavor;

use crate::config::ServiceConfig;
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
    /// Why an application could write through the first start of a MariaDB that becomes a replica; `None` where it could not. MySQL
    /// is told by what it persists.
    pub async fn open_first_start(&self) -> Option<String> {
        let settings = self.settings().await;
        let is_mariadb = settings.flavor == Some(Flavor::Mariadb);
        if !is_mariadb || settings.options.is_on("read-only") == Some(true) {
            return None;
        }
        let cure = "set read_only = ON in its option file, and switch it off where that is meant";
        match &self.config().service {
            ServiceConfig::Direct(_) => return None,
            ServiceConfig::Argv(_) => {
                return Some(format!(
                    "the commands that start it cannot tell it to come up read-only: {cure}"
                ));
            }
            ServiceConfig::Systemd(_) | ServiceConfig::Auto => {}
        }
        let facts = match self.unit_facts().await {
            Ok(Some(facts)) => facts,
            Ok(None) => return None,
            Err(error) => {
                return Some(format!("its unit cannot be asked how it starts it ({error}): {cure}"));
            }
        };
        let is_told = facts.passes_options_on() && render(&facts.unit, &facts.server_options()).is_some();
        (!is_told).then(|| format!("{} does not pass MYSQLD_OPTS on to it: {cure}", facts.unit))
    }

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
