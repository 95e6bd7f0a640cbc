//! The copy: symmetric workers, each with one buffer, each in the same loop.
//!
//! ```text
//! source.next(&mut block)    claims the next range, in order, and fills the buffer
//! taps.see(&block)           digests; in parallel per block, or in order
//! destination.put(&block)    writes it: at its offset, in parallel; or in its turn, to a stream
//! ```
//!
//! There is no queue and no pool: a worker that must wait waits at the [`Turnstile`]. Ranges are
//! handed out in order, so the one that the others wait for is always being worked on. A worker that
//! fails shuts the turnstile, and the others stop at their next block.

use std::fs::File;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::block::{Block, Layout};
use crate::check::digest::{self, Digest};
use crate::check::readback::{Ledger, Mismatch};
use crate::check::watch::{self, Course, Watched};
use crate::check::{Taps, list};
use crate::destination::{self, Destination};
use crate::direct::{DirectReader, Traffic, Written};
use crate::error::{Error, Result, quoted};
use crate::event::{Event, Observer, Phase};
use crate::job::{Algorithm, Job};
use crate::origin::Origin;
use crate::source::{self, Source};
use crate::standing::Standing;
use crate::turnstile::Turnstile;

/// What a finished copy did.
#[derive(Clone, Debug)]
pub struct Report {
    /// Bytes at the destination, holes included.
    pub bytes: u64,
    /// Of these, bytes that the source had as holes.
    pub holes: u64,
    /// How the source was read.
    pub read: Traffic,
    /// How the destination was written.
    pub written: Written,
    /// From the start to the last fsync.
    pub elapsed: Duration,
    /// Of this, moving the bytes.
    pub copying: Duration,
    /// Of this, waiting for the medium and giving the name.
    pub syncing: Duration,
    /// Of this, reading back.
    pub verifying: Duration,
    /// The digest of the bytes copied, if it was asked for.
    pub digest: Option<(Algorithm, Vec<u8>)>,
    /// The destination as it was named, links and directories followed.
    pub destination: PathBuf,
    /// Alignment of direct transfers in bytes: of the source, of the destination; 1 is none.
    pub alignment: (u64, u64),
    /// What of the source and of the destination was in the cache, if it was asked for and they are
    /// files or devices.
    pub cache: (Option<Course>, Option<Course>),
    /// What was chosen, and why.
    pub chosen: Vec<String>,
    /// What the user should know: what did not go direct, what changed meanwhile.
    pub notes: Vec<String>,
}

/// Copies as `job` says. On an error nothing is left behind, and [`Error::left`] says what stands
/// under the destination's name. `standing` is for a thread that may have to end the copy early.
pub fn copy(job: &Job, observer: &dyn Observer, standing: &Standing) -> Result<Report> {
    attempt(job, observer, standing).map_err(|mut error| {
        error.left = standing.abandon();
        error
    })
}

