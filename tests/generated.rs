//! --help, the man page, the completions and the README say the same. `DIO_CP_BLESS=1 cargo test
//! --test generated` makes the files anew from src/cli.rs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap_complete::Shell;
use dio_cp::cli::{Cli, EXAMPLES, EXIT_STATUS, SIZES};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The committed file must be what the definition makes.
fn hold(file: &str, made: &[u8]) {
    let path: PathBuf = root().join(file);
    if std::env::var_os("DIO_CP_BLESS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, made).unwrap();
    }
    let found = fs::read(&path).unwrap_or_default();
    assert!(found == made, "{file} is not what src/cli.rs makes; DIO_CP_BLESS=1 cargo test --test generated");
}

#[test]
fn completions_are_made_from_the_definition() {
    let mut command = Cli::command();
    for (shell, file) in [(Shell::Bash, "dio-cp.bash"), (Shell::Zsh, "_dio-cp"), (Shell::Fish, "dio-cp.fish")] {
        let mut made = Vec::new();
        clap_complete::generate(shell, &mut command, "dio-cp", &mut made);
        hold(&format!("completions/{file}"), &made);
    }
}

/// A section of the man page: its title, and paragraphs or (term, text) pairs.
fn section(out: &mut String, title: &str, paragraphs: &[&str]) {
    *out += &format!(".SH \"{title}\"\n");
    for paragraph in paragraphs {
        *out += &format!("{}\n.PP\n", escape(paragraph));
    }
}

