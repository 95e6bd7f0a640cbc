//! The committed files that are generated from `results.json`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::results::Results;
use crate::{chart, frontier, table};

const BEGIN: &str = "<!-- benchmark -->\n";
const END: &str = "<!-- /benchmark -->";

pub fn results_path(root: &Path) -> PathBuf {
    root.join("benches/results.json")
}

/// Each generated file: its path in the repository and its content.
pub fn generated_files(root: &Path, results: &Results) -> Result<Vec<(&'static str, String)>> {
    let mut files =
        vec![("benches/RESULTS.md", table::results_md(results)), ("benches/chart.svg", chart::svg(results))];
    if let Some(frontier) = &results.frontier {
        files.push(("benches/frontier.svg", frontier::svg(frontier)));
    }
    let readme = fs::read_to_string(root.join("README.md")).context("README.md")?;
    let (before, rest) = readme.split_once(BEGIN).with_context(|| format!("README.md lacks {BEGIN}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("README.md lacks {END}"))?;
    files.push(("README.md", format!("{before}{BEGIN}{}{END}{after}", table::readme(results))));
    Ok(files)
}

/// Generates the files from the committed results.
pub fn write(root: &Path) -> Result<()> {
    let results = Results::read(&results_path(root))?;
    for (path, text) in generated_files(root, &results)? {
        fs::write(root.join(path), text).context(path)?;
        println!("generated: {path}");
    }
    Ok(())
}
