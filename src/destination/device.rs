//! A block device as a destination: whose it is, whether the copy fits, and whether that is meant.

use std::fs::{File, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::file::{FileDestination, open_existing};
use super::target::Target;
use crate::cleanup::Cleanup;
use crate::direct::Alignment;
use crate::error::{Error, Result, quoted, size};
use crate::event::{Confirmation, Observer};
use crate::job::Job;
use crate::source_info::SourceInfo;
use crate::sys;

/// Opens a device that nobody else holds, that is large enough, and that may be overwritten.
pub fn open<'a>(
    job: &'a Job,
    source: &SourceInfo,
    target: Target,
    observer: &dyn Observer,
    cleanup: &'a Cleanup,
) -> Result<FileDestination<'a>> {
    let path = &target.name;
    let found = std::fs::metadata(&target.path).map_err(|e| Error::io("opening", path, e))?;
    let sysfs = sysfs_of(&found);
    let opened = open_existing(&target.path, job, libc::O_EXCL).map_err(|e| match e.raw_os_error() {
        Some(libc::EBUSY) => {
            let why = holder(&found, &sysfs).unwrap_or("it is in use".to_string());
            Error::failed("opening", path, why)
        }
        _ => Error::io("opening", path, e),
    })?;
    let capacity = sys::length(&opened.file).map_err(|e| Error::io("opening", path, e))?;
    if job.seek > capacity {
        let why = format!("--seek {} is behind the end of {}, which has {capacity} bytes", job.seek, quoted(path));
        return Err(Error::usage(why));
    }
    if let Some(len) = source.length.filter(|len| *len > capacity - job.seek) {
        let room = if job.seek > 0 { " behind --seek" } else { "" };
        let why = format!("it is too small: {len} bytes are to be written, and it has {}{room}", capacity - job.seek);
        return Err(Error::failed("writing", path, why).hint("--count limits what is copied"));
    }
    if let Some(alignment) =
        Alignment::probe(&opened.file).map_err(|e| Error::io("opening", path, e))?.filter(|_| opened.refusal.is_none())
    {
        job.check_block_size(alignment.offset)?;
    }
    if !job.force {
        let model = model(&sysfs).map_or(String::new(), |model| format!("{model}, "));
        let question = format!("overwrite {} ({model}{}) with {}?", quoted(path), size(capacity), quoted(&source.name));
        match observer.confirm(&question) {
            Confirmation::Yes => {}
            Confirmation::No => return Err(Error::failed("writing", path, "not confirmed")),
            Confirmation::Nobody => {
                let why =
                    format!("{} is a block device ({model}{}), and nobody can be asked", quoted(path), size(capacity));
                return Err(Error::usage(format!("{why}; -f overwrites it without asking")));
            }
        }
    }
    FileDestination::device(job, target, opened, cleanup)
}

fn sysfs_of(device: &Metadata) -> PathBuf {
    let number = device.rdev();
    format!("/sys/dev/block/{}:{}", libc::major(number), libc::minor(number)).into()
}

/// The name that the maker gave it; a partition's is that of its disk.
fn model(sysfs: &Path) -> Option<String> {
    let read = |path: PathBuf| std::fs::read_to_string(path).ok().map(|text| text.trim().to_string());
    ["device/model", "../device/model", "loop/backing_file"]
        .iter()
        .find_map(|file| read(sysfs.join(file)))
        .filter(|model| !model.is_empty())
}

/// Who has it open for himself, as far as the kernel tells.
fn holder(device: &Metadata, sysfs: &Path) -> Option<String> {
    let mut numbers = vec![format!("{}:{}", libc::major(device.rdev()), libc::minor(device.rdev()))];
    for entry in std::fs::read_dir(sysfs).into_iter().flatten().flatten() {
        // Its partitions.
        numbers.extend(std::fs::read_to_string(entry.path().join("dev")).ok().map(|dev| dev.trim().to_string()));
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounted = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let number = fields.nth(2)?;
        let place = fields.nth(1)?;
        numbers.iter().any(|n| n == number).then(|| format!("it is mounted on {place}; umount it first"))
    });
    let swap = || {
        let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
        let used = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next());
        let found = used.filter_map(|path| std::fs::metadata(path).ok()).any(|m| m.rdev() == device.rdev());
        found.then(|| "it is used as swap space; swapoff it first".to_string())
    };
    let held = || {
        let holder = std::fs::read_dir(sysfs.join("holders")).ok()?.flatten().next()?;
        Some(format!("it is held by the device {}", holder.file_name().display()))
    };
    mounted.or_else(swap).or_else(held)
}

/// True if `device` is a loop device whose content is `file`.
pub fn is_backed_by(device: &Metadata, file: &Metadata) -> bool {
    if !device.file_type().is_block_device() || !file.is_file() {
        return false;
    }
    let Ok(backing) = std::fs::read_to_string(sysfs_of(device).join("loop/backing_file")) else { return false };
    File::open(backing.trim_end_matches('\n'))
        .and_then(|f| f.metadata())
        .is_ok_and(|m| (m.dev(), m.ino()) == (file.dev(), file.ino()))
}
