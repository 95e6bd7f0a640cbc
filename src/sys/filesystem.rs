//! The filesystem or block device that holds a file: its type, its size, its flags, and its direct I/O alignment.
#![allow(unsafe_code)]

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::{check, is_unavailable, retry};

const FS_IOC_GETFLAGS: libc::Ioctl = 0x8008_6601u32 as libc::Ioctl; // _IOR('f', 1, long)
const BLKSSZGET: libc::Ioctl = 0x1268; // _IO(0x12, 104)
// _IOR(0x12, 114, size_t)
const BLKGETSIZE64: libc::Ioctl =
    if cfg!(target_pointer_width = "64") { 0x8008_1272u32 } else { 0x8004_1272u32 } as libc::Ioctl;
/// Superblock magic number of overlayfs.
const OVERLAYFS: i64 = 0x794c_7630;

/// Superblock magic numbers (statfs(2)) of filesystems that keep their files in memory: tmpfs, ramfs, hugetlbfs.
pub const MEMORY_FILESYSTEMS: [i64; 3] = [0x0102_1994, 0x8584_58f6, 0x9584_58f6];
/// Superblock magic number of btrfs.
pub const BTRFS: i64 = 0x9123_683e;
/// Superblock magic numbers of filesystems that generate the content of a file when it is read, so that the reported
/// length means nothing: proc, sysfs, debugfs, tracefs, cgroup, cgroup2, securityfs, configfs, bpf, pstore, efivarfs.
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
/// Superblock magic number of ext2, ext3 and ext4.
pub const EXT: i64 = 0xef53;
pub const XFS: i64 = 0x5846_5342;
/// Inode flags of ext4: the file uses extents (0x0008_0000), or its data are stored in the inode (0x1000_0000).
pub const EXTENTS_OR_INLINE: i32 = 0x1008_0000;
/// Inode flag "no copy on write" (ioctl_iflags(2)). On btrfs it also turns data checksums off.
pub const NOCOW: i32 = 0x0080_0000;

/// The alignment that direct I/O on a file requires, in bytes: first of memory addresses, then of offsets and lengths
/// (statx(2), `STATX_DIOALIGN`, Linux 6.1). None if the kernel does not report it. If the second number is 0, the file
/// does not support direct I/O.
pub fn dio_alignment(file: &File) -> io::Result<Option<(u32, u32)>> {
    // SAFETY: statx is a struct of integers, for which all zeros is a valid value.
    let mut attributes: libc::statx = unsafe { std::mem::zeroed() };
    let (fd, empty_path, mask) = (file.as_raw_fd(), c"".as_ptr(), libc::STATX_DIOALIGN);
    // SAFETY: the empty path with AT_EMPTY_PATH means the descriptor, which `file` keeps open. `attributes` outlives
    // the call.
    let result = unsafe { libc::statx(fd, empty_path, libc::AT_EMPTY_PATH, mask, &mut attributes) };
    match check(result) {
        Err(e) if is_unavailable(&e) => Ok(None),
        Err(e) => Err(e),
        Ok(_) if attributes.stx_mask & libc::STATX_DIOALIGN == 0 => Ok(None),
        Ok(_) => Ok(Some((attributes.stx_dio_mem_align, attributes.stx_dio_offset_align))),
    }
}

/// The logical sector size of a block device, in bytes (`BLKSSZGET`).
pub fn sector_size(device: &File) -> io::Result<u32> {
    let mut size: libc::c_int = 0;
    // SAFETY: BLKSSZGET writes one int to `size`, which outlives the call.
    check(unsafe { libc::ioctl(device.as_raw_fd(), BLKSSZGET, &mut size) })?;
    u32::try_from(size).map_err(io::Error::other)
}

/// The length of a file or block device, in bytes. Does not move the file position, which other processes may share.
pub fn length(file: &File) -> io::Result<u64> {
    let metadata = file.metadata()?;
    if !metadata.file_type().is_block_device() {
        return Ok(metadata.len());
    }
    let mut bytes = 0u64;
    // SAFETY: BLKGETSIZE64 writes one u64 to `bytes`, which outlives the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), BLKGETSIZE64, &mut bytes) })?;
    Ok(bytes)
}

/// The inode flags that chattr(1) sets (ioctl_iflags(2)). None if the filesystem has no inode flags.
pub fn inode_flags(file: &File) -> Option<i32> {
    let mut flags: libc::c_long = 0;
    // SAFETY: the kernel writes at most one long to `flags`, which outlives the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_GETFLAGS, &mut flags) }).ok()?;
    i32::try_from(flags & 0x7fff_ffff).ok()
}

/// The superblock magic number of the filesystem that holds `file` (statfs(2)).
pub fn filesystem(file: &File) -> io::Result<i64> {
    // SAFETY: statfs is a struct of integers, for which all zeros is a valid value.
    let mut statistics: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `statistics` outlives the call.
    retry(|| check(unsafe { libc::fstatfs(file.as_raw_fd(), &mut statistics) }))?;
    // f_type is a long. Going through u32 gives the same number on 32-bit systems, where it would be negative.
    Ok(i64::from(statistics.f_type as u32))
}

/// True if `file` is a regular file on overlayfs. Its cached pages belong to a file on the underlying filesystem, which
/// some system calls do not reach.
pub(super) fn is_on_overlayfs(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.is_file()) && filesystem(file).is_ok_and(|magic| magic == OVERLAYFS)
}

/// The free bytes available to this user on the filesystem that holds `file` (fstatvfs(3)).
pub fn free_bytes(file: &File) -> io::Result<u64> {
    // SAFETY: statvfs is a struct of integers, for which all zeros is a valid value.
    let mut statistics: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `statistics` outlives the call.
    retry(|| check(unsafe { libc::fstatvfs(file.as_raw_fd(), &mut statistics) }))?;
    #[allow(clippy::useless_conversion)] // the fields are narrower on 32-bit systems
    Ok(u64::from(statistics.f_bavail).saturating_mul(u64::from(statistics.f_frsize)))
}

/// The file whose content the loop device with this directory in sysfs shows. None for any other device.
pub fn loop_backing_file(sysfs: &Path) -> Option<PathBuf> {
    let mut path = std::fs::read(sysfs.join("loop/backing_file")).ok()?; // a name need not be UTF-8
    path.pop_if(|last| *last == b'\n');
    Some(OsString::from_vec(path).into())
}
