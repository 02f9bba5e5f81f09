//! Subcommands about keys; they need no bus.

use serde_json::json;

use crate::args::KeyCmd;
use crate::error::Result;
use crate::keys;
use crate::output::Out;

pub(super) fn run(command: &KeyCmd, out: &Out) -> Result<()> {
    let (public, file) = match command {
        KeyCmd::Generate { file } => (keys::generate(file)?, file),
        KeyCmd::Show { file } => (keys::read_seed(file)?.public_key(), file),
    };
    out.result(&json!({"public_key": public, "file": file}), |_| public.clone());
    if matches!(command, KeyCmd::Generate { .. }) {
        out.note(&format!(
            "the secret seed is in {} (mode 0600); add the public key to `trusted` in the agents' configuration",
            file.display()
        ));
    }
    Ok(())
}
