//! The two file formats of a boot: the compressed kernel inside a bzImage, and the initramfs archive.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};

/// Unpacks the ELF kernel from a bzImage. Under emulation the ELF boots in 3 s by PVH; unpacking itself takes the guest 10 s.
pub(super) fn unpack_kernel(bzimage: &Path, vmlinux: &Path) -> anyhow::Result<()> {
    let image = std::fs::read(bzimage).with_context(|| format!("cannot read {}", bzimage.display()))?;
    let payload = payload(&image)?;
    // The builder appends the unpacked size to all formats but gzip, which has its own.
    let (program, args, payload): (_, &[&str], _) = match payload {
        [0xfd, b'7', b'z', b'X', b'Z', ..] => ("xz", &["-dc"], without_size(payload)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => ("zstd", &["-dcq"], without_size(payload)),
        [0x1f, 0x8b, ..] => ("gzip", &["-dc"], payload),
        other => bail!("the kernel is compressed in an unknown way (it begins with {:02x?})", other.get(..4)),
    };
    filter_into(program, args, payload, vmlinux)
}

/// The compressed kernel's place, from the setup header (Documentation/arch/x86/boot.rst of the kernel, protocol 2.08).
fn payload(image: &[u8]) -> anyhow::Result<&[u8]> {
    ensure!(image.get(0x202..0x206) == Some(b"HdrS"), "this is no bzImage: it has no HdrS header");
    let setup_sectors = match image[0x1f1] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let word = |at: usize| -> anyhow::Result<usize> {
        let bytes = image.get(at..at + 4).context("the bzImage is cut off in its header")?;
        Ok(u32::from_le_bytes(bytes.try_into()?) as usize)
    };
    let start = (setup_sectors + 1) * 512 + word(0x248)?;
    image.get(start..start + word(0x24c)?).context("the bzImage is shorter than its header says")
}

fn without_size(payload: &[u8]) -> &[u8] {
    &payload[..payload.len().saturating_sub(4)]
}

/// Feeds `input` to a decompressor and writes what it prints to `output`.
pub(super) fn filter_into(program: &str, args: &[&str], input: &[u8], output: &Path) -> anyhow::Result<()> {
    let out = std::fs::File::create(output).with_context(|| format!("cannot create {}", output.display()))?;
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(out)
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    let mut stdin = child.stdin.take().context("the child's stdin is a pipe")?;
    let written = stdin.write_all(input);
    drop(stdin);
    let status = child.wait()?;
    ensure!(status.success(), "{program} could not unpack into {}: {status}", output.display());
    written.with_context(|| format!("cannot feed {program}"))
}

/// An initramfs in the kernel's "newc" form, uncompressed.
pub(super) struct Initramfs {
    bytes: Vec<u8>,
    next_inode: u32,
}

const DIRECTORY: u32 = 0o040_755;
const EXECUTABLE: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;

impl Initramfs {
    pub(super) fn new() -> Self {
        Self { bytes: Vec::new(), next_inode: 1 }
    }

    pub(super) fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY, (0, 0), &[]);
    }

    pub(super) fn file(&mut self, path: &str, content: &[u8]) {
        self.entry(path, EXECUTABLE, (0, 0), content);
    }

    /// The first process has no stdout without it.
    pub(super) fn console(&mut self) {
        self.entry("dev/console", CHARACTER_DEVICE, (5, 1), &[]);
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        let inode = self.next_inode;
        self.next_inode += 1;
        let (size, name_size) = (content.len(), path.len() + 1);
        let (major, minor) = device;
        // magic, inode, mode, uid, gid, links, mtime, size, device, the device's own number, name's size, checksum
        let header = format!(
            "070701{inode:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{size:08x}{:08x}{:08x}{major:08x}{minor:08x}{name_size:08x}{:08x}",
            0, 0, 1, 0, 0, 0, 0
        );
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}
