//! Where a server that was shut down stands, by the log that it closed: nobody is there to be asked.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use protocol::mysql::{BinlogPosition, Coordinates, Flavor, LogIdentity};

use super::format;
use super::{LogFile, LogKind, index_of, problem, read_index};
use crate::datadir::{is_replica_file, top_entries};
use crate::error::{Error, Result};
use crate::gtid::{self, Gtid};
use crate::persisted;
use crate::settings::Settings;

/// The last event of a log whose server was shut down, or that is closed for good.
const STOP_EVENT: u8 = 3;
/// MySQL's set of everything before a log.
const PREVIOUS_GTIDS_EVENT: u8 = 35;
/// MariaDB's begin of a transaction, and its list of the last ones before a log.
const GTID_EVENT: u8 = 162;
const GTID_LIST_EVENT: u8 = 163;
/// The upper bits of the count in MariaDB's list are flags.
const LIST_COUNT_MASK: u32 = 0x0fff_ffff;
/// Sets of more members are none that a server has.
const MOST_MEMBERS: u64 = 1 << 20;

/// Where a stopped server stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AtRest {
    /// MariaDB: exactly there. MySQL: at least there, since its sets are read only as far as the log's beginning tells them.
    pub coordinates: Coordinates,
    /// Which log they are of.
    pub log: LogIdentity,
}

/// Reads it from the last log of a server of these settings; `None` where that log does not say so: it was not closed by a
/// shutdown, is encrypted, or the server is a replica that logs nothing of what it applies (MariaDB). Blocking: it walks over
/// the events of that log.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) and [`Error::Binlog`](crate::Error::Binlog) for logs that cannot be read.
pub fn at_rest(settings: &Settings, flavor: Flavor) -> Result<Option<AtRest>> {
    let (Some(datadir), Some(_), Some(index)) =
        (settings.datadir.as_deref(), settings.log_bin(), index_of(settings, LogKind::Binary))
    else {
        return Ok(None);
    };
    let logs = read_index(&index, datadir, &settings.root)?;
    // An earlier log that was closed by a shutdown says nothing of what the newest had, if that is gone.
    let text = fs::read_to_string(&index).map_err(Error::io("read the log index", &index))?;
    let newest = text.lines().rev().map(str::trim).find(|line| !line.is_empty());
    let newest = newest.and_then(|line| Path::new(line).file_name());
    let Some(last) = logs.files.last().filter(|last| newest == Some(OsStr::new(&last.name))) else {
        return Ok(None);
    };
    match flavor {
        _ if engine_lags(settings, datadir) => Ok(None),
        Flavor::Mariadb if logs_nothing_of_its_source(settings, datadir) => Ok(None),
        _ => of_file(last, flavor),
    }
}

/// With 0 a commit is in the binary log up to a second before it is in the engine's: a server that was killed behind the end of its
/// log lacks rows that the log has.
fn engine_lags(settings: &Settings, datadir: &Path) -> bool {
    let mut options = settings.options.clone();
    options.add_command_line(persisted::options(datadir).iter().map(String::as_str));
    options.get("innodb-flush-log-at-trx-commit") == Some("0")
}

fn logs_nothing_of_its_source(settings: &Settings, datadir: &Path) -> bool {
    let names = top_entries(datadir).unwrap_or_default();
    let is_replica = names.iter().any(|name| is_replica_file(name));
    is_replica && settings.options.is_on("log-slave-updates") != Some(true)
}

fn of_file(last: &LogFile, flavor: Flavor) -> Result<Option<AtRest>> {
    let header = format::inspect(&last.path)?;
    if header.encrypted || header.in_use {
        return Ok(None);
    }
    let mut log = format::Events::open(&last.path, header.checksums)?;
    let mut found = Found::default();
    let mut end = None;
    while let Some(event) = log.next(|kind| is_wanted(kind, flavor))? {
        found.take(&last.path, event.kind, event.server_id, &event.body)?;
        end = Some((event.kind, event.end));
    }
    let Some((STOP_EVENT, position)) = end else { return Ok(None) };
    let Some(gtid) = found.gtid(flavor) else { return Ok(None) };
    let binlog = Some(BinlogPosition { file: last.name.clone(), position });
    let log = LogIdentity {
        server_uuid: None,
        server_id: Some(header.server_id).filter(|id| *id > 0),
        created_s: Some(header.created_s),
    };
    Ok(Some(AtRest { coordinates: Coordinates { flavor, binlog, gtid }, log }))
}

