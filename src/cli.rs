//! The command line's definition. `--help`, the man page and the completions are generated from it.

mod dd;
pub mod manual;
mod values;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::{Parser, ValueHint};

pub use self::dd::refuse_dd_operands;
pub use self::values::{ChecksumValue, Progress};
use self::values::{DIRECT, HeaderParser, REFLINK, SPARSE, checksum, choice, positive_size, seconds, size};
use crate::direct::DirectPolicy;
use crate::job::{Reflink, Sparse};

const WHAT: &str = "What to copy";
const HOW: &str = "How to copy it";
const VERIFICATION: &str = "Verification";
const SHARING: &str = "Sharing the disk";
const URLS: &str = "URLs";
const OUTPUT: &str = "Output";

/// The arguments of the command, as the user gave them.
#[derive(Parser, Clone, Debug)]
#[command(
    name = "dio-cp",
    version,
    about = "Copy files, trees, devices, pipes, URLs, command output with O_DIRECT",
    long_about = manual::ABOUT,
    after_help = "Sizes: 4096, 64K, 4M, 1.5GiB (powers of 1024), 10GB (powers of 1000).\n\
                  --help describes all options in full; dio-cp(1) is the manual.",
    after_long_help = manual::after_long_help(),
    override_usage = "dio-cp [OPTIONS] <SRC> <DST>\n       \
                      dio-cp [OPTIONS] [-r | -a] <SRC>... <DIR>\n       \
                      dio-cp [OPTIONS] --from-command <DST> -- <COMMAND> [ARG]...\n       \
                      dio-cp --residency [--cgroups] <PATH>...",
    args_override_self = true
)]
pub struct Cli {
    /// SRC, then DST: file, block device, pipe, or - (standard stream)
    ///
    /// SRC may also be an http(s) URL. DST may be a directory, in which the copy gets the file name of SRC.
    #[arg(value_name = "PATH", value_hint = ValueHint::AnyPath)]
    paths: Vec<OsString>,

    /// With --from-command: the command, after --
    #[arg(value_name = "COMMAND", last = true, value_hint = ValueHint::CommandWithArguments)]
    after_dashes: Vec<OsString>,

    /// Copy directories with everything in them
    ///
    /// Symbolic links stay symbolic links, and FIFOs and device nodes are recreated, as with cp -r.
    #[arg(short, long, help_heading = WHAT)]
    pub recursive: bool,

    /// Like -r -p, and keep hard links
    #[arg(short, long, help_heading = WHAT)]
    pub archive: bool,

    /// Skip files whose copy has the same size and time
    ///
    /// The time is that of the last modification (rsync's quick check). Modification times are preserved.
    #[arg(short, long, help_heading = WHAT)]
    pub update: bool,

    /// Leave out names that match (gitignore syntax)
    ///
    /// May be given more than once; later patterns take precedence, and ! includes a name again.
    #[arg(long, value_name = "GLOB", help_heading = WHAT)]
    pub exclude: Vec<String>,

    /// Do not enter other filesystems
    #[arg(short = 'x', long, hide_short_help = true, help_heading = WHAT)]
    pub one_file_system: bool,

