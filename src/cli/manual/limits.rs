//! The man page's section about limits.

use super::Section;

pub const LIMITS: Section = Section {
    title: "LIMITS",
    text: &[],
    terms: &[
        (
            "btrfs",
            "Files with data checksums are written through the page cache, even with O_DIRECT, and btrfs evicts the pages \
             itself (measured on Linux 6.18). Compressed files are read in the same way. dio-cp reports this as not \
             direct. Files in directories with chattr +C are written with direct I/O.",
        ),
        ("tmpfs", "tmpfs stores files in the page cache, so a copy to it is always cached."),
        ("FUSE", "The process that serves a FUSE filesystem may do buffered I/O of its own, which cannot be detected."),
        (
            "ext2, ext3",
            "Files without extents are buffered by the kernel when holes are filled. dio-cp reports this as not direct.",
        ),
        (
            "ext4 with data=journal",
            "On older kernels (measured on Linux 6.1), pages of DST may stay in the page cache. dio-cp reports how many.",
        ),
        (
            "overlayfs",
            "Residency is read with mincore(2) there, which misses pages that were partly written and not read since. A layer \
             on tmpfs is not detected.",
        ),
        (
            "Unknown residency",
            "Where the kernel does not say what is cached (a file that the user may not write) and direct I/O is refused, \
             pages of SRC that were cached before are evicted too, and this is reported.",
        ),
        (
            "--in-place past an unaligned end",
            "Such a copy inserts two pages, the old and the new last one, and evicts both.",
        ),
        (
            "SRC that changes",
            "A file that grows is copied up to the length it had at the start, and this is reported. A file that shrinks is \
             an error.",
        ),
        (
            "--sparse always",
            "Runs of zeros become holes if they are at least 64 KiB long, or one block if blocks are smaller: shorter holes \
             cost more requests than they save.",
        ),
        (
            "--from-command",
            "If dio-cp itself is killed with SIGKILL, the command gets SIGTERM, but not the processes that it started.",
        ),
        (
            "Sandboxes",
            "Where a seccomp filter refuses posix_fadvise(2), pages may stay in the page cache, and this is reported. Where it \
             refuses linkat(2), a new file has a hidden name during the copy, and -n needs renameat2(2).",
        ),
        (
            "Trees",
            "With -a, files with several hard links are remembered until the end: a few hundred bytes each. Files that -u skips are \
             neither in the manifest of --checksum nor compared with --checksum-file.",
        ),
        (
            "--idle",
            "Only this machine's use of a disk is seen, not that of other machines on shared storage. A process that uses the \
             disk a few times a second is noticed late. Reserving space and the final fsync(2) are not paused. Data that go through the page \
             cache are written by the kernel later, which looks like another process's activity.",
        ),
        (
            "--rate-limit",
            "Bytes that --skip passes over in a pipe do not count. With --connections, a server may send one block on each \
             connection at once after a stall.",
        ),
        ("--resume", "Needs extended attributes, which FAT lacks. Without them nothing is kept, and this is reported."),
        (
            "--resume with --connections",
            "Only the data before the first gap are kept: up to 64 MiB per connection are downloaded again.",
        ),
        (
            "Bodies without a length",
            "A body that ends with the connection counts as complete if the connection was closed properly.",
        ),
        ("--connections", "An error may be reported late, while a connection is being made: up to --connect-timeout."),
    ],
};
