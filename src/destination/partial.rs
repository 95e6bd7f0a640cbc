//! What `--resume` keeps of a copy that is interrupted: a hidden file beside the destination, and on it
//! an extended attribute that says of what it is a part, and how far it is on the medium.
//!
//! The attribute only ever claims what an fsync that came before has made durable. The file is trusted
//! only if it is the user's own, and nobody else could have written it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use xattr::FileExt;

use super::publish::{Unpublished, creating, directory_of, sync_directory};
use super::target::Target;
use crate::cleanup::{Cleanup, Keep, Temporary};
use crate::direct::DirectPolicy;
use crate::error::{Error, quoted, size};
use crate::event::{Event, Observer};
use crate::job::Job;
use crate::source_info::{Identity, SourceInfo};
use crate::sys;

/// Where the record is kept.
pub const ATTRIBUTE: &str = "user.dio-cp.partial";
/// What is gone on from is a multiple of this, so that every alignment is met.
const GRAIN: u64 = 64 << 10;
/// Between two records. What was copied since the last one is lost by a power failure or SIGKILL.
const PERIOD: Duration = Duration::from_secs(1);
/// Values that are longer are kept as a digest: ext4 has one block for all attributes, which may be 1 KiB.
const LONGEST_VALUE: usize = 100;

/// A file that is being built, and outlives an interrupted copy.
pub struct Partial {
    path: PathBuf,
    file: File,
    identity: Identity,
    state: Mutex<State>,
    /// One sync at a time: the kernel tells of a failure to one only.
    syncing: Mutex<()>,
}

struct State {
    /// Up to here every byte is written.
    reached: u64,
    /// Ranges behind that: start, end.
    beyond: BTreeMap<u64, u64>,
    /// Up to here it is on the medium, and recorded.
    recorded: u64,
    when: Instant,
    /// A sync failed: what it should have covered may be lost, and the kernel tells that only once.
    failed: bool,
    /// It was kept or removed: nothing counts any more.
    over: bool,
}

/// What was found when the copy began.
pub struct OpenedPartial {
    pub unpublished: Unpublished,
    pub partial: Arc<Partial>,
    /// Bytes that an earlier copy left, and that can be gone on from.
    pub resumed: u64,
    /// Why what was there is not gone on from.
    pub why_anew: Option<String>,
}

/// The hidden name beside `path` that a part of it has.
fn name_of(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or(OsStr::new("")).as_bytes();
    let ending = ".partial.dio-cp";
    // File names have at most 255 bytes. Two long names must not share one.
    let (kept, ending) = match name.len() + 1 + ending.len() {
        0..=255 => (name, ending.to_string()),
        _ => {
            let room = (0..=200).rev().find(|at| name[*at] & 0xc0 != 0x80).unwrap_or(0); // never half a character
            (&name[..room], format!(".{}{ending}", &blake3::hash(name).to_hex()[..16]))
        }
    };
    directory_of(path).join(OsStr::from_bytes(&[b".", kept, ending.as_bytes()].concat()))
}

/// The file that an interrupted copy leaves behind, or has left. None: nothing could be kept here.
pub fn resumable(
    job: &Job,
    from: &SourceInfo,
    target: &Target,
    observer: &dyn Observer,
    cleanup: &Cleanup,
) -> crate::error::Result<Option<OpenedPartial>> {
    let (path, name) = (&target.path, &target.name);
    let nothing = |what: &Path, why: &str| {
        observer.event(Event::Notice(&format!("nothing can be kept of {}: {why}", quoted(what))));
        Ok(None)
    };
    let Some(identity) = &from.identity else {
        return match &from.file {
            Some((_, found)) if found.is_file() => Ok(None), // it is empty
            Some(_) => {
                let why = format!("--resume cannot be used here: {} cannot be known again", quoted(&from.name));
                Err(Error::usage(why).hint("it takes files and URLs"))
            }
            None => nothing(&from.name, "its server does not name the version (ETag, Last-Modified) and length"),
        };
    };
    let hidden = name_of(path);
    if let (Some((_, source)), Ok(there)) = (&from.file, std::fs::symlink_metadata(&hidden))
        && (source.dev(), source.ino()) == (there.dev(), there.ino())
    {
        let why = format!("it is what --resume keeps of {}", quoted(name));
        return Err(Error::failed("opening", &from.name, why).hint("give it another name first"));
    }
    let create = || {
        let opened = open(&hidden, identity, job.direct)?;
        let partial = opened.partial.clone();
        let keep: Keep = Box::new(move |worth_it| partial.end(worth_it));
        Ok((opened, Temporary { path: None, keep: Some(keep) }))
    };
    let opened = match cleanup.build(name, target.exists(), create) {
        Err(e) if e.kind() == io::ErrorKind::Unsupported => {
            return nothing(name, "the filesystem does not keep extended attributes, or whose file it is");
        }
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
            return Err(Error::failed("creating", name, "another copy to it is under way"));
        }
        other => other.map_err(|e| creating(if e.kind() == io::ErrorKind::NotFound { name } else { &hidden }, e))?,
    };
    sync_directory(target, &opened.unpublished.file)?;
    if let Some(why) = &opened.why_anew {
        observer.event(Event::Notice(&format!("starting over with {}: {why}", quoted(name))));
    }
    if opened.resumed > 0 {
        let line = format!("going on from {} of {}, which an earlier copy left", size(opened.resumed), quoted(name));
        observer.event(Event::Notice(&line));
    }
    Ok(Some(opened))
}

