//! What sysfs says about block devices.

use std::fs::{File, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

use crate::sys;

/// The directory of the device in sysfs.
pub fn sysfs_directory(device: &Metadata) -> PathBuf {
    let number = device.rdev();
    format!("/sys/dev/block/{}:{}", libc::major(number), libc::minor(number)).into()
}

/// True if `device` is a loop device whose content is `file`.
pub fn is_backed_by(device: &Metadata, file: &Metadata) -> bool {
    if !device.file_type().is_block_device() || !file.is_file() {
        return false;
    }
    let Some(backing) = sys::loop_backing_file(&sysfs_directory(device)) else { return false };
    File::open(backing).and_then(|f| f.metadata()).is_ok_and(|m| (m.dev(), m.ino()) == (file.dev(), file.ino()))
}
