//! Every call to the kernel that the standard library does not offer, each in a safe wrapper.
//!
//! This is the only file with `unsafe`. A wrapper does one system call, retries it when a signal
//! interrupts it, and turns errno into [`io::Error`]; what an error means is the caller's business.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

/// The most bytes that one `read` or `write` moves (read(2), NOTES), rounded down to 1 MiB.
pub const MAX_TRANSFER: usize = 0x7ff0_0000;
/// Size of a transparent huge page on x86-64 and (with 4 KiB pages) arm64.
const HUGE_PAGE: usize = 2 << 20;
const RWF_DONTCACHE: libc::c_int = 0x80; // Linux 6.14, include/uapi/linux/fs.h
const SYS_CACHESTAT: libc::c_long = 451; // Linux 6.5, the same number on every architecture
const FS_IOC_GETFLAGS: libc::Ioctl = 0x8008_6601u32 as libc::Ioctl; // _IOR('f', 1, long)
const BLKSSZGET: libc::Ioctl = 0x1268; // _IO(0x12, 104)
// _IOR(0x12, 114, size_t)
const BLKGETSIZE64: libc::Ioctl =
    if cfg!(target_pointer_width = "64") { 0x8008_1272u32 } else { 0x8004_1272u32 } as libc::Ioctl;

/// Superblock magic numbers (statfs(2)) of filesystems that keep their files in memory.
pub const MEMORY_FILESYSTEMS: [i64; 3] = [0x0102_1994, 0x8584_58f6, 0x9584_58f6];
/// Superblock magic of btrfs.
pub const BTRFS: i64 = 0x9123_683e;
/// Superblock magic of overlayfs.
const OVERLAYFS: i64 = 0x794c_7630;
/// Filesystems whose files are made up as they are read, so that their length says nothing:
/// proc, sysfs, debugfs, tracefs, cgroup, cgroup2, securityfs, configfs, bpf, pstore, efivarfs.
pub const PSEUDO_FILESYSTEMS: [i64; 11] = [
    0x9fa0,
    0x6265_6572,
    0x6462_6720,
    0x7472_6163,
    0x27_e0eb,
    0x6367_7270,
    0x7363_6673,
    0x6265_6570,
    0xcafe_4a11,
    0x6165_676c,
    0xde5e_81e4,
];
/// Superblock magic of ext2, ext3 and ext4.
pub const EXT: i64 = 0xef53;
/// Inode flags of ext4: the file is mapped by extents, or small enough to lie in its inode.
pub const EXTENTS_OR_INLINE: i32 = 0x1008_0000;
/// Inode flag "no copy on write" (ioctl_iflags(2)); on btrfs it also turns data checksums off.
pub const NOCOW: i32 = 0x0080_0000;

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

fn path(value: &Path) -> io::Result<CString> {
    CString::new(value.as_os_str().as_bytes()).map_err(io::Error::other)
}

/// Anonymous memory, page-aligned; aligned to 2 MiB and on huge pages from that size on.
pub struct AnonymousMapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is private memory that only this value points to, like a Box<[u8]>.
unsafe impl Send for AnonymousMapping {}
// SAFETY: shared access hands out &[u8] only; changing it takes &mut self.
unsafe impl Sync for AnonymousMapping {}

