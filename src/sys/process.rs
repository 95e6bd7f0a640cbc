//! Attributes of the process and its threads: user, file size limit, umask, I/O priority, timer slack, signals.
#![allow(unsafe_code)]

use std::io;

use super::check;

/// The effective user ID of this process (geteuid(2)).
pub fn effective_user() -> u32 {
    // SAFETY: takes no arguments and always succeeds.
    unsafe { libc::geteuid() }
}

/// The largest file that this process may write, in bytes (getrlimit(2), `RLIMIT_FSIZE`).
pub fn file_size_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: `limit` outlives the call. If the call fails, `limit` stays at infinity.
    unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &mut limit) };
    limit.rlim_cur
}

/// Lets a signal that stops (SIGTSTP) have its default action on this process once, although a handler is installed for it.
/// Returns when the process is continued, or at once in an orphaned process group, which the kernel does not stop.
pub fn stop_by_default(signal: libc::c_int) {
    // SAFETY: sigaction is a struct of integers, for which zero is a valid value; SIG_DFL installs no code of ours, and what
    // was installed before is put back.
    unsafe {
        let default: libc::sigaction = std::mem::zeroed();
        let mut before: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(signal, &default, &mut before) == 0 {
            libc::raise(signal);
            libc::sigaction(signal, &before, std::ptr::null_mut());
        }
    }
}

/// Raises the limit of open files to the most that this process may have (RLIMIT_NOFILE), and returns it.
pub fn use_all_file_descriptors() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` outlives both calls.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) < 0 {
            return 256;
        }
        let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
        if libc::setrlimit(libc::RLIMIT_NOFILE, &raised) == 0 { raised.rlim_cur } else { limit.rlim_cur }
    }
}

/// The umask of this process (umask(2)). The only way to read it is to set it, so call this before any thread starts.
pub fn umask() -> u32 {
    // SAFETY: integers only. The next call restores the mask.
    let mask = unsafe { libc::umask(0o077) };
    // SAFETY: integers only.
    unsafe { libc::umask(mask) };
    mask
}

/// The idle I/O class (ioprio_set(2)): its transfers wait while any other class has transfers.
pub const IO_CLASS_IDLE: libc::c_int = 3 << 13;
/// The lowest priority of the best-effort I/O class, which is the default class.
pub const IO_CLASS_LAST: libc::c_int = 2 << 13 | 7;
const IOPRIO_WHO_PROCESS: libc::c_int = 1;

/// The calling thread's I/O class and priority (ioprio_get(2)).
pub fn io_priority() -> io::Result<libc::c_int> {
    // SAFETY: integers only. 0 means the calling thread.
    let priority = unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0) };
    check(libc::c_int::try_from(priority).unwrap_or(-1))
}

/// Sets the I/O class and priority of the calling thread and of the threads it starts from now on (ioprio_set(2)).
pub fn set_io_priority(priority: libc::c_int) -> io::Result<()> {
    // SAFETY: integers only. 0 means the calling thread.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, priority) };
    check(libc::c_int::try_from(result).unwrap_or(-1))?;
    Ok(())
}

/// Sets the timer slack of the calling thread and of the threads it starts from now on: how many nanoseconds late the
/// kernel may wake them (PR_SET_TIMERSLACK(2const); the default is 50,000). Returns the previous value.
pub fn set_timer_slack(nanoseconds: libc::c_int) -> io::Result<libc::c_int> {
    // SAFETY: integers only.
    let previous = check(unsafe { libc::prctl(libc::PR_GET_TIMERSLACK) })?;
    // SAFETY: integers only. The kernel takes an unsigned long.
    check(unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, libc::c_ulong::try_from(nanoseconds).unwrap_or(0)) })?;
    Ok(previous)
}

/// True if this process ignores `signal`: the parent process may have set it so, as nohup(1) does with SIGHUP.
pub fn signal_ignored(signal: libc::c_int) -> bool {
    // SAFETY: sigaction is a struct of integers, for which all zeros is a valid value.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: with a null new action, the call only reads the current one. `action` outlives the call.
    let result = unsafe { libc::sigaction(signal, std::ptr::null(), &mut action) };
    result == 0 && action.sa_sigaction == libc::SIG_IGN
}

/// Ignores `signal`, so that the system call that would raise it returns an error instead (SIGXFSZ: EFBIG).
pub fn ignore_signal(signal: libc::c_int) {
    // SAFETY: SIG_IGN installs no handler.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}
