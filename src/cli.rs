//! The command line's definition; --help, the man page and the completions are made from it.

use clap::{Parser, ValueEnum};
use std::ffi::OsString;

/// Copies one stream of bytes past the page cache: direct, exact, atomic, durable.
#[derive(Parser, Clone, Debug)]
#[command(
    name = "dio-cp",
    version,
    about = "Copy a file, device, pipe or URL with O_DIRECT: exact, atomic, durable, and the page cache stays as it was",
    after_help = after_help(),
    override_usage = "dio-cp [OPTIONS] <SRC> <DST>\n       dio-cp --residency [--cgroups] <PATH>...",
    args_override_self = true
)]
pub struct Cli {
    /// Report the resident pages of files and trees; nothing is copied
    #[arg(long, conflicts_with_all = ["block_size", "queue_depth", "direct", "skip", "count", "seek", "in_place",
        "sparse", "no_clobber", "force", "no_sync", "preserve", "size", "checksum", "checksum_file", "verify",
        "check_cache", "resume", "header", "cacert", "connect_timeout", "timeout", "retry", "connections"])]
    pub residency: bool,

    /// With --residency: by the memory cgroup that is charged for the pages, too (root)
    #[arg(long, requires = "residency")]
    pub cgroups: bool,

    /// What to copy: a file, a block device, a FIFO or character device, - for standard input, or an
    /// http(s) URL
    #[arg(value_name = "SRC", value_hint = clap::ValueHint::FilePath)]
    pub source: OsString,

    /// Where to: a file, an existing directory (the source's name is kept), a block device, a FIFO or
    /// character device, or - for standard output
    #[arg(value_name = "DST", value_hint = clap::ValueHint::AnyPath, required_unless_present = "residency")]
    pub destination: Option<OsString>,

    /// With --residency: more files and trees
    #[arg(value_name = "PATH", value_hint = clap::ValueHint::AnyPath)]
    pub more: Vec<OsString>,

    /// Bytes per read and write [default: 4M; less under --rate-limit]
    #[arg(short, long, value_name = "SIZE")]
    pub block_size: Option<String>,

    /// Blocks in flight; memory = N × block size [default: 4; fewer under --rate-limit]
    #[arg(long, value_name = "N")]
    pub queue_depth: Option<String>,

    /// Where direct I/O is refused: go on uncached and say so, fail with status 4, or do not try
    #[arg(long, value_name = "WHEN", value_enum, default_value_t)]
    pub direct: When,

    /// Start at this offset of SRC
    #[arg(long, value_name = "SIZE")]
    pub skip: Option<String>,

    /// Copy at most this many bytes
    #[arg(long, value_name = "SIZE")]
    pub count: Option<String>,

    /// Start at this offset of DST; implies --in-place, and nothing outside the written range changes
    #[arg(long, value_name = "SIZE")]
    pub seek: Option<String>,

    /// Overwrite DST's own bytes, instead of replacing it whole at the end
    #[arg(long)]
    pub in_place: bool,

    /// Holes: keep those of SRC, make zeros holes too, or write everything
    #[arg(long, value_name = "WHEN", value_enum, default_value_t)]
    pub sparse: When,

    /// Fail if DST exists, decided when the file gets its name
    #[arg(short, long)]
    pub no_clobber: bool,

    /// Write to a block device without asking
    #[arg(short, long)]
    pub force: bool,

    /// Do not wait for the medium
    #[arg(long)]
    pub no_sync: bool,

    /// Keep timestamps, owner, mode and extended attributes too
    #[arg(short, long)]
    pub preserve: bool,

    /// SRC must have exactly this many bytes; for a pipe, reserves the space and gives the bar a total
    #[arg(long, value_name = "SIZE")]
    pub size: Option<String>,

    /// Digest of the bytes copied: sha256, sha512 or blake3; with HEX, a mismatch publishes nothing
    /// (also ALG=HEX, ALG-HEX)
    #[arg(long, value_name = "ALG[:HEX]")]
    pub checksum: Option<String>,

    /// Require the digest that this list (SHA256SUMS; GNU or BSD lines) has for SRC's or DST's name
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub checksum_file: Option<OsString>,

    /// Read DST back from the medium and compare, before it gets its name
    #[arg(long)]
    pub verify: bool,

    /// Report the pages of SRC and DST in the page cache before, during and after; fail with status 5 if
    /// the copy left any
    #[arg(long)]
    pub check_cache: bool,

    /// Keep what was copied if the copy is interrupted, and go on from what an earlier one kept
    #[arg(long)]
    pub resume: bool,

    /// The most bytes per second, evenly; the blocks shrink with it, so that the disk is spared, too
    #[arg(long, value_name = "SIZE")]
    pub rate_limit: Option<String>,

    /// Take only what nobody else wants of the disk: idle I/O class, and small blocks with pauses while
    /// others use it
    #[arg(long)]
    pub idle: bool,

    /// For a URL: a header line of the request ("Name: value"); may be given more than once
    #[arg(long, value_name = "LINE")]
    pub header: Vec<String>,

    /// For a URL: trust the certificates in this file (PEM) instead of the system's
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub cacert: Option<OsString>,

    /// For a URL: how long looking up the name and connecting may take [default: 30]
    #[arg(long, value_name = "SECONDS")]
    pub connect_timeout: Option<String>,

    /// For a URL: how long the server may be silent [default: 60]
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<String>,

    /// For a URL: how often, in a row, to try again after a lost connection, a time-out, or status 408,
    /// 429 or 5xx [default: 5]
    #[arg(long, value_name = "N")]
    pub retry: Option<String>,

    /// For a URL: fetch ranges side by side over this many connections; memory = N × block size if that
    /// is more than the queue depth [default: 1]
    #[arg(long, value_name = "N")]
    pub connections: Option<String>,

    /// The final report as one JSON object on standard output
    #[arg(long)]
    pub json: bool,

    /// What to show: a bar on a terminal and nothing elsewhere, always a bar, JSON lines, or nothing
    #[arg(long, value_name = "HOW", value_enum, default_value_t)]
    pub progress: Progress,

    /// Say nothing but errors
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Say what was chosen, and why
    #[arg(short, long)]
    pub verbose: bool,
}

