//! The ways to reach a file, from best to worst, and the choice between them when it is opened.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use super::{Alignment, DirectPolicy, Refused};
use crate::sys;

/// How a file is read and written, best first. A refusal falls back to the next mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
#[repr(u8)]
pub(super) enum IoMode {
    /// O_DIRECT, and the filesystem honors it.
    Direct,
    /// O_DIRECT is accepted, but the filesystem may use the page cache all the same (btrfs).
    MaybeBuffered,
    /// RWF_DONTCACHE, Linux 6.14.
    DontCache,
    /// Through the page cache; then written back and evicted.
    DropBehind,
    /// Through the page cache on purpose.
    Buffered,
    /// The filesystem is memory: there is nothing but the page cache.
    InMemory,
}

const IO_MODES: [IoMode; 6] =
    [IoMode::Direct, IoMode::MaybeBuffered, IoMode::DontCache, IoMode::DropBehind, IoMode::Buffered, IoMode::InMemory];

/// Alignment where direct I/O is not used: any block size works with it.
const DEFAULT_ALIGNMENT: Alignment = Alignment { memory: 4096, offset: 4096 };

/// The mode for one file.
pub(super) struct Choice {
    pub mode: IoMode,
    pub alignment: Alignment,
    /// Why it is not direct, if so.
    pub why_not_direct: Option<String>,
}

impl IoMode {
    /// The mode with this number.
    pub fn from_u8(number: u8) -> Self {
        IO_MODES[usize::from(number).min(IO_MODES.len() - 1)]
    }

    /// Transfers must be aligned.
    pub fn is_aligned(self) -> bool {
        self <= IoMode::MaybeBuffered
    }

    /// Chooses the mode for a file that [`open`] opened; `refusal` says why O_DIRECT was not set. Some filesystems keep to
    /// O_DIRECT only for reads, so it matters whether the file is for `writing`. Fails with [`Refused`] inside under
    /// [`DirectPolicy::Always`].
    pub fn choose(file: &File, refusal: Option<String>, policy: DirectPolicy, writing: bool) -> io::Result<Choice> {
        let choice = Self::best(file, refusal, policy, writing)?;
        if !choice.mode.is_aligned() {
            sys::set_direct(file, false)?;
        }
        match choice.why_not_direct {
            Some(why) if policy == DirectPolicy::Always => Err(io::Error::other(Refused(why))),
            why_not_direct => Ok(Choice { why_not_direct, ..choice }),
        }
    }

    fn best(file: &File, refusal: Option<String>, policy: DirectPolicy, writing: bool) -> io::Result<Choice> {
        let unaligned = |mode, why: Option<&str>| {
            Ok(Choice { mode, alignment: DEFAULT_ALIGNMENT, why_not_direct: why.map(str::to_string) })
        };
        let device = file.metadata()?.file_type().is_block_device();
        let filesystem = if device { 0 } else { sys::filesystem(file)? };
        let in_memory = sys::MEMORY_FILESYSTEMS.contains(&filesystem);
        if policy == DirectPolicy::Never {
            return unaligned(if in_memory { IoMode::InMemory } else { IoMode::Buffered }, None);
        }
        if in_memory {
            return unaligned(IoMode::InMemory, Some("the filesystem is in memory"));
        }
        if refusal.is_some() {
            return unaligned(IoMode::DontCache, refusal.as_deref());
        }
        let Some(alignment) = Alignment::probe(file)? else {
            return unaligned(IoMode::DontCache, Some("the filesystem has no direct I/O for this file"));
        };
        let flags = sys::inode_flags(file).unwrap_or(0);
        let (mode, why) = match filesystem {
            // Measured on Linux 6.18: a direct write to a file with checksums goes through the cache, page by page, and
            // btrfs evicts the pages itself.
            sys::BTRFS if writing && flags & sys::NOCOW != 0 => (IoMode::Direct, None),
            sys::BTRFS if writing => (IoMode::MaybeBuffered, Some("btrfs buffers files that have checksums")),
            sys::BTRFS => (IoMode::MaybeBuffered, None),
            // Without extents (ext2, ext3), ext4 buffers the direct writes that fill holes.
            sys::EXT if writing && flags & sys::EXTENTS_OR_INLINE == 0 => {
                (IoMode::MaybeBuffered, Some("files without extents are buffered"))
            }
            _ => (IoMode::Direct, None),
        };
        Ok(Choice { mode, alignment, why_not_direct: why.map(str::to_string) })
    }
}

/// Opens `path` with O_DIRECT, or without it where the filesystem or `policy` asks for that. Gives the file, and why the
/// filesystem refused O_DIRECT, if it did.
pub(crate) fn open(
    path: &Path,
    options: &OpenOptions,
    flags: i32,
    policy: DirectPolicy,
) -> io::Result<(File, Option<String>)> {
    if policy == DirectPolicy::Never {
        return Ok((options.clone().custom_flags(flags).open(path)?, None));
    }
    match options.clone().custom_flags(flags | libc::O_DIRECT).open(path) {
        Err(e) if is_refusal(&e) => {
            let file = options.clone().custom_flags(flags).open(path)?;
            Ok((file, Some(format!("the filesystem does not open with O_DIRECT ({e})"))))
        }
        other => Ok((other?, None)),
    }
}

/// True for the errors by which filesystems report that they do not support a kind of I/O.
pub(super) fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS))
}
