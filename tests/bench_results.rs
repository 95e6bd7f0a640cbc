//! The benchmark's tables and charts, and the README's part, are what benches/results.json makes: no
//! figure is written by hand. `DIO_CP_BLESS=1 cargo test --test bench_results` makes them anew, as
//! `cargo bench -- --redraw` does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(dead_code)] // the benchmark uses the rest

#[path = "../benches/peers/chart.rs"]
mod chart;
#[path = "../benches/peers/draw.rs"]
mod draw;
#[path = "../benches/peers/frontier.rs"]
mod frontier;
#[path = "../benches/peers/results.rs"]
mod results;
#[path = "../benches/peers/table.rs"]
mod table;

use std::fs;
use std::path::Path;

use results::{Results, median, range};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn tables_and_charts_are_made_of_the_results() {
    let results = Results::read(&draw::results_path(root()));
    assert!(!results.cases.is_empty(), "benches/results.json has no case");
    if std::env::var_os("DIO_CP_BLESS").is_some() {
        draw::write(root());
    }
    for (path, made) in draw::made(root(), &results) {
        let found = fs::read_to_string(root().join(path)).unwrap_or_default();
        assert!(found == made, "{path} is not what benches/results.json makes; cargo bench -- --redraw");
    }
}

#[test]
fn what_is_read_is_written_back_the_same() {
    let path = draw::results_path(root());
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("results-{}.json", std::process::id()));
    Results::read(&path).write(&scratch);
    let same = fs::read(&scratch).unwrap() == fs::read(&path).unwrap();
    fs::remove_file(&scratch).unwrap();
    assert!(same, "results.json changes when it is read and written");
}

#[test]
fn every_row_has_every_round() {
    let results = Results::read(&draw::results_path(root()));
    for case in &results.cases {
        let rounds = case.own().wall.len();
        for row in &case.rows {
            let lengths = [row.wall.len(), row.cpu.len(), row.peak_mib.len()];
            assert_eq!(lengths, [rounds; 3], "{}: {}", case.name, row.peer);
        }
    }
    if let Some(frontier) = &results.frontier {
        let rounds = frontier.points[0].p99.len();
        for point in &frontier.points {
            assert_eq!([point.speed.len(), point.p50.len(), point.p99.len()], [rounds; 3], "{}", point.peer);
        }
    }
}

#[test]
fn what_was_skipped_is_said_until_it_is_measured() {
    let mut results = Results::read(&draw::results_path(root()));
    results.skip("file-1g", "no room".into());
    assert!(table::results_md(&results).contains("- file-1g: no room\n"));
    let again = Results::read(&draw::results_path(root())).cases.into_iter().find(|case| case.name == "file-1g");
    results.merge(again.unwrap(), &["file-1g"]);
    assert!(!table::results_md(&results).contains("no room"));
}

#[test]
fn figures_are_shown_with_three_digits_or_so() {
    let shown = [0.001_234, 0.0123, 0.123, 1.234, 12.34].map(table::seconds);
    assert_eq!(shown, ["1.23 ms", "12.3 ms", "123 ms", "1.23 s", "12.3 s"]);
    assert_eq!([1.94, 9.94, 9.96, 104.0].map(table::times), ["1.9 ×", "9.9 ×", "10 ×", "104 ×"]);
    let sizes = [1, 4096, 5000, 1 << 20, 64 << 20, 3 << 29, 64 << 30].map(table::size);
    assert_eq!(sizes, ["1 bytes", "4 KiB", "4.9 KiB", "1 MiB", "64 MiB", "1.5 GiB", "64 GiB"]);
    assert_eq!((median(&[3.0, 1.0, 2.0]), median(&[4.0, 1.0, 2.0, 3.0])), (2.0, 2.5));
    assert_eq!(range(&[3.0, 1.0, 2.0]), (1.0, 3.0));
}
