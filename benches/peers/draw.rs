//! The committed files that are made out of `results.json`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::results::Results;
use crate::{chart, frontier, table};

const BEGIN: &str = "<!-- benchmark -->\n";
const END: &str = "<!-- /benchmark -->";

/// Where the figures themselves are.
pub fn results_path(root: &Path) -> PathBuf {
    root.join("benches/results.json")
}

/// Every file, by its path in the repository, as it must be.
pub fn made(root: &Path, results: &Results) -> Vec<(&'static str, String)> {
    let mut files =
        vec![("benches/RESULTS.md", table::results_md(results)), ("benches/chart.svg", chart::svg(results))];
    if let Some(found) = &results.frontier {
        files.push(("benches/frontier.svg", frontier::svg(found)));
    }
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let (before, rest) = readme.split_once(BEGIN).unwrap_or_else(|| panic!("README.md lacks {BEGIN}"));
    let (_, after) = rest.split_once(END).unwrap_or_else(|| panic!("README.md lacks {END}"));
    files.push(("README.md", format!("{before}{BEGIN}{}{END}{after}", table::readme(results))));
    files
}

/// Makes them.
pub fn write(root: &Path) {
    for (path, text) in made(root, &Results::read(&results_path(root))) {
        fs::write(root.join(path), text).unwrap();
        println!("made: {path}");
    }
}
