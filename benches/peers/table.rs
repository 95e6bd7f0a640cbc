//! The tables: for the terminal, RESULTS.md and the README.

use crate::results::{Case, Frontier, Results, Row};
use crate::statistics::{median, range};

/// The cases of the bar chart, in this order.
pub const CHART_CASES: [&str; 23] = [
    "file-4k",
    "file-1m",
    "file-64m",
    "file-1g",
    "file-8g",
    "hot-1g",
    "half-hot-1g",
    "dirty-1g",
    "sparse-64g",
    "pipe-in",
    "pipe-out",
    "verify",
    "4kn-1g",
    "zram-1g",
    "url",
    "tree",
    "tree-large",
    "tree-unchanged",
    "clone-xfs",
    "clone-btrfs",
    "tree-clone-xfs",
    "tree-clone-btrfs",
    "producer",
];

/// The columns of the README's table: their titles, and the prefixes of the peers' names. The fastest peer is shown.
const README_COLUMNS: [(&str, &[&str]); 6] = [
    ("dd, direct I/O", &["dd 1M", "dd 4M", "dd 16M"]),
    ("cp, or cat with pipes", &["cp ", "cat "]),
    ("xcp", &["xcp "]),
    ("rsync", &["rsync "]),
    ("nocache cp", &["nocache "]),
    ("curl", &["curl -o"]),
];

/// The cases of the README's table, and their titles in it.
const README_CASES: [(&str, &str); 10] = [
    ("file-1g", "1 GiB file"),
    ("file-8g", "8 GiB file"),
    ("pipe-in", "2 GiB from a pipe"),
    ("pipe-out", "2 GiB into a pipe"),
    ("zram-1g", "1 GiB file, disk at memory speed"),
    ("url", "2 GiB download"),
    ("tree", "directory, 46,000 files"),
    ("tree-large", "directory, 8 files of 200 MiB"),
    ("tree-unchanged", "directory, nothing has changed"),
    ("tree-clone-btrfs", "directory, 46,000 files, cloned on btrfs"),
];

/// The cases that have another row in the README's table, about the page cache.
const README_CACHE_CASES: [(&str, &str); 2] =
    [("file-1g", "page cache filled by the 1 GiB file"), ("url", "page cache filled by the download")];

/// A size in the largest unit that is not larger than it.
pub fn size(bytes: u64) -> String {
    let (unit, name) = match bytes {
        0..0x400 => (1, "bytes"),
        0x400..0x10_0000 => (1 << 10, "KiB"),
        0x10_0000..0x4000_0000 => (1 << 20, "MiB"),
        _ => (1 << 30, "GiB"),
    };
    match bytes % unit {
        0 => format!("{} {name}", bytes / unit),
        _ => format!("{:.1} {name}", bytes as f64 / unit as f64),
    }
}

/// A time with about three digits.
pub fn seconds(value: f64) -> String {
    match value {
        ..0.01 => format!("{:.2} ms", value * 1000.0),
        ..0.1 => format!("{:.1} ms", value * 1000.0),
        ..1.0 => format!("{:.0} ms", value * 1000.0),
        ..10.0 => format!("{value:.2} s"),
        _ => format!("{value:.1} s"),
    }
}

/// A ratio with about two digits.
pub fn times(ratio: f64) -> String {
    if ratio < 9.95 { format!("{ratio:.1} ×") } else { format!("{ratio:.0} ×") }
}

fn rounds(number: usize) -> String {
    if number == 1 { "1 round".into() } else { format!("{number} rounds") }
}

/// The value as text, or a dash if it is unknown.
fn or_dash<T>(value: Option<T>, format: impl Fn(T) -> String) -> String {
    value.map_or_else(|| "–".to_string(), format)
}

