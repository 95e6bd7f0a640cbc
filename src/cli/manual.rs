//! The text of the manual, except for the options: `--help` shows the start of it, and the man page all of it.

mod limits;
mod reports;
mod topics;
mod trees;

/// A section of the man page: paragraphs, then terms with their explanations.
pub struct Section {
    /// In capitals, as is usual in man pages.
    pub title: &'static str,
    /// Paragraphs.
    pub text: &'static [&'static str],
    /// Terms and what they mean.
    pub terms: &'static [(&'static str, &'static str)],
}

/// What the program is, for the top of `--help`.
pub const ABOUT: &str = "\
Copies files, directory trees, block devices, pipes, URLs and the output of commands with O_DIRECT. A copy of any size leaves the page cache as it found it, fits in \
a 32 MiB container, ends only when the data are on the medium, and never leaves a half-written file under the final \
name.";

/// How sizes are written.
pub const SIZES: &str = "\
K, M, G, T, P and E (or KiB, MiB …) are powers of 1024; kB, MB, GB … are powers of 1000; plain numbers are bytes. \
Fractions are allowed (1.5G).";

/// Exit statuses and their meanings.
pub const EXIT_STATUS: [(&str, &str); 8] = [
    ("0", "Success: data, names, lengths and attributes are on the medium, unless --no-sync was given."),
    ("1", "The copy failed: an I/O error, no space, SRC changed, or the copy was refused (same file, device in use)."),
    ("2", "Usage error: wrong arguments."),
    ("3", "The content is not what --size, --checksum, --checksum-file or --verify requires."),
    ("4", "Direct I/O was refused (--direct always)."),
    ("5", "The copy is complete, but left pages in the page cache, or they cannot be counted (--check-cache)."),
    ("6", "The command of --from-command failed or could not be started: a file DST is unchanged."),
    ("128+N", "Terminated by signal N, after cleaning up (130 for SIGINT, 143 for SIGTERM)."),
];

/// Commands to paste, and what they do.
pub const EXAMPLES: [(&str, &str); 20] = [
    ("dio-cp src dst", "Copy a file."),
    ("dio-cp vm.img /backup/", "Copy a file into a directory. Holes stay holes."),
    ("dio-cp -a /srv/data /backup/", "Back up a directory: everything in it, with all attributes."),
    ("dio-cp -a -u /srv/data /backup/", "Update the backup every night: only what has changed is copied."),
    ("dio-cp -r --exclude '*.o' --exclude .git src /backup/", "Leave some names out."),
    ("dio-cp https://example.org/os.iso .", "Download a file. Lost connections are resumed."),
    (
        "dio-cp --resume --connections 4 https://example.org/os.iso .",
        "Download in parallel; repeat after Ctrl-C to resume.",
    ),
    ("dio-cp --from-command db.dump -- pg_dump db", "Write the output of a command, if the command succeeds."),
    ("dio-cp --from-command os.iso -- curl -fL https://example.org/os.iso", "Write what another tool downloads."),
    ("sudo dio-cp --from-command /dev/sdX -- xz -dc image.xz", "Write a compressed image to a device."),
    ("pg_dump db | dio-cp - db.dump", "Write what a pipe delivers. dio-cp cannot tell if pg_dump fails."),
    ("dio-cp --reflink always vm.img snapshot.img", "Clone a file, or fail."),
    ("dio-cp backup.tar - | tar x", "Read a file without filling the page cache."),
    ("sudo dio-cp image.raw /dev/sdX", "Write an image to a device, after confirmation."),
    ("dio-cp --check-cache --verify src dst", "Copy, then check the medium and the page cache."),
    ("dio-cp --checksum-file SHA256SUMS os.iso /srv/", "Copy only if the digest is the listed one."),
    ("dio-cp --idle vm.img /backup/", "Copy while nobody else uses the disk."),
    ("dio-cp --rate-limit 50M vm.img /backup/", "Copy at a steady 50 MiB/s."),
    ("dio-cp --skip 1M --count 4K disk.img part", "Extract a part; --seek 1M writes it back."),
    ("dio-cp --residency -v /var/lib", "List which files of a tree are in the page cache."),
];

/// The sections before the options.
pub const BEFORE_OPTIONS: &[&Section] = &[&topics::DESCRIPTION];

/// The sections after the options.
pub const AFTER_OPTIONS: &[&Section] = &[
    &Section { title: "SIZES", text: &[SIZES], terms: &[] },
    &Section { title: "EXIT STATUS", text: &[], terms: &EXIT_STATUS },
    &topics::PAGE_CACHE,
    &topics::ATOMICITY,
    &trees::TREES,
    &topics::COMMANDS,
    &topics::CLONES,
    &topics::SHARING_THE_DISK,
    &topics::URLS,
    &topics::RESUMING,
    &topics::VERIFYING,
    &limits::LIMITS,
    &topics::SIGNALS,
    &reports::PROGRESS_LINES,
    &reports::JSON_REPORT,
    &trees::JSON_REPORT_OF_TREES,
    &reports::RESIDENCY_REPORT,
    &topics::FILES,
    &topics::ENVIRONMENT,
    &Section { title: "EXAMPLES", text: &[], terms: &EXAMPLES },
    &Section {
        title: "SEE ALSO",
        text: &["dd(1), cp(1), rsync(1), curl(1), vmtouch(8), fincore(1), open(2), statx(2), cachestat(2)"],
        terms: &[],
    },
];

/// The end of `--help`.
pub(super) fn after_long_help() -> String {
    let statuses: Vec<_> = EXIT_STATUS.iter().map(|(status, meaning)| format!("  {status:<7}{meaning}")).collect();
    let examples: Vec<_> = EXAMPLES.iter().map(|(command, text)| format!("  {command}\n      {text}")).collect();
    format!(
        "Sizes: {SIZES}\n\nExit status:\n{}\n\nSIGUSR1 prints a progress line.\n\nExamples:\n{}\n\nThe manual is dio-cp(1).",
        statuses.join("\n"),
        examples.join("\n")
    )
}
