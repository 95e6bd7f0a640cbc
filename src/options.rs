//! The command line, validated into a [`Job`]. Pure: nothing is opened.

mod trees;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::cli::Cli;
use crate::direct::DirectPolicy;
use crate::error::{Error, Result, quoted};
use crate::job::{Checksum, Endpoint, HttpOptions, Job, Reflink, Sparse, TreeJob};
use crate::pace::BlockPlan;

/// More memory than this for buffers does not make a copy faster.
const MAX_BUFFER_MEMORY: u64 = 1 << 30;

/// What the arguments ask for.
#[derive(Debug)]
pub enum Plan {
    /// One copy.
    File(Box<Job>),
    /// Several files, or trees.
    Tree(Box<TreeJob>),
}

/// Turns the arguments into a job, or reports which of them conflict.
pub fn plan(cli: &Cli, umask: u32) -> Result<Plan> {
    if trees::are_wanted(cli) {
        let (sources, destination) = trees::operands(cli)?;
        trees::check_conflicts(cli)?;
        let destination_endpoint = Endpoint::Path(destination.clone());
        let file = job(cli, umask, Endpoint::Path(PathBuf::new()), destination_endpoint)?;
        return Ok(Plan::Tree(Box::new(trees::job(cli, file, sources, destination))));
    }
    let (source, destination) = endpoints(cli)?;
    check_conflicts(cli, &source, &destination)?;
    Ok(Plan::File(Box::new(job(cli, umask, source, destination)?)))
}

/// The options for one file.
fn job(cli: &Cli, umask: u32, source: Endpoint, destination: Endpoint) -> Result<Job> {
    let http = http_options(cli);
    let blocks = block_plan(cli, &http)?;
    let seek = cli.seek.unwrap_or(0);
    let skip = cli.skip.unwrap_or(0);
    if skip.max(seek) > i64::MAX as u64 {
        return Err(Error::usage("--skip or --seek is past the largest possible offset (8 EiB)"));
    }
    Ok(Job {
        source,
        destination,
        block_size: blocks.size as usize,
        queue_depth: blocks.in_flight as usize,
        direct: cli.direct,
        reflink: cli.reflink,
        skip,
        count: cli.count,
        seek,
        in_place: cli.in_place || cli.seek.is_some(),
        sparse: cli.sparse,
        no_clobber: cli.no_clobber,
        force: cli.force,
        sync: !cli.no_sync,
        preserve: cli.preserve || cli.archive,
        size: cli.size,
        checksum: checksum(cli)?,
        verify: cli.verify,
        check_cache: cli.check_cache,
        resume: cli.resume,
        rate_limit: cli.rate_limit,
        idle: cli.idle,
        http,
        umask,
    })
}

/// Fails if an option makes no sense for this source, this destination, or beside another option.
fn check_conflicts(cli: &Cli, source: &Endpoint, destination: &Endpoint) -> Result<()> {
    let in_place = cli.in_place || cli.seek.is_some();
    let from_url = matches!(source, Endpoint::Url(_));
    let from_command = matches!(source, Endpoint::Command(_));
    let reflink_always = cli.reflink == Reflink::Always;
    let (from_stdin, to_stdout) = (*source == Endpoint::Standard, *destination == Endpoint::Standard);
    for (conflict, option, why) in [
        (to_stdout && cli.seek.is_some(), "--seek", "standard output has no offset to write at"),
        (to_stdout && cli.in_place, "--in-place", "standard output has no bytes to overwrite"),
        (to_stdout && cli.no_clobber, "--no-clobber", "standard output always exists"),
        (to_stdout && cli.preserve, "--preserve", "standard output has no attributes"),
        (to_stdout && cli.verify, "--verify", "standard output cannot be read back"),
        (to_stdout && cli.resume, "--resume", "standard output cannot be resumed"),
        (to_stdout && cli.json, "--json", "the copied bytes go to standard output"),
        (from_stdin && cli.preserve, "--preserve", "standard input has no attributes to preserve"),
        (from_stdin && cli.resume, "--resume", "standard input cannot be read a second time"),
        (from_url && cli.preserve, "--preserve", "a URL has no attributes to preserve"),
        (from_command && cli.preserve, "--preserve", "the output of a command has no attributes to preserve"),
        (from_command && cli.resume, "--resume", "the output of a command cannot be read a second time"),
        (reflink_always && cli.sparse != Sparse::Auto, "--reflink always", "a clone has the same holes as SRC"),
        (
            reflink_always && cli.direct != DirectPolicy::Auto,
            "--reflink always",
            "--direct applies only to data that are copied",
        ),
        (cli.verify && cli.no_sync, "--verify", "with --no-sync, nothing is on the medium yet to be read back"),
        (
            cli.verify && cli.direct == DirectPolicy::Never,
            "--verify",
            "with --direct never, it would read the page cache, not the medium",
        ),
        (
            in_place && cli.resume,
            "--resume",
            "--in-place and --seek write to DST directly, so there is no partial file to keep",
        ),
        (in_place && cli.no_clobber, "--no-clobber", "--in-place and --seek overwrite an existing file"),
        (in_place && cli.preserve, "--preserve", "--in-place and --seek do not change the attributes of DST"),
        (!from_url && !cli.header.is_empty(), "--header", "SRC is not a URL"),
        (!from_url && cli.cacert.is_some(), "--cacert", "SRC is not a URL"),
        (!from_url && cli.connect_timeout.is_some(), "--connect-timeout", "SRC is not a URL"),
        (!from_url && cli.timeout.is_some(), "--timeout", "SRC is not a URL"),
        (!from_url && cli.retry.is_some(), "--retry", "SRC is not a URL"),
        (!from_url && cli.connections.is_some(), "--connections", "SRC is not a URL"),
    ] {
        if conflict {
            return Err(Error::usage(format!("{option} cannot be used here: {why}")));
        }
    }
    Ok(())
}

