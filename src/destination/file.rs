//! A file, or a block device, as a destination: blocks are written in parallel, each at its offset.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::partial::{self, Opened, Partial};
use super::publish::{self, Unpublished, sync_directory};
use super::{Destination, Finished, Inspect, attributes};
use crate::block::Block;
use crate::cleanup::Cleanup;
use crate::direct::{self, DirectWriter};
use crate::error::{Error, Result, size};
use crate::event::Observer;
use crate::job::{Job, Sparse};
use crate::pace::IdleGate;
use crate::sequencer::Sequencer;
use crate::source_info::SourceInfo;
use crate::sys;

/// The shortest run of zeros that `--sparse always` makes a hole of: a request more costs the disk
/// about as much as writing this many bytes.
const HOLE: usize = 64 << 10;
static ZEROS: [u8; HOLE] = [0; HOLE];
/// A file of unknown length is given space in steps of this, so that parallel writes do not extend it
/// one after another; never more than this share of what is free, which is others' too.
const STEP: u64 = 64 << 20;
const SHARE: u64 = 64;

pub struct FileDestination<'a> {
    job: &'a Job,
    name: PathBuf,
    file: File,
    writer: DirectWriter,
    /// How it gets its name; None: it has it.
    publication: Option<Publication>,
    /// It replaces nothing.
    pub exclusive: bool,
    /// Bytes that an earlier copy left.
    resumed: u64,
    /// Up to where an owned file of unknown length has space.
    reserved: Mutex<u64>,
    device: bool,
    /// Something was written.
    touched: AtomicBool,
    cleanup: &'a Cleanup,
}

struct Publication {
    existed: bool,
    temporary: Option<PathBuf>,
    /// For --resume.
    partial: Option<Arc<Partial>>,
}

impl<'a> FileDestination<'a> {
    /// New content for `path`, published at the end.
    pub fn replace(
        job: &'a Job,
        from: &SourceInfo,
        path: PathBuf,
        existed: bool,
        observer: &dyn Observer,
        cleanup: &'a Cleanup,
    ) -> Result<Self> {
        if existed {
            // Fails now for what would fail at the end: permissions, attributes, a read-only disk.
            match File::options().write(true).open(&path) {
                Err(e) if e.raw_os_error() == Some(libc::ETXTBSY) => {} // replacing it is fine
                other => drop(other.map_err(|e| Error::io("replacing", &path, e))?),
            }
        }
        if job.resume
            && let Some(opened) = partial::resumable(job, from, &path, existed, observer, cleanup)?
        {
            let Opened { unpublished: Unpublished { file, refused, temporary }, partial, resumed, .. } = opened;
            if existed && !job.preserve {
                attributes::try_owner(&file, &path)?;
            }
            let publication = Publication { existed, temporary, partial: Some(partial) };
            let mut destination = Self::over(job, path, file, refused, Some(publication), cleanup)?;
            destination.writer.go_on_from(resumed);
            destination.resumed = resumed;
            return Ok(destination);
        }
        let mode = new_mode(from);
        let Unpublished { file, refused, temporary } = publish::create(&path, existed, mode, job.direct, cleanup)?;
        if existed && !job.preserve {
            attributes::try_owner(&file, &path)?;
        }
        let publication = Some(Publication { existed, temporary, partial: None });
        Self::over(job, path, file, refused, publication, cleanup)
    }

    /// The bytes of the file `path` that is there.
    pub fn in_place(job: &'a Job, path: &Path, cleanup: &'a Cleanup) -> Result<Self> {
        let (file, refused) = open_existing(path, job, 0).map_err(|e| Error::io("opening", path, e))?;
        let kept = file.try_clone().map_err(|e| Error::io("opening", path, e))?;
        cleanup.overwrite(path, Some(kept));
        Self::over(job, path.to_path_buf(), file, refused, None, cleanup)
    }

    /// The bytes of a device that is open.
    pub fn device(
        job: &'a Job,
        path: &Path,
        (file, refused): (File, Option<String>),
        cleanup: &'a Cleanup,
    ) -> Result<Self> {
        cleanup.overwrite(path, None);
        let mut destination = Self::over(job, path.to_path_buf(), file, refused, None, cleanup)?;
        destination.device = true;
        Ok(destination)
    }