fn cells(case: &Case) -> Vec<Vec<String>> {
    let has_cached = case.rows.iter().any(|row| row.source_cached.is_some());
    let mut head: Vec<String> =
        ["", "wall", "spread", "ratio", "CPU", "peak memory", "charged", "pages in, source + copy"]
            .map(Into::into)
            .into();
    if has_cached {
        head.push("source cached".into());
    }
    let line = |row: &Row| {
        let (low, high) = case.spread(row);
        let mut line = vec![
            row.peer.clone(),
            seconds(case.wall(row)),
            format!("{} – {}", seconds(low), seconds(high)),
            times(case.ratio(row)),
            seconds(case.cpu(row)),
            format!("{:.0} MiB", median(&row.peak_mib)),
            or_dash(row.charged_mib, |mib| format!("{mib:.0} MiB")),
            or_dash(row.pages, |pages| format!("{} + {}", pages.source, pages.copy)),
        ];
        if has_cached {
            let percent = |share: f64| format!("{:.0} %", share * 100.0);
            line.push(or_dash(row.source_cached, |share| {
                format!("{}, then {}", percent(share.before), percent(share.after))
            }));
        }
        line
    };
    [vec![head], case.rows.iter().map(line).collect()].concat()
}

fn frontier_cells(frontier: &Frontier) -> Vec<Vec<String>> {
    let head = ["", "copy", "spread", "reader's p50", "p99", "spread of p99"].map(Into::into).into();
    let speed = |value: f64| format!("{:.0} MB/s", value / 1e6);
    let line = frontier.points.iter().map(|point| {
        let (slow, fast) = range(&point.speed);
        let (low, high) = range(&point.p99);
        let ms = |value: f64| seconds(value / 1000.0);
        vec![
            point.peer.clone(),
            speed(median(&point.speed)),
            format!("{} – {}", speed(slow), speed(fast)),
            ms(median(&point.p50)),
            ms(median(&point.p99)),
            format!("{} – {}", ms(low), ms(high)),
        ]
    });
    [head].into_iter().chain(line).collect()
}

/// In columns, for a terminal.
fn aligned(cells: &[Vec<String>]) -> String {
    let width = |column: usize| cells.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..cells[0].len()).map(width).collect();
    let mut out = String::new();
    for line in cells {
        let mut text = format!("{:<width$}", line[0], width = widths[0]);
        for (cell, width) in line.iter().zip(&widths).skip(1) {
            text += &format!("  {cell:>width$}");
        }
        out += text.trim_end();
        out.push('\n');
    }
    out
}

fn markdown(cells: &[Vec<String>]) -> String {
    let line = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let rule = format!("|{}\n", "---|".repeat(cells[0].len()));
    let body: String = cells[1..].iter().map(|cells| line(cells)).collect();
    line(&cells[0]) + &rule + &body
}

/// A case, for the terminal.
pub fn text(case: &Case) -> String {
    let rounds = rounds(case.own().wall.len());
    let notes: String = case.notes.iter().map(|note| format!("{note}\n")).collect();
    format!("{}: {} (medians of {rounds})\n{}{notes}", case.name, case.title, aligned(&cells(case)))
}

pub fn frontier_text(frontier: &Frontier) -> String {
    let rounds = rounds(frontier.points[0].p99.len());
    let notes: String = frontier.notes.iter().map(|note| format!("{note}\n")).collect();
    format!("{} (medians of {rounds})\n{}{notes}", frontier.title, aligned(&frontier_cells(frontier)))
}

const METHOD: &str = "\
<!-- Generated by `cargo bench -- --redraw` from results.json. A test checks that it is up to date. -->

# Benchmark results

`cargo bench -- --readme [CASE…]` measures all cases, or those named, and generates this page, the charts and the
README's table. `cargo bench -- --redraw` only generates them from `results.json`, which has the figures of every round.
`cargo bench -- install-peers` installs the tools that cargo provides. Tools that are not installed are listed as left
out.

- The commands of a case take turns, A B C, C B A, so that a shared disk whose speed drifts affects all of them equally.
  Before each run, the previous copy is deleted unless a note says otherwise, the filesystem is synced, and the source's
  pages are evicted from the page cache or read into it.
- Every command ends when the data are on the medium. Where a tool has no such option, `sync` waits for the file.
- Wall: the median of the rounds. Spread: the fastest and the slowest round. Ratio: the median divided by that of the
  first line. If a run makes several copies, all times are those of one copy.
- CPU: user and system time of all processes of the command. Peak memory: that of its largest process.
- A round before the timed ones warms up, compares the bytes, and measures the next two figures. They are measured in no
  other round, because tracing slows down programs that use the page cache. *Charged*: the peak of the memory charged to
  a cgroup, page cache included. *Pages in*: the pages of 4 KiB that the kernel brought into the page cache, of the
  source and of the copy. If a run makes several copies, these are the pages of all copies.
