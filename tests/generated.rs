//! `--help`, the man page, the completions and the README agree. `DIO_CP_BLESS=1 cargo test --test generated` regenerates
//! the files from src/cli.rs and src/cli/manual.rs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::CommandFactory;
use clap_complete::Shell;
use dio_cp::cli::Cli;
use dio_cp::cli::manual::{AFTER_OPTIONS, BEFORE_OPTIONS, EXAMPLES, EXIT_STATUS, Section};
use roff::{Roff, bold, roman};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn readme() -> String {
    fs::read_to_string(root().join("README.md")).unwrap()
}

/// Fails unless the committed file is what the definition generates.
fn check_generated(file: &str, generated: &[u8]) {
    let path: PathBuf = root().join(file);
    if std::env::var_os("DIO_CP_BLESS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, generated).unwrap();
    }
    let committed = fs::read(&path).unwrap_or_default();
    assert!(committed == generated, "{file} is out of date; run DIO_CP_BLESS=1 cargo test --test generated");
}

#[test]
fn completions_are_generated_from_the_definition() {
    let mut command = Cli::command();
    for (shell, file) in [(Shell::Bash, "dio-cp.bash"), (Shell::Zsh, "_dio-cp"), (Shell::Fish, "dio-cp.fish")] {
        let mut generated = Vec::new();
        clap_complete::generate(shell, &mut command, "dio-cp", &mut generated);
        check_generated(&format!("completions/{file}"), &generated);
    }
}

fn render(section: &Section) -> String {
    let mut roff = Roff::new();
    roff.control("SH", [section.title]);
    for paragraph in section.text {
        roff.control("PP", []).text([roman(*paragraph)]);
    }
    for (term, text) in section.terms {
        roff.control("TP", []).text([bold(*term)]).text([roman(*text)]);
    }
    roff.to_roff()
}

#[test]
fn the_man_page_is_generated_from_the_definition_and_describes_every_option() {
    // Otherwise clap_mangen leaves out the descriptions of options that -h does not list.
    let command = Cli::command().mut_args(|argument| argument.hide_short_help(false));
    let man = clap_mangen::Man::new(command).title("DIO-CP").manual("User Commands").source("dio-cp");
    let mut generated = Vec::new();
    man.render_title(&mut generated).unwrap();
    man.render_name_section(&mut generated).unwrap();
    man.render_synopsis_section(&mut generated).unwrap();
    generated.extend(BEFORE_OPTIONS.iter().map(|section| render(section)).collect::<String>().into_bytes());
    let mut options = Vec::new();
    man.render_options_section(&mut options).unwrap();
    // A group of options is a subsection.
    let options = String::from_utf8(options).unwrap().replace(".SH", ".SS").replacen(".SS OPTIONS", ".SH OPTIONS", 1);
    generated.extend(options.into_bytes());
    generated.extend(AFTER_OPTIONS.iter().map(|section| render(section)).collect::<String>().into_bytes());
    check_generated("man/dio-cp.1", &generated);
    let page = String::from_utf8(generated).unwrap().replace('\\', "");
    for argument in Cli::command().get_arguments() {
        let help = argument.get_help().unwrap().to_string();
        assert!(page.contains(&help), "{}: {help}", argument.get_id());
    }
}

/// The long options that exist.
fn known_options() -> BTreeSet<String> {
    let command = Cli::command();
    let options = command.get_arguments().filter_map(|argument| argument.get_long()).chain(["help", "version"]);
    options.map(|option| format!("--{option}")).collect()
}

/// Every `--word` in a text.
fn options_in(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
        .filter(|word| word.len() > 3 && word.starts_with("--") && word.as_bytes()[2] != b'-')
        .map(str::to_string)
        .collect()
}

#[test]
fn the_manual_and_the_readme_name_no_option_that_does_not_exist() {
    let sections: Vec<&Section> = BEFORE_OPTIONS.iter().chain(AFTER_OPTIONS).copied().collect();
    let terms = |section: &&Section| section.terms.iter().flat_map(|(a, b)| [*a, *b]).collect::<Vec<_>>();
    let manual: Vec<&str> = sections.iter().flat_map(|section| [section.text, &terms(section)].concat()).collect();
    // Options of cargo and of other tools.
    let others =
        ["--release", "--path", "--bench", "--readme", "--test", "--no-default-features", "--open", "--locked"]
            .map(str::to_string);
    let known: BTreeSet<String> = known_options().into_iter().chain(others).collect();
    for text in [manual.join(" "), readme()] {
        let unknown: Vec<String> = options_in(&text).difference(&known).cloned().collect();
        assert!(unknown.is_empty(), "unknown options: {unknown:?}");
    }
}

#[test]
fn the_commands_in_the_readme_are_examples_of_the_manual() {
    let readme = readme();
    let (_, examples) = readme.split_once("## Examples").unwrap();
    let (_, examples) = examples.split_once("```sh\n").unwrap();
    let (examples, _) = examples.split_once("```").unwrap();
    assert!(examples.lines().count() >= 10, "{examples}");
    for line in examples.lines() {
        let command = line.split("  #").next().unwrap().trim();
        assert!(EXAMPLES.iter().any(|(example, _)| *example == command), "{command} is not an example of the manual");
    }
}

#[test]
fn the_readme_and_the_changelog_name_the_current_version() {
    let version = env!("CARGO_PKG_VERSION");
    let readme = readme();
    let downloads: Vec<&str> =
        readme.split_whitespace().filter(|word| word.ends_with(".deb") || word.ends_with(".tar.gz")).collect();
    assert_eq!(downloads.len(), 4, "{downloads:?}");
    for name in downloads {
        let rest = name.trim_start_matches("./").trim_start_matches("dio-cp").trim_start_matches(['_', '-']);
        assert!(rest.strip_prefix(version).is_some_and(|rest| rest.starts_with('-')), "{name}");
    }
    let changelog = fs::read_to_string(root().join("CHANGELOG.md")).unwrap();
    let latest = changelog.lines().find(|line| line.starts_with("## ")).unwrap();
    assert!(latest == "## Unreleased" || latest.starts_with(&format!("## {version} - ")), "{latest}");
}

#[test]
fn every_example_has_arguments_that_are_accepted() {
    for (example, _) in EXAMPLES {
        let words = example.split(' ').skip_while(|word| *word != "dio-cp").take_while(|word| *word != "|");
        assert!(Cli::command().try_get_matches_from(words).is_ok(), "{example}");
    }
}

fn help(option: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_dio-cp")).arg(option).env("COLUMNS", "80").output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn help_names_every_option_and_exit_status() {
    let (short, long) = (help("-h"), help("--help"));
    for option in known_options() {
        assert!(long.contains(&option), "{option}");
    }
    for argument in Cli::command().get_arguments().filter(|argument| !argument.is_hide_short_help_set()) {
        let option = argument.get_long().map_or(String::new(), |long| format!("--{long}"));
        assert!(short.contains(&option), "{option}");
    }
    for (status, meaning) in EXIT_STATUS {
        assert!(long.contains(&format!("  {status:<7}{}", meaning.split(' ').next().unwrap())), "{status}");
    }
}

#[test]
fn short_help_fits_on_a_screen() {
    let help = help("-h");
    assert!(help.lines().count() <= 64, "{} lines", help.lines().count());
    for line in help.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
}