/// For choices that a program can make by itself.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum When {
    /// As it turns out
    #[default]
    Auto,
    /// In any case
    Always,
    /// In no case
    Never,
}

/// Ways to show progress, on standard error.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Progress {
    /// A bar on a terminal, otherwise nothing
    #[default]
    Auto,
    /// A bar; lines where there is no terminal
    Bar,
    /// One JSON object a line
    Json,
    /// Nothing
    None,
}

/// How sizes are written.
pub const SIZES: &str = "K, M, G, T are powers of 1024 (KiB, MiB … too); kB, MB, GB, TB are powers of 1000; \
                         plain numbers are bytes; fractions are allowed (1.5G).";

/// Exit statuses and their meanings.
pub const EXIT_STATUS: [(&str, &str); 7] = [
    ("0", "Done: data, name and length are on the medium."),
    ("1", "The copy failed: an I/O error, no space, the source changed, or it was refused (same file, device in use)."),
    ("2", "Usage: the arguments cannot be meant."),
    ("3", "The content is not as required (--size, --checksum, --verify)."),
    ("4", "Direct I/O was refused under --direct always."),
    ("5", "The copy is done, but pages were left in the cache under --check-cache, or that is not known."),
    ("128+N", "Ended by signal N, after cleaning up (130 for SIGINT, 143 for SIGTERM)."),
];

/// Lines to paste, and what they do.
pub const EXAMPLES: [(&str, &str); 14] = [
    ("dio-cp src dst", "Copy a file, whole or not at all."),
    ("dio-cp https://example.org/os.iso .", "Download past the page cache; lost connections are gone on with."),
    ("dio-cp --resume --connections 4 https://example.org/os.iso .", "In parallel; run it again after Ctrl-C."),
    ("curl -fL https://example.org/os.iso | dio-cp - os.iso", "Leave the downloading to another tool."),
    ("pg_dump db | dio-cp - db.dump", "Back up beside a live database."),
    ("dio-cp vm.img /backup/", "Copy into a directory, holes kept."),
    ("dio-cp backup.tar - | tar x", "Read past the page cache."),
    ("sudo dio-cp image.raw /dev/sdX", "Write an image to a device; it asks first."),
    ("dio-cp --skip 1M --count 4K disk.img head", "Cut a piece out of a file."),
    ("dio-cp --seek 1M head disk.img", "Put it back; nothing else changes."),
    ("dio-cp --check-cache --verify src dst", "Copy, and prove it: the cache and the medium."),
    ("dio-cp --idle vm.img /backup/", "Take only what nobody else wants of the disk."),
    ("dio-cp --rate-limit 50M vm.img /backup/", "No faster than this, and evenly."),
    ("dio-cp --residency -v /var/lib", "See what of a tree is in the page cache."),
];

fn after_help() -> String {
    let statuses: Vec<_> = EXIT_STATUS.iter().map(|(status, meaning)| format!("  {status:<7}{meaning}")).collect();
    let examples: Vec<_> = EXAMPLES.iter().map(|(line, what)| format!("  {line}\n      {what}")).collect();
    format!(
        "Sizes: {SIZES}\n\nExit status:\n{}\n\nSIGUSR1 prints a progress line and goes on.\n\nExamples:\n{}",
        statuses.join("\n"),
        examples.join("\n")
    )
}
