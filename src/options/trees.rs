//! The options for several files and for trees.

use std::ffi::OsStr;
use std::path::PathBuf;

use super::endpoint;
use crate::cli::Cli;
use crate::error::{Error, Result};
use crate::job::{Endpoint, Job, TargetRule, TreeJob};

/// True if the arguments are about more than one file copied to one place.
pub fn are_wanted(cli: &Cli) -> bool {
    let options = cli.recursive || cli.archive || cli.update || cli.one_file_system || !cli.exclude.is_empty();
    let target = cli.target_directory.is_some() || cli.no_target_directory;
    options || target || !cli.from_command && cli.operands().len() > 2
}

/// The sources and the destination.
pub fn operands(cli: &Cli) -> Result<(Vec<Endpoint>, PathBuf)> {
    let mut operands = cli.operands();
    let destination = match &cli.target_directory {
        Some(directory) => directory.clone(),
        None if operands.len() < 2 => return Err(Error::usage("SRC or DST is missing").hint("dio-cp --help")),
        None => operands.pop().map(PathBuf::from).unwrap_or_default(),
    };
    if operands.is_empty() {
        return Err(Error::usage("SRC is missing").hint("dio-cp --help"));
    }
    let sources = operands.into_iter().map(source).collect::<Result<Vec<_>>>()?;
    if destination.as_os_str().is_empty() || Endpoint::is_url(&destination) || destination == OsStr::new("-") {
        return Err(Error::usage("several files and trees can only be copied to files and directories"));
    }
    Ok((sources, destination))
}

fn source(operand: &OsStr) -> Result<Endpoint> {
    match endpoint(operand)? {
        Endpoint::Standard => Err(Error::usage("standard input cannot be one of several sources")),
        other => Ok(other),
    }
}

/// Fails if an option is about one file only.
pub fn check_conflicts(cli: &Cli) -> Result<()> {
    let one_file = "it applies to a single file only, and this command may copy several";
    for (conflict, option, why) in [
        (cli.from_command, "--from-command", one_file),
        (cli.seek.is_some(), "--seek", one_file),
        (cli.skip.is_some(), "--skip", one_file),
        (cli.count.is_some(), "--count", one_file),
        (cli.size.is_some(), "--size", one_file),
        (cli.in_place, "--in-place", one_file),
        (cli.json && cli.checksum.is_some(), "--json", "the digests of --checksum go to standard output"),
        (cli.resume, "--resume", "of several files, -u copies only those that are not complete yet"),
        (cli.checksum.as_ref().is_some_and(|c| c.expected.is_some()), "--checksum with a digest", one_file),
    ] {
        if conflict {
            return Err(Error::usage(format!("{option} cannot be used here: {why}")));
        }
    }
    Ok(())
}

/// Puts the job together.
pub fn job(cli: &Cli, file: Job, sources: Vec<Endpoint>, destination: PathBuf) -> TreeJob {
    let target = match (&cli.target_directory, cli.no_target_directory) {
        (Some(_), _) => TargetRule::Directory,
        (None, true) => TargetRule::Name,
        (None, false) => TargetRule::Auto,
    };
    TreeJob {
        file,
        sources,
        destination,
        target,
        recursive: cli.recursive || cli.archive,
        archive: cli.archive,
        update: cli.update,
        one_file_system: cli.one_file_system,
        exclude: cli.exclude.clone(),
    }
}
