//! Where the files of a case are: a directory on the target directory's disk, or a filesystem on a
//! device made for it. All of it is taken down again, after a panic too.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::common::{Loop, Scratch, has_tool, is_root, tool};

/// What the files are on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// The disk under the target directory.
    Disk,
    /// ext4 on a block device in memory, which is as fast as memory is: what is left is the
    /// program's own cost, and the kernel's.
    Zram,
    /// ext4 on a loop device with sectors of 4096 bytes.
    Loop4Kn,
}

/// A directory for one case.
pub struct Place {
    pub dir: PathBuf,
    /// The filesystem, and what it is on.
    pub label: String,
    // Dropped in this order: first the mount, then what it is on, then what that is in.
    _mount: Option<Mounted>,
    _zram: Option<Zram>,
    _loop: Option<Loop>,
    _scratch: Scratch,
}

impl Place {
    /// Err: why this cannot be had here. `bytes` is what the case needs in all.
    pub fn new(on: On, bytes: u64) -> Result<Self, String> {
        let scratch = Scratch::new();
        let free = dio_cp::sys::free_bytes(&File::open(&scratch.0).unwrap()).unwrap();
        if on != On::Zram && free < bytes + (1 << 30) {
            return Err(format!("needs {} GiB of free space", (bytes >> 30) + 1));
        }
        if on == On::Disk {
            let label = format!("{} on {}", filesystem_of(&scratch.0), device_of(&scratch.0));
            let dir = scratch.0.clone();
            return Ok(Self { dir, label, _mount: None, _zram: None, _loop: None, _scratch: scratch });
        }
        if !is_root() {
            return Err("needs root".into());
        }
        if !has_tool("mkfs.ext4") {
            return Err("needs mkfs.ext4".into());
        }
        // Room for the filesystem's own tables.
        let len = bytes + bytes / 8 + (256 << 20);
        let (zram, disk, device) = if on == On::Zram {
            let zram = Zram::new(len)?;
            let device = zram.device();
            (Some(zram), None, device)
        } else {
            if !has_tool("losetup") {
                return Err("needs losetup".into());
            }
            let disk = Loop::new(&scratch, len, 4096);
            written_once(&disk.backing, len);
            let device = disk.device.clone();
            (None, Some(disk), device)
        };
        let mount = Mounted::new(&device, &scratch.path("mnt"));
        let label = if on == On::Zram { "ext4 on zram" } else { "ext4 on a loop device of 4096-byte sectors" };
        Ok(Self {
            dir: mount.0.clone(),
            label: label.into(),
            _mount: Some(mount),
            _zram: zram,
            _loop: disk,
            _scratch: scratch,
        })
    }
}

/// Writes a backing file all over, so that no round pays for the allocation of its blocks.
fn written_once(backing: &Path, len: u64) {
    let of = format!("of={}", backing.display());
    let count = format!("count={}", len >> 20);
    tool("dd", ["if=/dev/zero", &of, "bs=1M", &count, "conv=notrunc,fsync", "oflag=direct", "status=none"]);
}

/// A filesystem that only this benchmark uses.
struct Mounted(PathBuf);

impl Mounted {
    fn new(device: &Path, at: &Path) -> Self {
        fs::create_dir(at).unwrap();
        // Nothing is left to be initialised in the background of a measurement.
        let options = "lazy_itable_init=0,lazy_journal_init=0,nodiscard";
        tool("mkfs.ext4", ["-q", "-E", options, device.to_str().unwrap()]);
        tool("mount", ["-t", "ext4", device.to_str().unwrap(), at.to_str().unwrap()]);
        Self(at.to_path_buf())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Not lazily: the device goes next. A child that is just ending may keep it busy for a moment.
        for _ in 0..50 {
            if Command::new("umount").arg("-q").arg(&self.0).status().is_ok_and(|status| status.success()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        println!("still mounted: {}", self.0.display());
    }
}

/// A block device in compressed memory that did not exist before.
struct Zram(u32);

const CONTROL: &str = "/sys/class/zram-control";

impl Zram {
    fn new(len: u64) -> Result<Self, String> {
        if !Path::new(CONTROL).exists() {
            let _ = Command::new("modprobe").arg("zram").status();
        }
        let text = fs::read_to_string(Path::new(CONTROL).join("hot_add"));
        let text = text.map_err(|error| format!("needs zram: {error}"))?;
        let number = text.trim().parse().map_err(|_| format!("zram gave no number: {text}"))?;
        let zram = Self(number);
        // Fails on a device that somebody has set up already.
        let size = format!("/sys/block/zram{number}/disksize");
        fs::write(size, len.to_string()).map_err(|error| format!("zram{number}: {error}"))?;
        Ok(zram)
    }

    fn device(&self) -> PathBuf {
        format!("/dev/zram{}", self.0).into()
    }
}

impl Drop for Zram {
    fn drop(&mut self) {
        for _ in 0..50 {
            if fs::write(Path::new(CONTROL).join("hot_remove"), self.0.to_string()).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        println!("still there: {}", self.device().display());
    }
}

/// Kernel, processors and memory.
pub fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    let kernel = kernel.trim().split('-').next().unwrap_or_default().to_string();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kib = read("/proc/meminfo").split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    format!("Linux {kernel}, {cores} processors, {} GiB of memory", (kib + (1 << 19)) >> 20)
}

fn filesystem_of(dir: &Path) -> String {
    findmnt(dir, "FSTYPE")
}

/// The kind of device, and its scheduler.
fn device_of(dir: &Path) -> String {
    let source = findmnt(dir, "SOURCE");
    let name = source.rsplit('/').next().unwrap_or_default().to_string();
    let of = |file: &str| fs::read_to_string(format!("/sys/class/block/{name}/{file}")).unwrap_or_default();
    // A partition's queue is its disk's.
    let scheduler = of("queue/scheduler") + &of("../queue/scheduler");
    let scheduler = scheduler.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    let kind = match name.as_bytes() {
        [b'v', b'd', ..] => "a virtio disk",
        [b'n', b'v', b'm', b'e', ..] => "an NVMe disk",
        [b's', b'd', ..] => "a SCSI or SATA disk",
        [b'm', b'd', ..] => "a RAID",
        [b'd', b'm', b'-', ..] => "a device-mapper volume",
        _ => "another device",
    };
    scheduler.map_or_else(|| kind.to_string(), |(scheduler, _)| format!("{kind} ({scheduler})"))
}

fn findmnt(dir: &Path, column: &str) -> String {
    tool("findmnt", ["-n", "-o", column, "-T", dir.to_str().unwrap()]).trim().to_string()
}