fn attempt(job: &Job, observer: &dyn Observer, standing: &Standing) -> Result<Report> {
    let started = Instant::now();
    let (source, from) = source::open(job)?;
    let (name, to) = destination::open(job, &from, observer, standing)?;
    let layout = layout(job, &*source, &*to)?;
    let length = from.length;
    let alignment = (source.alignment(), to.alignment());
    let chosen =
        vec![format!("{}: {}", quoted(&from.name), source.describe()), format!("{}: {}", quoted(&name), to.describe())];
    chosen.iter().for_each(|line| observer.event(Event::Detail(line)));
    let (taps, expected) = taps(job, &layout, &from.name, &name)?;

    if length.is_some_and(|length| length > job.block_size as u64) {
        observer.event(Event::Phase(Phase::Reserving));
        source.data_ranges(&layout, &mut |offset, len| to.reserve(offset, len))?;
    }
    observer.event(Event::Start(length));
    let watched = match job.check_cache {
        true => (watch(&from.name, Some(&from.file).filter(|_| has_pages(&from)))?, watch(&name, to.file())?),
        false => (None, None),
    };
    let blocks = length.map_or(u64::MAX, |length| length.div_ceil(job.block_size as u64).max(1));
    let workers = blocks.min(job.queue_depth as u64) as usize;
    let moved = sampled(&watched, || run(workers, &layout, &*source, &*to, &taps, observer))?;
    let copying = started.elapsed();

    let mut notes: Vec<String> = source.finish()?.into_iter().collect();
    let Taps { digest, ledger } = taps;
    let digest = digest.map(|(algorithm, digest)| (algorithm, digest.finish()));
    require(&name, digest.as_ref(), expected.as_deref())?;
    observer.event(Event::Phase(Phase::Syncing));
    let mut verifying = Duration::ZERO;
    let mut ledger = ledger;
    let mut inspect = |file: &File, base| {
        let Some(ledger) = ledger.take() else { return Ok(()) };
        observer.event(Event::Phase(Phase::Verifying));
        let began = Instant::now();
        verify(job, &name, file, base, ledger)?;
        verifying = began.elapsed();
        Ok(())
    };
    let finished = sampled(&watched, || to.finish(&from, &mut inspect))?;
    let cache = (watched.0.as_ref().map(Watched::course), watched.1.as_ref().map(Watched::course));
    let (read, why) = source.traffic();
    notes.extend(note(&from.name, "read", &read, why.as_deref()));
    notes.extend(note(&name, "written", &finished.written.traffic, finished.written.why.as_deref()));
    notes.extend(finished.notes);
    if let Some(pages) = finished.written.cached_pages.filter(|pages| *pages > 0) {
        notes.push(format!("{pages} pages of {} are in the page cache", quoted(&name)));
    }
    let Moved { bytes, holes } = moved;
    let elapsed = started.elapsed();
    let syncing = elapsed.saturating_sub(copying + verifying);
    let (written, destination) = (finished.written, name);
    Ok(Report {
        bytes,
        holes,
        read,
        written,
        elapsed,
        copying,
        syncing,
        verifying,
        digest,
        destination,
        alignment,
        cache,
        chosen,
        notes,
    })
}

/// What looks at the blocks, and the digest that they must have.
fn taps(job: &Job, layout: &Layout, source: &Path, destination: &Path) -> Result<(Taps, Option<Vec<u8>>)> {
    let mut taps = Taps { digest: None, ledger: job.verify.then(Ledger::default) };
    let Some(checksum) = &job.checksum else { return Ok((taps, None)) };
    let (mut algorithm, mut expected) = (checksum.algorithm, checksum.expected.clone());
    if let Some(list) = &checksum.list {
        let text = std::fs::read(list).map_err(|e| Error::io("reading", list, e))?;
        let text = String::from_utf8_lossy(&text);
        let found = list::look_up(&text, &[source, destination], algorithm);
        let (known, digest) = found.map_err(|why| Error::content(list, why))?;
        (algorithm, expected) = (Some(known), Some(digest));
    }
    let algorithm = algorithm.unwrap_or(Algorithm::Sha256);
    taps.digest = Some((algorithm, Digest::new(algorithm, layout)));
    Ok((taps, expected))
}

/// Fails unless the digest is the expected one.
fn require(name: &Path, digest: Option<&(Algorithm, Vec<u8>)>, expected: Option<&[u8]>) -> Result<()> {
    match (digest, expected) {
        (Some((algorithm, found)), Some(expected)) if found != expected => {
            let (algorithm, found, expected) = (algorithm.name(), digest::hex(found), digest::hex(expected));
            Err(Error::content(name, format!("its {algorithm} digest is {found}, and {expected} is required")))
        }
        _ => Ok(()),
    }
}

/// Reads the destination back and compares.
fn verify(job: &Job, name: &Path, file: &File, base: u64, ledger: Ledger) -> Result<()> {
    let fail = |e| Error::io("reading back", name, e);
    let reader = DirectReader::reread(file.try_clone().map_err(fail)?).map_err(fail)?;
    let compared = ledger.compare(&reader, base, job.queue_depth, job.block_size);
    let mismatch = compared.map_err(|(at, e)| fail(e).at(at))?;
    reader.finish().map_err(fail)?;
    let Some(Mismatch { first, blocks, of }) = mismatch else { return Ok(()) };
    let why = format!(
        "the medium does not hold what was written: {blocks} of {of} blocks differ, the first one at byte {}",
        base + first
    );
    Err(Error::content(name, why).hint("the disk, its cable or its memory is failing: do not trust it with this copy"))
}