    /// Copy every SRC into DIR
    #[arg(short, long, value_name = "DIR", value_hint = ValueHint::DirPath, conflicts_with = "no_target_directory",
        hide_short_help = true, help_heading = WHAT)]
    pub target_directory: Option<PathBuf>,

    /// Treat DST as the name of the copy, even if it is a directory
    #[arg(short = 'T', long, hide_short_help = true, help_heading = WHAT)]
    pub no_target_directory: bool,

    /// Copy what a command prints
    ///
    /// The command's standard output is SRC, and a file DST is created or replaced only if the command exits with status 0.
    /// Otherwise it is unchanged, and the exit status is 6. The command starts without a shell and inherits standard input,
    /// standard error, environment and working directory. If the copy fails or is interrupted, the command is terminated.
    #[arg(long, help_heading = WHAT)]
    pub from_command: bool,

    /// Copy at most this many bytes
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = WHAT)]
    pub count: Option<u64>,

    /// Start at this offset in SRC
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = WHAT)]
    pub skip: Option<u64>,

    /// Start at this offset in DST (implies --in-place)
    ///
    /// Nothing outside the written range changes.
    #[arg(long, value_name = "SIZE", value_parser = size, hide_short_help = true, help_heading = WHAT)]
    pub seek: Option<u64>,

    /// Overwrite DST in place instead of replacing it
    ///
    /// DST stays the same file: its attributes, its hard links and any bytes past the end of the copy are kept. A copy
    /// that fails leaves DST partly overwritten.
    #[arg(long, help_heading = WHAT)]
    pub in_place: bool,

    /// Never replace an existing file
    ///
    /// A single copy fails if DST exists; of several files, those that exist are skipped. This is atomic: it is decided when
    /// the file gets its name.
    #[arg(short, long, help_heading = WHAT)]
    pub no_clobber: bool,

    /// Keep an interrupted copy, and continue it later
    ///
    /// An interrupted copy leaves a partial file, .NAME.partial.dio-cp, next to DST. The next copy with --resume continues
    /// it, provided that SRC has not changed.
    #[arg(long, help_heading = WHAT)]
    pub resume: bool,

    /// Preserve timestamps, owner, mode, ACLs and xattrs
    ///
    /// What cannot be preserved is reported, and the copy continues, as with cp -p. Without this option, a new file gets the
    /// mode of SRC less the umask, and a replaced file keeps its mode, owner and extended attributes.
    #[arg(short, long, help_heading = WHAT)]
    pub preserve: bool,

    /// Write to a block device without asking
    #[arg(short, long, help_heading = WHAT)]
    pub force: bool,

    /// What to do with holes
    #[arg(long, value_name = "WHEN", value_parser = choice(&SPARSE), default_value = "auto", help_heading = HOW)]
    pub sparse: Sparse,

    /// When to clone SRC instead of copying its data
    ///
    /// A clone shares its blocks with SRC: no data are copied, and no space is taken. Clones need SRC and DST on one
    /// filesystem, such as XFS or btrfs. With --sparse or --direct other than auto, the data are copied.
    #[arg(long, value_name = "WHEN", value_parser = choice(&REFLINK), default_value = "auto", help_heading = HOW)]
    pub reflink: Reflink,

    /// What to do if direct I/O is refused
    #[arg(long, value_name = "WHEN", value_parser = choice(&DIRECT), default_value = "auto", help_heading = HOW)]
    pub direct: DirectPolicy,

    /// Bytes per read and write [default: 4M]
    ///
    /// A multiple of the alignment that direct I/O needs, such as 4096. The default is smaller under --rate-limit.
    #[arg(short, long, value_name = "SIZE", value_parser = positive_size, help_heading = HOW)]
    pub block_size: Option<u64>,

    /// Blocks in flight [default: 4]
    ///
    /// Memory for buffers is N × block size. The default is 1 under --rate-limit, except at very high rates.
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<u64>::new().range(1..=1024), hide_short_help = true, help_heading = HOW)]
    pub queue_depth: Option<u64>,

    /// Do not wait until the data are on the medium
    #[arg(long, hide_short_help = true, help_heading = HOW)]
    pub no_sync: bool,

    /// Print the digest of the copy, or require it
    ///
    /// ALG is sha256, sha512 or blake3. The digest of the bytes copied goes to standard output, in the format of
    /// sha256sum(1). With HEX, a copy with any other digest does not get its name, and the exit status is 3. ALG=HEX and ALG-HEX
    /// are also accepted.
    #[arg(long, value_name = "ALG[:HEX]", value_parser = checksum, help_heading = VERIFICATION)]
    pub checksum: Option<ChecksumValue>,

    /// Require the digest listed in FILE
    ///
    /// FILE is a list such as SHA256SUMS, with GNU or BSD lines. It must list the file name of SRC or of DST.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = VERIFICATION)]
    pub checksum_file: Option<PathBuf>,

    /// Require SRC to have exactly this many bytes
    ///
    /// For a pipe, this also reserves the space in advance and gives the progress bar a total.
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = VERIFICATION)]
    pub size: Option<u64>,

    /// Read DST back from the medium and compare
    ///
    /// A new file is compared before it gets its name.
    #[arg(long, help_heading = VERIFICATION)]
    pub verify: bool,

    /// Fail if the copy leaves pages in the page cache
    ///
    /// Reports how many pages of SRC and DST are resident before, during and after the copy. The exit status is 5 if the
    /// copy left any, or if the kernel does not say.
    #[arg(long, help_heading = VERIFICATION)]
    pub check_cache: bool,

    /// Copy nothing; report which pages are resident
    ///
    /// Counts the pages of files and directory trees that are in the page cache, as vmtouch(8) does. With -v, one line per
    /// file.
    #[arg(long, help_heading = VERIFICATION, conflicts_with_all = ["block_size", "queue_depth", "direct", "skip", "count",
        "seek", "in_place", "sparse", "reflink", "from_command",
        "recursive", "archive", "update", "exclude", "one_file_system", "target_directory", "no_target_directory", "no_clobber", "force", "no_sync", "preserve", "size", "checksum", "checksum_file",
        "verify", "check_cache", "resume", "header", "cacert", "connect_timeout", "timeout", "retry", "connections"])]
    pub residency: bool,

    /// With --residency, list memory cgroups (root only)
    ///
    /// Each resident page is charged to one memory cgroup.
    #[arg(long, requires = "residency", hide_short_help = true, help_heading = VERIFICATION)]
    pub cgroups: bool,

    /// Limit the rate, in bytes per second
    ///
    /// The limit applies to reading and to writing separately, in every tenth of a second. Unless -b and --queue-depth say
    /// otherwise, blocks get smaller with the rate, so that other users of the disk do not have to wait for large ones.
    #[arg(long, value_name = "SIZE", value_parser = positive_size, help_heading = SHARING)]
    pub rate_limit: Option<u64>,

    /// Use the disk only when nobody else does
    ///
    /// Copies at full speed in the idle I/O class while the disk is otherwise idle, and in small blocks with pauses while
    /// others use it.
    #[arg(long, help_heading = SHARING)]
    pub idle: bool,

    /// Add a request header ("Name: value"); may be given more than once
    #[arg(long, value_name = "LINE", value_parser = HeaderParser, hide_short_help = true, help_heading = URLS)]
    pub header: Vec<(String, String)>,

    /// Download over N connections [default: 1]
    ///
    /// Each connection fetches ranges of the file. The server must support range requests and identify the version of the file.
    /// Memory for buffers is N × block size if N is larger than the queue depth.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64), help_heading = URLS)]
    pub connections: Option<u32>,

    /// Give up after N retries in a row [default: 5]
    ///
    /// A lost connection, a timeout, and the status codes 408, 429 and 5xx are retried.
    #[arg(long, value_name = "N", hide_short_help = true, help_heading = URLS)]
    pub retry: Option<u32>,

    /// Longest wait for data from the server [default: 60]
    #[arg(long, value_name = "SECONDS", value_parser = seconds, hide_short_help = true, help_heading = URLS)]
    pub timeout: Option<Duration>,

    /// Longest wait for a connection [default: 30]
    ///
    /// The limit applies to the name lookup and to the connection separately.
    #[arg(long, value_name = "SECONDS", value_parser = seconds, hide_short_help = true, help_heading = URLS)]
    pub connect_timeout: Option<Duration>,

    /// Trust the certificates in FILE (PEM) only
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, hide_short_help = true, help_heading = URLS)]
    pub cacert: Option<PathBuf>,

    /// How to show progress
    #[arg(long, value_name = "HOW", value_enum, default_value_t, help_heading = OUTPUT)]
    pub progress: Progress,

    /// Print the report as JSON on standard output
    #[arg(long, help_heading = OUTPUT)]
    pub json: bool,

    /// Print nothing but errors
    #[arg(short, long, conflicts_with = "verbose", help_heading = OUTPUT)]
    pub quiet: bool,

    /// Explain what was chosen, and why
    #[arg(short, long, help_heading = OUTPUT)]
    pub verbose: bool,
}

impl Cli {
    /// The operands: all arguments that are not options. Without --from-command, -- only ends the options.
    pub fn operands(&self) -> Vec<&OsStr> {
        let after_dashes = if self.from_command { &[][..] } else { &self.after_dashes };
        self.paths.iter().chain(after_dashes).map(OsString::as_os_str).collect()
    }

    /// The command whose output is copied; empty without --from-command.
    pub fn command_words(&self) -> &[OsString] {
        if self.from_command { &self.after_dashes } else { &[] }
    }
}
