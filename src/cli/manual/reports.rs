//! Sections of the man page that explain the JSON output.

use super::Section;

pub const PROGRESS_LINES: Section = Section {
    title: "PROGRESS LINES",
    text: &["With --progress json, one JSON object per line on standard error, at least once a second:"],
    terms: &[
        ("phase", "resuming, reserving, copying, syncing, verifying or done. Only done means durable."),
        ("bytes", "Bytes at the destination, including holes."),
        ("total", "Bytes in all, or null if that is not known."),
        ("seconds", "Time since the start."),
        ("bytes_per_second", "Average since the start."),
    ],
};

pub const JSON_REPORT: Section = Section {
    title: "JSON REPORT",
    text: &["With --json, one JSON object on standard output:"],
    terms: &[
        ("source, destination", "Their names. Symbolic links and directories in the destination are resolved."),
        (
            "command",
            "With --from-command: status, the command's exit status (0), or null if --count ended it. Otherwise null.",
        ),
        ("bytes", "Bytes at the destination."),
        ("resumed", "Of these, bytes that an earlier copy had left."),
        ("cloned", "Of these, bytes that share their blocks with the source. They count as neither read nor written."),
        ("holes", "Bytes of this copy that were holes in the source."),
        (
            "read, written",
            "Bytes by I/O mode: direct; resident (read from the page cache, where they already were); uncached (through the \
             page cache, and evicted at once); cached; memory (tmpfs).",
        ),
        ("seconds", "total, and its parts: copy, sync and verify."),
        ("digest", "algorithm and hex, or null."),
        ("verified", "Whether the copy was read back."),
        ("synced", "Whether the copy waited for the medium."),
        (
            "cached_pages",
            "Resident pages of a new file at the end, or null if the kernel does not say or other processes may have read it.",
        ),
        (
            "cache",
            "With --check-cache, resident pages of source and destination: before the copy, peak during it (sampled every \
             10 ms), and after; null where the kernel does not say.",
        ),
        ("alignment", "Alignment of direct transfers for source and destination, in bytes; 1 means none."),
        ("block_size, queue_depth", "The values used."),
        ("chosen", "What was chosen, and why."),
        ("notes", "What the user should know."),
    ],
};

pub const RESIDENCY_REPORT: Section = Section {
    title: "RESIDENCY REPORT",
    text: &["With --residency --json, one JSON object on standard output:"],
    terms: &[
        (
            "files, directories",
            "Number of files and directories. Symbolic links are followed only if they are arguments.",
        ),
        ("pages, bytes", "Size of the files. A page has page_size bytes."),
        ("resident, dirty", "Pages in the page cache; and of these, dirty or being written back."),
        ("unknown", "Files for which the kernel does not say: before Linux 6.5, and files of other users."),
        ("failed", "Paths that could not be read. Each is named on standard error, and the exit status is 1."),
        ("page_size, seconds", "Page size of this system; time taken."),
        ("cgroups", "With --cgroups: inode, path and pages of each cgroup that is charged; inode 0 means no cgroup."),
        (
            "list",
            "With -v: path, pages, bytes, resident, dirty, write_back, evicted and recently_evicted of each file; null \
             where the kernel does not say.",
        ),
    ],
};
