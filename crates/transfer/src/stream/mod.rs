//! One program's stream from donor to recipient, on the rails of a seed: token, TLS, bounded memory, stall detection, and a
//! digest over all bytes that both ends must agree on.
//!
//! A stream has no manifest and no chunks: it cannot be resumed. A connection that breaks ends the program that makes the
//! stream; who comes back with the same token gets a new one from its first byte.

mod give;
mod take;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

pub use give::{GiveOptions, Given, Giver, Program};
pub use take::{Taken, take};

use crate::{Error, Result};

/// Between two looks at what else may have happened.
const TICK: Duration = Duration::from_millis(100);

fn set_nonblocking(pipe: BorrowedFd<'_>) -> Result<()> {
    let failed = |errno: nix::errno::Errno| Error::network("set up the program's pipe")(errno.into());
    let flags = OFlag::from_bits_retain(fcntl(pipe, FcntlArg::F_GETFL).map_err(failed)?);
    fcntl(pipe, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map(drop).map_err(failed)
}

/// Waits a moment until the pipe can be read or written; false when it still cannot.
fn ready(pipe: &impl AsFd, wanted: PollFlags) -> io::Result<bool> {
    let millis = PollTimeout::try_from(TICK).unwrap_or(PollTimeout::ZERO);
    match poll(&mut [PollFd::new(pipe.as_fd(), wanted)], millis) {
        Ok(count) => Ok(count > 0),
        Err(nix::errno::Errno::EINTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}
