//! System calls that the standard library does not offer, each in a safe wrapper.
//!
//! `unsafe` code is allowed in this module and nowhere else. A wrapper makes one system call, retries it if a signal
//! interrupts it, and returns errno as an [`io::Error`]. The caller decides what an error means.

mod cache;
mod child;
mod clone;
mod directory;
mod file;
mod filesystem;
mod mapping;
mod memory;
mod names;
mod new_entry;
mod process;
mod replace;
mod streams;
mod terminal;

use std::io;

// For the command and the tests. Not part of the library's stable API.
pub use cache::{CacheStat, advise, cache_stat, cached_pages};
pub use file::{fallocate, seek_extent, sync_filesystem};
pub use filesystem::free_bytes;
pub use mapping::FileMapping;
pub use memory::page_size;
pub use process::{ignore_signal, io_priority, set_timer_slack, signal_ignored, stop_by_default, umask};
pub use streams::was_closed;

pub(crate) use cache::mincore_is_reliable;
pub(crate) use child::ChildGroup;
pub(crate) use clone::{block_size, clone_range};
pub(crate) use directory::{Directory, Entry, last_component};
pub(crate) use file::{MAX_TRANSFER, lock, read_dontcache, set_direct, write_back, write_dontcache, write_error};
pub(crate) use filesystem::{
    BTRFS, EXT, EXTENTS_OR_INLINE, MEMORY_FILESYSTEMS, NOCOW, PSEUDO_FILESYSTEMS, XFS, dio_alignment, filesystem,
    inode_flags, length, loop_backing_file, sector_size,
};
pub(crate) use mapping::WINDOW;
pub(crate) use memory::AnonymousMapping;
#[cfg(test)]
pub(crate) use memory::other_page_size;
pub(crate) use names::{can_link_unnamed, fd_path, link, rename_new};
pub(crate) use new_entry::{EntryAttribute, NewEntry, is_attribute_refusal};
pub(crate) use process::{
    IO_CLASS_IDLE, IO_CLASS_LAST, effective_user, file_size_limit, set_io_priority, use_all_file_descriptors,
};
pub(crate) use replace::{Replaced, Replacement, link_over, replace_all};
pub(crate) use streams::{wait_ready, widen_pipe};
pub(crate) use terminal::stop_own_group;

/// True if an optional system call is not available: the kernel does not have it (ENOSYS), or a seccomp filter refuses it.
/// The filters of old container runtimes answer EPERM.
pub(crate) fn is_unavailable(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM))
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn check_size(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn offset(value: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(value).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))
}
