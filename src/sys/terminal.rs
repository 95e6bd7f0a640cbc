//! The controlling terminal: which process group may read from it.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

/// The controlling terminal of this process.
pub struct Terminal(File);

impl Terminal {
    /// Opens it. None if this process has none.
    pub fn controlling() -> Option<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_NOCTTY).open("/dev/tty").ok().map(Self)
    }

    /// Makes `group` the foreground process group if this process is in the foreground now. True if `group` is in the
    /// foreground afterwards.
    pub fn lend_to(&self, group: libc::pid_t) -> bool {
        let foreground = self.foreground();
        // SAFETY: takes and returns integers.
        let own = unsafe { libc::getpgrp() };
        foreground == group || foreground == own && self.set_foreground(group)
    }

    /// Makes the group of this process the foreground process group again if `group` is.
    pub fn take_back_from(&self, group: libc::pid_t) {
        if self.foreground() == group {
            // SAFETY: takes and returns integers.
            let own = unsafe { libc::getpgrp() };
            self.set_foreground(own);
        }
    }

    /// The foreground process group; -1 if there is none.
    fn foreground(&self) -> libc::pid_t {
        // SAFETY: integers only.
        unsafe { libc::tcgetpgrp(self.0.as_raw_fd()) }
    }

    fn set_foreground(&self, group: libc::pid_t) -> bool {
        // From the background, tcsetpgrp raises SIGTTOU unless that is blocked (tcsetpgrp(3)).
        // SAFETY: a sigset_t of zeros is a value that sigemptyset initializes; both sets outlive the calls, which change
        // the mask of this thread only.
        unsafe {
            let mut blocked: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut blocked);
            libc::sigaddset(&mut blocked, libc::SIGTTOU);
            libc::pthread_sigmask(libc::SIG_BLOCK, &blocked, &mut before);
            let result = libc::tcsetpgrp(self.0.as_raw_fd(), group);
            libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
            result == 0
        }
    }
}

/// Stops every process in this process's group, including this one, by `signal` (SIGSTOP, SIGTTIN or SIGTTOU). Returns when
/// this process is continued.
pub fn stop_own_group(signal: libc::c_int) {
    // SAFETY: integers only; 0 is the caller's group.
    unsafe { libc::kill(0, signal) };
}
