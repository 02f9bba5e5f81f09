//! Subcommands that need no bus: keys, and the bus's own configuration.

use serde_json::json;

use crate::args::{BusCmd, KeyCmd};
use crate::error::{CtlError, Result};
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

pub(super) fn bus(command: &BusCmd, _out: &Out) -> Result<()> {
    let BusCmd::Config(_) = command;
    Err(CtlError::usage("bus config is not there yet", "see ops/nats for sample configurations"))
}
