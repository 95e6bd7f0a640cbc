//! Sections of the man page that explain how dio-cp works.

use super::Section;

pub const DESCRIPTION: Section = Section {
    title: "DESCRIPTION",
    text: &[
        super::ABOUT,
        "SRC is a file, a block device, a FIFO or character device, an http(s) URL, or - for standard input. With \
         --from-command it is what a command prints. DST is a file, an \
         existing directory (the copy gets the file name of SRC), a block device, a FIFO or character device, or - for \
         standard output.",
        "The last line on standard error has the format of dd's. Lines before it report where direct \
         I/O was refused, and what was cloned.",
    ],
    terms: &[],
};

pub const PAGE_CACHE: Section = Section {
    title: "PAGE CACHE",
    text: &[
        "During a copy the kernel inserts no page of SRC into the page cache, and at most the last, partial page of DST, \
         which is evicted before the copy ends. Pages of SRC that were resident before stay resident.",
        "If all pages of a block of the source file are resident, the block is read from the page cache; everything else is read \
         with direct I/O. No page is inserted, evicted or marked as recently used, and dirty pages need not be written \
         back first. -v and --json (read, resident) say how much was read this way. With --direct=always, everything is read from \
         the disk. The kernel says what is resident only for files that the user may write or owns. Block devices are \
         always read from the disk.",
        "Where direct I/O is refused (FUSE without direct I/O, squashfs, ext4 with data=journal), the copy goes through the \
         page cache with RWF_DONTCACHE (Linux 6.14), or evicts the pages after each transfer, and this is reported.",
    ],
    terms: &[],
};

pub const ATOMICITY: Section = Section {
    title: "ATOMICITY AND DURABILITY",
    text: &[
        "A new file is written without a name (O_TMPFILE) and gets its name when it is complete and on the medium. An \
         existing file is replaced as a whole at that moment: its name always refers to the complete old content or to \
         the complete new content, even after a power failure, a full disk, a lost connection or SIGKILL. The new file keeps the \
         mode, owner and extended attributes of the old one. Other hard links keep the old content, and programs that \
         have the old file open continue to read it.",
        "--in-place, --seek, block devices and streams overwrite DST directly. These copies are durable, but not atomic.",
        "Exit status 0 means that data, name, length and attributes are on the medium, unless --no-sync was given.",
    ],
    terms: &[],
};

pub const COMMANDS: Section = Section {
    title: "COMMANDS",
    text: &[
        "A program at the end of a pipe cannot know whether the program before it failed: (head -c 1M /dev/urandom; exit 1) | \
         dio-cp - out creates a truncated file, with exit status 0. With --from-command, dio-cp runs the command itself, and \
         its exit status is part of the result. If the command exits with a status other than 0, is terminated by a signal, or \
         cannot be started, DST is not created or replaced, and the exit status is 6. If DST is a device \
         or a stream, the bytes have already been written; the exit status is 6 in that case, too.",
        "The command starts when DST is open and can be written. It runs without a shell: for pipes and redirections, use -- \
         bash -c 'set -o pipefail; COMMAND | COMMAND'. dio-cp waits for it even if it closes its output \
         early. With --count, a command that prints more is terminated, and its exit status does not matter.",
        "The command has a process group of its own. If the copy fails or a signal ends it, the group gets SIGTERM or that \
         signal, and SIGKILL a second later; processes that have left the group (setsid) are not reached. Ctrl-Z \
         stops the copy and the command; fg continues them. A command can read from the terminal, for example to ask for a password.",
    ],
    terms: &[],
};

pub const CLONES: Section = Section {
    title: "CLONES",
    text: &[
        "On filesystems that share blocks between files (XFS, btrfs, bcachefs and others), a copy within one filesystem is a \
         clone, as with cp(1): it takes milliseconds and no space, whatever its size. Later changes to one file do not \
         affect the other. A clone is atomic and durable like any copy, and inserts nothing into the page cache; dirty \
         pages of SRC are written back first. A line before the last one says how many bytes were cloned, and the rate in \
         the last line counts only bytes that were copied.",
        "With --skip, --count and --seek, whole blocks of the filesystem are cloned and the rest is copied, if the offsets \
         in SRC and DST are equally aligned. --checksum and --verify still read SRC. With --sparse or --direct \
         other than auto, the data are copied, and with --reflink=never, too: use that where DST must survive damage to SRC's \
         blocks. On btrfs, a file with checksums cannot be cloned into one without (chattr +C), or vice versa.",
    ],
    terms: &[],
};

