//! The contents of a log as text, by the server's own `mariadb-binlog` or `mysqlbinlog`, in bounded chunks.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use protocol::mysql::Flavor;
use tokio::io::AsyncReadExt;
use tokio::process::{ChildStdout, Command};
use tokio::task::JoinHandle;

use super::{LogSet, Range, problem};
use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::process::{Group, read_up_to};

/// Size of a chunk of text, bytes.
const CHUNK_BYTES: usize = 128 << 10;
/// The program is ended when it gives no output for this long.
const PATIENCE: Duration = Duration::from_secs(60);
/// MariaDB's decoder takes a part of a log for one with missing transactions; other decoders do not know the option.
pub(super) const NO_GTID_CHECK: &str = "--loose-gtid-strict-mode=OFF";
/// What is kept of its complaints, bytes.
const STDERR_BYTES: usize = 8 << 10;

/// Text that is being made. Dropping it ends the program.
#[derive(Debug)]
pub struct TextStream {
    group: Group,
    stdout: ChildStdout,
    stderr: JoinHandle<Vec<u8>>,
    program: String,
    first: PathBuf,
    left_bytes: u64,
}

/// Starts to decode a range of a log. `decode_rows` shows row events as statements for people; without it the text can be
/// piped into a client.
///
/// # Errors
/// As [`LogSet::select`], and [`Error::Program`] when there is no such program.
pub async fn text(
    instance: &Instance,
    logs: &LogSet,
    range: &Range,
    decode_rows: bool,
    max_bytes: u64,
) -> Result<TextStream> {
    let files = logs.select(range)?;
    let program = decoder(instance).await;
    let mut command = Command::new(&program);
    command
        .arg("--no-defaults")
        .arg(NO_GTID_CHECK)
        .arg(format!("--start-position={}", range.start.max(super::format::MAGIC_BYTES)));
    command.args(range.stop.map(|stop| format!("--stop-position={stop}")));
    if decode_rows {
        command.args(["--base64-output=DECODE-ROWS", "--verbose"]);
    }
    // The paths are the index's own, absolute: none can look like an option.
    command.args(files.iter().map(|f| &f.path));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let program = program.display().to_string();
    let mut group = Group::spawn(command, &program)?;
    let stdout = group.child.stdout.take();
    let stdout = stdout.ok_or_else(|| problem(&files[0].path, "its decoder has no output"))?;
    let stderr = tokio::spawn(read_up_to(group.child.stderr.take(), STDERR_BYTES));
    Ok(TextStream { group, stdout, stderr, program, first: files[0].path.clone(), left_bytes: max_bytes })
}

impl TextStream {
    /// The next chunk, at most 128 KiB; absent at the end, when the decoder ended with success.
    ///
    /// # Errors
    /// [`Error::Binlog`] beyond the limit of bytes, [`Error::Program`] when the decoder fails or hangs.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        let read = async {
            while chunk.len() < CHUNK_BYTES {
                let room = (CHUNK_BYTES - chunk.len()) as u64;
                if (&mut self.stdout).take(room).read_buf(&mut chunk).await? == 0 {
                    break;
                }
            }
            std::io::Result::Ok(())
        };
        let failed = |problem: String| Error::Program { program: self.program.clone(), problem };
        match tokio::time::timeout(PATIENCE, read).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => return Err(failed(format!("could not be read: {e}"))),
            Err(_) => return Err(failed(format!("gave nothing for {} s", PATIENCE.as_secs()))),
        }
        if chunk.is_empty() {
            return self.finish().await.map(|()| None);
        }
        let Some(left) = self.left_bytes.checked_sub(chunk.len() as u64) else {
            return Err(problem(
                &self.first,
                "its text is longer than may be asked for at once; ask for a smaller range",
            ));
        };
        self.left_bytes = left;
        Ok(Some(chunk))
    }

    async fn finish(&mut self) -> Result<()> {
        let program = self.program.clone();
        let ended = tokio::time::timeout(PATIENCE, self.group.child.wait()).await;
        let Ok(Ok(status)) = ended else {
            return Err(Error::Program { program, problem: "did not end".to_owned() });
        };
        let stderr = (&mut self.stderr).await.unwrap_or_default();
        let output = crate::process::Output { status, stdout: Vec::new(), stderr };
        output.success(&program).map(drop)
    }
}

/// The decoder of the server's vendor: beside the server's binary, else in the search path.
async fn decoder(instance: &Instance) -> PathBuf {
    tool(instance, instance.config().binlog_program.as_deref(), ["mariadb-binlog", "mysqlbinlog"]).await
}

/// A program of the server's own distribution, under its MariaDB or its MySQL name.
pub(super) async fn tool(
    instance: &Instance,
    configured: Option<&Path>,
    [mariadb, mysql]: [&str; 2],
) -> PathBuf {
    if let Some(path) = configured {
        return path.to_owned();
    }
    let settings = instance.settings().await;
    let name = if settings.flavor == Some(Flavor::Mysql) { mysql } else { mariadb };
    let beside = settings
        .binary
        .as_deref()
        .and_then(Path::parent)
        .map(|dir| [dir.join(name), dir.join("../bin").join(name)]);
    let found = beside.into_iter().flatten().find(|p| p.is_file());
    found.unwrap_or_else(|| PathBuf::from(name))
}
