//! Applies binary log contents that came from another host: decoded, then piped into the vendor's client.

use std::io::Write;
use std::os::unix::fs::{chown, fchown};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tempfile::NamedTempFile;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use super::text::{NO_GTID_CHECK, tool};
use super::{inspect, problem};
use crate::client::Login;
use crate::error::{Error, Result};
use crate::fence::Fence;
use crate::find;
use crate::instance::Instance;
use crate::process::{Group, Output, read_up_to};
use crate::rundir::quoted;
use crate::settings::Settings;

const POLL: Duration = Duration::from_millis(100);
/// Given up when the client takes in nothing for this long: one statement may well take minutes.
const PATIENCE: Duration = Duration::from_secs(600);
/// A line of a statement that begins like a command of the client is none: the log's author would run programs with it. Clients know
/// different ones of these, and ignore the others.
const NO_COMMANDS: [&str; 3] = ["--binary-mode", "--loose-skip-system-command", "--loose-sandbox"];
const STDERR_BYTES: usize = 8 << 10;

/// What was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// Bytes of log.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
}

/// Applies a binary log, as [`LogSet::binary`](super::LogSet::binary) gives it, to the running server.
///
/// The contents are received whole before the first event is applied, so that a transfer that breaks applies nothing.
///
/// # Errors
/// [`Error::Binlog`] for contents that are no log, encrypted, or longer than `max_bytes`; [`Error::Program`] with the
/// client's last line when an event does not apply (those before it stay applied).
pub async fn apply(instance: &Instance, contents: impl AsyncRead + Unpin, max_bytes: u64) -> Result<Applied> {
    let began = Instant::now();
    let (file, bytes) = receive(contents, max_bytes).await?;
    if inspect(file.path())?.encrypted {
        return Err(problem(file.path(), "it is encrypted with another server's key"));
    }
    let settings = instance.settings().await;
    // Whoever answers is proven before a program is told how to log in.
    instance.connect_with(&settings).await?.close().await;
    let login = Login::from_config(instance.config())?;
    // The bytes are another host's: nothing needs to write a file, and only a login by the agent's own user needs that user.
    let loads = tempfile::tempdir().map_err(Error::io("create a directory in", std::env::temp_dir()))?;
    let decoding_fence = Fence {
        user: settings.data_user(),
        writable: vec![loads.path().to_owned()],
        temporary: Some(loads.path().to_owned()),
    };
    let by_own_user = login.password.is_none();
    let client_fence = Fence { user: settings.data_user().filter(|_| !by_own_user), ..Fence::default() };
    let option_file = login_file(&login, &settings)?;
    for (file, fence) in [(&file, &decoding_fence), (&option_file, &client_fence)] {
        if let Some(user) = fence.user {
            fchown(file.as_file(), Some(user.uid), None).map_err(Error::io("give away", file.path()))?;
        }
    }
    let decoder =
        tool(instance, instance.config().binlog_program.as_deref(), ["mariadb-binlog", "mysqlbinlog"]).await;
    let client = tool(instance, instance.config().client_program.as_deref(), ["mariadb", "mysql"]).await;

    if let Some(user) = decoding_fence.user {
        chown(loads.path(), Some(user.uid), None).map_err(Error::io("give away", loads.path()))?;
    }
    let mut command = Command::new(&decoder);
    command
        .arg("--no-defaults")
        .arg(format!("--local-load={}", loads.path().display()))
        .arg(NO_GTID_CHECK)
        .arg(file.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    decoding_fence.put_around(command.as_std_mut());
    let mut decoding = Group::spawn(command, &decoder.display().to_string())?;
    let pipe = decoding.child.stdout.take().and_then(|out| out.into_owned_fd().ok());
    let pipe = pipe.ok_or_else(|| problem(file.path(), "its decoder has no output"))?;
    let mut command = Command::new(&client);
    command.arg(format!("--defaults-file={}", option_file.path().display())).arg("--batch").args(NO_COMMANDS);
    command.stdin(Stdio::from(pipe)).stdout(Stdio::null()).stderr(Stdio::piped());
    client_fence.put_around(command.as_std_mut());
    let mut applying = Group::spawn(command, &client.display().to_string())?;

    let decoder_stderr = tokio::spawn(read_up_to(decoding.child.stderr.take(), STDERR_BYTES));
    let client_stderr = tokio::spawn(read_up_to(applying.child.stderr.take(), STDERR_BYTES));
    let client_status = watch(&mut applying, &client).await?;
    // The client's failure closes the pipe and ends the decoder: the client's words are the cause.
    let stderr = client_stderr.await.unwrap_or_default();
    Output { status: client_status, stdout: Vec::new(), stderr }.success(&client.display().to_string())?;
    let decoder_status = watch(&mut decoding, &decoder).await?;
    let stderr = decoder_stderr.await.unwrap_or_default();
    Output { status: decoder_status, stdout: Vec::new(), stderr }.success(&decoder.display().to_string())?;
    Ok(Applied { bytes, took: began.elapsed() })
}

async fn receive(mut contents: impl AsyncRead + Unpin, max_bytes: u64) -> Result<(NamedTempFile, u64)> {
    let dir = std::env::temp_dir();
    let mut file = NamedTempFile::new_in(&dir).map_err(Error::io("create a file in", &dir))?;
    let mut bytes = 0;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let n =
            contents.read(&mut buffer).await.map_err(Error::io("receive log contents into", file.path()))?;
        if n == 0 {
            return Ok((file, bytes));
        }
        bytes += n as u64;
        if bytes > max_bytes {
            return Err(problem(
                file.path(),
                &format!("the contents are longer than the {max_bytes} bytes allowed"),
            ));
        }
        file.write_all(&buffer[..n]).map_err(Error::io("write", file.path()))?;
    }
}

/// The account for the client, in a file that only we can read and that is gone afterwards.
fn login_file(login: &Login, settings: &Settings) -> Result<NamedTempFile> {
    let mut text = format!("[client]\nuser={}\n", quoted(&login.user));
    if let Some(password) = &login.password {
        text.push_str(&format!("password={}\n", quoted(password)));
    }
    match (&settings.socket, settings.port) {
        (Some(socket), _) => text.push_str(&format!("socket={}\n", quoted(&socket.to_string_lossy()))),
        (None, Some(port)) => text.push_str(&format!("host=127.0.0.1\nprotocol=tcp\nport={port}\n")),
        (None, None) => return Err(Error::NotFound { what: "the socket or port" }),
    }
    let dir = std::env::temp_dir();
    let mut file = NamedTempFile::new_in(&dir).map_err(Error::io("create a file in", &dir))?;
    file.write_all(text.as_bytes()).map_err(Error::io("write", file.path()))?;
    Ok(file)
}

/// Waits for the end of a program as long as it reads or writes.
async fn watch(group: &mut Group, program: &Path) -> Result<std::process::ExitStatus> {
    let failed = |problem: String| Error::Program { program: program.display().to_string(), problem };
    let pid = group.child.id().and_then(|p| i32::try_from(p).ok());
    let (mut io, mut since) = (None, Instant::now());
    loop {
        match tokio::time::timeout(POLL, group.child.wait()).await {
            Ok(Ok(status)) => return Ok(status),
            Ok(Err(e)) => return Err(failed(format!("could not be waited for: {e}"))),
            Err(_) => {}
        }
        let now = pid.and_then(find::io_bytes);
        if now != io {
            (io, since) = (now, Instant::now());
        }
        if since.elapsed() > PATIENCE {
            return Err(failed(format!("made no progress for {} s and was stopped", PATIENCE.as_secs())));
        }
    }
}