fn is_wanted(kind: u8, flavor: Flavor) -> bool {
    match flavor {
        Flavor::Mysql => kind == PREVIOUS_GTIDS_EVENT,
        Flavor::Mariadb => matches!(kind, GTID_EVENT | GTID_LIST_EVENT),
    }
}

/// What a walk has found.
#[derive(Debug, Default)]
struct Found {
    /// MySQL's set; `None` within: one that we do not read.
    set: Option<Option<String>>,
    /// MariaDB's last transaction of each domain.
    last: BTreeMap<u32, Gtid>,
    has_list: bool,
}

impl Found {
    fn take(&mut self, path: &Path, kind: u8, server: u32, body: &[u8]) -> Result<()> {
        let damaged = || problem(path, "a list of GTIDs in it is damaged");
        let mut reader = Reader { rest: body };
        match kind {
            PREVIOUS_GTIDS_EVENT => self.set = Some(set_of(&mut reader)),
            GTID_LIST_EVENT => {
                self.has_list = true;
                // The last of each server in a domain, and the domain's own last one behind the others.
                let count = reader.u32().ok_or_else(damaged)? & LIST_COUNT_MASK;
                for _ in 0..count {
                    let (domain, server) = (reader.u32(), reader.u32());
                    let gtid = domain.zip(server).zip(reader.u64());
                    let ((domain, server), sequence) = gtid.ok_or_else(damaged)?;
                    self.last.insert(domain, Gtid { domain, server, sequence });
                }
            }
            GTID_EVENT => {
                let (sequence, domain) = reader.u64().zip(reader.u32()).ok_or_else(damaged)?;
                // In the order of the log: what comes later is the last, whatever its number.
                self.last.insert(domain, Gtid { domain, server, sequence });
            }
            _ => {}
        }
        Ok(())
    }

    /// `None` where nothing was found that tells it; none within where GTIDs are not used.
    fn gtid(self, flavor: Flavor) -> Option<Option<String>> {
        match flavor {
            Flavor::Mysql => Some(self.set??).map(|set| Some(set).filter(|set| !set.is_empty())),
            Flavor::Mariadb => self.has_list.then(|| {
                let last: Vec<Gtid> = self.last.into_values().collect();
                Some(gtid::list(&last)).filter(|list| !list.is_empty())
            }),
        }
    }
}

/// `Gtid_set::encode` (`rpl_gtid_set.cc`): for each server its uuid and intervals whose ends are not in them. Once a server has seen a
/// GTID with a tag, the count's highest byte says so, the count lies a byte higher, and each uuid is followed by a tag.
fn set_of(reader: &mut Reader<'_>) -> Option<String> {
    const TAGGED: u64 = 1;
    let count = reader.u64()?;
    let (servers, is_tagged) = match count >> 56 {
        0 => (count, false),
        TAGGED => ((count << 8) >> 16, true),
        _ => return None,
    };
    let mut members = Vec::new();
    for _ in 0..Some(servers).filter(|count| *count <= MOST_MEMBERS)? {
        let mut member = uuid::Uuid::from_slice(reader.bytes(16)?).ok()?.to_string();
        if is_tagged {
            // Twice the length, then as many letters, digits and underscores.
            let length = usize::from(reader.bytes(1)?[0] >> 1);
            let tag = std::str::from_utf8(reader.bytes(length)?).ok()?;
            let is_plain = tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            member += &Some(tag).filter(|_| is_plain).map(|tag| format!(":{tag}"))?;
            member.truncate(member.trim_end_matches(':').len());
        }
        for _ in 0..reader.u64().filter(|count| *count <= MOST_MEMBERS)? {
            let (first, end) = reader.u64().zip(reader.u64())?;
            let last = end.checked_sub(1)?;
            member += &if first == last { format!(":{first}") } else { format!(":{first}-{last}") };
        }
        members.push(member);
    }
    Some(members.join(","))
}