pub const SHARING_THE_DISK: Section = Section {
    title: "SHARING THE DISK",
    text: &[
        "--rate-limit: in any tenth of a second, the copy reads at most a tenth of the limit plus one block, and writes at most as \
         much. Up to 350 MB/s it uses one block at a time, of 64 to 80 KiB, unless -b and --queue-depth say \
         otherwise; on a spinning disk, a larger -b is faster. Holes do not count, except when they are written to a pipe. \
         --verify reads back at the same rate.",
        "--idle: the copy runs at full speed, in the idle I/O class, while nobody else uses the disk. Ten times a second it \
         pauses for 2 ms to see whether the disk is still busy. If so, it yields: it makes transfers of 96 KiB, one at a \
         time with a pause after each, at 250 MB/s at most, until nobody else has used the disk for a quarter of a second. This wait gets \
         longer, up to 8 s, if the disk turns out to be busy again soon after. It reads the kernel's counters of the disks under SRC and DST, or of all disks where the \
         kernel does not say which ones these are (btrfs, overlay, network filesystems). No particular I/O scheduler is \
         needed. -v reports what it sees.",
    ],
    terms: &[],
};

pub const URLS: Section = Section {
    title: "URLS",
    text: &[
        "The file gets exactly the bytes that the server sends; no content encoding is decoded. Up to 20 redirects are \
         followed. Credentials and cookies are not sent to another server. In a directory, the file name is taken from \
         Content-Disposition, or else from the last segment of the URL. A file whose name was chosen by the server never \
         replaces an existing file.",
        "A body that is shorter or longer than announced, a truncated chunked body, and a status of 4xx or 5xx are errors: \
         DST is not created or replaced.",
        "After a lost connection, the download resumes where it stopped (Range with If-Range), after a delay of 0.5 s, 1 s, \
         2 s and so on, or what Retry-After says, up to an hour. --retry limits the failures in a row: after 16 MiB of \
         progress, the count starts again. If the file on the server has changed (ETag, Last-Modified or length), or if \
         the server does not identify its version, the download starts over: two versions are never mixed. A copy to a \
         stream or with --in-place cannot start over, and fails instead.",
        "--connections needs a server that supports ranges and identifies the version of the file (a strong ETag, or \
         Last-Modified and a length). Otherwise dio-cp uses one connection and says so. With --checksum, or when DST is a \
         stream, each request is for one block; a larger -b then helps with a distant server.",
        "Credentials come from the URL (https://user:password@host/), from --header \"Authorization: …\", or from ~/.netrc. \
         Passwords are never printed.",
        "HTTP/1.1 is used. URLs need the cargo feature url, which is on by default.",
    ],
    terms: &[],
};

pub const RESUMING: Section = Section {
    title: "RESUMING",
    text: &[
        "An interrupted copy with --resume leaves a partial file, .NAME.partial.dio-cp, next to DST. Its extended attribute \
         user.dio-cp.partial records which source it belongs to and how much of it is on the medium, updated once a \
         second. The next copy with --resume continues there if the source is the same: the same URL, version and \
         length, or the same file (device, inode, length and times). Otherwise it says why it starts over. A partial \
         file is used only if it belongs to the same user and nobody else can write to it.",
        "After a wrong digest nothing is kept, and after a failed fsync(2) nothing that was not on the medium before. Delete the \
         partial file if it is no longer wanted. --checksum reads back what an earlier copy left, and covers it. --verify does not, and says \"not verified\".",
    ],
    terms: &[],
};

pub const VERIFYING: Section = Section {
    title: "VERIFYING",
    text: &[
        "--verify keeps a digest of every 4 MiB copied. Before a new file gets its name, --verify reads it back from the \
         medium, bypassing the page cache, and compares the digests. They need 12 MiB of memory per TiB, and up to twice that \
         while the list grows.",
    ],
    terms: &[],
};

pub const SIGNALS: Section = Section {
    title: "SIGNALS",
    text: &[],
    terms: &[
        (
            "SIGINT, SIGTERM, SIGHUP",
            "Clean up, terminate the command of --from-command, report the state of DST, and terminate by the same signal.",
        ),
        ("SIGTSTP, SIGCONT", "Stop and continue, together with the command of --from-command."),
        ("SIGUSR1", "Print a progress line on standard error and continue."),
        ("SIGPIPE", "If standard output no longer has a reader, terminate silently by the same signal."),
    ],
};

pub const FILES: Section = Section {
    title: "FILES",
    text: &[],
    terms: &[
        (".NAME.partial.dio-cp", "An interrupted copy of NAME, for --resume."),
        (
            ".NAME.….dio-cp",
            "A new file that has no final name yet. On filesystems with O_TMPFILE it exists only while an existing file is \
             replaced, between two system calls; on others (NFS, FUSE, FAT) during the whole copy. A power failure can \
             leave it behind; on filesystems without O_TMPFILE, so can SIGKILL. It can be deleted.",
        ),
    ],
};

pub const ENVIRONMENT: Section = Section {
    title: "ENVIRONMENT",
    text: &[],
    terms: &[
        (
            "http_proxy, https_proxy, all_proxy, no_proxy",
            "Proxies for URLs, as for curl(1), in lower or upper case. no_proxy takes names and addresses, but no address \
             ranges.",
        ),
        ("SSL_CERT_FILE, SSL_CERT_DIR", "Certificates to trust instead of the system's."),
        ("NETRC, HOME", "The file with credentials for URLs: $NETRC, or else ~/.netrc."),
    ],
};
