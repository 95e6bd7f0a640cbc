//! The page cache: counting and evicting the pages of a file.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::filesystem::{is_on_overlayfs, length};
use super::mapping::{FileMapping, WINDOW};
use super::{offset, page_size};

const SYS_CACHESTAT: libc::c_long = 451; // Linux 6.5; the same number on every architecture

/// Tells the kernel how a range of a file will be used (posix_fadvise(2)). `len` 0 means to the end of the file.
pub fn advise(file: &File, start: u64, len: u64, advice: libc::c_int) -> io::Result<()> {
    // SAFETY: integers only.
    let error = unsafe { libc::posix_fadvise(file.as_raw_fd(), offset(start)?, offset(len)?, advice) };
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// How many pages of a file are in each state of the page cache (cachestat(2), Linux 6.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStat {
    /// Pages in the cache, including dirty pages and pages under writeback.
    pub cached: u64,
    /// Modified pages that have not been written back.
    pub dirty: u64,
    /// Pages under writeback.
    pub write_back: u64,
    /// Evicted pages of which the kernel still has a record.
    pub evicted: u64,
    /// Pages evicted so recently that reading them again would indicate memory pressure.
    pub recently_evicted: u64,
}

/// The page cache statistics of a range of a file (cachestat(2), Linux 6.5). `len` 0 means to the end of the file.
/// Fails with ENOSYS on older kernels and on overlayfs, where the pages belong to a file on the underlying filesystem.
/// Fails with EPERM if the caller may not write the file.
pub fn cache_stat(file: &File, start: u64, len: u64) -> io::Result<CacheStat> {
    let range = [start, len];
    let mut counts = [0u64; 5];
    // SAFETY: struct cachestat_range is two u64, and struct cachestat is five. Both outlive the call.
    let result = unsafe { libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), &range, &mut counts, 0) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let [cached, dirty, write_back, evicted, recently_evicted] = counts;
    if cached == 0 && is_on_overlayfs(file) {
        return Err(io::Error::from_raw_os_error(libc::ENOSYS));
    }
    Ok(CacheStat { cached, dirty, write_back, evicted, recently_evicted })
}

/// True if mincore(2) reports the real state of the pages of `file` to this caller. Since Linux 5.2, it reports every
/// page as resident if the caller may not write the file (on overlayfs: the file on the underlying filesystem). So this
/// asks about a page after the end of the file, which cannot be resident.
pub fn mincore_is_reliable(file: &File) -> bool {
    let pages_after_end = || {
        let offset = length(file)?.saturating_add(64 << 20).next_multiple_of(page_size());
        FileMapping::new(file, offset, page_size() as usize)?.resident_pages()
    };
    pages_after_end().is_ok_and(|pages| pages == 0)
}

/// The number of cached pages in a range of a file. `len` 0 means to the end of the file. Asks cachestat(2) first, and
/// mincore(2) where cachestat does not exist. mincore would take seconds for ranges of more than 16 GiB, so those are
/// not counted. Fails with ENOSYS or EPERM if the kernel does not report the number.
pub fn cached_pages(file: &File, start: u64, len: u64) -> io::Result<u64> {
    const MAX_MINCORE_RANGE: u64 = 16 << 30;
    let error = match cache_stat(file, start, len) {
        Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => e,
        stat => return Ok(stat?.cached),
    };
    let end = if len == 0 { length(file)? } else { start.saturating_add(len) };
    let mut offset = start - start % page_size();
    if end.saturating_sub(offset) > MAX_MINCORE_RANGE || !mincore_is_reliable(file) {
        return Err(error);
    }
    let mut cached = 0;
    while offset < end {
        let len = WINDOW.min(end - offset);
        cached += FileMapping::new(file, offset, len as usize)?.resident_pages()?;
        offset += len;
    }
    Ok(cached)
}
