//! Compares the tree with one that the recipient has kept, before the manifest is told.

use std::fs::File;
use std::sync::Arc;

use sys::dir::Dir;

use super::spawn;
use super::state::Shared;
use crate::{Error, Manifest, Result, extents, manifest};

/// Has the manifest replaced by one of what differs from the tree with this root digest. Whoever asks for the manifest meanwhile waits.
/// In any doubt it stays the whole one.
pub(super) fn begin(shared: &Arc<Shared>, root: [u8; 32]) -> Result<()> {
    let Some(manifest) = shared.lend_manifest(root) else { return Ok(()) };
    let lent = Lent { shared: Arc::clone(shared), manifest };
    let comparing = spawn("donor-compare", move || {
        let mut lent = lent;
        match compare(&lent.shared, &lent.manifest, &root) {
            Ok(since) => {
                let (of, moves) = (lent.manifest.bytes_data(), since.bytes_data());
                tracing::info!(bytes = of, differ = moves, "compared with what the recipient has kept");
                lent.manifest = Arc::new(since);
            }
            Err(why) => tracing::warn!(%why, "not compared with what the recipient has kept"),
        }
    })?;
    shared.note_comparing(comparing);
    Ok(())
}

/// The manifest on its way out and back: whatever happens, who waits for one gets one.
struct Lent {
    shared: Arc<Shared>,
    manifest: Arc<Manifest>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.shared.set_manifest(Arc::clone(&self.manifest));
    }
}

fn compare(shared: &Shared, whole: &Manifest, root: &[u8; 32]) -> Result<Manifest, String> {
    let bases = shared.options.bases.as_ref().ok_or("nothing was given from here before")?;
    let base = bases.find(root)?;
    let told = |error: Error| sys::error::line(&error);
    let lies_in = |path| {
        let file = File::open(path).and_then(|file| extents::file_system(&file));
        file.map_err(Error::file("look at", path)).map_err(told)
    };
    let place = lies_in(&shared.options.root)?.ok_or("its file system shares no blocks")?;
    if lies_in(&base.root)? != Some(place) {
        return Err("the two lie in different file systems".to_owned());
    }
    let open = |path| Dir::open(path).map_err(Error::file("open", path)).map_err(told);
    let (dir, old) = (open(&shared.options.root)?, open(&base.root)?);
    let given = manifest::Old { dir: &old, exclude: &base.exclude, root };
    let since = manifest::since(whole, &dir, given, &shared.cancel).map_err(told)?;
    // Afterwards: what was written to it in between would show as well.
    if manifest::stamp(&base.root, &base.exclude).map_err(told)? != base.stamp {
        return Err("what was given then has been written to since".to_owned());
    }
    Ok(since)
}