impl AnonymousMapping {
    /// Maps `len` zero bytes. The pages are made when they are first touched.
    pub fn anonymous(len: usize) -> io::Result<Self> {
        let len = len.max(1).checked_next_multiple_of(4096).ok_or(io::ErrorKind::OutOfMemory)?;
        let spare = if len >= HUGE_PAGE { HUGE_PAGE } else { 0 };
        let total = len.checked_add(spare).ok_or(io::ErrorKind::OutOfMemory)?;
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: asks for fresh memory at an address of the kernel's choice; no memory is touched.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), total, protection, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let before = if spare > 0 { base.align_offset(HUGE_PAGE) } else { 0 };
        let start = base.wrapping_byte_add(before);
        if spare > 0 {
            let after = spare - before;
            // SAFETY: both ranges are parts of the mapping above that nothing points to: what lies
            // before the aligned start, and what lies behind start + len. Unmapping address ranges
            // of length 0 fails without effect, which is why the results are not looked at; nor is
            // that of madvise, which is advice.
            unsafe {
                libc::munmap(base, before);
                libc::munmap(start.wrapping_byte_add(len), after);
                libc::madvise(start, len, libc::MADV_HUGEPAGE);
            }
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }

    /// Makes the pages now instead of at the first touch (madvise(2), Linux 5.14).
    pub fn populate(&mut self) -> io::Result<()> {
        // SAFETY: the range is this mapping, alive until drop; its contents do not change.
        check(unsafe { libc::madvise(self.start.as_ptr().cast(), self.len, libc::MADV_POPULATE_WRITE) })?;
        Ok(())
    }

    /// The memory.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: mapped, initialised (zero pages), and alive as long as self is borrowed.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The memory, to write to.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and &mut self is the only access.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for AnonymousMapping {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly what `anonymous` kept; no borrow outlives self.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// The alignment that direct I/O on this file asks for, in bytes: of memory, and of offset and
/// length (`STATX_DIOALIGN`, Linux 6.1). None: the kernel does not tell. An offset figure of 0:
/// this file has no direct I/O.
pub fn dio_alignment(file: &File) -> io::Result<Option<(u32, u32)>> {
    // SAFETY: statx is a struct of integers, for which zero is a value.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the empty path with AT_EMPTY_PATH means the descriptor, which `file` keeps open;
    // `found` outlives the call.
    let result =
        unsafe { libc::statx(file.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN, &mut found) };
    match check(result) {
        Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => Ok(None),
        Err(e) => Err(e),
        Ok(_) if found.stx_mask & libc::STATX_DIOALIGN == 0 => Ok(None),
        Ok(_) => Ok(Some((found.stx_dio_mem_align, found.stx_dio_offset_align))),
    }
}

/// Logical sector size of a block device in bytes (`BLKSSZGET`).
pub fn sector_size(device: &File) -> io::Result<u32> {
    let mut size: libc::c_int = 0;
    // SAFETY: BLKSSZGET writes one int, to `size`, which outlives the call.
    check(unsafe { libc::ioctl(device.as_raw_fd(), BLKSSZGET, &mut size) })?;
    u32::try_from(size).map_err(io::Error::other)
}

/// Length of a file or block device in bytes, without moving the position that others may share.
pub fn length(file: &File) -> io::Result<u64> {
    let found = file.metadata()?;
    if !found.file_type().is_block_device() {
        return Ok(found.len());
    }
    let mut bytes = 0u64;
    // SAFETY: BLKGETSIZE64 writes one u64, to `bytes`, which outlives the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), BLKGETSIZE64, &mut bytes) })?;
    Ok(bytes)
}

/// Inode flags as chattr(1) sets them; None where the filesystem has none.
pub fn inode_flags(file: &File) -> Option<i32> {
    let mut flags: libc::c_long = 0;
    // SAFETY: the kernel writes at most one long, to `flags`, which outlives the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_GETFLAGS, &mut flags) }).ok()?;
    i32::try_from(flags & 0x7fff_ffff).ok()
}

/// Superblock magic of the filesystem that holds `file` (statfs(2)).
pub fn filesystem(file: &File) -> io::Result<i64> {
    // SAFETY: statfs is a struct of integers, for which zero is a value.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `found` outlives the call.
    retry(|| check(unsafe { libc::fstatfs(file.as_raw_fd(), &mut found) }))?;
    // The kernel's long; as u32 first, so that 32-bit systems see the same magic.
    Ok(i64::from(found.f_type as u32))
}

/// True for a file on overlayfs: its pages are those of another file, below, and some calls do not get there.
fn overlays(file: &File) -> bool {
    file.metadata().is_ok_and(|found| found.is_file()) && filesystem(file).is_ok_and(|magic| magic == OVERLAYFS)
}

/// Sets or clears O_DIRECT on an open file (fcntl(2), F_SETFL).
pub fn set_direct(file: &File, on: bool) -> io::Result<()> {
    let fd = file.as_raw_fd();
    // SAFETY: F_GETFL and F_SETFL take and give integers.
    let flags = check(unsafe { libc::fcntl(fd, libc::F_GETFL) })?;
    let wanted = if on { flags | libc::O_DIRECT } else { flags & !libc::O_DIRECT };
    // SAFETY: as above.
    check(unsafe { libc::fcntl(fd, libc::F_SETFL, wanted) })?;
    Ok(())
}

/// Locks an open file for as long as it is open (flock(2)). Fails with `WouldBlock` if somebody else has it.
pub fn lock(file: &File) -> io::Result<()> {
    // SAFETY: integers only.
    retry(|| check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }))?;
    Ok(())
}