fn terms(out: &mut String, title: &str, pairs: &[(&str, &str)]) {
    *out += &format!(".SH \"{title}\"\n");
    for (term, text) in pairs {
        *out += &format!(".TP\n\\fB{}\\fR\n{}\n", escape(term), escape(text));
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq").replace('…', "...")
}

#[test]
fn the_man_page_is_made_from_the_definition() {
    let man = clap_mangen::Man::new(Cli::command()).title("DIO-CP").manual("User Commands").source("dio-cp");
    let mut made = Vec::new();
    man.render_title(&mut made).unwrap();
    man.render_name_section(&mut made).unwrap();
    man.render_synopsis_section(&mut made).unwrap();
    let mut text = String::new();
    section(
        &mut text,
        "DESCRIPTION",
        &[
            "Copies one stream of bytes: from a file, a block device, a pipe, a character device or an http(s) URL, to \
             a file, a block device, a pipe or a character device. It reads and writes with O_DIRECT, so that a copy of any \
             size leaves the page cache as it found it; it fits in a 32 MiB container; it ends only when the data \
             are on the medium; and it never leaves a half-written file under the final name.",
            "A new file is built without a name and gets it when it is complete and on the medium. An existing file \
             is replaced whole at the end and keeps its mode, owner and extended attributes; its other hard links \
             keep the old content. With --in-place or --seek its own bytes are overwritten, and nothing outside the \
             written range changes.",
            "Where direct I/O is refused, the copy goes on through the page cache and out of it again, and says so \
             in one line.",
        ],
    );
    made.extend(text.as_bytes());
    man.render_options_section(&mut made).unwrap();
    let mut text = String::new();
    section(&mut text, "SIZES", &[SIZES]);
    terms(&mut text, "EXIT STATUS", &EXIT_STATUS);
    terms(
        &mut text,
        "SIGNALS",
        &[
            ("SIGINT, SIGTERM, SIGHUP", "Clean up, say what stands under DST's name, and end by that signal."),
            ("SIGUSR1", "Print a progress line on standard error and go on."),
            ("SIGPIPE", "Nobody reads standard output any more: end quietly by it."),
        ],
    );
    terms(
        &mut text,
        "PROGRESS LINES",
        &[
            ("phase", "What it is doing: resuming, reserving, copying, syncing, done. Only done means durable."),
            ("bytes", "Bytes at the destination, holes included."),
            ("total", "Bytes that there will be, or null if that is not known."),
            ("seconds", "Since the start."),
            ("bytes_per_second", "The mean since the start."),
        ],
    );
    terms(
        &mut text,
        "REPORT",
        &[
            ("source, destination", "The two ends; the destination with links and directories followed."),
            (
                "bytes, resumed, holes",
                "Bytes at the destination; of these, bytes that an earlier copy had left; bytes of this copy that the \
                 source had as holes.",
            ),
            (
                "read, written",
                "Bytes by the way they took: direct; resident (read from the cache, where they were already); uncached; cached; memory.",
            ),
            ("seconds", "total, and of this copy, sync and verify."),
            ("digest", "algorithm and hex, or null."),
            ("verified, synced", "Whether it was read back; whether it waited for the medium."),
            (
                "cached_pages",
                "Pages of a new file in the cache at the end, or null if the kernel does not tell or others may \
                 have some.",
            ),
            (
                "cache",
                "Under --check-cache, of source and destination: pages before, at most while it ran (sampled every \
                 10 ms: what comes and goes in between is not seen), and after; null where the kernel does not tell.",
            ),
            ("alignment", "Of direct transfers, of the source and of the destination, in bytes; 1 is none."),
            ("block_size, queue_depth", "What was used."),
            ("chosen, notes", "What was chosen and why; what the user should know."),
        ],
    );
    terms(
        &mut text,
        "RESIDENCY",
        &[
            ("files, directories", "Looked at and into. Links are followed only if they are named."),
            ("pages, bytes", "Of the files; a page has page_size bytes."),
            ("resident, dirty", "Pages in the cache; of these, changed or being written back."),
            ("unknown", "Files of which the kernel does not tell: before Linux 6.5, or of others' files."),
            ("failed", "Paths that could not be read; each is named on standard error, and the exit status is 1."),
            ("page_size, seconds", "Of this system; what the survey took."),
            ("cgroups", "With --cgroups: inode, path and pages of each cgroup that is charged; inode 0 is nobody."),
            (
                "list",
                "With -v: path, pages, bytes, resident, dirty, write_back, evicted and recently_evicted of each file; \
                 null where the kernel does not tell.",
            ),
        ],
    );
    section(
        &mut text,
        "URLS",
        &[
            "The bytes are those that are served: nothing is decoded. Redirects are followed, 20 at most; a login or \
             cookie does not go to another server. In a directory the file gets the name in Content-Disposition, or \
             else the last segment of the URL; a name that the server chose replaces nothing.",
            "What is lost on the way is asked for again from the byte that was reached, after a pause that grows or \
             that Retry-After says. Failures are counted in a row: 16 MiB that arrive start the count anew. If the \
             server has another version by now, or does not tell, the copy starts over; on a stream or with \
             --in-place it fails instead.",
            "--connections needs a server that serves ranges and names its version (a strong ETag, or Last-Modified \
             and length); else one connection is used, which is said.",
        ],
    );
    section(
        &mut text,
        "RESUME",
        &[
            "With --resume an interrupted copy leaves .NAME.partial.dio-cp beside DST, and on it an extended attribute, \
             user.dio-cp.partial: of what it is a part, and how far it is on the medium. The next copy with --resume \
             goes on from there if the source is still the same (URL, version and length; of a file device, inode, \
             length and times of change) and the file is the user's own; else it says why it starts over.",
        ],
    );
    terms(
        &mut text,
        "ENVIRONMENT",
        &[
            (
                "http_proxy, https_proxy, all_proxy, no_proxy",
                "Proxies for URLs, as curl(1) takes them; in either case.",
            ),
            ("SSL_CERT_FILE, SSL_CERT_DIR", "Certificates to trust instead of the system's."),
            ("NETRC, HOME", "Where logins for URLs are: the file NETRC, or ~/.netrc."),
        ],
    );
    section(
        &mut text,
        "VERIFY",
        &["For --verify a digest of each range of 4 MiB is kept, not the data: 48 bytes each, 12 MiB per TiB, and \
           twice that at most while the list grows. What is read back comes from the medium, past the page cache, \
           where direct I/O is to be had."],
    );
    terms(&mut text, "EXAMPLES", &EXAMPLES);
    section(&mut text, "SEE ALSO", &["dd(1), cp(1), open(2), statx(2), fincore(1)"]);
    made.extend(text.as_bytes());
    hold("man/dio-cp.1", &made);
}

/// Every `--word` in a text.
fn options_in(text: &str) -> Vec<String> {
    let mut found: Vec<String> = text
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
        .filter(|word| word.len() > 3 && word.starts_with("--") && word.as_bytes()[2] != b'-')
        .map(str::to_string)
        .collect();
    found.sort();
    found.dedup();
    found
}

#[test]
fn the_readme_names_every_option_status_and_example_and_no_other() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let mut known: Vec<String> =
        Cli::command().get_arguments().filter_map(|a| a.get_long()).map(|long| format!("--{long}")).collect();
    known.extend(["--help", "--version"].map(str::to_string));
    for option in &known {
        assert!(["--help", "--version"].contains(&option.as_str()) || readme.contains(option), "README lacks {option}");
    }
    let others = ["--release", "--bench", "--test", "--path", "--flush", "--no-default-features", "--readme"]; // cargo's and the peers'
    for option in options_in(&readme) {
        assert!(known.contains(&option) || others.contains(&option.as_str()), "README has {option}");
    }
    for (status, _) in EXIT_STATUS {
        assert!(readme.contains(&format!("| {status} |")), "README lacks status {status}");
    }
    for (line, _) in EXAMPLES {
        assert!(readme.contains(line), "README lacks the example {line}");
    }
}

#[test]
fn help_on_the_terminal_is_the_same_definition() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_dio-cp")).arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    for argument in Cli::command().get_arguments().filter_map(|a| a.get_long()) {
        assert!(help.contains(&format!("--{argument}")), "{argument}");
    }
}
