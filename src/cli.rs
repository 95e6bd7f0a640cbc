//! The command line's definition; --help, the man page and the completions are made from it.

use clap::{Parser, ValueEnum};
use std::ffi::OsString;

/// Copies one stream of bytes past the page cache: direct, exact, atomic, durable.
#[derive(Parser, Clone, Debug)]
#[command(
    name = "dio-cp",
    version,
    about = "Copy a file, device or pipe with O_DIRECT: exact, atomic, durable, and the page cache stays as it was",
    after_help = AFTER_HELP,
    override_usage = "dio-cp [OPTIONS] <SRC> <DST>",
    args_override_self = true
)]
pub struct Cli {
    /// What to copy: a file, a block device, a FIFO or character device, or - for standard input
    #[arg(value_name = "SRC", value_hint = clap::ValueHint::FilePath)]
    pub source: OsString,

    /// Where to: a file, an existing directory (the source's name is kept), a block device, a FIFO or
    /// character device, or - for standard output
    #[arg(value_name = "DST", value_hint = clap::ValueHint::AnyPath)]
    pub destination: OsString,

    /// Bytes per read and write
    #[arg(short, long, value_name = "SIZE", default_value = "4M")]
    pub block_size: String,

    /// Blocks in flight; memory = N × block size
    #[arg(long, value_name = "N", default_value = "4")]
    pub queue_depth: String,

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

const AFTER_HELP: &str = "\
Sizes: K, M, G, T = powers of 1024 (KiB, MiB … too); kB, MB, GB, TB = powers of 1000; plain numbers = bytes.

Exit status: 0 done, 1 the copy failed, 2 usage, 3 content not as required (--size),
4 direct I/O refused under --direct always; a signal ends the program by that signal.
SIGUSR1 prints a progress line and goes on.

Examples:
  dio-cp src dst                              copy a file, whole or not at all
  curl -fL https://… | dio-cp - out.iso       download past the page cache
  pg_dump db | dio-cp - db.dump               back up beside a live database
  dio-cp backup.tar - | tar x                 read past the page cache
  sudo dio-cp image.raw /dev/sdX              write an image to a device";
