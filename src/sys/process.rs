//! The process and its threads: limits, umask, user, I/O priority, timer slack, signals.
#![allow(unsafe_code)]

use std::io;

use super::check;

/// The user whose rights this process has (geteuid(2)).
pub fn effective_user() -> u32 {
    // SAFETY: always succeeds, and takes nothing.
    unsafe { libc::geteuid() }
}

/// The largest file that this process may write, in bytes (`RLIMIT_FSIZE`).
pub fn file_size_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: `limit` outlives the call; if it fails, there is no limit to know.
    unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &mut limit) };
    limit.rlim_cur
}

/// The process's umask. Setting it is the only way to read it, so call this before threads start.
pub fn umask() -> u32 {
    // SAFETY: integers only; put back at once.
    let mask = unsafe { libc::umask(0o077) };
    // SAFETY: as above.
    unsafe { libc::umask(mask) };
    mask
}

/// The idle I/O class (ioprio_set(2)): its transfers wait while there are others.
pub const IO_CLASS_IDLE: libc::c_int = 3 << 13;
/// The lowest priority of the usual, best-effort I/O class.
pub const IO_CLASS_LAST: libc::c_int = 2 << 13 | 7;
const IOPRIO_WHO_PROCESS: libc::c_int = 1;

/// The calling thread's I/O class and priority (ioprio_get(2)).
pub fn io_priority() -> io::Result<libc::c_int> {
    // SAFETY: integers only; 0 is the calling thread.
    let found = unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0) };
    check(libc::c_int::try_from(found).unwrap_or(-1))
}

/// Sets it, for the calling thread and those that it starts (ioprio_set(2)).
pub fn set_io_priority(priority: libc::c_int) -> io::Result<()> {
    // SAFETY: as above.
    let done = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, priority) };
    check(libc::c_int::try_from(done).unwrap_or(-1))?;
    Ok(())
}

/// By how many nanoseconds the calling thread, and those that it starts, may be woken later than it asked
/// to be, usually 50,000 (PR_SET_TIMERSLACK(2const)). Gives what it was before.
pub fn set_timer_slack(nanoseconds: libc::c_int) -> io::Result<libc::c_int> {
    // SAFETY: integers only.
    let before = check(unsafe { libc::prctl(libc::PR_GET_TIMERSLACK) })?;
    // SAFETY: as above; the kernel takes an unsigned long.
    check(unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, libc::c_ulong::try_from(nanoseconds).unwrap_or(0)) })?;
    Ok(before)
}

/// True if whoever started us had this signal ignored, as nohup(1) does.
pub fn signal_ignored(signal: libc::c_int) -> bool {
    // SAFETY: sigaction is a struct of integers, for which zero is a value.
    let mut found: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: a null new action only asks; `found` outlives the call.
    let result = unsafe { libc::sigaction(signal, std::ptr::null(), &mut found) };
    result == 0 && found.sa_sigaction == libc::SIG_IGN
}

/// Ignores a signal, so that its cause comes back as an error instead (SIGXFSZ: EFBIG).
pub fn ignore_signal(signal: libc::c_int) {
    // SAFETY: SIG_IGN installs no code of ours.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}
