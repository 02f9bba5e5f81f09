//! MariaDB's GTIDs, `domain-server-sequence`: a replication domain counts its transactions in one row, whoever wrote them.

use std::collections::BTreeMap;

/// One transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Gtid {
    pub(crate) domain: u32,
    pub(crate) server: u32,
    pub(crate) sequence: u64,
}

impl std::fmt::Display for Gtid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}-{}", self.domain, self.server, self.sequence)
    }
}

/// The GTIDs of a list such as `0-1-42,7-2-9`; what is none is left out.
pub(crate) fn parse(list: &str) -> Vec<Gtid> {
    list.split(',').filter_map(|text| one(text.trim())).collect()
}

fn one(text: &str) -> Option<Gtid> {
    let mut parts = text.split('-');
    let gtid = Gtid {
        domain: parts.next()?.parse().ok()?,
        server: parts.next()?.parse().ok()?,
        sequence: parts.next()?.parse().ok()?,
    };
    parts.next().is_none().then_some(gtid)
}

/// The last transaction of each domain.
pub(crate) fn last_of_domains(list: &str) -> BTreeMap<u32, Gtid> {
    let mut last: BTreeMap<u32, Gtid> = BTreeMap::new();
    for gtid in parse(list) {
        let known = last.entry(gtid.domain).or_insert(gtid);
        if gtid.sequence > known.sequence {
            *known = gtid;
        }
    }
    last
}

/// What `there` has and `here` has not: the last transaction of each domain that is behind.
pub(crate) fn missing(there: &str, here: &str) -> Vec<Gtid> {
    let here = last_of_domains(here);
    let lacks = |gtid: &Gtid| here.get(&gtid.domain).is_none_or(|ours| ours.sequence < gtid.sequence);
    last_of_domains(there).into_values().filter(lacks).collect()
}

/// A transaction of `here` that another one stands for in `there`, under the same number: two histories.
pub(crate) fn fork(there: &str, here: &str) -> Option<(Gtid, Gtid)> {
    let here = last_of_domains(here);
    last_of_domains(there).into_values().find_map(|theirs| {
        let ours = here.get(&theirs.domain)?;
        (ours.sequence == theirs.sequence && ours.server != theirs.server).then_some((theirs, *ours))
    })
}

/// What `here` has and `there` has not: in domains that `there` knows, another transaction under the same number included, and
/// in domains that it does not, such as those of an earlier source.
pub(crate) fn errant(here: &str, there: &str) -> (Vec<Gtid>, Vec<Gtid>) {
    let known = last_of_domains(there);
    let mut errant = missing(here, there);
    errant.extend(fork(there, here).map(|(_, ours)| ours));
    errant.into_iter().partition(|gtid| known.contains_key(&gtid.domain))
}

/// The transactions that `server` wrote into the history `state` (`gtid_binlog_state`: the last one of each server in each
/// domain) after `position`.
pub(crate) fn written_after(state: &str, server: u32, position: &str) -> Vec<Gtid> {
    let position = last_of_domains(position);
    let is_after = |gtid: &Gtid| position.get(&gtid.domain).is_none_or(|at| at.sequence < gtid.sequence);
    parse(state).into_iter().filter(|gtid| gtid.server == server && is_after(gtid)).collect()
}

/// A list in the server's own form.
pub(crate) fn list(gtids: &[Gtid]) -> String {
    gtids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_behind_by_its_number_whoever_wrote() {
        assert_eq!(missing("0-1-42", "0-2-42"), []);
        assert_eq!(list(&missing("0-1-43,7-1-1", "0-2-42")), "0-1-43,7-1-1");
        assert_eq!(missing("", "0-2-42"), []);
        assert_eq!(list(&missing("0-1-42", "nonsense")), "0-1-42");
    }

    #[test]
    fn one_number_of_two_servers_is_a_fork() {
        assert_eq!(fork("0-1-42", "0-1-42"), None);
        assert_eq!(fork("0-1-43", "0-2-42"), None, "behind, and nothing is known yet");
        assert!(fork("0-1-42,7-1-1", "0-2-42,7-1-1").is_some());
    }

    #[test]
    fn a_domain_of_an_earlier_source_is_no_errant_transaction() {
        let (errant, stale) = errant("0-1-42,7-1-9,8-1-1", "0-2-50,7-1-8");
        assert_eq!((list(&errant), list(&stale)), ("7-1-9".into(), "8-1-1".into()));
        let (forked, _) = super::errant("0-1-42", "0-2-42");
        assert_eq!(list(&forked), "0-1-42");
    }

    #[test]
    fn a_servers_own_writes_after_a_position_are_named_in_each_domain() {
        let state = "0-1-110,0-2-100,7-2-5,8-2-3";
        assert_eq!(list(&written_after(state, 2, "0-2-50,7-2-5")), "0-2-100,8-2-3");
        assert_eq!(written_after(state, 2, "0-1-100,7-2-5,8-1-9"), []);
        assert_eq!(list(&written_after(state, 1, "")), "0-1-110");
        assert_eq!(parse("0-1,0-1-2-3,x"), []);
    }
}
