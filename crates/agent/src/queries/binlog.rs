//! Binary and relay logs, in chunks that fit a reply.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mysql::binlog::{LogKind, LogSet, Range};
use protocol::error::{ErrorCode, WireError};
use protocol::mysql::BinlogPosition;
use protocol::params::{
    BinlogBinaryParams, BinlogTextParams, BinlogUploadParams, LogChunk, LogFile, RelayFiles, Uploaded,
};

use crate::errors::system;
use crate::host::{Host, blocking};
use crate::state::readings::Part;
use crate::uploads;

/// Bytes of a log in one reply; base64 makes a third more of it, and a NATS message holds 1 MiB.
const CHUNK_BYTES: usize = 384 * 1024;
/// A request may ask for this much of a log, over all of its chunks.
const MAX_BYTES: u64 = 1 << 30;

/// `binlog.files`.
pub(crate) async fn files(host: &Host) -> Result<Vec<LogFile>, WireError> {
    Ok(listed(&logs(host, LogKind::Binary).await?))
}

/// `binlog.relay-files`.
pub(crate) async fn relay_files(host: &Host) -> Result<RelayFiles, WireError> {
    let logs = logs(host, LogKind::Relay).await?;
    Ok(RelayFiles { files: listed(&logs), index: logs.index })
}

/// `binlog.relay-end`.
pub(crate) async fn relay_end(host: &Host) -> Result<BinlogPosition, WireError> {
    let logs = logs(host, LogKind::Relay).await?;
    let end = blocking(move || logs.end().map_err(WireError::from)).await?;
    end.ok_or_else(|| WireError::new(ErrorCode::NotFound, "this server has no relay logs"))
}

/// `binlog.binary`.
pub(crate) async fn binary(host: &Host, params: BinlogBinaryParams) -> Result<LogChunk, WireError> {
    use std::io::Read as _;
    let offset = params.offset;
    let part = Part { file: params.file, start: params.start, stop: params.stop };
    let kept = match host.log_bytes.take(&part, offset) {
        Some(reader) => Ok(reader),
        None => Err((holding(host, &part.file).await?, range_of(&part))),
    };
    let (chunk, next_offset, reader) = blocking(move || {
        let read = |e: std::io::Error| system("the log could not be read", &e);
        let mut reader = match kept {
            Ok(reader) => reader,
            Err((logs, range)) => {
                let mut reader = logs.binary(&range, MAX_BYTES)?;
                std::io::copy(&mut (&mut reader).take(offset), &mut std::io::sink()).map_err(read)?;
                reader
            }
        };
        let mut chunk = Vec::new();
        (&mut reader).take(CHUNK_BYTES as u64).read_to_end(&mut chunk).map_err(read)?;
        let end = offset.saturating_add(chunk.len() as u64);
        let next_offset = (end < reader.total_bytes && !chunk.is_empty()).then_some(end);
        Ok((chunk, next_offset, reader))
    })
    .await?;
    if let Some(next) = next_offset {
        host.log_bytes.keep(part, next, reader);
    }
    Ok(LogChunk { content: STANDARD.encode(chunk), next_offset })
}

fn range_of(part: &Part) -> Range {
    Range { first: part.file.clone(), start: part.start, last: Some(part.file.clone()), stop: part.stop }
}

/// `binlog.text`. Who reads on gets what the decoder says next; an offset out of turn is decoded up to from `start`.
pub(crate) async fn text(host: &Host, params: BinlogTextParams) -> Result<LogChunk, WireError> {
    let part = Part { file: params.file, start: params.start, stop: params.stop };
    let (mut stream, mut skip) = match host.log_text.take(&part, params.offset) {
        Some(stream) => (stream, 0),
        None => {
            let logs = holding(host, &part.file).await?;
            let range = range_of(&part);
            (mysql::binlog::text(&host.instance, &logs, &range, false, MAX_BYTES).await?, params.offset)
        }
    };
    let mut chunk = Vec::new();
    while chunk.len() < CHUNK_BYTES {
        let Some(piece) = stream.next().await? else {
            return Ok(LogChunk { content: STANDARD.encode(chunk), next_offset: None });
        };
        let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(piece.len());
        skip -= skipped as u64;
        chunk.extend_from_slice(&piece[skipped..]);
    }
    let next = params.offset.saturating_add(chunk.len() as u64);
    host.log_text.keep(part, next, stream);
    Ok(LogChunk { content: STANDARD.encode(chunk), next_offset: Some(next) })
}

/// `binlog.upload`.
pub(crate) async fn upload(host: &Host, params: BinlogUploadParams) -> Result<Uploaded, WireError> {
    let piece = decoded(&params.content)?;
    let state_dir = host.config.agent.state_dir.clone();
    let written = blocking(move || uploads::write(&state_dir, params.upload, params.offset, &piece));
    Ok(Uploaded { size_bytes: written.await? })
}

/// The bytes of a piece of a log.
pub(crate) fn decoded(content: &str) -> Result<Vec<u8>, WireError> {
    STANDARD
        .decode(content)
        .map_err(|e| WireError::caused(ErrorCode::BadRequest, "content is not base64", &e))
}

async fn logs(host: &Host, kind: LogKind) -> Result<LogSet, WireError> {
    host.instance.logs(kind).await.map_err(WireError::from)
}

/// The log, binary or relay, whose index names the file.
async fn holding(host: &Host, file: &str) -> Result<LogSet, WireError> {
    for kind in [LogKind::Binary, LogKind::Relay] {
        if let Ok(logs) = logs(host, kind).await
            && logs.files.iter().any(|known| known.name == file)
        {
            return Ok(logs);
        }
    }
    Err(WireError::new(
        ErrorCode::NotFound,
        format!("{:?} is no binary or relay log of this server", file.chars().take(64).collect::<String>()),
    ))
}

fn listed(logs: &LogSet) -> Vec<LogFile> {
    logs.files.iter().map(|f| LogFile { name: f.name.clone(), size_bytes: f.size_bytes }).collect()
}
