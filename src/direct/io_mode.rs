//! The I/O modes, from best to worst, and how the mode for a file is chosen when the file is opened.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use super::{Alignment, DirectPolicy, Refused};
use crate::sys;

/// How a file is read and written, best mode first. If the kernel refuses a mode, [`FileIo`](super::file_io::FileIo)
/// falls back to the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
#[repr(u8)]
pub(super) enum IoMode {
    /// O_DIRECT, and the filesystem always honors it.
    Direct,
    /// The filesystem accepts O_DIRECT, but may use the page cache anyway (btrfs).
    MaybeBuffered,
    /// Through the page cache with RWF_DONTCACHE (Linux 6.14): the kernel evicts the pages after each transfer.
    DontCache,
    /// Through the page cache. After each transfer, the pages are written back and evicted.
    DropBehind,
    /// Through the page cache on purpose.
    Buffered,
    /// The filesystem is in memory: its files are stored in the page cache.
    InMemory,
}

const IO_MODES: [IoMode; 6] =
    [IoMode::Direct, IoMode::MaybeBuffered, IoMode::DontCache, IoMode::DropBehind, IoMode::Buffered, IoMode::InMemory];

/// The alignment reported for a file without direct I/O. Its transfers need no alignment, and 4096 suits every block
/// size.
const DEFAULT_ALIGNMENT: Alignment = Alignment { memory: 4096, offset: 4096 };

/// The mode that was chosen for a file.
pub(super) struct Choice {
    pub mode: IoMode,
    pub alignment: Alignment,
    /// Why direct I/O is not expected for all bytes. None if it is expected, or was not requested.
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

    /// Chooses the mode for an open file. `refusal` says why [`open`] could not set O_DIRECT. `writing` matters because
    /// some filesystems honor O_DIRECT for reads only. If direct I/O is not expected for all bytes and
    /// `policy` is [`DirectPolicy::Always`], fails with [`Refused`] as the inner error.
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
            return unaligned(IoMode::DontCache, Some("the filesystem does not support direct I/O for this file"));
        };
        let flags = sys::inode_flags(file).unwrap_or(0);
        let (mode, why) = match filesystem {
            // Measured on Linux 6.18: btrfs performs a direct write to a file with checksums through the page cache,
            // page by page, and evicts the pages itself.
            sys::BTRFS if writing && flags & sys::NOCOW != 0 => (IoMode::Direct, None),
            sys::BTRFS if writing => (IoMode::MaybeBuffered, Some("btrfs buffers files that have checksums")),
            sys::BTRFS => (IoMode::MaybeBuffered, None),
            // If the file does not use extents (ext2, ext3), ext4 buffers direct writes that fill holes.
            sys::EXT if writing && flags & sys::EXTENTS_OR_INLINE == 0 => {
                (IoMode::MaybeBuffered, Some("files without extents are buffered"))
            }
            _ => (IoMode::Direct, None),
        };
        Ok(Choice { mode, alignment, why_not_direct: why.map(str::to_string) })
    }
}

/// Opens `path` with O_DIRECT, or without it if `policy` says so or the filesystem refuses it. Returns the file and, if
/// the filesystem refused O_DIRECT, the reason.
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
            Ok((file, Some(format!("the filesystem does not support O_DIRECT ({e})"))))
        }
        other => Ok((other?, None)),
    }
}

/// True for the errors that filesystems return if they do not support a kind of I/O.
pub(super) fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS))
}