/// The user whose rights this process has (geteuid(2)).
pub fn effective_user() -> u32 {
    // SAFETY: always succeeds, and takes nothing.
    unsafe { libc::geteuid() }
}

/// Reads without leaving pages behind (`RWF_DONTCACHE`); at the file's own position if `at` is None.
pub fn read_dontcache(file: &File, buffer: &mut [u8], at: Option<u64>) -> io::Result<usize> {
    let vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len().min(MAX_TRANSFER) };
    let at = at.map_or(Ok(-1), offset)?;
    // SAFETY: the vector describes `buffer`, borrowed mutably until the call returns.
    retry(|| check_size(unsafe { libc::preadv2(file.as_raw_fd(), &vector, 1, at, RWF_DONTCACHE) }))
}

/// Writes without leaving pages behind (`RWF_DONTCACHE`); at the file's own position if `at` is None.
pub fn write_dontcache(file: &File, data: &[u8], at: Option<u64>) -> io::Result<usize> {
    let vector = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len().min(MAX_TRANSFER) };
    let at = at.map_or(Ok(-1), offset)?;
    // SAFETY: the vector describes `data`, borrowed until the call returns; the kernel only reads it.
    retry(|| check_size(unsafe { libc::pwritev2(file.as_raw_fd(), &vector, 1, at, RWF_DONTCACHE) }))
}

/// fallocate(2) with `mode`.
pub fn fallocate(file: &File, mode: libc::c_int, start: u64, len: u64) -> io::Result<()> {
    let (start, len) = (offset(start)?, offset(len)?);
    // SAFETY: integers only.
    retry(|| check(unsafe { libc::fallocate(file.as_raw_fd(), mode, start, len) }))?;
    Ok(())
}

/// posix_fadvise(2). `len` 0 means to the end of the file.
pub fn advise(file: &File, start: u64, len: u64, advice: libc::c_int) -> io::Result<()> {
    // SAFETY: integers only.
    let error = unsafe { libc::posix_fadvise(file.as_raw_fd(), offset(start)?, offset(len)?, advice) };
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// Writes the range's dirty pages to the device and waits for it (sync_file_range(2)): makes them
/// clean, not durable.
pub fn write_back(file: &File, start: u64, len: u64) -> io::Result<()> {
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    if overlays(file) {
        return file.sync_data(); // there it does nothing, and says that it did
    }
    let (start, len) = (offset(start)?, offset(len)?);
    // SAFETY: integers only.
    retry(|| check(unsafe { libc::sync_file_range(file.as_raw_fd(), start, len, flags) }))?;
    Ok(())
}

/// syncfs(2): everything on the filesystem that holds `file`.
pub fn sync_filesystem(file: &File) -> io::Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::syncfs(file.as_raw_fd()) })?;
    Ok(())
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

/// Bytes that mincore looks at in one go: 64 Ki pages, so that a file of any size fits in the address space.
pub const WINDOW: u64 = 256 << 20;

/// A part of a file, mapped to ask about its pages, or to have what is in them. No reference into it is
/// ever made: the file is others' to change and to cut.
pub struct FileMapping {
    start: *mut libc::c_void,
    len: usize,
}

