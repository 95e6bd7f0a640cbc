//! Pipes, and the standard streams.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use super::check;

/// Asks for a pipe of `bytes` (`F_SETPIPE_SZ`); gives the size it has now.
pub fn widen_pipe(pipe: BorrowedFd<'_>, bytes: i32) -> io::Result<i32> {
    // SAFETY: integers only.
    check(unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETPIPE_SZ, bytes) })
}

/// Waits until a read, or a write if `writing`, would not block (poll(2)). False: `limit` passed.
pub fn wait_ready(file: BorrowedFd<'_>, writing: bool, limit: Duration) -> io::Result<bool> {
    let events = if writing { libc::POLLOUT } else { libc::POLLIN };
    let mut entry = libc::pollfd { fd: file.as_raw_fd(), events, revents: 0 };
    let limit = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: one entry, which outlives the call.
    match check(unsafe { libc::poll(&mut entry, 1, limit) }) {
        Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(false),
        other => Ok(other? > 0),
    }
}

/// Standard streams that were closed when the program began, by number. Rust's start-up code opens
/// /dev/null in their place, and a copy would lose its bytes there; so this looks earlier.
static CLOSED: AtomicU8 = AtomicU8::new(0);

#[used]
#[unsafe(link_section = ".init_array")]
static LOOK_AT_STANDARD_STREAMS: extern "C" fn() = {
    extern "C" fn look() {
        for fd in 0..2 {
            // SAFETY: F_GETFD takes and gives integers, and no memory is needed so early.
            if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
                CLOSED.fetch_or(1 << fd, Ordering::Relaxed);
            }
        }
    }
    look
};

/// True if standard input (0) or output (1) was closed when the program began.
pub fn was_closed(fd: u8) -> bool {
    CLOSED.load(Ordering::Relaxed) & (1 << fd) != 0
}