/// The size and number of blocks: as given, else what suits --rate-limit, else the defaults.
fn block_plan(cli: &Cli, http: &HttpOptions) -> Result<BlockPlan> {
    let default = BlockPlan { size: Job::BLOCK_SIZE as u64, in_flight: Job::QUEUE_DEPTH as u64 };
    let suited = cli.rate_limit.map_or(default, |rate_limit| default.for_rate(rate_limit));
    let size = cli.block_size.unwrap_or(suited.size);
    let in_flight = cli.queue_depth.unwrap_or(suited.in_flight);
    let blocks = in_flight.max(http.connections as u64);
    if size.saturating_mul(blocks) > MAX_BUFFER_MEMORY {
        let why = format!("--block-size {size} × {blocks} blocks in flight needs more than 1 GiB of memory");
        return Err(Error::usage(why).hint("leave out -b and --queue-depth: the defaults are as fast on most disks"));
    }
    Ok(BlockPlan { size, in_flight })
}

fn http_options(cli: &Cli) -> HttpOptions {
    let default = HttpOptions::default();
    HttpOptions {
        headers: cli.header.clone(),
        cacert: cli.cacert.clone(),
        connect_timeout: cli.connect_timeout.unwrap_or(default.connect_timeout),
        timeout: cli.timeout.unwrap_or(default.timeout),
        retry: cli.retry.unwrap_or(default.retry),
        connections: cli.connections.map_or(default.connections, |n| n as usize),
    }
}

fn checksum(cli: &Cli) -> Result<Option<Checksum>> {
    let list = cli.checksum_file.clone();
    let Some(checksum) = &cli.checksum else {
        return Ok(list.map(|list| Checksum { algorithm: None, expected: None, list: Some(list) }));
    };
    if checksum.expected.is_some() && list.is_some() {
        return Err(Error::usage("--checksum with a digest and --checksum-file cannot be combined"));
    }
    Ok(Some(Checksum { algorithm: Some(checksum.algorithm), expected: checksum.expected.clone(), list }))
}

/// SRC and DST.
fn endpoints(cli: &Cli) -> Result<(Endpoint, Endpoint)> {
    let operands = cli.operands();
    if cli.from_command {
        let &[destination, ref extra @ ..] = &operands[..] else {
            return Err(Error::usage("DST is missing").hint("dio-cp --from-command DST -- COMMAND"));
        };
        if cli.command_words().is_empty() {
            let words: Vec<_> = extra.iter().map(|word| word.to_string_lossy()).collect();
            let command = if words.is_empty() { "COMMAND".into() } else { words.join(" ") };
            let hint = format!("dio-cp --from-command {} -- {command}", destination.display());
            return Err(Error::usage("--from-command needs -- and then the COMMAND").hint(hint));
        }
        refuse_extra(extra, "--from-command takes only DST before --")?;
        let command = Endpoint::Command(cli.command_words().to_vec());
        return Ok((command, endpoint(destination)?));
    }
    match &operands[..] {
        [] => Err(Error::usage("SRC and DST are missing").hint("dio-cp --help")),
        [_] => Err(Error::usage("DST is missing").hint("dio-cp --help")),
        [source, destination, extra @ ..] => {
            refuse_extra(extra, "a copy takes one SRC and one DST")?;
            Ok((endpoint(source)?, endpoint(destination)?))
        }
    }
}