    fn over(
        job: &'a Job,
        name: PathBuf,
        file: File,
        refused: Option<String>,
        publication: Option<Publication>,
        cleanup: &'a Cleanup,
    ) -> Result<Self> {
        let fail = |e| Error::io("opening", &name, e);
        let kept = file.try_clone().map_err(fail)?;
        let owned = publication.is_some();
        let writer = DirectWriter::over(file, refused, job.direct, owned, job.block_size).map_err(fail)?;
        let (reserved, touched) = (Mutex::new(0), AtomicBool::new(false));
        let (exclusive, resumed) = (job.no_clobber, 0);
        Ok(Self {
            job,
            name,
            file: kept,
            writer,
            publication,
            exclusive,
            resumed,
            reserved,
            device: false,
            touched,
            cleanup,
        })
    }

    /// Gives a growing file space ahead of the writes. What is too much is cut off at the end.
    fn reserve_ahead(&self, end: u64) {
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        while end > *reserved {
            let from = (*reserved).max(self.job.seek);
            let step = sys::free_bytes(&self.file).unwrap_or(0) / SHARE;
            let step = (step - step % sys::page_size()).min(STEP);
            // Refused, or the disk is nearly full: the writes will find out how far they come.
            *reserved = match sys::fallocate(&self.file, 0, from, step) {
                Ok(()) if end <= from + step => from + step,
                _ => u64::MAX,
            };
        }
    }

    fn put_block(&self, block: &Block) -> Result<()> {
        let at = self.job.seek + block.offset;
        if !self.touched.swap(true, Ordering::Relaxed) {
            self.cleanup.touch();
        }
        if block.hole {
            return self.put_zeros(at, block.len);
        }
        let data = block.data();
        if self.job.sparse != Sparse::Always || self.device {
            let end = at + block.len;
            if self.publication.is_some() && end > STEP / 4 {
                self.reserve_ahead(end);
            }
            return self.put_data(data, at);
        }
        let granule = HOLE.min(self.job.block_size);
        for (start, len, zero) in runs(data, granule) {
            match zero {
                true => self.put_zeros(at + start as u64, len as u64)?,
                false => self.put_data(&data[start..start + len], at + start as u64)?,
            }
        }
        Ok(())
    }

    fn put_data(&self, data: &[u8], at: u64) -> Result<()> {
        self.writer.write_at(data, at).map_err(|e| Error::io("writing", &self.name, e).at(at))
    }

    fn put_zeros(&self, at: u64, len: u64) -> Result<()> {
        self.writer.zero_at(at, len).map_err(|e| Error::io("writing", &self.name, e).at(at))
    }
}