- fio does not copy. It only reads, or only writes, the same number of bytes, with 8 requests of 4 MiB in flight, and
  measures the time by its own clock.
";

/// For a sweep: how the defaults, which are the first row, compare with the fastest setting.
fn sweep_summary(case: &Case) -> String {
    let best = case.rows.iter().min_by(|a, b| case.wall(a).total_cmp(&case.wall(b)));
    match best {
        Some(best) if case.name.contains("sweep") => {
            let ratio = case.wall(best) / case.wall(case.own());
            format!("\nFastest: `{}`, {ratio:.2} × the time of the defaults.\n", best.peer)
        }
        _ => String::new(),
    }
}

/// The page benches/RESULTS.md.
pub fn results_md(results: &Results) -> String {
    let mut out = METHOD.to_string();
    let command_list = |commands: Vec<(&str, &str)>| -> String {
        let lines: String = commands.iter().map(|(peer, command)| format!("- {peer}: `{command}`\n")).collect();
        format!("\n<details><summary>Commands</summary>\n\n{lines}\n</details>\n")
    };
    let note_list = |notes: &[String]| -> String {
        let lines: String = notes.iter().map(|note| format!("- {note}\n")).collect();
        if lines.is_empty() { lines } else { format!("\n{lines}") }
    };
    let tools: String = results.tools.iter().map(|tool| format!("- {tool}\n")).collect();
    out += &format!("\n<details><summary>Versions</summary>\n\n{tools}\n</details>\n");
    let skipped: String = results.skipped.iter().map(|(case, reason)| format!("- {case}: {reason}\n")).collect();
    if !skipped.is_empty() {
        out += &format!("\nSkipped:\n\n{skipped}");
    }
    for case in &results.cases {
        let rounds = rounds(case.own().wall.len());
        out += &format!("\n## {}: {}\n\n", case.name, case.title);
        out += &format!("{}, {rounds}, {}\n\n", case.date, case.machine);
        out += &markdown(&cells(case));
        out += &sweep_summary(case);
        out += &note_list(&case.notes);
        out += &command_list(case.rows.iter().map(|row| (row.peer.as_str(), row.command.as_str())).collect());
    }
    if let Some(frontier) = &results.frontier {
        out += &format!("\n## neighbours: {}\n\n", frontier.title);
        out += &format!("{}, {}, {}\n\n", frontier.date, rounds(frontier.points[0].p99.len()), frontier.machine);
        out += &markdown(&frontier_cells(frontier));
        out += &note_list(&frontier.notes);
        out +=
            &command_list(frontier.points.iter().map(|point| (point.peer.as_str(), point.command.as_str())).collect());
    }
    out
}

/// The table that the README has between its markers.
pub fn readme(results: &Results) -> String {
    let head = ["", "dio-cp"].into_iter().chain(README_COLUMNS.map(|(title, _)| title)).map(Into::into).collect();
    let peers = |case: &Case, format: &dyn Fn(&Row) -> String| -> Vec<String> {
        let column = |(_, prefixes): &(&str, &[&str])| {
            let rows = case.rows.iter().filter(|row| prefixes.iter().any(|prefix| row.peer.starts_with(prefix)));
            or_dash(rows.min_by(|a, b| case.wall(a).total_cmp(&case.wall(b))), format)
        };
        README_COLUMNS.iter().map(column).collect()
    };
    let pages = |row: &Row| or_dash(row.pages, |pages| cache_size(pages.source + pages.copy));
    let mut lines = vec![head];
    for (name, title) in README_CASES {
        let Some(case) = results.case(name) else { continue };
        let own = [title.to_string(), seconds(case.wall(case.own()))];
        lines.push(own.into_iter().chain(peers(case, &|row| times(case.ratio(row)))).collect());
    }
    for (name, title) in README_CACHE_CASES {
        let Some(case) = results.case(name) else { continue };
        let own = [title.to_string(), pages(case.own())];
        lines.push(own.into_iter().chain(peers(case, &pages)).collect());
    }
    markdown(&lines)
}

/// The size of this many pages of 4 KiB.
fn cache_size(pages: u64) -> String {
    if pages == 0 { "0".into() } else { size(pages << 12) }
}
