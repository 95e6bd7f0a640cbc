//! Where the files of a case are: on the target directory's disk, or on a filesystem made for the case. Dropping a
//! [`Place`] unmounts and removes what was made, after an error too.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::common::{Loop, Scratch, has_tool, is_root};
use crate::left_out::LeftOut;
use crate::tools;

/// What the files are stored on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// The disk of the target directory.
    Disk,
    /// ext4 on a block device in memory, so that the time is that of the program and the kernel.
    Zram,
    /// ext4 on a loop device with sectors of 4096 bytes.
    Loop4Kn,
    /// XFS on a loop device, for clones.
    Xfs,
    /// btrfs on a loop device, for clones.
    Btrfs,
}

/// A directory for one case.
pub struct Place {
    pub dir: PathBuf,
    /// The filesystem and its device, in words.
    pub label: String,
    // Dropped in this order: the mount, its device, and the directory of both.
    _mount: Option<Mounted>,
    _zram: Option<Zram>,
    _loop: Option<Loop>,
    _scratch: Scratch,
}

impl Place {
    /// `bytes` is what the case needs in all. Fails with [`LeftOut`] if this machine cannot offer the storage.
    pub fn new(storage: Storage, bytes: u64) -> Result<Self> {
        let scratch = Scratch::new();
        let free = dio_cp::sys::free_bytes(&File::open(&scratch.0)?)?;
        if storage != Storage::Zram && free < bytes + (1 << 30) {
            return Err(LeftOut::error(format!("needs {} GiB of free space", (bytes >> 30) + 1)));
        }
        match storage {
            Storage::Disk => Self::on_disk(scratch),
            Storage::Zram => Self::on_zram(scratch, bytes),
            Storage::Loop4Kn => {
                Self::on_loop_device(scratch, bytes, &EXT4, 4096, "ext4 on a loop device of 4096-byte sectors")
            }
            Storage::Xfs => Self::on_loop_device(scratch, bytes, &XFS, 512, "XFS on a loop device"),
            Storage::Btrfs => Self::on_loop_device(scratch, bytes, &BTRFS, 512, "btrfs on a loop device"),
        }
    }

    fn on_disk(scratch: Scratch) -> Result<Self> {
        let label = format!("{} on {}", findmnt(&scratch.0, "FSTYPE")?, device_kind(&scratch.0)?);
        Ok(Self { dir: scratch.0.clone(), label, _mount: None, _zram: None, _loop: None, _scratch: scratch })
    }

    fn on_zram(scratch: Scratch, bytes: u64) -> Result<Self> {
        require_root_and("mkfs.ext4")?;
        let zram = Zram::new(device_len(bytes))?;
        let mount = Mounted::new(&EXT4, &zram.device(), &scratch.path("mnt"))?;
        let (dir, label) = (mount.0.clone(), "ext4 on zram".into());
        Ok(Self { dir, label, _mount: Some(mount), _zram: Some(zram), _loop: None, _scratch: scratch })
    }

    fn on_loop_device(scratch: Scratch, bytes: u64, kind: &Filesystem, sector: u32, label: &str) -> Result<Self> {
        require_root_and(kind.mkfs)?;
        require_root_and("losetup")?;
        let disk = Loop::new(&scratch, device_len(bytes), sector);
        allocate(&disk.backing, device_len(bytes))?;
        let mount = Mounted::new(kind, &disk.device, &scratch.path("mnt"))?;
        let (dir, label) = (mount.0.clone(), label.into());
        Ok(Self { dir, label, _mount: Some(mount), _zram: None, _loop: Some(disk), _scratch: scratch })
    }
}

fn require_root_and(tool: &str) -> Result<()> {
    if !is_root() {
        return Err(LeftOut::error("needs root"));
    }
    if !has_tool(tool) {
        return Err(LeftOut::error(format!("needs {tool}")));
    }
    Ok(())
}

/// The length of a device that has space for `bytes` and for the filesystem's own tables.
fn device_len(bytes: u64) -> u64 {
    bytes + bytes / 8 + (256 << 20)
}

/// Writes zeros to the whole backing file, so that no round pays for the allocation of its blocks.
fn allocate(backing: &Path, len: u64) -> Result<()> {
    let output = format!("of={}", backing.display());
    let count = format!("count={}", len >> 20);
    tools::run("dd", ["if=/dev/zero", &output, "bs=1M", &count, "conv=notrunc,fsync", "oflag=direct", "status=none"])?;
    Ok(())
}

/// A kind of filesystem, and how to make one.
struct Filesystem {
    name: &'static str,
    mkfs: &'static str,
    options: &'static [&'static str],
}

const EXT4: Filesystem = Filesystem {
    name: "ext4",
    mkfs: "mkfs.ext4",
    // Otherwise the kernel would initialize tables in the background during a measurement.
    options: &["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"],
};
// Discarding would free the blocks of the loop device's file again.
const XFS: Filesystem = Filesystem { name: "xfs", mkfs: "mkfs.xfs", options: &["-q", "-K", "-m", "reflink=1"] };
const BTRFS: Filesystem = Filesystem { name: "btrfs", mkfs: "mkfs.btrfs", options: &["-q", "-K"] };

