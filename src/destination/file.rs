//! A file or block device as a destination: blocks are written in parallel, each at its offset.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::partial::{self, OpenedPartial, Partial};
use super::publish::{self, Unpublished};
use super::target::Target;
use super::zero_runs::{MIN_HOLE, Run, runs};
use super::{Destination, DestinationInfo, Finished, Opened, Verify, attributes};
use crate::block::Block;
use crate::cleanup::Cleanup;
use crate::direct::{self, DirectWriter};
use crate::error::{Error, Result, size};
use crate::event::Observer;
use crate::job::{Job, Sparse};
use crate::pace::Pace;
use crate::sequencer::Sequencer;
use crate::source_info::SourceInfo;
use crate::sys;

/// A file of unknown length gets space in steps of this many bytes, so that parallel writes do not extend it one after
/// another …
const RESERVE_STEP: u64 = 64 << 20;
/// … but never in steps of more than this fraction of the free space, which others need too.
const MAX_FREE_FRACTION: u64 = 64;

pub struct FileDestination<'a> {
    job: &'a Job,
    target: Target,
    file: File,
    writer: DirectWriter,
    kind: Kind,
    /// Up to which offset a new file of unknown length has space.
    reserved: Mutex<u64>,
    /// A write has begun.
    touched: AtomicBool,
    cleanup: &'a Cleanup,
}

/// What is written.
enum Kind {
    /// A new file, which gets its name at the end.
    New(Publication),
    /// The bytes of an existing file.
    InPlace,
    /// The bytes of a block device.
    Device,
}

/// How a new file gets its name.
struct Publication {
    /// The hidden name it has until then, if it needs one.
    temporary: Option<PathBuf>,
    /// It must not replace anything.
    exclusive: bool,
    /// The partial file that --resume keeps.
    partial: Option<Arc<Partial>>,
    /// Bytes that an interrupted copy left in it.
    resumed: u64,
}

/// An open file, and why it was opened without O_DIRECT, if so.
pub struct OpenFile {
    pub file: File,
    pub refusal: Option<String>,
}

impl<'a> FileDestination<'a> {
    /// New content for the target, published at the end; `exclusive`: only if nothing has the name by then.
    pub fn replace(
        job: &'a Job,
        source: &SourceInfo,
        target: Target,
        exclusive: bool,
        observer: &dyn Observer,
        cleanup: &'a Cleanup,
    ) -> Result<Self> {
        if target.exists() {
            check_writable(&target)?;
        }
        let partial = if job.resume { partial::resumable(job, source, &target, observer, cleanup)? } else { None };
        let (unpublished, partial, resumed) = match partial {
            Some(OpenedPartial { unpublished, partial, resumed, .. }) => (unpublished, Some(partial), resumed),
            None => (publish::create(&target, new_mode(source), job.direct, cleanup)?, None, 0),
        };
        let Unpublished { file, refused: refusal, temporary } = unpublished;
        if target.exists() && !job.preserve {
            attributes::try_owner(&file, &target)?;
        }
        let publication = Publication { temporary, exclusive, partial, resumed };
        let new = Self::new(job, target, OpenFile { file, refusal }, Kind::New(publication), cleanup)?;
        new.writer.go_on_from(resumed);
        Ok(new)
    }

    /// The bytes of the file that is there.
    pub fn in_place(job: &'a Job, target: Target, cleanup: &'a Cleanup) -> Result<Self> {
        let fail = |e| Error::io("opening", &target.name, e);
        let opened = open_existing(&target.path, job, 0).map_err(fail)?;
        cleanup.overwrite(&target.name, Some(opened.file.try_clone().map_err(fail)?));
        Self::new(job, target, opened, Kind::InPlace, cleanup)
    }

    /// The bytes of a device that is open.
    pub fn device(job: &'a Job, target: Target, opened: OpenFile, cleanup: &'a Cleanup) -> Result<Self> {
        cleanup.overwrite(&target.name, None);
        Self::new(job, target, opened, Kind::Device, cleanup)
    }