fn refuse_extra(extra: &[&OsStr], why: &str) -> Result<()> {
    let Some(first) = extra.first() else { return Ok(()) };
    Err(Error::usage(format!("unexpected argument {}: {why}", quoted(Path::new(first)))))
}

fn endpoint(argument: &OsStr) -> Result<Endpoint> {
    if argument.is_empty() {
        return Err(Error::usage("SRC or DST is empty; use - for standard input or output"));
    }
    if Endpoint::is_url(argument.as_ref()) {
        let url = argument.to_str().ok_or_else(|| Error::usage("the URL is not UTF-8; percent-encode it"))?;
        return Ok(Endpoint::Url(url.to_string()));
    }
    let standard = argument.as_bytes() == b"-";
    Ok(if standard { Endpoint::Standard } else { Endpoint::Path(PathBuf::from(argument)) })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;

    use super::*;

    fn parse(words: &[&str]) -> Result<Job> {
        let cli = Cli::try_parse_from([&["dio-cp"], words].concat()).map_err(|e| Error::usage(e.to_string()))?;
        match plan(&cli, 0o022)? {
            Plan::File(job) => Ok(*job),
            Plan::Tree(job) => Ok(job.file),
        }
    }

    fn refused(words: &[&str]) -> String {
        match parse(words) {
            Ok(job) => format!("accepted as {job:?}"),
            Err(e) => format!("{e} {}", e.hint.as_deref().unwrap_or_default()),
        }
    }

    #[test]
    fn the_defaults_are_those_of_the_library() {
        let job = parse(&["a", "b"]).ok();
        assert_eq!(job, Some(Job::new("a", "b")));
    }

    #[test]
    fn seek_implies_in_place() {
        assert_eq!(parse(&["a", "b", "--seek", "0"]).map(|j| (j.in_place, j.seek)).ok(), Some((true, 0)));
    }

    #[test]
    fn options_for_a_url_reach_the_job() {
        let words = ["HTTPS://example.org/a", "b", "--header", "A: b:c", "--header", "D:e", "--timeout", "0.5"];
        let job = parse(&words).ok();
        assert_eq!(job.as_ref().map(|j| j.source.clone()), Some(Endpoint::Url("HTTPS://example.org/a".into())));
        let http = job.map(|j| j.http).unwrap_or_default();
        assert_eq!(http.headers, [("A".into(), "b:c".into()), ("D".into(), "e".into())]);
        assert_eq!((http.timeout, http.connections, http.retry), (Duration::from_millis(500), 1, 5));
    }

    #[test]
    fn bad_values_and_combinations_say_what_is_wrong() {
        let url = "https://example.org/a.iso";
        for (words, message) in [
            (&["a", "b", "--queue-depth", "0"][..], "1..=1024"),
            (&["a", "b", "-b", "0"], "at least one byte"),
            (&["a", "b", "-b", "1G", "--queue-depth", "2"], "1 GiB"),
            (&["a", "-", "--seek", "1"], "no offset"),
            (&["a", "-", "-n"], "always exists"),
            (&["a", "b", "-n", "--in-place"], "overwrite"),
            (&["-", "b", "-p"], "no attributes"),
            (&["a", "b", "--skip", "8E", "--count", "8E"], "8 EiB"),
            (&["a", "b", "--seek", "8E"], "8 EiB"),
            (&["a"], "DST is missing"),
            (&["--from-command", "b", "echo"], "dio-cp --from-command b -- echo"),
            (&["a", "b", "--retry", "2"], "not a URL"),
            (&["-", "b", "--resume"], "a second time"),
            (&[url, "b", "--header", "no colon"], "Name: value"),
            (&[url, "b", "--header", "a: b\r\nc: d"], "one header line"),
            (&[url, "b", "--header", "Range: bytes=0-1"], "--skip"),
            (&[url, "b", "--timeout", "0"], "seconds"),
            (&[url, "b", "--timeout", "1e300"], "seconds"),
            (&[url, "b", "--connections", "65"], "1..=64"),
            (&[url, "b", "-p"], "no attributes"),
            (&["a", ""], "empty"),
        ] {
            let said = refused(words);
            assert!(said.contains(message), "{words:?}: {said}");
        }
    }

    #[test]
    fn an_error_about_a_header_does_not_repeat_its_value() {
        let said = refused(&["https://example.org/", "b", "--header", "Authorization secret"]);
        assert!(said.contains("--header") && !said.contains("secret"), "{said}");
    }
}
