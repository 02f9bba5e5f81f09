//! Tables that do not lie below the datadir, though they belong to its database: a copy of the datadir is without them.

use std::fs;
use std::path::{Path, PathBuf};

use protocol::mysql::Flavor;

use crate::datadir::stays_at_home;
use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::server;

/// More need not be named for a person to understand.
const NAMED: usize = 20;
/// Where MySQL's dictionary has tablespaces, in the words of its manual (INFORMATION_SCHEMA INNODB_DATAFILES): relative to
/// the datadir, unless a `DATA DIRECTORY` or a general tablespace's path is absolute. MariaDB leaves an `.isl` file.
const DICTIONARY: &str =
    "SELECT PATH FROM information_schema.INNODB_DATAFILES WHERE PATH LIKE '/%' ORDER BY PATH LIMIT 1000";

/// The first few tablespaces outside the datadir, by the links and `.isl` files in it and by MySQL's dictionary.
///
/// # Errors
/// [`Error::NotFound`] without a datadir; [`Error::Io`] when it cannot be read; when a running MySQL refuses to tell.
pub async fn tablespaces_outside(instance: &Instance) -> Result<Vec<PathBuf>> {
    let settings = instance.settings().await;
    let datadir = settings.datadir.clone().ok_or(Error::NotFound { what: "the datadir" })?;
    let mut named = Vec::new();
    if let Ok(mut session) = instance.connect().await {
        if server::version(&mut session).await?.flavor == Flavor::Mysql {
            named = session.rows("list its tablespaces", DICTIONARY).await?;
        }
        session.close().await;
    }
    let named: Vec<PathBuf> =
        named.into_iter().flatten().flatten().map(|path| settings.resolve(Path::new(&path))).collect();
    let looked = tokio::task::spawn_blocking(move || {
        let mut found = named_by_files(&datadir, &|path| settings.resolve(path))?;
        found.extend(named.into_iter().filter(|path| !is_below(path, &datadir)));
        found.sort();
        found.dedup();
        found.truncate(NAMED);
        Ok(found)
    });
    looked.await.map_err(|_| Error::NotFound { what: "the tablespaces" })?
}

/// What links and `.isl` files at the top of a datadir and in its databases lead to; the server's own words for a path are
/// resolved.
fn named_by_files(datadir: &Path, resolve: &dyn Fn(&Path) -> PathBuf) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut look = |entry: &fs::DirEntry| {
        let path = entry.path();
        let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
        let target = if is_link {
            fs::canonicalize(&path).ok()
        } else if path.extension().is_some_and(|extension| extension == "isl") {
            fs::read_to_string(&path).ok().map(|text| resolve(Path::new(text.trim())))
        } else {
            None
        };
        found.extend(target.filter(|target| !is_below(target, datadir)));
    };
    for entry in fs::read_dir(datadir).map_err(Error::io("list", datadir))?.flatten() {
        if stays_at_home(&entry.file_name()) {
            continue;
        }
        look(&entry);
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            // A database that is dropped meanwhile has no tables elsewhere.
            fs::read_dir(entry.path()).into_iter().flatten().flatten().for_each(|entry| look(&entry));
        }
    }
    Ok(found)
}

fn is_below(path: &Path, datadir: &Path) -> bool {
    let resolved = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    path.starts_with(datadir) || resolved(path).starts_with(resolved(datadir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_isl_files_tell_of_tables_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let (datadir, fast) = (root.join("data"), root.join("fast/shop"));
        fs::create_dir_all(datadir.join("shop")).unwrap();
        fs::create_dir_all(&fast).unwrap();
        fs::write(fast.join("hot.ibd"), "x").unwrap();
        fs::write(datadir.join("shop/cold.ibd"), "x").unwrap();
        assert_eq!(named_by_files(&datadir, &|path| datadir.join(path)).unwrap(), Vec::<PathBuf>::new());

        let link = |to: &Path, at: &str| std::os::unix::fs::symlink(to, datadir.join(at)).unwrap();
        link(&datadir.join("shop/cold.ibd"), "shop/inside.ibd");
        link(&fast, "archive");
        // As in MySQL's container images.
        link(&fast.join("hot.ibd"), "mysql.sock");
        fs::write(datadir.join("shop/hot.isl"), format!("{}\n", fast.join("hot.ibd").display())).unwrap();
        let mut found = named_by_files(&datadir, &|path| datadir.join(path)).unwrap();
        found.sort();
        assert_eq!(found, [fast.clone(), fast.join("hot.ibd")]);
    }
}
