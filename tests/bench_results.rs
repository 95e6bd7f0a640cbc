//! The benchmark's tables and charts, and the table in the README, are generated from benches/results.json.
//! `cargo bench -- --redraw` generates them; so does `DIO_CP_BLESS=1 cargo test --test bench_results`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(dead_code)] // the benchmark uses more of its modules than this test

#[path = "../benches/peers/chart.rs"]
mod chart;
#[path = "../benches/peers/draw.rs"]
mod draw;
#[path = "../benches/peers/frontier.rs"]
mod frontier;
#[path = "../benches/peers/results.rs"]
mod results;
#[path = "../benches/peers/statistics.rs"]
mod statistics;
#[path = "../benches/peers/table.rs"]
mod table;

use std::fs;
use std::path::Path;

use results::Results;
use statistics::{median, range};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn tables_and_charts_are_up_to_date_with_the_results() {
    let results = Results::read(&draw::results_path(root())).unwrap();
    assert!(!results.cases.is_empty(), "benches/results.json has no case");
    if std::env::var_os("DIO_CP_BLESS").is_some() {
        draw::write(root()).unwrap();
    }
    for (path, expected) in draw::generated_files(root(), &results).unwrap() {
        let committed = fs::read_to_string(root().join(path)).unwrap_or_default();
        assert!(
            committed == expected,
            "{path} is not up to date with benches/results.json; run cargo bench -- --redraw"
        );
    }
}

#[test]
fn reading_and_writing_the_results_does_not_change_them() {
    let path = draw::results_path(root());
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("results-{}.json", std::process::id()));
    Results::read(&path).unwrap().write(&scratch).unwrap();
    let same = fs::read(&scratch).unwrap() == fs::read(&path).unwrap();
    fs::remove_file(&scratch).unwrap();
    assert!(same, "results.json changes when it is read and written");
}

#[test]
fn every_row_has_the_figures_of_every_round() {
    let results = Results::read(&draw::results_path(root())).unwrap();
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
fn a_skipped_case_is_listed_until_it_is_measured() {
    let mut results = Results::read(&draw::results_path(root())).unwrap();
    results.skip("file-1g", "no room".into());
    assert!(table::results_md(&results).contains("- file-1g: no room\n"));
    let committed = Results::read(&draw::results_path(root())).unwrap();
    let case = committed.cases.into_iter().find(|case| case.name == "file-1g");
    results.set_case(case.unwrap(), &["file-1g"]);
    assert!(!table::results_md(&results).contains("no room"));
}

#[test]
fn figures_have_about_three_digits() {
    let times = [0.001_234, 0.0123, 0.123, 1.234, 12.34].map(table::seconds);
    assert_eq!(times, ["1.23 ms", "12.3 ms", "123 ms", "1.23 s", "12.3 s"]);
    assert_eq!([1.94, 9.94, 9.96, 104.0].map(table::times), ["1.9 ×", "9.9 ×", "10 ×", "104 ×"]);
    let sizes = [1, 4096, 5000, 1 << 20, 64 << 20, 3 << 29, 64 << 30].map(table::size);
    assert_eq!(sizes, ["1 bytes", "4 KiB", "4.9 KiB", "1 MiB", "64 MiB", "1.5 GiB", "64 GiB"]);
    assert_eq!((median(&[3.0, 1.0, 2.0]), median(&[4.0, 1.0, 2.0, 3.0])), (2.0, 2.5));
    assert_eq!(range(&[3.0, 1.0, 2.0]), (1.0, 3.0));
}
