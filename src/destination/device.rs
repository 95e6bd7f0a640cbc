//! A block device as a destination: checks that nothing uses it, that the copy fits, and that the user confirms.

use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::file::{FileDestination, open_existing};
use super::sysfs::sysfs_directory;
use super::target::Target;
use super::{DestinationInfo, Opened};
use crate::cleanup::Cleanup;
use crate::direct::Alignment;
use crate::error::{Error, Result, escaped, quoted, size};
use crate::event::{Confirmation, Observer};
use crate::job::Job;
use crate::pace::Pace;
use crate::source_info::SourceInfo;
use crate::sys;

/// Opens a device. Fails if something uses it, if it is too small, or if the user does not confirm.
pub fn open<'a>(
    job: &'a Job,
    source: &SourceInfo,
    target: Target,
    pace: &Pace,
    observer: &dyn Observer,
    cleanup: &'a Cleanup,
) -> Result<Opened<'a>> {
    let name = &target.name;
    let fail = |e| Error::io("opening", name, e);
    let metadata = std::fs::metadata(&target.path).map_err(fail)?;
    let sysfs = sysfs_directory(&metadata);
    let opened = open_existing(&target.path, job, libc::O_EXCL).map_err(|e| match e.raw_os_error() {
        Some(libc::EBUSY) => {
            let why = current_use(&metadata, &sysfs).unwrap_or("it is in use".to_string());
            Error::failed("opening", name, why)
        }
        _ => fail(e),
    })?;
    let capacity = sys::length(&opened.file).map_err(fail)?;
    check_capacity(job, source, name, capacity)?;
    let alignment = if opened.refusal.is_none() { Alignment::probe(&opened.file).map_err(fail)? } else { None };
    if let Some(alignment) = alignment {
        job.check_block_size(alignment.offset)?;
    }
    let asked = Instant::now();
    if !job.force {
        let model = model(&sysfs).map_or(String::new(), |model| format!("{model}, "));
        let device = format!("{} ({model}{})", quoted(name), size(capacity));
        match observer.confirm(&format!("overwrite {device} with {}?", quoted(&source.name))) {
            Confirmation::Yes => {}
            Confirmation::No => return Err(Error::failed("writing", name, "not confirmed")),
            Confirmation::Nobody => {
                let why = format!("{device} is a block device, and there is no terminal to ask for confirmation");
                return Err(Error::usage(why).hint("use -f to overwrite it without asking"));
            }
        }
    }
    let confirmation = asked.elapsed();
    let (info, destination) = FileDestination::device(job, target, opened, cleanup)?.opened(pace);
    Ok((DestinationInfo { confirmation, ..info }, destination))
}

/// Fails if the copy does not fit on the device.
fn check_capacity(job: &Job, source: &SourceInfo, name: &Path, capacity: u64) -> Result<()> {
    if job.seek > capacity {
        let why = format!("--seek {} is past the end of {}, which has {capacity} bytes", job.seek, quoted(name));
        return Err(Error::usage(why));
    }
    let available = capacity - job.seek;
    if let Some(length) = source.length.filter(|length| *length > available) {
        let after_seek = if job.seek > 0 { " after --seek" } else { "" };
        let why = format!("it is too small: the copy needs {length} bytes, and it has {available}{after_seek}");
        return Err(Error::failed("writing", name, why).hint("use --count to copy only the start"));
    }
    Ok(())
}

/// The model name of the disk, or the backing file of a loop device.
fn model(sysfs: &Path) -> Option<String> {
    let read = |path: PathBuf| std::fs::read(path).ok().map(|text| String::from_utf8_lossy(&text).trim().to_string());
    // "..": a partition's disk.
    let model = ["device/model", "../device/model"].iter().find_map(|file| read(sysfs.join(file)));
    let backing_file = || sys::loop_backing_file(sysfs).map(|path| path.display().to_string());
    model.or_else(backing_file).map(|model| escaped(&model)).filter(|model| !model.is_empty())
}