/// A new filesystem, mounted at this path.
struct Mounted(PathBuf);

impl Mounted {
    fn new(kind: &Filesystem, device: &Path, mount_point: &Path) -> Result<Self> {
        let supported = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        if !supported.split_whitespace().any(|name| name == kind.name) {
            // A kernel that has it as a module lists it once the module is loaded.
            let loaded = Command::new("modprobe").arg(kind.name).status();
            if !loaded.is_ok_and(|status| status.success()) {
                return Err(LeftOut::error(format!("needs a kernel with {}", kind.name)));
            }
        }
        fs::create_dir(mount_point)?;
        tools::run(kind.mkfs, kind.options.iter().map(Path::new).chain([device]))?;
        tools::run("mount", [Path::new("-t"), Path::new(kind.name), device, mount_point])?;
        Ok(Self(mount_point.to_path_buf()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Not a lazy unmount, because the device is removed next. A process that is ending may keep it busy briefly.
        let unmount = || Command::new("umount").arg("-q").arg(&self.0).status().is_ok_and(|status| status.success());
        if !retry(unmount) {
            println!("still mounted: {}", self.0.display());
        }
    }
}

/// A new directory on tmpfs. Deleted on drop.
pub struct MemoryDir(pub PathBuf);

impl MemoryDir {
    /// Fails with [`LeftOut`] if there is no tmpfs with space for `bytes`.
    pub fn new(bytes: u64) -> Result<Self> {
        let root = Path::new("/dev/shm");
        let free = File::open(root).ok().and_then(|root| dio_cp::sys::free_bytes(&root).ok());
        if free.is_none_or(|free| free < bytes + bytes / 8) {
            return Err(LeftOut::error(format!("needs {} MiB of free space in {}", bytes >> 20, root.display())));
        }
        let dir = Self(root.join(format!("dio-cp-bench-{}", std::process::id())));
        fs::create_dir(&dir.0).with_context(|| dir.0.display().to_string())?;
        Ok(dir)
    }
}

impl Drop for MemoryDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A new block device in compressed memory, by its number.
struct Zram(u32);

const CONTROL: &str = "/sys/class/zram-control";

impl Zram {
    fn new(len: u64) -> Result<Self> {
        if !Path::new(CONTROL).exists() {
            let _ = Command::new("modprobe").arg("zram").status();
        }
        let number = fs::read_to_string(Path::new(CONTROL).join("hot_add"))
            .map_err(|error| LeftOut::error(format!("needs zram: {error}")))?;
        let number = number.trim().parse().with_context(|| format!("not the number of a zram device: {number}"))?;
        let zram = Self(number);
        // Fails if another program has configured the device meanwhile.
        let size = format!("/sys/block/zram{number}/disksize");
        fs::write(size, len.to_string()).map_err(|error| LeftOut::error(format!("zram{number}: {error}")))?;
        Ok(zram)
    }

    fn device(&self) -> PathBuf {
        format!("/dev/zram{}", self.0).into()
    }
}

impl Drop for Zram {
    fn drop(&mut self) {
        if !retry(|| fs::write(Path::new(CONTROL).join("hot_remove"), self.0.to_string()).is_ok()) {
            println!("not removed: {}", self.device().display());
        }
    }
}

/// Tries for up to five seconds. True if it succeeded.
fn retry(mut attempt: impl FnMut() -> bool) -> bool {
    (0..50).any(|_| {
        let done = attempt();
        if !done {
            std::thread::sleep(Duration::from_millis(100));
        }
        done
    })
}

/// Kernel, processors and memory.
pub fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    let kernel = kernel.trim().split('-').next().unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kib = read("/proc/meminfo").split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    format!("Linux {kernel}, {cores} processors, {} GiB of memory", (kib + (1 << 19)) >> 20)
}

/// The kind of device that `dir` is on, and its I/O scheduler.
fn device_kind(dir: &Path) -> Result<String> {
    let source = findmnt(dir, "SOURCE")?;
    let name = source.rsplit('/').next().unwrap_or_default();
    let attribute = |file: &str| fs::read_to_string(format!("/sys/class/block/{name}/{file}")).unwrap_or_default();
    // A partition has the queue of its disk.
    let schedulers = attribute("queue/scheduler") + &attribute("../queue/scheduler");
    let active = schedulers.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    let kind = match name.as_bytes() {
        [b'v', b'd', ..] => "a virtio disk",
        [b'n', b'v', b'm', b'e', ..] => "an NVMe disk",
        [b's', b'd', ..] => "a SCSI or SATA disk",
        [b'm', b'd', ..] => "a RAID",
        [b'd', b'm', b'-', ..] => "a device-mapper volume",
        _ => "another device",
    };
    Ok(active.map_or_else(|| kind.to_string(), |(scheduler, _)| format!("{kind} ({scheduler})")))
}

fn findmnt(dir: &Path, column: &str) -> Result<String> {
    let options = ["-n", "-o", column, "-T"].map(Path::new);
    Ok(tools::run("findmnt", options.into_iter().chain([dir]))?.trim().to_string())
}
