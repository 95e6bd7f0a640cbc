//! How many pages of a file are in the page cache.
//!
//! cachestat(2) reports this exactly, but needs Linux 6.5 and does not work on overlayfs. The second choice is
//! mincore(2), which has two faults: it misses pages that are not up to date, and since Linux 5.2 it reports every page
//! as resident to a caller who may not write the file. Where neither gives a true answer, the number is unknown.

use std::fs::File;
use std::io;

use crate::sys::{self, CacheStat, FileMapping, WINDOW};

/// The size of one file, and its pages in the page cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Residency {
    /// Size in pages, cached or not.
    pub pages: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// Its pages in the page cache.
    pub cached: CachedPages,
}

/// The cached pages of a file, in as much detail as the kernel reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CachedPages {
    /// From cachestat(2): pages by state.
    Detailed(CacheStat),
    /// From mincore(2), before Linux 6.5 and on overlayfs: the number of resident pages only.
    ResidentOnly(u64),
    /// The kernel does not report them to this caller.
    #[default]
    Unknown,
}

impl CachedPages {
    /// The number of resident pages, if known.
    pub fn resident(&self) -> Option<u64> {
        match self {
            CachedPages::Detailed(stat) => Some(stat.cached),
            CachedPages::ResidentOnly(pages) => Some(*pages),
            CachedPages::Unknown => None,
        }
    }

    /// The number of pages that are not on the medium yet, if known.
    pub fn dirty_or_under_writeback(&self) -> Option<u64> {
        match self {
            CachedPages::Detailed(stat) => Some(stat.dirty + stat.write_back),
            CachedPages::ResidentOnly(_) | CachedPages::Unknown => None,
        }
    }
}

impl Residency {
    /// Counts the cached pages of a file or block device.
    pub fn measure(file: &File) -> io::Result<Self> {
        let bytes = sys::length(file)?;
        let pages = bytes.div_ceil(sys::page_size());
        let cached = match sys::cache_stat(file, 0, 0) {
            Ok(stat) => CachedPages::Detailed(stat),
            Err(e) if e.raw_os_error() == Some(libc::ENOSYS) && sys::mincore_is_reliable(file) => {
                CachedPages::ResidentOnly(count_with_mincore(file, bytes)?)
            }
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EPERM | libc::EOPNOTSUPP)) => {
                CachedPages::Unknown
            }
            Err(e) => return Err(e),
        };
        Ok(Self { pages, bytes, cached })
    }
}

fn count_with_mincore(file: &File, bytes: u64) -> io::Result<u64> {
    let mut resident = 0;
    for_each_window(file, bytes, &mut |_, pages| {
        resident += pages.iter().filter(|page| is_resident(**page)).count() as u64;
        Ok(())
    })?;
    Ok(resident)
}

/// True if this byte of mincore(2)'s answer means a resident page.
pub fn is_resident(mincore_byte: u8) -> bool {
    mincore_byte & 1 == 1
}

/// Receives a mapped part of a file, and mincore(2)'s answer for it: one byte per page.
pub type WindowVisitor<'a> = &'a mut dyn FnMut(&FileMapping, &[u8]) -> io::Result<()>;

/// Maps the first `bytes` bytes of a file part by part, and calls `visit` for each part. Parts without cached pages are
/// skipped: those where the kernel reports none, and otherwise the holes. Without this, a hole of 10 TB would take
/// minutes.
pub fn for_each_window(file: &File, bytes: u64, visit: WindowVisitor<'_>) -> io::Result<()> {
    let page = sys::page_size();
    let mut offset = 0;
    while offset < bytes {
        // If the filesystem does not report holes, the file counts as having none.
        let data = sys::seek_extent(file, offset, libc::SEEK_DATA).unwrap_or(Some(offset));
        let data = data.unwrap_or(bytes).min(bytes);
        let hole_end = data - data % page;
        // A hole can have cached pages: zeros, from when it was read.
        if hole_end > offset && sys::cached_pages(file, offset, hole_end - offset).unwrap_or(0) == 0 {
            offset = hole_end;
        }
        if offset >= bytes {
            break;
        }
        let len = WINDOW.min(bytes - offset);
        if sys::cached_pages(file, offset, len).is_ok_and(|pages| pages == 0) {
            offset += len;
            continue;
        }
        let window = FileMapping::new(file, offset, len as usize)?;
        visit(&window, &window.resident()?)?;
        offset += len;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mincore_and_cachestat_count_the_same_pages() -> io::Result<()> {
        let file = File::open(std::env::current_exe()?)?;
        let residency = Residency::measure(&file)?;
        if let CachedPages::Detailed(stat) = residency.cached {
            assert_eq!(count_with_mincore(&file, residency.bytes)?, stat.cached);
            assert!(stat.cached > 0 && stat.cached <= residency.pages);
        }
        Ok(())
    }
}
