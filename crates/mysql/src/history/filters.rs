//! Rows that a replica never gets because somebody has said so: what the source leaves out of its log, what this server does not apply.

use super::{Asked, Availability};
use crate::error::Result;
use crate::options::Options;
use crate::position::{self, server_code};

/// What begins the names of options by which a replica leaves out what its source has logged, or applies it elsewhere.
const OWN: [&str; 7] = [
    "replicate-do-db",
    "replicate-do-table",
    "replicate-ignore-db",
    "replicate-ignore-table",
    "replicate-rewrite-db",
    "replicate-wild-do-table",
    "replicate-wild-ignore-table",
];

/// With these a row that cannot be applied is left out, and both threads run on.
const SKIPS: [&str; 2] = ["slave-skip-errors", "replica-skip-errors"];
/// With `IDEMPOTENT` a row that is missing is passed over.
const MODES: [&str; 2] = ["slave-exec-mode", "replica-exec-mode"];

const ER_UNKNOWN_SYSTEM_VARIABLE: u16 = 1193;

/// Whether the source's log has all that is written there, in a form that a copy can go on from.
pub(super) async fn check(asked: &mut Asked<'_>) -> Result<Availability> {
    let format = match asked.scalar("show binlog_format", "SELECT @@GLOBAL.binlog_format").await {
        // Deprecated in MySQL: a server without it logs rows only.
        Err(error) if server_code(&error) == Some(ER_UNKNOWN_SYSTEM_VARIABLE) => String::new(),
        format => format?,
    };
    if format.eq_ignore_ascii_case("STATEMENT") && !asked.follower.takes_statements {
        return Ok(Availability::Gone(
            "the source logs statements (binlog_format = STATEMENT): one that uses a session's temporary table, which no copy has, \
             would end replication; set MIXED or ROW there and take a new snapshot, or set seed.statement_sources in this host's \
             configuration if no session has such tables"
                .to_owned(),
        ));
    }
    let row = position::binlog_record(&mut asked.session).await?.unwrap_or_default();
    let filters = [("Binlog_Do_DB", "binlog-do-db"), ("Binlog_Ignore_DB", "binlog-ignore-db")];
    let said = filters.into_iter().filter_map(|(column, option)| {
        let schemas = row.get(column).filter(|schemas| !schemas.is_empty())?;
        Some(format!("{option} = {schemas}"))
    });
    Ok(leave(
        &said.collect::<Vec<_>>(),
        asked.follower.takes_filtered,
        "the source leaves schemas out of its log",
    ))
}

/// Whether a server with these options applies all that its source has logged.
#[must_use]
pub fn of_own(options: &Options, takes_filtered: bool) -> Availability {
    let skips = SKIPS.into_iter().filter(|name| options.is_on(name) == Some(true));
    let is_idempotent =
        |name: &&str| options.get(name).is_some_and(|mode| mode.eq_ignore_ascii_case("IDEMPOTENT"));
    let named = OWN.into_iter().chain(skips).chain(MODES.into_iter().filter(is_idempotent));
    let filters = named.filter_map(|name| Some(format!("{name} = {}", options.get(name)?)));
    leave(&filters.collect::<Vec<_>>(), takes_filtered, "this server leaves out what its source has logged")
}

/// Whether the donor's copy has all rows of it: those of these tables lay in its memory.
#[must_use]
pub fn of_donor(volatile: &[String], takes_filtered: bool) -> Availability {
    if volatile.is_empty() || takes_filtered {
        return Availability::Available;
    }
    Availability::Gone(format!(
        "rows of MEMORY tables are in no copy: the new replica would have {} empty, and its applier end or pass over what changes \
         them; give them another engine, or set seed.filtered_replicas in this host's configuration",
        volatile.join(", ")
    ))
}

fn leave(filters: &[String], takes_filtered: bool, who: &str) -> Availability {
    if filters.is_empty() || takes_filtered {
        return Availability::Available;
    }
    let filters = filters.join(", ");
    Availability::Gone(format!(
        "{who} ({filters}): the new replica would keep what the snapshot has of them, and never change it; replicate from a source \
         without filters, or set seed.filtered_replicas in this host's configuration"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_told_by_name_and_value_unless_it_is_wanted() {
        let mut options = Options::default();
        options.add_command_line(["--replicate_wild_ignore_table=tmp.%", "--log-bin"]);
        let Availability::Gone(why) = of_own(&options, false) else { panic!("it passes") };
        assert!(why.contains("replicate-wild-ignore-table = tmp.%"), "{why}");
        assert_eq!(of_own(&options, true), Availability::Available);
        assert_eq!(of_own(&Options::default(), false), Availability::Available);
        for (line, passes) in [
            ("--slave_skip_errors=1062", false),
            ("--replica-skip-errors=all", false),
            ("--slave-skip-errors=OFF", true),
            ("--slave-exec-mode=idempotent", false),
            ("--replica_exec_mode=STRICT", true),
        ] {
            let mut options = Options::default();
            options.add_command_line([line]);
            assert_eq!(of_own(&options, false) == Availability::Available, passes, "{line}");
        }
    }
}