/// What uses the device exclusively, and how to end that, if the kernel says so.
fn current_use(device: &Metadata, sysfs: &Path) -> Option<String> {
    let mut numbers = vec![format!("{}:{}", libc::major(device.rdev()), libc::minor(device.rdev()))];
    for entry in std::fs::read_dir(sysfs).into_iter().flatten().flatten() {
        // A partition has a directory of its own.
        numbers.extend(std::fs::read_to_string(entry.path().join("dev")).ok().map(|dev| dev.trim().to_string()));
    }
    let mounts = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let mounted = mount_point(&mounts, &numbers).map(|path| {
        let path = escaped(&path.display().to_string());
        format!("it is mounted on {path}; unmount it first")
    });
    let swap = || {
        let swaps = std::fs::read("/proc/swaps").unwrap_or_default();
        let lines = swaps.split(|byte| *byte == b'\n').skip(1);
        let paths = lines.filter_map(|line| line.split(|byte| *byte == b' ').next()).map(unescaped);
        let is_swap = paths.filter_map(|path| std::fs::metadata(path).ok()).any(|m| m.rdev() == device.rdev());
        is_swap.then(|| "it is used as swap space; turn that off with swapoff first".to_string())
    };
    let held = || {
        let holder = std::fs::read_dir(sysfs.join("holders")).ok()?.flatten().next()?;
        Some(format!("the device {} uses it", holder.file_name().display()))
    };
    mounted.or_else(swap).or_else(held)
}

/// Where a device with one of these numbers is mounted, according to `/proc/self/mountinfo`.
fn mount_point(mountinfo: &[u8], numbers: &[String]) -> Option<PathBuf> {
    mountinfo.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let number = fields.nth(2)?;
        let mount_point = fields.nth(1)?;
        numbers.iter().any(|n| n.as_bytes() == number).then(|| unescaped(mount_point))
    })
}

/// A path in a file below /proc, in which the kernel writes spaces, tabs, newlines and backslashes as `\040`.
fn unescaped(text: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, more)) = rest.split_first() {
        let (byte, after) = match more {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] if *first == b'\\' => {
                ((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'), after)
            }
            after => (*first, after),
        };
        path.push(byte);
        rest = after;
    }
    OsString::from_vec(path).into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_mount_point_is_the_path_and_not_its_escaped_form() {
        let mountinfo = b"1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 8:2 / /a\\040b\\134\xff rw - ext4 /dev/sda2 rw\n";
        let find = |number: &str| mount_point(mountinfo, &[number.to_string()]);
        assert_eq!(find("8:1"), Some("/".into()));
        assert_eq!(find("8:2"), Some(OsString::from_vec(b"/a b\\\xff".to_vec()).into()));
        assert_eq!(find("8:3"), None);
        assert_eq!(unescaped(b"\\04"), PathBuf::from("\\04"));
        assert_eq!(unescaped(b"\\777"), PathBuf::from("\\777"));
    }

    proptest! {
        #![proptest_config(crate::cases::cases(5000))]

        #[test]
        fn any_mount_point_is_read_back(
            path in prop::collection::vec(any::<u8>(), 0..20),
            noise in prop::collection::vec(any::<u8>(), 0..99),
        ) {
            let escape = |byte: &u8| match byte {
                b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}").into_bytes(),
                byte => vec![*byte],
            };
            let escaped: Vec<u8> = path.iter().flat_map(escape).collect();
            let line = [&b"2 1 8:2 / "[..], &escaped, b" rw - ext4 /dev/sda2 rw\n"].concat();
            prop_assert_eq!(mount_point(&line, &["8:2".to_string()]), Some(OsString::from_vec(path).into()));
            let _ = mount_point(&noise, &["8:2".to_string()]);
            prop_assert!(unescaped(&noise).as_os_str().len() <= noise.len());
        }
    }
}