    fn new(job: &'a Job, target: Target, opened: OpenFile, kind: Kind, cleanup: &'a Cleanup) -> Result<Self> {
        let fail = |e| Error::io("opening", &target.name, e);
        let file = opened.file.try_clone().map_err(fail)?;
        let owned = matches!(kind, Kind::New(_));
        let writer =
            DirectWriter::over(opened.file, opened.refusal, job.direct, owned, job.block_size).map_err(fail)?;
        let (reserved, touched) = (Mutex::new(0), AtomicBool::new(false));
        Ok(Self { job, target, file, writer, kind, reserved, touched, cleanup })
    }

    /// Hands it to the copy: every write passes the gate of --idle from now on.
    pub fn opened(mut self, pace: &Pace) -> Opened<'a> {
        pace.idle.iter().for_each(|idle| self.writer.yield_at(idle));
        let direct = self.writer.is_direct();
        let alignment = if direct { self.writer.alignment().offset } else { 1 };
        let how = match &self.kind {
            Kind::Device => "a block device",
            Kind::InPlace => "overwritten in place",
            Kind::New(Publication { temporary: Some(_), .. }) => "a new file with a hidden name until it is complete",
            Kind::New(_) => "a new file without a name until it is complete",
        };
        let mode = if direct { "direct" } else { "not direct" };
        let info = DestinationInfo {
            name: self.target.name.clone(),
            path: self.target.path.clone(),
            alignment,
            block_boundary: if direct { self.writer.boundary() } else { 1 },
            file: self.file.try_clone().ok(),
            in_order: false,
            resumed: self.publication().map_or(0, |publication| publication.resumed),
            description: format!("{how}, written {mode}, alignment {alignment}"),
        };
        (info, Box::new(self))
    }

    fn publication(&self) -> Option<&Publication> {
        if let Kind::New(publication) = &self.kind { Some(publication) } else { None }
    }

    /// Gives a growing file space ahead of the writes. The excess is cut off at the end.
    fn reserve_ahead(&self, end: u64) {
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        while end > *reserved {
            let start = (*reserved).max(self.job.seek);
            let step = sys::free_bytes(&self.file).unwrap_or(0) / MAX_FREE_FRACTION;
            let step = (step - step % sys::page_size()).min(RESERVE_STEP);
            // Refused, or the disk is nearly full: stop reserving. The writes report whether there is enough space.
            *reserved = match sys::fallocate(&self.file, 0, start, step) {
                Ok(()) if end <= start + step => start + step,
                _ => u64::MAX,
            };
        }
    }

    fn put_block(&self, block: &Block) -> Result<()> {
        let offset = self.job.seek + block.offset;
        if !self.touched.swap(true, Ordering::Relaxed) {
            self.cleanup.touch();
        }
        if block.hole {
            return self.put_zeros(offset, block.len);
        }
        let data = block.data();
        if self.job.sparse != Sparse::Always || matches!(self.kind, Kind::Device) {
            let end = offset + block.len;
            if self.publication().is_some() && end > RESERVE_STEP / 4 {
                self.reserve_ahead(end);
            }
            return self.put_data(data, offset);
        }
        for Run { start, len, zero } in runs(data, MIN_HOLE.min(self.job.block_size)) {
            if zero {
                self.put_zeros(offset + start as u64, len as u64)?;
            } else {
                self.put_data(&data[start..start + len], offset + start as u64)?;
            }
        }
        Ok(())
    }

    fn put_data(&self, data: &[u8], offset: u64) -> Result<()> {
        self.writer.write_at(data, offset).map_err(|e| Error::io("writing", &self.target.name, e).at(offset))
    }

    fn put_zeros(&self, offset: u64, len: u64) -> Result<()> {
        self.writer.zero_at(offset, len).map_err(|e| Error::io("writing", &self.target.name, e).at(offset))
    }
}

