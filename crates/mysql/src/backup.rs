//! What backup programs write down of the position of their copy.

use protocol::mysql::{BinlogPosition, Coordinates, Flavor};

/// Reads `xtrabackup_binlog_info` (`mariadb_backup_binlog_info`): file, position and, after a further tab, the GTIDs.
#[must_use]
pub fn position(text: &str, flavor: Flavor) -> Option<Coordinates> {
    let mut fields = text.trim().splitn(3, '\t').map(str::trim);
    let (file, position) = (fields.next()?, fields.next()?.parse().ok()?);
    if file.is_empty() {
        return None;
    }
    // MySQL's sets of several servers stand on several lines.
    let gtid = fields.next().map(|gtid| gtid.replace(['\n', '\r'], "")).filter(|gtid| !gtid.is_empty());
    Some(Coordinates { flavor, binlog: Some(BinlogPosition { file: file.to_owned(), position }), gtid })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_vendors_positions_are_read() {
        let mariadb = position("binlog.000003\t1234\t0-1-42\n", Flavor::Mariadb).unwrap();
        assert_eq!(mariadb.gtid.as_deref(), Some("0-1-42"));
        assert_eq!(mariadb.binlog.unwrap().position, 1234);
        let mysql =
            position("binlog.000002\t197\t3e11fa47-71ca:1-5,\n4e11fa47-71ca:1\n", Flavor::Mysql).unwrap();
        assert_eq!(mysql.gtid.as_deref(), Some("3e11fa47-71ca:1-5,4e11fa47-71ca:1"));
        assert_eq!(position("binlog.000001\t4\n", Flavor::Mysql).unwrap().gtid, None);
        assert_eq!(position("", Flavor::Mysql), None);
        assert_eq!(position("binlog.000001\tfour", Flavor::Mysql), None);
    }
}
