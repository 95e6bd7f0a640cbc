//! What the filesystem or the device under a file is, and what it requires.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;

use super::{check, retry};

const FS_IOC_GETFLAGS: libc::Ioctl = 0x8008_6601u32 as libc::Ioctl; // _IOR('f', 1, long)
const BLKSSZGET: libc::Ioctl = 0x1268; // _IO(0x12, 104)
// _IOR(0x12, 114, size_t)
const BLKGETSIZE64: libc::Ioctl =
    if cfg!(target_pointer_width = "64") { 0x8008_1272u32 } else { 0x8004_1272u32 } as libc::Ioctl;
/// Superblock magic number of overlayfs.
const OVERLAYFS: i64 = 0x794c_7630;

/// Superblock magic numbers (statfs(2)) of filesystems that keep their files in memory.
pub const MEMORY_FILESYSTEMS: [i64; 3] = [0x0102_1994, 0x8584_58f6, 0x9584_58f6];
/// Superblock magic of btrfs.
pub const BTRFS: i64 = 0x9123_683e;
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
pub(super) fn overlays(file: &File) -> bool {
    file.metadata().is_ok_and(|found| found.is_file()) && filesystem(file).is_ok_and(|magic| magic == OVERLAYFS)
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