impl Destination for FileDestination<'_> {
    fn reserve(&self, offset: u64, len: u64) -> Result<()> {
        if matches!(self.kind, Kind::Device) || len == 0 || self.job.sparse == Sparse::Always {
            return Ok(());
        }
        let start = self.job.seek + offset;
        let (mode, room, resumed) = match self.publication() {
            // Up to the end of the padded last block: a write past the reserved space would have to extend the file.
            Some(publication) => (0, self.writer.padded(start + len) - start, publication.resumed),
            None => (libc::FALLOC_FL_KEEP_SIZE, len, 0),
        };
        if self.publication().is_none() {
            self.cleanup.reserving();
        }
        let result = sys::fallocate(&self.file, mode, start, room);
        *self.reserved.lock().unwrap_or_else(PoisonError::into_inner) = u64::MAX;
        match result {
            // XFS counts the space that a resumed file has already as if it were requested again.
            Err(e) if is_out_of_space(&e) && resumed == 0 => {
                Err(Error::io(&format!("reserving {} for", size(len)), &self.target.name, e))
            }
            // Not every filesystem supports it. posix_fallocate is no substitute: it would write zeros.
            _ => Ok(()),
        }
    }

    fn put(&self, block: &Block, _sequencer: &Sequencer) -> Result<()> {
        self.put_block(block)?;
        let Some(partial) = self.publication().and_then(|publication| publication.partial.as_ref()) else {
            return Ok(());
        };
        // The writer keeps the cut last block until everything else is written.
        let boundary = if self.writer.is_direct() { self.writer.boundary() } else { 1 };
        let end = block.offset + block.len;
        let written = partial.wrote(block.offset, end - end % boundary);
        written.map_err(|e| Error::io("keeping what was copied to", &self.target.name, e))
    }

    fn finish(self: Box<Self>, source: &SourceInfo, verify: Verify<'_>) -> Result<Finished> {
        let Self { job, target, file, writer, kind, cleanup, .. } = *self;
        let publication = if let Kind::New(publication) = kind { Some(publication) } else { None };
        let completing = |e| Error::io("completing", &target.name, e);
        let set_attributes = || match &publication {
            Some(publication) => attributes::apply(job, &target, &file, source, publication.temporary.is_some()),
            None => Ok(Vec::new()),
        };
        let partial = publication.as_ref().and_then(|publication| publication.partial.clone());
        let mut notes = Vec::new();
        let written = if let Some(partial) = &partial {
            // What may have to be kept stays private to the user until it is verified.
            let written =
                writer.finish_with(job.sync, || Ok(())).inspect_err(|_| partial.failed()).map_err(completing)?;
            verify(&file, job.seek)?;
            notes = set_attributes()?;
            if job.sync {
                file.sync_all().map_err(completing)?;
            }
            written
        } else {
            let mut failure = None;
            let last = || {
                notes = set_attributes().map_err(|e| {
                    failure = Some(e);
                    std::io::Error::other("setting the attributes failed")
                })?;
                Ok(())
            };
            let result = writer.finish_with(job.sync, last);
            if let Some(failure) = failure {
                return Err(failure);
            }
            let written = result.map_err(completing)?;
            verify(&file, job.seek)?;
            written
        };
        if let Some(Publication { temporary, exclusive, partial, .. }) = publication {
            let complete = || partial.as_ref().map_or(Ok(()), |partial| partial.complete());
            publish::publish(&file, temporary.as_deref(), &target, exclusive, complete, cleanup)?;
            if job.sync {
                publish::sync_directory(&target, &file)?;
            }
        }
        Ok(Finished { written, notes })
    }
}

/// Fails now for what would only fail at the end: permissions, a read-only disk.
fn check_writable(target: &Target) -> Result<()> {
    match File::options().write(true).open(&target.path) {
        Err(e) if e.raw_os_error() == Some(libc::ETXTBSY) => Ok(()), // a running program can be replaced
        Err(e) => Err(Error::io("replacing", &target.name, e)),
        Ok(_) => Ok(()),
    }
}

/// Opens an existing file or device for writing, and for reading where that is permitted.
pub fn open_existing(path: &Path, job: &Job, flags: i32) -> std::io::Result<OpenFile> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    let (file, refusal) = match direct::open(path, &options, flags, job.direct) {
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied && !job.verify => {
            direct::open(path, options.read(false), flags, job.direct)
        }
        other => other,
    }?;
    Ok(OpenFile { file, refusal })
}

/// The mode of a new file, before the umask: that of the source, if it is a file.
pub fn new_mode(source: &SourceInfo) -> u32 {
    use std::os::unix::fs::MetadataExt;
    let metadata = source.file.as_ref().map(|(_, metadata)| metadata).filter(|metadata| metadata.is_file());
    metadata.map_or(0o666, |metadata| metadata.mode() & 0o777)
}

fn is_out_of_space(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG))
}
