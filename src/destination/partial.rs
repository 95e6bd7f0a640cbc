//! What `--resume` keeps of a copy that is interrupted: a hidden file beside the destination, and on it
//! an extended attribute that says of what it is a part, and how far it is on the medium.
//!
//! The attribute only ever claims what an fsync that came before has made durable. The file is trusted
//! only if it is the user's own, and nobody else could have written it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use xattr::FileExt;

use super::publish::{Unpublished, directory_of, sync_directory};
use crate::direct::Direct;
use crate::error::{Error, quoted, size};
use crate::event::{Event, Observer};
use crate::job::Job;
use crate::origin::{Identity, Origin};
use crate::standing::{Keep, Standing, Temporary};
use crate::sys;

/// Where the record is kept.
const ATTRIBUTE: &str = "user.dio-cp.partial";
/// Between two records. What was copied since the last one is lost by a power failure or SIGKILL.
const PERIOD: Duration = Duration::from_secs(1);
/// Names and identities that are longer are kept as a digest: ext4 has 4 KiB for all attributes.
const LONGEST_VALUE: usize = 512;

/// A file that is being built, and outlives an interrupted copy.
pub struct Partial {
    path: PathBuf,
    file: File,
    identity: Identity,
    state: Mutex<State>,
}

struct State {
    /// Up to here every byte is written.
    reached: u64,
    /// Ranges behind that: start, end.
    beyond: BTreeMap<u64, u64>,
    /// Up to here it is on the medium, and recorded.
    recorded: u64,
    when: Instant,
}

/// What was found when the copy began.
pub struct Opened {
    pub unpublished: Unpublished,
    pub partial: Arc<Partial>,
    /// Bytes that an earlier copy left, and that can be gone on from.
    pub resumed: u64,
    /// Why what was there is not gone on from.
    pub why_anew: Option<String>,
}

/// The hidden name beside `path` that a part of it has.
pub fn name_of(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or(OsStr::new("")).as_bytes();
    let ending = b".partial.dio-cp";
    // File names have at most 255 bytes.
    let kept = &name[..name.len().min(254 - ending.len())];
    directory_of(path).join(OsStr::from_bytes(&[b".", kept, ending].concat()))
}

/// The file that an interrupted copy leaves behind, or has left. None: nothing could be kept here.
pub fn resumable(
    job: &Job,
    from: &Origin,
    path: &Path,
    existed: bool,
    observer: &dyn Observer,
    standing: &Standing,
) -> crate::error::Result<Option<Opened>> {
    let Some(identity) = &from.identity else {
        if from.file.is_some() {
            let why = format!("--resume cannot be used here: {} cannot be known again", quoted(&from.name));
            return Err(Error::usage(why).hint("it takes files and URLs"));
        }
        let why = "its server does not name the version (ETag, Last-Modified) and length";
        observer.event(Event::Notice(&format!("nothing can be kept of {}: {why}", quoted(&from.name))));
        return Ok(None);
    };
    let create = || {
        let opened = open(path, identity, job.direct, job.block_size as u64)?;
        let partial = opened.partial.clone();
        let keep: Keep = Box::new(move || partial.keep());
        let temporary = Temporary { path: opened.unpublished.temporary.clone(), keep: Some(keep) };
        Ok((opened, temporary))
    };
    let opened = match standing.build(path, existed, create) {
        Err(e) if e.kind() == io::ErrorKind::Unsupported => {
            let what = "the filesystem keeps no extended attributes";
            observer.event(Event::Notice(&format!("nothing can be kept of {}: {what}", quoted(path))));
            return Ok(None);
        }
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
            return Err(Error::failed("creating", path, "another copy to it is under way"));
        }
        other => other.map_err(|e| Error::io("creating", &name_of(path), e))?,
    };
    sync_directory(path, &opened.unpublished.file)?;
    if let Some(why) = &opened.why_anew {
        observer.event(Event::Notice(&format!("starting over with {}: {why}", quoted(path))));
    }
    if opened.resumed > 0 {
        let line = format!("going on from {} of {}, which an earlier copy left", size(opened.resumed), quoted(path));
        observer.event(Event::Notice(&line));
    }
    Ok(Some(opened))
}

