//! What packages and shells take of this program: man pages and completions, made from its own command line.

use std::path::Path;

use clap_complete::Shell;

use crate::args::Cli;
use crate::complete;
use crate::error::{CtlError, Result};
use crate::output::Out;

pub(super) fn completions(shell: Shell, out: &Out) -> Result<()> {
    let script = complete::registration(&shell.to_string())
        .ok_or_else(|| CtlError::usage(format!("{shell} cannot ask"), "one of bash, zsh, fish can"))?;
    out.content(&script);
    Ok(())
}

pub(super) fn man(dir: &Path, out: &Out) -> Result<()> {
    let failed = |source| CtlError::File { action: "write man pages into", path: dir.to_owned(), source };
    std::fs::create_dir_all(dir).map_err(failed)?;
    clap_mangen::generate_to(Cli::definition(), dir).map_err(failed)?;
    out.note(&format!("man pages are in {}", dir.display()));
    Ok(())
}