impl Destination for FileDestination<'_> {
    fn alignment(&self) -> u64 {
        if self.writer.is_direct() { self.writer.alignment().offset } else { 1 }
    }

    fn unit(&self) -> u64 {
        if self.writer.is_direct() { self.writer.unit() } else { 1 }
    }

    fn file(&self) -> Option<&File> {
        Some(&self.file)
    }

    fn yield_at(&mut self, idle: &Arc<IdleGate>) {
        self.writer.yield_at(idle);
    }

    fn resumed(&self) -> u64 {
        self.resumed
    }

    fn reserve(&self, offset: u64, len: u64) -> Result<()> {
        if self.device || len == 0 || self.job.sparse == Sparse::Always {
            return Ok(());
        }
        let owned = self.publication.is_some();
        let mode = if owned { 0 } else { libc::FALLOC_FL_KEEP_SIZE };
        let at = self.job.seek + offset;
        // As far as the padded last block reaches: a write behind the end would have to extend it.
        let room = if owned { self.writer.padded(at + len) - at } else { len };
        if !owned {
            self.cleanup.reserving();
        }
        let result = sys::fallocate(&self.file, mode, at, room);
        *self.reserved.lock().unwrap_or_else(PoisonError::into_inner) = u64::MAX;
        match result {
            // Of a file that is gone on with, XFS counts what it has as if it were asked for again.
            Err(e)
                if matches!(e.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG)) && self.resumed == 0 =>
            {
                Err(Error::io(&format!("reserving {} for", size(len)), &self.name, e))
            }
            // Not every filesystem can; posix_fallocate would write zeros instead.
            _ => Ok(()),
        }
    }

    fn put(&self, block: &Block, _turns: &Sequencer) -> Result<()> {
        self.put_block(block)?;
        let Some(partial) = self.publication.as_ref().and_then(|publication| publication.partial.as_ref()) else {
            return Ok(());
        };
        // Less than a unit at the very end is written only when all is there.
        let end = block.offset + block.len;
        let written = partial.wrote(block.offset, end - end % self.unit());
        written.map_err(|e| Error::io("keeping what was copied to", &self.name, e))
    }

    fn finish(mut self: Box<Self>, from: &SourceInfo, inspect: Inspect<'_>) -> Result<Finished> {
        let sync = self.job.sync;
        let publication = self.publication.take();
        let (mut notes, mut failed) = (Vec::new(), None);
        let Self { job, name, file, writer, exclusive, cleanup, .. } = *self;
        let partial = publication.as_ref().and_then(|publication| publication.partial.clone());
        let look_like_it = || attributes_of(job, &name, &file, from, publication.as_ref());
        let last = || {
            // What may have to be kept stays its maker's until it is known to be good.
            if partial.is_some() {
                return Ok(());
            }
            notes = look_like_it().map_err(|e| {
                failed = Some(e);
                io::Error::other("attributes")
            })?;
            Ok(())
        };
        let result = writer.finish_with(sync, last);
        if let Some(failed) = failed {
            return Err(failed);
        }
        if let Some(partial) = partial.as_ref().filter(|_| result.is_err()) {
            partial.failed();
        }
        let written = result.map_err(|e| Error::io("completing", &name, e))?;
        inspect(&file, job.seek)?;
        if partial.is_some() {
            notes = look_like_it()?;
            if sync {
                file.sync_all().map_err(|e| Error::io("completing", &name, e))?;
            }
        }
        if let Some(Publication { existed, temporary, partial }) = publication {
            let complete = || partial.as_ref().map_or(Ok(()), |partial| partial.complete());
            publish::publish(&file, temporary.as_deref(), &name, (existed, exclusive), complete, cleanup)?;
            if sync {
                sync_directory(&name, &file)?;
            }
        }
        Ok(Finished { written, notes })
    }

    fn describe(&self) -> String {
        let how = match &self.publication {
            _ if self.device => "a block device",
            None => "overwritten in place",
            Some(Publication { temporary: Some(_), .. }) => "a new file under a hidden name until it is complete",
            Some(_) => "a new file without a name until it is complete",
        };
        let way = if self.writer.is_direct() { "direct" } else { "not direct" };
        format!("{how}, written {way}, alignment {}", self.alignment())
    }
}

/// Mode, owner and so on of a file that gets its name at the end.
fn attributes_of(
    job: &Job,
    name: &Path,
    file: &File,
    from: &SourceInfo,
    publication: Option<&Publication>,
) -> Result<Vec<String>> {
    let Some(publication) = publication else { return Ok(Vec::new()) };
    if let Some((source, of)) = from.file.as_ref().filter(|_| job.preserve) {
        return attributes::preserve(file, name, source, of);
    }
    let found = if publication.existed { std::fs::metadata(name).ok() } else { None };
    if let Some(found) = found {
        attributes::keep(file, name, &found)?;
    } else if publication.temporary.is_some() {
        let mode = new_mode(from) & !job.umask;
        attributes::set_mode(file, mode).map_err(|e| Error::io("creating", name, e))?;
    }
    Ok(Vec::new())
}

/// Runs of `data` that are zero or not, in steps of `granule`: (start, length, zero).
fn runs(data: &[u8], granule: usize) -> Vec<(usize, usize, bool)> {
    let mut runs: Vec<(usize, usize, bool)> = Vec::new();
    for (i, part) in data.chunks(granule).enumerate() {
        let zero = part.len() == granule && *part == ZEROS[..part.len()];
        match runs.last_mut() {
            Some((_, len, last)) if *last == zero => *len += part.len(),
            _ => runs.push((i * granule, part.len(), zero)),
        }
    }
    runs
}

/// Opens what is there for writing, and for reading where that is allowed.
pub fn open_existing(path: &Path, job: &Job, flags: i32) -> std::io::Result<(File, Option<String>)> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    match direct::open(path, &options, flags, job.direct) {
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied && !job.verify => {
            direct::open(path, options.read(false), flags, job.direct)
        }
        other => other,
    }
}

/// The mode that a new file gets, before the umask: that of a source that is a file.
fn new_mode(from: &SourceInfo) -> u32 {
    use std::os::unix::fs::MetadataExt;
    let source = from.file.as_ref().map(|(_, found)| found).filter(|found| found.is_file());
    source.map_or(0o666, |found| found.mode() & 0o777)
}
