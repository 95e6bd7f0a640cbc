//! A file or block device as a destination: blocks are written in parallel, each at its offset.

mod clone;
mod complete;
mod space;

use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::partial::{self, OpenedPartial, Partial};
use super::publish::{self, Unpublished};
use super::target::Target;
use super::zero_runs::{MIN_HOLE, Run, runs};
use super::{Destination, DestinationInfo, Finished, Opened, Verify, attributes};
use crate::block::Block;
use crate::cleanup::Cleanup;
use crate::direct::{self, DirectWriter};
use crate::error::{Error, Result};
use crate::event::Observer;
use crate::job::{Job, Sparse};
use crate::pace::Pace;
use crate::sequencer::Sequencer;
use crate::source_info::{CopiedRange, SourceInfo};

pub struct FileDestination<'a> {
    job: &'a Job,
    target: Target,
    file: File,
    writer: DirectWriter,
    kind: Kind,
    /// A new file of unknown length has space up to this offset.
    reserved: Mutex<u64>,
    /// A write has begun.
    touched: AtomicBool,
    cleanup: &'a Cleanup,
}

/// What is written.
enum Kind {
    /// A new file, which gets its name at the end.
    New(Publication),
    /// A new file, to which the caller gives attributes and a name afterwards.
    Unnamed,
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
    /// A new file that gets the target's name at the end. With `exclusive`, it must not replace anything then.
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
            None => (publish::create(&target, attributes::new_mode(source), job.direct, cleanup)?, None, 0),
        };
        let Unpublished { file, refused: refusal, temporary } = unpublished;
        if target.exists() && !job.preserve {
            attributes::try_owner(&file, &target)?;
        }
        let publication = Publication { temporary, exclusive, partial, resumed };
        let new = Self::new(job, target, OpenFile { file, refusal }, Kind::New(publication), cleanup)?;
        new.writer.resume_at(resumed);
        Ok(new)
    }

    /// Overwrites the bytes of the existing file.
    pub fn in_place(job: &'a Job, target: Target, cleanup: &'a Cleanup) -> Result<Self> {
        let fail = |e| Error::io("opening", &target.name, e);
        let opened = open_existing(&target.path, job, 0).map_err(fail)?;
        cleanup.overwrite(&target.name, Some(opened.file.try_clone().map_err(fail)?));
        Self::new(job, target, opened, Kind::InPlace, cleanup)
    }

    /// Fills an open, empty file, to which the caller gives attributes and a name afterwards.
    pub fn unnamed(job: &'a Job, name: &Path, file: File, cleanup: &'a Cleanup) -> Result<Self> {
        let target = Target { name: name.into(), path: name.into(), metadata: None };
        let refusal = publish::set_direct(&file, job.direct);
        Self::new(job, target, OpenFile { file, refusal }, Kind::Unnamed, cleanup)
    }

    /// Overwrites the bytes of an open device.
    pub fn device(job: &'a Job, target: Target, opened: OpenFile, cleanup: &'a Cleanup) -> Result<Self> {
        cleanup.overwrite(&target.name, None);
        Self::new(job, target, opened, Kind::Device, cleanup)
    }

    fn new(job: &'a Job, target: Target, opened: OpenFile, kind: Kind, cleanup: &'a Cleanup) -> Result<Self> {
        let fail = |e| Error::io("opening", &target.name, e);
        let file = opened.file.try_clone().map_err(fail)?;
        let owned = matches!(kind, Kind::New(_) | Kind::Unnamed);
        let writer =
            DirectWriter::with_options(opened.file, opened.refusal, job.direct, owned, job.block_size).map_err(fail)?;
        let (reserved, touched) = (Mutex::new(0), AtomicBool::new(false));
        Ok(Self { job, target, file, writer, kind, reserved, touched, cleanup })
    }

    /// Describes the destination for the copy. From now on, every write waits while --idle yields.
    pub fn opened(mut self, pace: &Pace) -> Opened<'a> {
        pace.idle.iter().for_each(|idle| self.writer.yield_at(idle));
        let direct = self.writer.is_direct();
        let alignment = if direct { self.writer.alignment().offset } else { 1 };
        let how = match &self.kind {
            Kind::Device => "a block device",
            Kind::InPlace => "overwritten in place",
            Kind::Unnamed => "a new file",
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
            confirmation: Duration::ZERO,
            resumed: self.publication().map_or(0, |publication| publication.resumed),
            description: format!("{how}, written {mode}, alignment {alignment}"),
        };
        (info, Box::new(self))
    }

    /// Everything in the file is this copy's.
    fn is_new(&self) -> bool {
        matches!(self.kind, Kind::New(_) | Kind::Unnamed)
    }

    fn publication(&self) -> Option<&Publication> {
        if let Kind::New(publication) = &self.kind { Some(publication) } else { None }
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
            if self.is_new() && end > space::MIN_RESERVED {
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
        self.reserve_range(offset, len)
    }

    fn clone_blocks(&self, source: &CopiedRange<'_>) -> std::io::Result<Range<u64>> {
        self.clone_range(source)
    }

    fn put(&self, block: &Block, _sequencer: &Sequencer) -> Result<()> {
        self.put_block(block)?;
        let Some(partial) = self.publication().and_then(|publication| publication.partial.as_ref()) else {
            return Ok(());
        };
        // The writer keeps the last, partial block in memory until everything else is written.
        let boundary = if self.writer.is_direct() { self.writer.boundary() } else { 1 };
        let end = block.offset + block.len;
        let written = partial.wrote(block.offset, end - end % boundary);
        written.map_err(|e| Error::io("recording what was copied to", &self.target.name, e))
    }

    fn finish(self: Box<Self>, source: &SourceInfo, verify: Verify<'_>) -> Result<Finished> {
        self.complete(source, verify)
    }
}

/// Fails if the file must not be written, so that missing permission or a read-only disk is an error before the copy.
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
