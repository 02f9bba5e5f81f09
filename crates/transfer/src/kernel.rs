//! The few system calls that no safe library offers, and the only unsafe code of this crate.
#![allow(unsafe_code)]

use std::fs::File;
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
