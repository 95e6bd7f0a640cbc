//! The figures as text: for the terminal, RESULTS.md and the README.

use crate::results::{Case, Frontier, Results, Row, median, range};

/// The cases of the chart, in this order.
pub const MAIN: [&str; 14] = [
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
];

/// The columns of the README's table: their titles, and how the names of the peers in them begin.
const README_COLUMNS: [(&str, &[&str]); 3] = [
    ("dd, direct I/O, best block size", &["dd 1M", "dd 4M", "dd 16M"]),
    ("cp, or cat with pipes", &["cp ", "cat "]),
    ("curl -o", &["curl -o"]),
];

/// The cases of the README's table: their names, and what the README calls them.
const README_CASES: [(&str, &str); 6] = [
    ("file-1g", "1 GiB file"),
    ("file-8g", "8 GiB file"),
    ("pipe-in", "2 GiB from a pipe"),
    ("pipe-out", "2 GiB into a pipe"),
    ("zram-1g", "1 GiB file, disk at memory speed"),
    ("url", "2 GiB download"),
];

/// The cases of the README's table that also have a row about the page cache.
const README_CACHE_CASES: [(&str, &str); 2] =
    [("file-1g", "page cache filled by a 1 GiB copy"), ("url", "page cache filled by a 2 GiB download")];

/// What people call these many bytes.
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

/// Three digits, more or less.
pub fn seconds(value: f64) -> String {
    match value {
        ..0.01 => format!("{:.2} ms", value * 1000.0),
        ..0.1 => format!("{:.1} ms", value * 1000.0),
        ..1.0 => format!("{:.0} ms", value * 1000.0),
        ..10.0 => format!("{value:.2} s"),
        _ => format!("{value:.1} s"),
    }
}

pub fn times(ratio: f64) -> String {
    if ratio < 9.95 { format!("{ratio:.1} ×") } else { format!("{ratio:.0} ×") }
}

fn rounds(number: usize) -> String {
    if number == 1 { "1 round".into() } else { format!("{number} rounds") }
}

fn known<T>(value: Option<T>, shown: impl Fn(T) -> String) -> String {
    value.map_or_else(|| "–".to_string(), shown)
}

fn cells(case: &Case) -> Vec<Vec<String>> {
    let cached = case.rows.iter().any(|row| row.source_cached.is_some());
    let mut head: Vec<String> =
        ["", "wall", "spread", "", "CPU", "peak memory", "charged", "pages in, source + copy"].map(Into::into).into();
    if cached {
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
            known(row.charged_mib, |mib| format!("{mib:.0} MiB")),
            known(row.pages, |(src, dst)| format!("{src} + {dst}")),
        ];
        if cached {
            let percent = |share: f64| format!("{:.0} %", share * 100.0);
            line.push(known(row.source_cached, |(a, b)| format!("{}, then {}", percent(a), percent(b))));
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

/// In columns.
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
        format!("| {} |\n", cells.join(" | ").replace("|  |", "| |"))
    };
    let rule = format!("|{}\n", "---|".repeat(cells[0].len()));
    let body: String = cells[1..].iter().map(|cells| line(cells)).collect();
    line(&cells[0]) + &rule + &body
}

/// A case on the terminal.
pub fn text(case: &Case) -> String {
    let rounds = rounds(case.own().wall.len());
    let said: String = case.said.iter().map(|said| format!("{said}\n")).collect();
    format!("{}: {} ({rounds} in turn, medians)\n{}{said}", case.name, case.title, aligned(&cells(case)))
}

pub fn frontier_text(frontier: &Frontier) -> String {
    let rounds = rounds(frontier.points[0].p99.len());
    let said: String = frontier.said.iter().map(|said| format!("{said}\n")).collect();
    format!("{} ({rounds} in turn, medians)\n{}{said}", frontier.title, aligned(&frontier_cells(frontier)))
}

const METHOD: &str = "\
<!-- Made by `cargo bench -- --readme` out of results.json; a test holds it to that. -->

# What was measured

`cargo bench -- --readme [CASE…]` measures all cases, or these, anew and makes this page, the charts and the README's
table; `cargo bench -- --redraw` only makes the pages from `results.json`, which has every round's own figures;
`cargo bench -- install-peers` installs those peers that cargo has. What is not installed is named as left out.