/// Opens what an earlier copy of the same left, or begins anew. Fails with `WouldBlock` if another copy
/// is at it, and with `Unsupported` where nothing can be kept.
fn open(path: &Path, identity: &Identity, policy: DirectPolicy) -> io::Result<OpenedPartial> {
    let identity: Identity = identity.iter().map(|(what, which)| (*what, short(which))).collect();
    let mut why_anew = None;
    let (file, resumed) = loop {
        let mut options = OpenOptions::new();
        // O_DIRECT after: some filesystems refuse the flag.
        match options.read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => match create(path, &identity) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {} // another copy was faster
                other => break (other?, 0),
            },
            Err(e) if e.raw_os_error() == Some(libc::ELOOP) => {
                why_anew = Some("what lies there is a symbolic link".to_string());
                std::fs::remove_file(path)?;
            }
            Err(e) => return Err(e),
            Ok(file) => {
                sys::lock(&file)?;
                if !is_at(&file, path)? {
                    continue; // whoever had it locked has completed or removed it
                }
                match usable(&file, &identity) {
                    Ok(durable) => break (file, durable - durable % GRAIN),
                    Err(why) => {
                        why_anew = Some(why);
                        std::fs::remove_file(path)?; // while it is locked: what comes after is another's
                    }
                }
            }
        }
    };
    let refused = match policy {
        DirectPolicy::Never => None,
        _ => sys::set_direct(&file, true).err().map(|e| format!("the filesystem does not take O_DIRECT ({e})")),
    };
    let state = State {
        reached: resumed,
        beyond: BTreeMap::new(),
        recorded: resumed,
        when: Instant::now(),
        failed: false,
        over: false,
    };
    let partial = Partial {
        path: path.into(),
        file: file.try_clone()?,
        identity,
        state: Mutex::new(state),
        syncing: Mutex::default(),
    };
    let unpublished = Unpublished { file, refused, temporary: Some(path.into()) };
    Ok(OpenedPartial { unpublished, partial: Arc::new(partial), resumed, why_anew })
}

/// A new one, with a record that says "nothing yet". Another copy may have come between its making and
/// its lock.
fn create(path: &Path, identity: &Identity) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
    sys::lock(&file)?;
    if !is_at(&file, path)? {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let recorded = record(&file, identity, 0).and_then(|()| match is_our_own(&file)? {
        true => Ok(()),
        false => Err(io::ErrorKind::Unsupported.into()),
    });
    if let Err(e) = recorded {
        std::fs::remove_file(path)?;
        return Err(match e.raw_os_error() {
            Some(libc::ENOSPC | libc::E2BIG) => io::ErrorKind::Unsupported.into(), // no room for attributes
            _ => e,
        });
    }
    Ok(file)
}

/// Nobody else can have written it.
fn is_our_own(file: &File) -> io::Result<bool> {
    let found = file.metadata()?;
    Ok(found.is_file() && found.uid() == sys::effective_user() && found.nlink() == 1 && found.mode() & 0o022 == 0)
}