impl FileMapping {
    /// Maps `len` bytes at `at`, a multiple of the page size.
    pub fn new(file: &File, at: u64, len: usize) -> io::Result<Self> {
        let (protection, flags) = (libc::PROT_READ, libc::MAP_SHARED);
        // SAFETY: asks for an address of the kernel's choice; no memory of ours is touched.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, file.as_raw_fd(), offset(at)?) };
        if start == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self { start, len }) }
    }

    /// Copies the bytes from `skip` on into `buffer`: the kernel does it, so that a file which became
    /// shorter is an error (EFAULT) and not a SIGBUS. The pages are not marked as used, and nothing is
    /// read ahead of them. False: there is less than `buffer` takes.
    pub fn copy_out(&self, skip: usize, buffer: &mut [u8]) -> io::Result<bool> {
        if skip.checked_add(buffer.len()).is_none_or(|end| end > self.len) {
            return Ok(false);
        }
        // SAFETY: advice on this mapping, which lives until drop: random access leaves the age of pages alone.
        check(unsafe { libc::madvise(self.start, self.len, libc::MADV_RANDOM) })?;
        let from = libc::iovec { iov_base: self.start.wrapping_byte_add(skip), iov_len: buffer.len() };
        let to = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        // SAFETY: to this process itself: from inside this mapping, which lives until drop, to `buffer`,
        // borrowed mutably until the call returns. The written side is named as the remote one because
        // the kernel marks the pages of that side as used (process_vm_writev(2); mm/gup.c).
        let moved = unsafe { libc::process_vm_writev(libc::getpid(), &from, 1, &to, 1, 0) };
        Ok(check_size(moved)? == buffer.len())
    }

    /// A byte a page, whose lowest bit says whether the page is in the cache (mincore(2)).
    pub fn resident(&self) -> io::Result<Vec<u8>> {
        let mut pages = vec![0u8; self.len.div_ceil(page_size() as usize)];
        // SAFETY: the range is this mapping; `pages` has a byte for each of its pages.
        check(unsafe { libc::mincore(self.start, self.len, pages.as_mut_ptr()) })?;
        Ok(pages)
    }

    /// How many pages are in the cache.
    pub fn resident_pages(&self) -> io::Result<u64> {
        Ok(self.resident()?.iter().filter(|page| **page & 1 == 1).count() as u64)
    }

    /// Maps `count` pages from page `first` on, that are in the cache, so that pagemap shows where they
    /// are (`MADV_POPULATE_READ`, Linux 5.14: an error where a touch would be a SIGBUS).
    pub fn populate(&self, first: usize, count: usize) -> io::Result<()> {
        let page = page_size() as usize;
        let len = (count * page).min(self.len - first * page);
        // SAFETY: inside this mapping, which lives until drop; nothing is changed.
        check(unsafe { libc::madvise(self.start.wrapping_byte_add(first * page), len, libc::MADV_POPULATE_READ) })?;
        Ok(())
    }

    /// Where it is mapped, for /proc/self/pagemap.
    pub fn address(&self) -> u64 {
        self.start.addr() as u64
    }
}

impl Drop for FileMapping {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly what `new` mapped; no reference into it was ever made.
        unsafe { libc::munmap(self.start, self.len) };
    }
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

/// lseek(2) with `SEEK_DATA` or `SEEK_HOLE`: None behind the last data.
pub fn seek_extent(file: &File, from: u64, whence: libc::c_int) -> io::Result<Option<u64>> {
    // SAFETY: integers only. The file's position moves; readers here never use it.
    let found = unsafe { libc::lseek(file.as_raw_fd(), offset(from)?, whence) };
    match u64::try_from(found) {
        Ok(at) => Ok(Some(at)),
        Err(_) => match io::Error::last_os_error() {
            e if e.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            e => Err(e),
        },
    }
}

/// Gives the open file a name, following /proc/self/fd (linkat(2)). Fails if the name is taken.
pub fn link(file: &File, name: &Path) -> io::Result<()> {
    let (from, to) = (path(&fd_path(file))?, path(name)?);
    // SAFETY: both strings end in NUL and outlive the call.
    check(unsafe {
        libc::linkat(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), libc::AT_SYMLINK_FOLLOW)
    })?;
    Ok(())
}

