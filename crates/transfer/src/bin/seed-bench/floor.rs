//! The floor: one connection, `sendfile` on one side, `recv` and `write` on the other, and nothing else: no digest, no
//! metadata, no resume. What a single simple stream can do on this machine.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use nix::sys::sendfile::sendfile;

/// Sends all files of a tree.
pub(crate) fn send(root: &Path, addr: &str) -> std::io::Result<()> {
    let mut socket = TcpStream::connect(addr)?;
    let mut dirs = vec![PathBuf::new()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(root.join(&dir))? {
            let entry = entry?;
            let path = dir.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                dirs.push(path);
                continue;
            }
            let file = File::open(entry.path())?;
            let size = file.metadata()?.len();
            let name = path.to_string_lossy();
            socket.write_all(&(name.len() as u64).to_le_bytes())?;
            socket.write_all(name.as_bytes())?;
            socket.write_all(&size.to_le_bytes())?;
            let mut left = size as usize;
            while left > 0 {
                left -= sendfile(&socket, &file, None, left)?;
            }
        }
    }
    Ok(())
}

/// Receives what [`send`] sends.
pub(crate) fn receive(root: &Path, listener: &TcpListener) -> std::io::Result<()> {
    let (mut socket, _) = listener.accept()?;
    let mut buffer = vec![0; 256 * 1024];
    let mut number = [0; 8];
    while socket.read_exact(&mut number).is_ok() {
        let mut name = vec![0; u64::from_le_bytes(number) as usize];
        socket.read_exact(&mut name)?;
        socket.read_exact(&mut number)?;
        let path = root.join(String::from_utf8_lossy(&name).as_ref());
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        let mut file = File::create(path)?;
        let mut left = u64::from_le_bytes(number) as usize;
        while left > 0 {
            let want = left.min(buffer.len());
            let got = socket.read(&mut buffer[..want])?;
            if got == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            file.write_all(&buffer[..got])?;
            left -= got;
        }
    }
    Ok(())
}