fn record(file: &File, identity: &Identity, durable: u64) -> io::Result<()> {
    let of: serde_json::Map<String, serde_json::Value> =
        identity.iter().map(|(what, which)| (what.to_string(), which.as_str().into())).collect();
    file.set_xattr(ATTRIBUTE, serde_json::json!({ "durable": durable, "of": of }).to_string().as_bytes())
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
    if !is_our_own(file).map_err(fail)? {
        return Err("what lies there may have been written by somebody else".to_string());
    }
    let record = file.get_xattr(ATTRIBUTE).map_err(fail)?.unwrap_or_default();
    let (durable, known) = parse(&record).ok_or("what lies there has no record of what it is")?;
    for (what, which) in identity {
        match known.get(*what) {
            Some(known) if known == which => {}
            Some(known) => return Err(format!("its {what} was {known}, and is {which} now")),
            None => return Err(format!("what lies there is a part of something else: it has no {what}")),
        }
    }
    let whole = known.get("number of bytes").and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
    if durable > file.metadata().map_err(fail)?.len() || durable > whole {
        return Err("what was kept of it is shorter than it should be".to_string());
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
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes from `start` to `end` are handed to the medium. Now and then makes them durable, and
    /// records it. Fails if they cannot be made durable: the kernel will not say so again.
    pub fn wrote(&self, start: u64, end: u64) -> io::Result<()> {
        let mut state = self.state();
        state.beyond.insert(start, end);
        while let Some((start, end)) = state.beyond.pop_first() {
            if start > state.reached {
                state.beyond.insert(start, end);
                break;
            }
            state.reached = state.reached.max(end);
        }
        if state.reached == state.recorded || state.when.elapsed() < PERIOD || state.over || state.failed {
            return Ok(());
        }
        // A disk that takes longer than the period is at it still: the others need not wait for it.
        let Ok(_alone) = self.syncing.try_lock() else { return Ok(()) };
        state.when = Instant::now();
        let reached = state.reached;
        drop(state); // the others write on meanwhile
        let synced = self.sync(reached);
        let mut state = self.state();
        state.failed |= synced.is_err();
        if synced? && !state.over && reached > state.recorded && record(&self.file, &self.identity, reached).is_ok() {
            state.recorded = reached;
        } // else the record that is there stays true
        Ok(())
    }

    /// Makes everything up to `reached` durable. False: it cannot be recorded.
    fn sync(&self, reached: u64) -> io::Result<bool> {
        // A hole at the end is not in the file yet. Setting the length could cut what others write.
        let there = self.file.metadata()?.len() >= reached || sys::fallocate(&self.file, 0, reached - 1, 1).is_ok();
        self.file.sync_data()?;
        Ok(there)
    }

    /// A sync elsewhere failed.
    pub fn failed(&self) {
        self.state().failed = true;
    }

    /// Ends it before its time. If it is worth it, makes durable what was written, and says what is kept;
    /// else the file goes.
    pub fn end(&self, worth_it: bool) -> io::Result<Option<String>> {
        let _alone = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.state();
        state.over = true;
        if !is_at(&self.file, &self.path)? {
            return Ok(None); // somebody has removed it
        }
        if worth_it && state.reached > 0 && !state.failed {
            let synced = self.sync(state.reached);
            state.failed |= synced.is_err();
            if matches!(synced, Ok(true)) && record(&self.file, &self.identity, state.reached).is_ok() {
                state.recorded = state.reached;
                // What is behind may be incomplete, and takes space. Nothing counts that is written now.
                self.file.set_len(state.reached)?;
            }
        }
        let safe = || self.file.set_permissions(Permissions::from_mode(0o600)).and_then(|()| self.file.sync_all());
        if worth_it && state.recorded > 0 && safe().is_ok() {
            let (size, path) = (size(state.recorded), quoted(&self.path));
            return Ok(Some(format!("{size} are kept in {path}; --resume goes on from there")));
        }
        std::fs::remove_file(&self.path)?;
        Ok(None)
    }

    /// It is complete, and gets its name now: the mark goes. Fails if the hidden name is not this file's
    /// any more.
    pub fn complete(&self) -> io::Result<()> {
        if !is_at(&self.file, &self.path)? {
            return Err(io::Error::other("its hidden file was removed or replaced meanwhile"));
        }
        self.file.remove_xattr(ATTRIBUTE)
    }
}
