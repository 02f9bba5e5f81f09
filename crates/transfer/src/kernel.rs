//! The few system calls that no safe library offers, and the only unsafe code of this crate.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

/// Asks the kernel to begin writing a range of a file to disk, without waiting for it: the disk is busy while the
/// network is, and the later `fsync` finds little to do. Failures do not matter.
pub(crate) fn start_writeback(file: &File, offset: u64, len: u64) {
    // SAFETY: takes plain numbers; the descriptor is open for the length of the call because `file` is borrowed.
    unsafe {
        libc::sync_file_range(
            file.as_raw_fd(),
            offset.cast_signed(),
            len.cast_signed(),
            libc::SYNC_FILE_RANGE_WRITE,
        );
    }
}

/// How many pages of the first `len` bytes of a file are in the page cache; `None` where the kernel (before 6.5) cannot tell.
pub(crate) fn cached_pages(file: &File, len: u64) -> Option<u64> {
    const CACHESTAT: libc::c_long = 451;
    let range: [u64; 2] = [0, len];
    let mut stat = [0_u64; 5];
    // SAFETY: both pointers lead to live arrays of the sizes that cachestat(2) reads (two u64) and writes (five u64).
    let result =
        unsafe { libc::syscall(CACHESTAT, file.as_raw_fd(), range.as_ptr(), stat.as_mut_ptr(), 0_u32) };
    (result == 0).then_some(stat[0])
}

/// One extent of a file as the kernel tells it (`struct fiemap_extent`).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RawExtent {
    /// Where it lies in the file, bytes.
    pub(crate) logical: u64,
    /// Where it lies in the file system, bytes.
    pub(crate) physical: u64,
    /// Bytes.
    pub(crate) length: u64,
    pub(crate) reserved64: [u64; 2],
    /// A set of `FIEMAP_EXTENT_*`.
    pub(crate) flags: u32,
    pub(crate) reserved: [u32; 3],
}

/// Extents that one call tells at most.
pub(crate) const EXTENTS: usize = 512;

/// `struct fiemap` with room for extents.
#[repr(C)]
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    _reserved: u32,
    extents: [RawExtent; EXTENTS],
}

/// The extents of a file from byte `start` on, as they are once what was written lies on the disk; at most [`EXTENTS`].
pub(crate) fn extents(file: &File, start: u64) -> io::Result<Vec<RawExtent>> {
    const FS_IOC_FIEMAP: libc::Ioctl = 0xC020_660B;
    const SYNC: u32 = 1;
    let mut map = Box::new(Fiemap {
        start,
        length: u64::MAX - start,
        flags: SYNC,
        mapped: 0,
        count: EXTENTS as u32,
        _reserved: 0,
        extents: [RawExtent::default(); EXTENTS],
    });
    // SAFETY: the pointer leads to a live struct of fiemap's layout, which has room for the `count` extents that it announces.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FIEMAP, &raw mut *map) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(map.extents[..(map.mapped as usize).min(EXTENTS)].to_vec())
}

/// Names the btrfs that a file lies in, whichever of its subvolumes; an error on any other file system.
pub(crate) fn btrfs_id(file: &File) -> io::Result<[u8; 16]> {
    const BTRFS_IOC_FS_INFO: libc::Ioctl = 0x8400_941F;
    const ID: usize = 16;
    let mut info = [0_u64; 128];
    // SAFETY: the pointer leads to 1024 live bytes, the length that this request writes.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), BTRFS_IOC_FS_INFO, info.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut id = [0; ID];
    id[..8].copy_from_slice(&info[2].to_ne_bytes());
    id[8..].copy_from_slice(&info[3].to_ne_bytes());
    Ok(id)
}

/// Has this thread's reads wait for those of everybody else, where the disk's scheduler knows priorities. Best effort.
pub(crate) fn read_when_idle() {
    const WHO_PROCESS: libc::c_int = 1;
    const CLASS_IDLE: libc::c_int = 3 << 13;
    // SAFETY: ioprio_set(2) takes plain numbers; 0 is the calling thread.
    unsafe {
        libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, CLASS_IDLE);
    }
}

/// The round trip that TCP has measured on a connection (tcp(7), `TCP_INFO`); `None` before it has.
pub(crate) fn round_trip(socket: &TcpStream) -> Option<Duration> {
    // SAFETY: all zeroes are a valid value of a struct of numbers.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).ok()?;
    // SAFETY: the pointers lead to a live struct and to its length, beyond which getsockopt(2) does not write.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut len,
        )
    };
    (result == 0 && info.tcpi_rtt > 0).then(|| Duration::from_micros(u64::from(info.tcpi_rtt)))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_connection_knows_its_round_trip() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let rtt = round_trip(&socket).unwrap();
        assert!(rtt < Duration::from_secs(1), "{rtt:?}");
    }
}
