//! [`CachedReader`]: reads the parts of a file that are in the page cache already. They need not be read from the disk
//! again, and dirty pages need not be written back first.
//!
//! It does not use read(2). That marks the pages as used, so that the kernel keeps them longer than pages that other
//! processes use more often. It also continues read-ahead if it reads a page that read-ahead has marked. Instead, the
//! range is mapped for random access and copied from the mapping, which does neither (measured on Linux 6.18: the flags of the
//! pages do not change).

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::sys::{self, FileMapping};

/// The most bytes to map at once: mapped pages count as memory of the process. Smaller mappings need less memory, but cost
/// more time, because each one that is removed interrupts the other processors (TLB flush).
const MAX_MAPPING: usize = 1 << 20;

/// Reads cached ranges of a file whose other ranges are read with direct I/O. Several threads may read at once.
pub(crate) struct CachedReader {
    file: File,
    /// Reading cached ranges is not enabled, or the kernel does not report what is cached, or refuses to copy it.
    disabled: AtomicBool,
    /// Held while a block is copied. One thread copies faster than a disk writes, and blocks that are ready one after
    /// another keep the disk busier than blocks that are ready at the same time (benches/RESULTS.md, hot source).
    copying: Mutex<()>,
    bytes: AtomicU64,
}

impl CachedReader {
    /// If not `enabled`, [`CachedReader::read`] always returns false.
    pub fn new(file: File, enabled: bool) -> Self {
        Self { file, disabled: AtomicBool::new(!enabled), copying: Mutex::default(), bytes: AtomicU64::new(0) }
    }

    /// The number of bytes read so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Fills `buffer` with the bytes at `offset` if all pages of that range are in the page cache. Otherwise returns
    /// false: the caller must read the range with direct I/O, and the content of `buffer` is undefined. If a page is
    /// evicted between the check and the copy, the kernel reads that page again, without read-ahead. If the file is
    /// truncated in the meantime, the rest of its last page reads as zeros, so the caller must check the length of the
    /// file after the last read.
    pub fn read(&self, buffer: &mut [u8], offset: u64) -> bool {
        if buffer.is_empty() || self.disabled.load(Ordering::Relaxed) {
            return false;
        }
        match self.try_read(buffer, offset) {
            Ok(true) => {
                self.bytes.fetch_add(buffer.len() as u64, Ordering::Relaxed);
                true
            }
            Ok(false) => false,
            // The file was truncated. The caller's own read reports that.
            Err(e) if e.raw_os_error() == Some(libc::EFAULT) => false,
            // The kernel is too old, or the file's permissions, the filesystem or the container do not allow it.
            Err(_) => {
                self.disabled.store(true, Ordering::Relaxed);
                false
            }
        }
    }

    fn try_read(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
        if !self.is_cached(offset, buffer.len())? {
            return Ok(false);
        }
        let _copying = self.copying.lock().unwrap_or_else(PoisonError::into_inner);
        let mut done = 0;
        while done < buffer.len() {
            let part_offset = offset + done as u64;
            let skip = (part_offset % sys::page_size()) as usize;
            let len = (MAX_MAPPING - skip).min(buffer.len() - done);
            // Check again just before the copy, so that pages that were reclaimed in the meantime are not read into the
            // cache again. (Before Linux 6.3, the copy marks the pages as used in spite of the advice for the mapping.)
            if !self.is_cached(part_offset, len)? {
                return Ok(false);
            }
            let mapping = FileMapping::new(&self.file, part_offset - skip as u64, skip + len)?;
            if !mapping.copy_out(skip, &mut buffer[done..done + len])? {
                return Ok(false);
            }
            done += len;
        }
        Ok(true)
    }

    /// True if all pages that contain `len` bytes at `offset` are in the page cache.
    fn is_cached(&self, offset: u64, len: usize) -> io::Result<bool> {
        let start = offset - offset % sys::page_size();
        let len = offset + len as u64 - start;
        Ok(sys::cached_pages(&self.file, start, len)? >= len.div_ceil(sys::page_size()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn any_range_of_a_cached_file_is_read_but_nothing_after_its_end() -> io::Result<()> {
        let path = std::env::current_exe()?;
        let mut bytes = Vec::new();
        File::open(&path)?.read_to_end(&mut bytes)?; // the file is cached now
        let reader = CachedReader::new(File::open(&path)?, true);
        let end = bytes.len() as u64;
        let mut read = 0;
        for offset in [0, 1, 4095, 4096, 100_000, end - 5000, end - 1] {
            for len in [1, 4096, 70_000, 5 << 20] {
                let len = len.min((end - offset) as usize);
                let mut buffer = vec![0; len];
                assert!(reader.read(&mut buffer, offset), "offset {offset} len {len}");
                assert_eq!(buffer, &bytes[offset as usize..offset as usize + len], "offset {offset} len {len}");
                read += len as u64;
            }
        }
        assert_eq!(reader.bytes(), read);
        assert!(!reader.read(&mut vec![0; 1 << 20], end));
        assert!(!CachedReader::new(File::open(&path)?, false).read(&mut [0; 10], 0));
        Ok(())
    }
}