/// Gives the open file the name `to`, replacing what has it: by way of `between`, because linkat(2)
/// does not replace. A child in a group of its own does both calls, so that a SIGKILL for this
/// process or its group does not fall between them; it costs a fork.
pub fn link_over(file: &File, between: &Path, to: &Path) -> io::Result<()> {
    let name = to;
    let (from, between, to) = (path(&fd_path(file))?, path(between)?, path(to)?);
    let (from, between, to) = (from.as_ptr(), between.as_ptr(), to.as_ptr());
    let work = || {
        // SAFETY: three strings that end in NUL, kept by the caller until it has waited for the child.
        // Only system calls: a child of a process with threads may do nothing else (fork(2)).
        unsafe {
            if libc::linkat(libc::AT_FDCWD, from, libc::AT_FDCWD, between, libc::AT_SYMLINK_FOLLOW) < 0 {
                return *libc::__errno_location();
            }
            if libc::rename(between, to) < 0 {
                let error = *libc::__errno_location();
                libc::unlink(between);
                return error;
            }
        }
        0
    };
    // SAFETY: the child leaves by _exit, without running anything of this process's.
    let error = match unsafe { libc::fork() } {
        0 => unsafe {
            // SAFETY: integers only. /proc/self is the child now, and its descriptors are the same.
            libc::setsid();
            libc::_exit(work())
        },
        -1 => work(), // no process to spare
        child => {
            let mut status = 0;
            // SAFETY: `status` outlives the call.
            match retry(|| check(unsafe { libc::waitpid(child, &mut status, 0) })) {
                Ok(_) if libc::WIFEXITED(status) => libc::WEXITSTATUS(status),
                // Killed alone, or nobody keeps its status (SIGCHLD is ignored): look what it did, and
                // do what it did not.
                _ => match (file.metadata(), std::fs::metadata(name)) {
                    (Ok(a), Ok(b)) if (a.dev(), a.ino()) == (b.dev(), b.ino()) => 0,
                    _ => {
                        // SAFETY: the string ends in NUL and outlives the call. It may not be there.
                        unsafe { libc::unlink(between) };
                        work()
                    }
                },
            }
        }
    };
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// The name under which /proc shows an open file.
pub fn fd_path(file: &impl AsRawFd) -> std::path::PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

/// Renames, failing with EEXIST if the new name is taken (renameat2(2), `RENAME_NOREPLACE`).
pub fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (path(from)?, path(to)?);
    // SAFETY: both strings end in NUL and outlive the call.
    check(unsafe {
        libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), libc::RENAME_NOREPLACE)
    })?;
    Ok(())
}

/// Asks for a pipe of `bytes` (`F_SETPIPE_SZ`); gives the size it has now.
pub fn widen_pipe(pipe: BorrowedFd<'_>, bytes: i32) -> io::Result<i32> {
    // SAFETY: integers only.
    check(unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETPIPE_SZ, bytes) })
}

/// Waits until a read, or a write if `writing`, would not block (poll(2)). False: `limit` passed.
pub fn wait_ready(file: BorrowedFd<'_>, writing: bool, limit: Duration) -> io::Result<bool> {
    let events = if writing { libc::POLLOUT } else { libc::POLLIN };
    let mut entry = libc::pollfd { fd: file.as_raw_fd(), events, revents: 0 };
    let limit = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: one entry, which outlives the call.
    match check(unsafe { libc::poll(&mut entry, 1, limit) }) {
        Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(false),
        other => Ok(other? > 0),
    }
}

/// Free bytes that this user may have on the filesystem that holds `file` (fstatvfs(3)).
pub fn free_bytes(file: &File) -> io::Result<u64> {
    // SAFETY: statvfs is a struct of integers, for which zero is a value.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `found` outlives the call.
    retry(|| check(unsafe { libc::fstatvfs(file.as_raw_fd(), &mut found) }))?;
    #[allow(clippy::useless_conversion)] // narrower on 32-bit systems
    Ok(u64::from(found.f_bavail).saturating_mul(u64::from(found.f_frsize)))
}

/// Standard streams that were closed when the program began, by number. Rust's start-up code opens
/// /dev/null in their place, and a copy would lose its bytes there; so this looks earlier.
static CLOSED: AtomicU8 = AtomicU8::new(0);

#[used]
#[unsafe(link_section = ".init_array")]
static LOOK_AT_STANDARD_STREAMS: extern "C" fn() = {
    extern "C" fn look() {
        for fd in 0..2 {
            // SAFETY: F_GETFD takes and gives integers, and no memory is needed so early.
            if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
                CLOSED.fetch_or(1 << fd, Ordering::Relaxed);
            }
        }
    }
    look
};

/// True if standard input (0) or output (1) was closed when the program began.
pub fn was_closed(fd: u8) -> bool {
    CLOSED.load(Ordering::Relaxed) & (1 << fd) != 0
}

/// Size of a page of memory, and of the page cache, in bytes.
pub fn page_size() -> u64 {
    // SAFETY: integers only.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
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