- The commands of a case run in turn, A B C, C B A, so that a disk that is shared and drifts does so for all of them.
  Before each run the old copy is deleted, the filesystem is synced, and the source's pages are dropped, or read in.
- All commands end when the data are on the medium. Where a tool has no such option, `sync` waits for the file.
- Wall: median, and the least and the most, of the rounds. × is that time beside the first line's. Where a run makes
  several copies, the figures are those of one.
- CPU: user and system time of all its processes. Peak memory: of the largest process.
- A round before those warms up, compares the bytes, and is the only one in which are measured: *charged*, the memory
  charged to a cgroup at most, page cache included; and *pages in*, those that the kernel put into the page cache, of
  the source and of the copy (4 KiB each), which slows down those who use it.
- fio is no copy: it only reads, or only writes, the same bytes, 8 × 4 MiB in flight, by its own clock.
";

/// What a sweep is for: how the defaults, which are the first line, stand to the best.
fn swept(case: &Case) -> String {
    let best = case.rows.iter().min_by(|a, b| case.wall(a).total_cmp(&case.wall(b)));
    match best {
        Some(best) if case.name.contains("sweep") => {
            let beside = case.wall(best) / case.wall(case.own());
            format!("\nQuickest: `{}`, {beside:.2} × the time of the defaults.\n", best.peer)
        }
        _ => String::new(),
    }
}

/// All tables.
pub fn results_md(results: &Results) -> String {
    let mut out = METHOD.to_string();
    let listed = |commands: Vec<(&str, &str)>| -> String {
        let lines: String = commands.iter().map(|(peer, command)| format!("- {peer}: `{command}`\n")).collect();
        format!("\n<details><summary>Commands</summary>\n\n{lines}\n</details>\n")
    };
    let noted = |said: &[String]| -> String {
        let lines: String = said.iter().map(|said| format!("- {said}\n")).collect();
        if lines.is_empty() { lines } else { format!("\n{lines}") }
    };
    let tools: String = results.tools.iter().map(|tool| format!("- {tool}\n")).collect();
    out += &format!("\n<details><summary>Versions</summary>\n\n{tools}\n</details>\n");
    let skipped: String = results.skipped.iter().map(|(case, why)| format!("- {case}: {why}\n")).collect();
    if !skipped.is_empty() {
        out += &format!("\nSkipped:\n\n{skipped}");
    }
    for case in &results.cases {
        let rounds = rounds(case.own().wall.len());
        out += &format!("\n## {}: {}\n\n", case.name, case.title);
        out += &format!("{}, {rounds}, {}\n\n", case.date, case.machine);
        out += &markdown(&cells(case));
        out += &swept(case);
        out += &noted(&case.said);
        out += &listed(case.rows.iter().map(|row| (row.peer.as_str(), row.command.as_str())).collect());
    }
    if let Some(frontier) = &results.frontier {
        out += &format!("\n## neighbours: {}\n\n", frontier.title);
        out += &format!("{}, {}, {}\n\n", frontier.date, rounds(frontier.points[0].p99.len()), frontier.machine);
        out += &markdown(&frontier_cells(frontier));
        out += &noted(&frontier.said);
        out += &listed(frontier.points.iter().map(|point| (point.peer.as_str(), point.command.as_str())).collect());
    }
    out
}

/// The table between the README's markers.
pub fn readme(results: &Results) -> String {
    let head = ["", "dio-cp"].into_iter().chain(README_COLUMNS.map(|(title, _)| title)).map(Into::into).collect();
    let peers = |case: &Case, shown: &dyn Fn(&Row) -> String| -> Vec<String> {
        let column = |(_, prefixes): &(&str, &[&str])| {
            let rows = case.rows.iter().filter(|row| prefixes.iter().any(|prefix| row.peer.starts_with(prefix)));
            known(rows.min_by(|a, b| case.wall(a).total_cmp(&case.wall(b))), shown)
        };
        README_COLUMNS.iter().map(column).collect()
    };
    let pages = |row: &Row| known(row.pages, |(source, copy)| cache_size(source + copy));
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

/// The size of so many pages of 4 KiB.
fn cache_size(pages: u64) -> String {
    if pages == 0 { "0".into() } else { size(pages << 12) }
}
