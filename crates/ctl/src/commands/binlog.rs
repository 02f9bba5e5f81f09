//! Subcommands about binary and relay logs; contents are streamed in the host's bounded chunks.

use std::io::Read;
use std::path::Path;

use data_encoding::BASE64;
use protocol::ids::{AgentId, UploadId};
use protocol::params::*;

use crate::args::{BinlogCmd, LogRange, RunArgs};
use crate::error::{CtlError, Result};
use crate::render;
use crate::session::Session;

/// What one request can carry: the protocol's limit less the envelope, as base64.
const PIECE_BYTES: u64 = (protocol::envelope::MAX_REQUEST_BYTES as u64 - 4096) / 4 * 3;

pub(super) async fn run(session: &Session, host: &AgentId, command: BinlogCmd) -> Result<()> {
    let out = &session.out;
    match command {
        BinlogCmd::Files => {
            out.result(&session.call(host, BinlogFilesParams {}).await?, |files| render::log_files(files));
        }
        BinlogCmd::RelayFiles => {
            let files = session.call(host, BinlogRelayFilesParams {}).await?;
            out.result(&files, |f| format!("index {}\n{}", f.index.display(), render::log_files(&f.files)));
        }
        BinlogCmd::RelayEnd => {
            let end = session.call(host, BinlogRelayEndParams {}).await?;
            out.result(&end, |end| format!("{}:{}", end.file, end.position));
        }
        BinlogCmd::Text(range) => return contents(session, host, &range, false).await,
        BinlogCmd::Binary(range) => return contents(session, host, &range, true).await,
        BinlogCmd::Apply { file, run } => return apply(session, host, &file, &run).await,
    }
    Ok(())
}

async fn contents(session: &Session, host: &AgentId, range: &LogRange, binary: bool) -> Result<()> {
    let mut offset = 0;
    loop {
        let (file, start, stop) = (range.file.clone(), range.start, range.stop);
        let chunk = if binary {
            session.call(host, BinlogBinaryParams { file, start, stop, offset }).await?
        } else {
            session.call(host, BinlogTextParams { file, start, stop, offset }).await?
        };
        if session.out.json() {
            session.out.json_line(&chunk);
        } else {
            let bytes = BASE64.decode(chunk.content.as_bytes()).map_err(|_| bad_chunk(host, "no base64"))?;
            session.out.content(&bytes);
        }
        match chunk.next_offset {
            Some(next) if next > offset => offset = next,
            Some(_) => return Err(bad_chunk(host, "its offset does not advance")),
            None => return Ok(()),
        }
        if session.out.is_closed() {
            return Ok(());
        }
    }
}

fn bad_chunk(host: &AgentId, why: &str) -> CtlError {
    let source = bus::BusError::BadReply { from: host.to_string(), why: why.to_owned() };
    CtlError::call(host, "binlog contents", source, None)
}

async fn apply(session: &Session, host: &AgentId, file: &Path, run: &RunArgs) -> Result<()> {
    let failed = |source| CtlError::File { action: "read", path: file.to_owned(), source };
    let mut source: Box<dyn Read> = if file == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(file).map_err(failed)?)
    };
    let mut piece = |bytes: &mut Vec<u8>| {
        bytes.clear();
        source.as_mut().take(PIECE_BYTES).read_to_end(bytes).map_err(failed)
    };
    let mut bytes = Vec::new();
    if (piece(&mut bytes)? as u64) < PIECE_BYTES {
        let content = Some(BASE64.encode(&bytes));
        return session.job(host, BinlogApplyParams { content, upload: None }, run).await;
    }
    let upload = UploadId::generate();
    let mut offset = 0;
    while !bytes.is_empty() {
        let params = BinlogUploadParams { upload, offset, content: BASE64.encode(&bytes) };
        session.call(host, params).await?;
        offset += bytes.len() as u64;
        piece(&mut bytes)?;
    }
    session.job(host, BinlogApplyParams { content: None, upload: Some(upload) }, run).await
}