/// Opens what an earlier copy of the same left, or begins anew. Fails with `WouldBlock` if another copy
/// is at it, and with `Unsupported` where the filesystem keeps no attributes.
fn open(path: &Path, identity: &Identity, policy: Direct, block_size: u64) -> io::Result<Opened> {
    let identity: Identity = identity.iter().map(|(what, which)| (*what, short(which))).collect();
    let path = name_of(path);
    let (file, resumed, why_anew) = loop {
        let mut options = OpenOptions::new();
        // O_DIRECT after: some filesystems refuse the flag.
        let found = match options.read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => break (create(&path)?, 0, None),
            Err(e) if e.raw_os_error() == Some(libc::ELOOP) => Err("what lies there is a symbolic link".to_string()),
            Err(e) => return Err(e),
            Ok(file) => {
                sys::lock(&file)?;
                if !is_at(&file, &path)? {
                    continue; // whoever had it locked has completed it
                }
                usable(&file, &identity).map(|durable| (file, durable - durable % block_size))
            }
        };
        match found {
            Ok((file, resumed)) => break (file, resumed, None),
            Err(why) => {
                std::fs::remove_file(&path)?;
                break (create(&path)?, 0, Some(why));
            }
        }
    };
    let refused = match policy {
        Direct::Never => None,
        _ => sys::set_direct(&file, true).err().map(|e| format!("the filesystem does not take O_DIRECT ({e})")),
    };
    let state = State { reached: resumed, beyond: BTreeMap::new(), recorded: resumed, when: Instant::now() };
    let partial = Partial { path: path.clone(), file: file.try_clone()?, identity, state: Mutex::new(state) };
    if let Err(e) = partial.write(resumed) {
        if resumed == 0 {
            std::fs::remove_file(&path)?;
        }
        return Err(e);
    }
    let unpublished = Unpublished { file, refused, temporary: Some(path) };
    Ok(Opened { unpublished, partial: Arc::new(partial), resumed, why_anew })
}

fn create(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
    sys::lock(&file)?;
    Ok(file)
}

/// True if `path` is (still) the name of `file`.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let here = file.metadata()?;
    match std::fs::symlink_metadata(path) {
        Ok(there) => Ok((here.dev(), here.ino()) == (there.dev(), there.ino())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// How far the file can be gone on from; or why not.
fn usable(file: &File, identity: &Identity) -> Result<u64, String> {
    let fail = |e: io::Error| format!("what was kept of it cannot be read ({e})");
    let found = file.metadata().map_err(fail)?;
    if !found.is_file() || found.uid() != sys::effective_user() || found.nlink() != 1 || found.mode() & 0o022 != 0 {
        return Err("what lies there may have been written by somebody else".to_string());
    }
    let record = file.get_xattr(ATTRIBUTE).map_err(fail)?.unwrap_or_default();
    let (durable, known) = parse(&record).ok_or("what lies there has no record of what it is")?;
    if durable > found.len() {
        return Err("what was kept of it is shorter than it should be".to_string());
    }
    for (what, which) in identity {
        match known.get(*what) {
            Some(known) if known == which => {}
            Some(known) => return Err(format!("its {what} was {known}, and is {which} now")),
            None => return Err(format!("what lies there is a part of something else: it has no {what}")),
        }
    }
    Ok(durable)
}

/// What is too long for an attribute, as its digest.
fn short(value: &str) -> String {
    if value.len() <= LONGEST_VALUE { value.to_string() } else { format!("blake3:{}", blake3::hash(value.as_bytes())) }
}

fn parse(record: &[u8]) -> Option<(u64, BTreeMap<String, String>)> {
    let record: serde_json::Value = serde_json::from_slice(record).ok()?;
    let pairs = record.get("of")?.as_object()?;
    let text = |(what, which): (&String, &serde_json::Value)| Some((what.clone(), which.as_str()?.to_string()));
    Some((record.get("durable")?.as_u64()?, pairs.iter().map(text).collect::<Option<_>>()?))
}

impl Partial {
    /// The bytes from `start` to `end` are handed to the medium. Now and then makes them durable, and records it.
    pub fn wrote(&self, start: u64, end: u64) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.beyond.insert(start, end);
        while let Some((start, end)) = state.beyond.pop_first() {
            if start > state.reached {
                state.beyond.insert(start, end);
                break;
            }
            state.reached = state.reached.max(end);
        }
        if state.reached == state.recorded || state.when.elapsed() < PERIOD {
            return Ok(());
        }
        state.when = Instant::now();
        let reached = state.reached;
        drop(state); // the others write on meanwhile
        self.record(reached)
    }

    /// Makes durable what was written, and says what is kept; None: it is not worth it.
    pub fn keep(&self) -> io::Result<Option<String>> {
        let reached = self.state.lock().unwrap_or_else(PoisonError::into_inner).reached;
        if reached == 0 {
            return Ok(None);
        }
        self.file.sync_data()?;
        self.write(reached)?; // again, should it be gone already
        self.file.sync_all()?;
        Ok(Some(format!("{} are kept in {}; --resume goes on from there", size(reached), quoted(&self.path))))
    }

    /// It is complete, and gets its name now: the mark goes.
    pub fn complete(&self) -> io::Result<()> {
        match self.file.get_xattr(ATTRIBUTE)? {
            Some(_) => self.file.remove_xattr(ATTRIBUTE),
            None => Ok(()), // the attributes were made those of the file that is replaced
        }
    }

    fn record(&self, reached: u64) -> io::Result<()> {
        self.file.sync_data()?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if reached > state.recorded {
            self.write(reached)?;
            state.recorded = reached;
        }
        Ok(())
    }

    fn write(&self, durable: u64) -> io::Result<()> {
        let of: serde_json::Map<String, serde_json::Value> =
            self.identity.iter().map(|(what, which)| (what.to_string(), which.as_str().into())).collect();
        self.file.set_xattr(ATTRIBUTE, serde_json::json!({ "durable": durable, "of": of }).to_string().as_bytes())
    }
}
