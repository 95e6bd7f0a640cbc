//! A disk whose writes and flushes are recorded, and what it would hold if the power failed at any moment of that record.
//!
//! A loop device on a file that `nbdfuse` serves from `nbdkit` with the plugin `recorder.py`. A copy of a live backing file
//! would not do: it is not of one moment, so it could have a later write and lack an earlier one in spite of a flush between
//! them, and no filesystem has to survive that.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{Loop, Mount, Scratch, tool, wait_until, write};

/// Drives write at least this much in one piece.
const SECTOR: usize = 4096;

/// True if nbdkit has its plugin for Python, a package of its own.
pub fn can_record() -> bool {
    Command::new("nbdkit").args(["--dump-plugin", "python"]).output().is_ok_and(|output| output.status.success())
}

/// A filesystem on a disk that is recorded, until [`Recorder::stop`].
pub struct Recorder {
    kind: String,
    base: PathBuf,
    log: PathBuf,
    file: PathBuf,
    server: Child,
    mount: Option<Mount>,
}

impl Recorder {
    /// Makes a filesystem, and mounts it from a disk that is recorded.
    pub fn new(scratch: &Scratch, kind: &str, len: u64) -> Self {
        let name = |what: &str| scratch.path(&format!("{kind}-{what}"));
        let (base, disk, log, file) = (name("base"), name("disk"), name("log"), name("nbd"));
        File::create(&base).unwrap().set_len(len).unwrap();
        tool(&format!("mkfs.{kind}"), ["-q".as_ref(), base.as_os_str()]);
        tool("cp", ["--sparse=always", base.to_str().unwrap(), disk.to_str().unwrap()]);
        write(&log, b"");
        write(&file, b"");
        let plugin = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/common/recorder.py");
        let server = Command::new("nbdfuse")
            .arg(&file)
            .args(["--command", "nbdkit", "-s", "python"])
            .arg(plugin)
            .arg(format!("disk={}", disk.display()))
            .arg(format!("log={}", log.display()))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut recorder = Self { kind: kind.into(), base, log, file, server, mount: None };
        wait_until("nbdfuse serves the disk", || fs::metadata(&recorder.file).is_ok_and(|m| m.len() == len));
        let device = tool("losetup", ["-f", "--show", "--direct-io=on", recorder.file.to_str().unwrap()]);
        let device = Loop { device: device.trim().into(), backing: recorder.file.clone() };
        let name = device.name().to_string();
        recorder.mount = Some(Mount::with(scratch, &["-t", kind, &name], Some(device)));
        recorder
    }

    /// The mount point.
    pub fn at(&self) -> &Path {
        &self.mount.as_ref().unwrap().at
    }

    /// This moment: what has been acknowledged so far is in the record before it.
    pub fn now(&self) -> u64 {
        fs::metadata(&self.log).unwrap().len()
    }

    /// Ends the record, and unmounts the filesystem. Its disk can then be rebuilt as it was at any moment.
    pub fn stop(self) -> Record {
        let log = fs::read(&self.log).unwrap();
        Record { kind: self.kind.clone(), base: self.base.clone(), log }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        drop(self.mount.take());
        let _ = Command::new("umount").arg("-l").arg(&self.file).status();
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// What was done to a disk.
pub struct Record {
    kind: String,
    base: PathBuf,
    log: Vec<u8>,
}

impl Record {
    /// The offset and the bytes of each write before `moment`; no bytes for a flush.
    fn until(&self, moment: u64) -> Vec<(u64, &[u8])> {
        let mut operations = Vec::new();
        let mut rest = &self.log[..];
        while let Some((header, behind)) = rest.split_at_checked(16) {
            let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
            let (offset, len) = (number(&header[..8]), number(&header[8..]) as usize);
            // The filesystem may have been writing when the record ended.
            let Some((data, behind)) = behind.split_at_checked(len) else { break };
            if (self.log.len() - behind.len()) as u64 > moment {
                break;
            }
            operations.push((offset, data));
            rest = behind;
        }
        operations
    }

    /// Mounts the disk as it is after a power failure at `moment`. What was flushed is there. Of the blocks written since the
    /// last flush, `survives` decides: a drive may have written any of them, whatever the order in which it got them.
    pub fn after_power_failure(&self, scratch: &Scratch, moment: u64, mut survives: impl FnMut() -> bool) -> Mount {
        let image = scratch.path("image");
        tool("cp", ["--sparse=always", self.base.to_str().unwrap(), image.to_str().unwrap()]);
        let operations = self.until(moment);
        let flushed = operations.iter().rposition(|(_, data)| data.is_empty()).unwrap_or(0);
        let file = File::options().write(true).open(&image).unwrap();
        for (index, (offset, data)) in operations.iter().enumerate() {
            for (block, bytes) in data.chunks(SECTOR).enumerate() {
                if index < flushed || survives() {
                    file.write_all_at(bytes, offset + (block * SECTOR) as u64).unwrap();
                }
            }
        }
        drop(file);
        Mount::with(scratch, &["-t", &self.kind, "-o", "loop", image.to_str().unwrap()], None)
    }

    /// The number of flushes, and of blocks written.
    pub fn size(&self) -> (usize, usize) {
        let all = self.until(u64::MAX);
        let flushes = all.iter().filter(|(_, data)| data.is_empty()).count();
        (flushes, all.iter().map(|(_, data)| data.len().div_ceil(SECTOR)).sum())
    }
}