/// True for a source whose pages can be counted.
fn has_pages(from: &Origin) -> bool {
    from.metadata.is_file() || from.metadata.file_type().is_block_device()
}

fn watch(name: &Path, file: Option<&File>) -> Result<Option<Watched>> {
    file.map(|file| Watched::new(file).map_err(|e| Error::io("looking at the cache of", name, e))).transpose()
}

/// Does `work` while a thread looks at the cache now and then.
fn sampled<T>(watched: &(Option<Watched>, Option<Watched>), work: impl FnOnce() -> T) -> T {
    let files: Vec<&Watched> = [&watched.0, &watched.1].into_iter().flatten().collect();
    if files.is_empty() {
        return work();
    }
    std::thread::scope(|scope| {
        let (done, wait) = mpsc::channel::<()>();
        let sample = move || {
            while wait.recv_timeout(watch::SAMPLE) == Err(RecvTimeoutError::Timeout) {
                files.iter().for_each(|file| file.sample());
            }
        };
        // Without a thread to spare the peak is what is seen at the end.
        let _ = std::thread::Builder::new().spawn_scoped(scope, sample);
        let result = work();
        drop(done);
        result
    })
}

/// How the copy is cut into blocks, so that both sides get what their alignment asks for.
fn layout(job: &Job, source: &dyn Source, destination: &dyn Destination) -> Result<Layout> {
    let needed = destination.alignment().max(source.alignment());
    job.suits(needed)?;
    let unit = destination.unit();
    Ok(Layout { block_size: job.block_size, unit, lead: (job.seek % unit) as usize })
}

/// What the workers moved.
#[derive(Default)]
struct Moved {
    bytes: u64,
    holes: u64,
}

fn run(
    workers: usize,
    layout: &Layout,
    source: &dyn Source,
    destination: &dyn Destination,
    taps: &Taps,
    observer: &dyn Observer,
) -> Result<Moved> {
    let turns = Turnstile::default();
    let failure: Mutex<Option<Error>> = Mutex::new(None);
    let total: Mutex<Moved> = Mutex::default();
    let work = || {
        let mut moved = Moved::default();
        let mut step = || -> Result<()> {
            let mut block = Block::new(source.room(layout)).map_err(no_memory)?;
            while source.next(layout, &mut block, &turns)? {
                taps.see(&block);
                destination.put(&block, &turns)?;
                observer.event(Event::Copied(block.len));
                moved.bytes += block.len;
                moved.holes += if block.hole { block.len } else { 0 };
            }
            Ok(())
        };
        if let Err(error) = step() {
            turns.shut();
            taps.shut();
            // The first one is the cause, unless it only says that another failed.
            let mut first = failure.lock().unwrap_or_else(PoisonError::into_inner);
            if first.as_ref().is_none_or(|first| first.consequence) {
                *first = Some(error);
            }
        }
        let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
        total.bytes += moved.bytes;
        total.holes += moved.holes;
    };
    std::thread::scope(|scope| {
        for _ in 1..workers {
            // Where threads are short, fewer do as well: this one is always there.
            if std::thread::Builder::new().spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(total.into_inner().unwrap_or_else(PoisonError::into_inner)),
    }
}

fn no_memory(e: std::io::Error) -> Error {
    Error::io("making a buffer for", &PathBuf::from("the copy"), e)
        .hint("a smaller --block-size or --queue-depth needs less memory")
}

/// One line on what did not go direct, if anything.
fn note(name: &Path, verb: &str, traffic: &Traffic, why: Option<&str>) -> Option<String> {
    let (bytes, how) = match traffic {
        Traffic { uncached: bytes @ 1.., .. } => (bytes, "uncached"),
        Traffic { cached: bytes @ 1.., .. } => (bytes, "through the page cache"),
        Traffic { memory: bytes @ 1.., .. } => (bytes, "in memory"),
        _ => return None,
    };
    let why = why?;
    Some(format!("not direct: {bytes} bytes of {} {verb} {how}: {why}", quoted(name)))
}
