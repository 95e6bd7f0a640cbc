//! Pipes and standard streams.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use super::check;

/// Sets the capacity of a pipe to at least `capacity` bytes (fcntl(2), `F_SETPIPE_SZ`). Returns the new capacity.
pub fn widen_pipe(pipe: BorrowedFd<'_>, capacity: i32) -> io::Result<i32> {
    // SAFETY: integers only.
    check(unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETPIPE_SZ, capacity) })
}

/// Waits until a read from `file` (a write to it, if `writing`) would not block (poll(2)). Returns false if `timeout`
/// has passed or a signal has interrupted the wait.
pub fn wait_ready(file: BorrowedFd<'_>, writing: bool, timeout: Duration) -> io::Result<bool> {
    let events = if writing { libc::POLLOUT } else { libc::POLLIN };
    let mut entry = libc::pollfd { fd: file.as_raw_fd(), events, revents: 0 };
    let timeout = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: passes one entry, which outlives the call.
    match check(unsafe { libc::poll(&mut entry, 1, timeout) }) {
        Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(false),
        other => Ok(other? > 0),
    }
}

/// The standard streams that were closed when the program started, one bit for each descriptor. Rust's startup code
/// opens /dev/null in their place, and a copy would lose its bytes there. So this check runs before Rust's startup
/// code.
static CLOSED: AtomicU8 = AtomicU8::new(0);

#[used]
#[unsafe(link_section = ".init_array")]
static CHECK_STANDARD_STREAMS: extern "C" fn() = {
    extern "C" fn check_standard_streams() {
        for fd in 0..2 {
            // SAFETY: integers only. The call needs no memory allocator, which may not be ready yet.
            if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
                CLOSED.fetch_or(1 << fd, Ordering::Relaxed);
            }
        }
    }
    check_standard_streams
};

/// True if standard input (0) or standard output (1) was closed when the program started.
pub fn was_closed(fd: u8) -> bool {
    CLOSED.load(Ordering::Relaxed) & (1 << fd) != 0
}
