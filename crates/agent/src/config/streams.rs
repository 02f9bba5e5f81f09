//! Pairs of programs that make a stream of the data and unpack it again.

use serde::Deserialize;

/// `[seed.streams.<name>]`.
///
/// In each argument `{option_file}` is an option file with the server's own options and the agent's account, `{socket}` and
/// `{datadir}` the server's, `{temporary}` an empty directory of the donor, and `{staging}` the recipient's new datadir.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct StreamConfig {
    /// On the donor: writes the stream to its standard output.
    pub(crate) give: Vec<String>,
    /// On the donor: as the agent's own user, for a program that needs root. Otherwise as the data's owner.
    pub(crate) give_as_agent: bool,
    /// On the recipient: reads it from its standard input and unpacks it into `{staging}`.
    pub(crate) take: Vec<String>,
    /// On the recipient, once all has arrived: makes a datadir of it that a server starts on; may be empty.
    pub(crate) prepare: Vec<String>,
}
