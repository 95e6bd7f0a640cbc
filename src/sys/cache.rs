//! The page cache: what it holds of a file, and how to evict it.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::filesystem::{length, overlays};
use super::mapping::{FileMapping, WINDOW};
use super::{offset, page_size};

const SYS_CACHESTAT: libc::c_long = 451; // Linux 6.5, the same number on every architecture

/// posix_fadvise(2). `len` 0 means to the end of the file.
pub fn advise(file: &File, start: u64, len: u64, advice: libc::c_int) -> io::Result<()> {
    // SAFETY: integers only.
    let error = unsafe { libc::posix_fadvise(file.as_raw_fd(), offset(start)?, offset(len)?, advice) };
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// What the page cache holds of a file, in pages (cachestat, Linux 6.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStat {
    /// In the cache, dirty and under write-back included.
    pub cached: u64,
    /// Changed and not yet written back.
    pub dirty: u64,
    /// Being written back.
    pub write_back: u64,
    /// Dropped, and still remembered.
    pub evicted: u64,
    /// Of these, dropped so recently that memory is short.
    pub recently_evicted: u64,
}

/// The page cache's figures for a range of a file (`cachestat`, Linux 6.5; `len` 0 means to the end).
/// Fails with ENOSYS on older kernels and on overlayfs, where the pages are those of another file, below,
/// and with EPERM for files that the caller could not write.
pub fn cache_stat(file: &File, start: u64, len: u64) -> io::Result<CacheStat> {
    let range = [start, len];
    let mut counts = [0u64; 5];
    // SAFETY: struct cachestat_range is two u64 and struct cachestat five; both outlive the call.
    let result = unsafe { libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), &range, &mut counts, 0) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let [cached, dirty, write_back, evicted, recently_evicted] = counts;
    if cached == 0 && overlays(file) {
        return Err(io::Error::from_raw_os_error(libc::ENOSYS));
    }
    Ok(CacheStat { cached, dirty, write_back, evicted, recently_evicted })
}

/// True if mincore(2) tells the caller the truth. It calls every page resident for a caller who could not
/// write the file (Linux 5.2), on overlayfs the one below; so it is asked for a page that cannot be.
pub fn mincore_tells(file: &File) -> bool {
    let probe = || {
        let behind = length(file)?.saturating_add(64 << 20).next_multiple_of(page_size());
        FileMapping::new(file, behind, page_size() as usize)?.resident_pages()
    };
    probe().is_ok_and(|pages| pages == 0)
}

/// The number of cached pages in a range: of cachestat(2), else of mincore(2) where that tells the truth,
/// unless the range is so long that it would take seconds. `len` 0 means to the end. Fails with ENOSYS or
/// EPERM if the kernel does not tell.
pub fn cached_pages(file: &File, start: u64, len: u64) -> io::Result<u64> {
    const MOST: u64 = 16 << 30;
    let error = match cache_stat(file, start, len) {
        Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => e,
        stat => return Ok(stat?.cached),
    };
    let end = if len == 0 { length(file)? } else { start.saturating_add(len) };
    let mut at = start - start % page_size();
    if end.saturating_sub(at) > MOST || !mincore_tells(file) {
        return Err(error);
    }
    let mut cached = 0;
    while at < end {
        let part = WINDOW.min(end - at);
        cached += FileMapping::new(file, at, part as usize)?.resident_pages()?;
        at += part;
    }
    Ok(cached)
}
