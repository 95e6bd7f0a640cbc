//! What of a file is in the page cache already, read from there: it need not come from the disk again,
//! and changed pages need not be written back first.
//!
//! Not by read(2): that marks the pages as used, so that they outlive what others use more, and where
//! read-ahead left its mark on a page it goes on reading ahead. The range is mapped for random access
//! and copied out of the mapping instead, which does neither (measured on Linux 6.18: the flags of the
//! pages stay as they are).

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::sys::{self, FileMapping};

/// Mapped at a time: what is mapped counts as the process's memory.
const PART: usize = 256 << 10;

/// The cached side of a file that is read direct.
pub(crate) struct CachedReader {
    file: File,
    /// The kernel does not tell what is cached, or does not let us have it.
    off: AtomicBool,
    bytes: AtomicU64,
}

impl CachedReader {
    /// Looks at the pages of `file`, if `on`.
    pub fn new(file: File, on: bool) -> Self {
        Self { file, off: AtomicBool::new(!on), bytes: AtomicU64::new(0) }
    }

    /// The bytes read so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Fills `buffer` from offset `at` on, if every page of that range is in the cache. False: it has to
    /// be read, and what is in `buffer` is scratch. A page that goes away between the look and the
    /// copying comes in again, alone. In a file that was cut meanwhile, the rest of the last page reads
    /// as zeros: whoever asks looks at the length when all is read.
    pub fn read(&self, buffer: &mut [u8], at: u64) -> bool {
        if buffer.is_empty() || self.off.load(Ordering::Relaxed) {
            return false;
        }
        let read = self.try_read(buffer, at);
        match &read {
            Ok(true) => drop(self.bytes.fetch_add(buffer.len() as u64, Ordering::Relaxed)),
            // The file became shorter: the read that follows says so.
            Err(e) if e.raw_os_error() == Some(libc::EFAULT) => {}
            // Refused: by the kernel's age, the file's rights, the filesystem, a container.
            Err(_) => self.off.store(true, Ordering::Relaxed),
            Ok(false) => {}
        }
        read.unwrap_or(false)
    }

    fn try_read(&self, buffer: &mut [u8], at: u64) -> io::Result<bool> {
        let start = at - at % sys::page_size();
        let span = at + buffer.len() as u64 - start;
        let pages = span.div_ceil(sys::page_size());
        if sys::cached_pages(&self.file, start, span)? < pages {
            return Ok(false);
        }
        let mut done = 0;
        while done < buffer.len() {
            let from = at + done as u64;
            let skew = (from % sys::page_size()) as usize;
            let len = (PART - skew).min(buffer.len() - done);
            let here = ((skew + len) as u64).div_ceil(sys::page_size());
            // Again, and just before: what was reclaimed meanwhile must not come in. (Where mincore tells, before
            // Linux 6.3, pages are marked as used, whatever the mapping says.)
            if sys::cached_pages(&self.file, from - skew as u64, (skew + len) as u64)? < here {
                return Ok(false);
            }
            let window = FileMapping::new(&self.file, from - skew as u64, skew + len)?;
            if !window.copy_out(skew, &mut buffer[done..done + len])? {
                return Ok(false);
            }
            done += len;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn any_range_of_a_cached_file_is_read_right_and_nothing_behind_its_end() -> io::Result<()> {
        let path = std::env::current_exe()?;
        let mut bytes = Vec::new();
        File::open(&path)?.read_to_end(&mut bytes)?; // it is cached now
        let resident = CachedReader::new(File::open(&path)?, true);
        let end = bytes.len() as u64;
        let mut read = 0;
        for at in [0, 1, 4095, 4096, 100_000, end - 5000, end - 1] {
            for len in [1, 4096, 70_000, 5 << 20] {
                let len = len.min((end - at) as usize);
                let mut buffer = vec![0; len];
                assert!(resident.read(&mut buffer, at), "at {at} len {len}");
                assert_eq!(buffer, &bytes[at as usize..at as usize + len], "at {at} len {len}");
                read += len as u64;
            }
        }
        assert_eq!(resident.bytes(), read);
        assert!(!resident.read(&mut vec![0; 1 << 20], end));
        assert!(!CachedReader::new(File::open(&path)?, false).read(&mut [0; 10], 0));
        Ok(())
    }
}