/// Little-endian numbers, as both servers write them.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.bytes(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.bytes(8)?.try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binlog::format::tests::{event_of, log};

    fn told(flavor: Flavor, events: &[Vec<u8>]) -> Option<Option<String>> {
        let file = log(events);
        let named = LogFile { name: "binlog.000007".into(), path: file.path().into(), size_bytes: 0 };
        of_file(&named, flavor).unwrap().map(|at_rest| at_rest.coordinates.gtid)
    }

    fn list(gtids: &[(u32, u32, u64)]) -> Vec<u8> {
        let mut body = u32::try_from(gtids.len()).unwrap().to_le_bytes().to_vec();
        for (domain, server, sequence) in gtids {
            body.extend(domain.to_le_bytes());
            body.extend(server.to_le_bytes());
            body.extend(sequence.to_le_bytes());
        }
        event_of(GTID_LIST_EVENT, 1, &body)
    }

    fn gtid(domain: u32, server: u32, sequence: u64) -> Vec<u8> {
        let mut body = sequence.to_le_bytes().to_vec();
        body.extend(domain.to_le_bytes());
        body.push(0);
        event_of(GTID_EVENT, server, &body)
    }

    #[test]
    fn mariadb_stands_at_the_last_transaction_of_each_domain() {
        let stop = event_of(STOP_EVENT, 1, &[]);
        let some = [list(&[(0, 1, 5), (0, 2, 9), (7, 1, 3)]), gtid(0, 1, 10), gtid(0, 2, 11), stop];
        assert_eq!(told(Flavor::Mariadb, &some), Some(Some("0-2-11,7-1-3".into())));
        assert_eq!(told(Flavor::Mariadb, &some[..3]), None, "it was not closed");
        assert_eq!(told(Flavor::Mariadb, &some[1..]), None, "what came before is not said");
        assert_eq!(told(Flavor::Mariadb, &[list(&[]), some[3].clone()]), Some(None));
        let torn = event_of(GTID_LIST_EVENT, 1, &[9, 0, 0, 0, 1, 2, 3]);
        let file = log(&[torn, some[3].clone()]);
        let named = LogFile { name: "b.1".into(), path: file.path().into(), size_bytes: 0 };
        assert!(of_file(&named, Flavor::Mariadb).unwrap_err().to_string().contains("damaged"));
    }

    #[test]
    fn a_log_that_is_not_the_newest_or_whose_engine_may_lag_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let closed = log(&[list(&[(0, 1, 5)]), event_of(STOP_EVENT, 1, &[])]);
        fs::copy(closed.path(), dir.path().join("binlog.000001")).unwrap();
        let index = |lines: &str| fs::write(dir.path().join("binlog.index"), lines).unwrap();
        let told = |flush: &str| {
            let mut settings =
                Settings { datadir: Some(dir.path().to_owned()), root: "/".into(), ..Settings::default() };
            settings.options.add_command_line(["--log-bin=binlog", flush]);
            at_rest(&settings, Flavor::Mariadb).unwrap().map(|at_rest| at_rest.coordinates.gtid)
        };
        index("./binlog.000001\n");
        assert_eq!(told("--innodb-flush-log-at-trx-commit=1"), Some(Some("0-1-5".into())));
        assert_eq!(told("--innodb_flush_log_at_trx_commit=0"), None);
        index("./binlog.000001\n./binlog.000002\n");
        assert_eq!(told("--innodb-flush-log-at-trx-commit=1"), None, "the newest is gone");
    }

    #[test]
    fn mysql_stands_at_least_where_its_log_began() {
        let stop = event_of(STOP_EVENT, 1, &[]);
        let mut body = 1_u64.to_le_bytes().to_vec();
        body.extend([0xab; 16]);
        body.extend(2_u64.to_le_bytes());
        for number in [1_u64, 6, 9, 10] {
            body.extend(number.to_le_bytes());
        }
        let events = |body: &[u8]| vec![event_of(PREVIOUS_GTIDS_EVENT, 1, body), stop.clone()];
        let set = "abababab-abab-abab-abab-abababababab:1-5:9".to_owned();
        assert_eq!(told(Flavor::Mysql, &events(&body)), Some(Some(set)));
        assert_eq!(told(Flavor::Mysql, &events(&0_u64.to_le_bytes())), Some(None));
        body[7] = 2;
        assert_eq!(told(Flavor::Mysql, &events(&body)), None, "a form that is not known");
        let mut tagged = ((1_u64 << 56) | (2 << 8) | 1).to_le_bytes().to_vec();
        for tag in ["", "load"] {
            tagged.extend([0xab; 16]);
            tagged.push(u8::try_from(tag.len() << 1).unwrap());
            tagged.extend(tag.bytes());
            tagged.extend(1_u64.to_le_bytes());
            tagged.extend([1_u64.to_le_bytes(), 3_u64.to_le_bytes()].concat());
        }
        let uuid = "abababab-abab-abab-abab-abababababab";
        let set = format!("{uuid}:1-2,{uuid}:load:1-2");
        assert_eq!(told(Flavor::Mysql, &events(&tagged)), Some(Some(set)));
        assert_eq!(told(Flavor::Mysql, &events(&[1, 0])), None);
    }
}
