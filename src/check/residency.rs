//! What of a file is in the page cache. Asked of cachestat(2) (Linux 6.5, not on overlayfs), else of
//! mincore(2) where it tells the truth, else unknown: mincore calls everything resident for a caller who
//! could not write the file (Linux 5.2), and misses pages that are not up to date.

use std::fs::File;
use std::io;

use crate::sys::{self, CacheStat, FileMapping, WINDOW};

/// The pages of one file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Residency {
    /// Pages that it has.
    pub pages: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// What the cache holds of it.
    pub cache: Cache,
}

/// How much is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cache {
    /// Everything.
    Known(CacheStat),
    /// Resident pages only (before Linux 6.5, and on overlayfs).
    Resident(u64),
    /// The kernel does not tell this caller.
    #[default]
    Unknown,
}

impl Cache {
    /// Resident pages, if that is known.
    pub fn resident(&self) -> Option<u64> {
        match self {
            Cache::Known(stat) => Some(stat.cached),
            Cache::Resident(pages) => Some(*pages),
            Cache::Unknown => None,
        }
    }
}

/// Asks for a whole file or block device.
pub fn of(file: &File) -> io::Result<Residency> {
    let bytes = sys::length(file)?;
    let pages = bytes.div_ceil(sys::page_size());
    let cache = match sys::cache_stat(file, 0, 0) {
        Ok(stat) => Cache::Known(stat),
        Err(e) if e.raw_os_error() == Some(libc::ENOSYS) && sys::mincore_tells(file) => {
            Cache::Resident(by_mincore(file, bytes)?)
        }
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EPERM | libc::EOPNOTSUPP)) => Cache::Unknown,
        Err(e) => return Err(e),
    };
    Ok(Residency { pages, bytes, cache })
}

/// Counts by mincore, window by window.
fn by_mincore(file: &File, bytes: u64) -> io::Result<u64> {
    let mut resident = 0;
    each_window(file, bytes, &mut |_, pages| {
        resident += pages.iter().filter(|page| **page & 1 == 1).count() as u64;
        Ok(())
    })?;
    Ok(resident)
}

/// See [`each_window`].
pub type Each<'a> = &'a mut dyn FnMut(&FileMapping, &[u8]) -> io::Result<()>;

/// Calls `each` with every window of the file that may have pages: its mapping, and mincore's byte a
/// page. What has none is passed over, as far as the kernel tells, else holes: 10 TB of them must not take
/// minutes.
pub fn each_window(file: &File, bytes: u64, each: Each<'_>) -> io::Result<()> {
    let page = sys::page_size();
    let mut at = 0;
    while at < bytes {
        // A filesystem that knows no holes has none.
        let data = sys::seek_extent(file, at, libc::SEEK_DATA).unwrap_or(Some(at));
        let data = data.unwrap_or(bytes).min(bytes);
        let hole = data - data % page;
        // Pages over a hole are zeros that somebody read.
        if hole > at && sys::cached_pages(file, at, hole - at).unwrap_or(0) == 0 {
            at = hole;
        }
        if at >= bytes {
            break;
        }
        let len = WINDOW.min(bytes - at);
        if sys::cached_pages(file, at, len).is_ok_and(|pages| pages == 0) {
            at += len;
            continue;
        }
        let window = FileMapping::new(file, at, len as usize)?;
        each(&window, &window.resident()?)?;
        at += len;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_ask_agree() -> io::Result<()> {
        let file = File::open(std::env::current_exe()?)?;
        let found = of(&file)?;
        if let Cache::Known(stat) = found.cache {
            assert_eq!(by_mincore(&file, found.bytes)?, stat.cached);
            assert!(stat.cached > 0 && stat.cached <= found.pages);
        }
        Ok(())
    }
}
