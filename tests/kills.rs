//! SIGKILL at random moments, and after each system call: each name is absent, old or new, nothing else is left, and the
//! same command once more makes an exact copy.
//!
//! By default 60 random kills and a sample of the calls, with DIO_CP_LONG=1 1,000 and every call.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::arena::{Arena, Kind, LEN, Variant, expected, only_file};
use common::cases::is_long;
use common::faults::{Fault, KILL, faults_of, inject, sample};
use common::manifest::{Entries, difference, manifest};
use common::*;

const OLD: usize = 5_000_001;
const NEW: usize = 12_000_001;

/// Starts the command with `input` in a pipe, kills it after `delay`, and waits for everything it has started: a child in
/// a session of its own may still replace names.
fn kill_after(delay: Duration, mut command: Command, input: Option<&[u8]>, dst: &Path) -> bool {
    if input.is_some() {
        command.stdin(Stdio::piped());
    }
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let pipe = child.stdin.take();
    let status = std::thread::scope(|scope| {
        if let (Some(mut pipe), Some(input)) = (pipe, input) {
            scope.spawn(move || pipe.write_all(input)); // fails when the command is killed
        }
        std::thread::sleep(delay);
        let _ = child.kill();
        child.wait().unwrap()
    });
    wait_for_children(dst);
    !status.success()
}

fn wait_for_children(dst: &Path) {
    let running = || Command::new("pgrep").arg("-f").arg(dst).output().unwrap();
    wait_until("the child that replaces names has ended", || running().stdout.is_empty());
}

/// Kills a copy 12 times, or 200 times, each time after `reset`, at moments from its start to its end. `check`
/// returns what is wrong afterwards. Then the same command must succeed, and `done` returns what is wrong.
fn kill(
    name: &str,
    dst: &Path,
    command: impl Fn() -> Command,
    input: Option<&[u8]>,
    reset: impl Fn(usize),
    check: impl Fn() -> Option<String>,
    done: impl Fn() -> Option<String>,
) {
    let complete = |context: &str| {
        let output = feed(command(), input.unwrap_or_default(), 100_000);
        assert!(output.status.success(), "{name}, {context}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(done(), None, "{name}, {context}");
    };
    reset(0);
    let start = Instant::now();
    complete("not killed");
    let whole = start.elapsed();
    // A copy that ends before its moment is not counted.
    let (mut killed, mut round) = (0, 0);
    let wanted = if is_long() { 200 } else { 12 };
    while killed < wanted {
        assert!(round < 20 * wanted, "{name}: {killed} of {round} were killed before they ended");
        reset(round);
        let delay = whole.mul_f64(random());
        killed += usize::from(kill_after(delay, command(), input, dst));
        let context = format!("killed after {delay:?} of {whole:?}");
        if let Some(what) = check() {
            panic!("{name}, {context}: {what}, beside {:?}", names(dst.parent().unwrap()));
        }
        complete(&context);
        round += 1;
    }
    eprintln!("{name}: {round} copies, {killed} killed, {whole:?} for a whole one");
}

/// The directory with DST, and the source.
fn places(scratch: &Scratch) -> (PathBuf, PathBuf, PathBuf) {
    let run = scratch.path("run");
    fs::create_dir(&run).unwrap();
    (scratch.file("src", NEW), run.join("dst"), run)
}

/// Puts an old DST there in every second round, and none in the others.
fn reset_file(dst: &Path, old: &[u8], round: usize) {
    let _ = fs::remove_file(dst);
    if round % 2 == 1 {
        fs::write(dst, old).unwrap();
    }
}

/// What is wrong with a DST that must be absent, old or new, and with what is beside it.
fn not_whole(dst: &Path, old: &[u8], new: &[u8], may_be_there: &str) -> Option<String> {
    let others: Vec<_> = names(dst.parent().unwrap()).into_iter().filter(|n| n != "dst" && n != may_be_there).collect();
    if !others.is_empty() {
        return Some(format!("{others:?} was left"));
    }
    let now = fs::read(dst).ok()?;
    (now != old && now != new).then(|| format!("{} bytes, neither old nor new", now.len()))
}

fn only_new(dst: &Path, new: &[u8]) -> Option<String> {
    let left = names(dst.parent().unwrap());
    (left != ["dst"] || fs::read(dst).unwrap() != new).then(|| format!("not exact: {left:?}"))
}

#[test]
fn a_killed_copy_of_a_file_or_a_stream_leaves_it_absent_old_or_new() {
    let scratch = Scratch::new();
    let (src, dst, _) = places(&scratch);
    let (old, new) = (content(OLD), content(NEW));
    let run = |name, options: &'static [&'static str], input, kept: &'static str| {
        let from = if input { Path::new("-") } else { &src };
        let command = || {
            let mut command = dio_cp();
            command.arg("-q").args(options).args([from, &dst]);
            command
        };
        let reset = |round| {
            // What an earlier round has kept would make the copy shorter.
            let _ = fs::remove_file(dst.with_file_name(".dst.partial.dio-cp"));
            reset_file(&dst, &old, round);
        };
        let check = || not_whole(&dst, &old, &new, kept);
        kill(name, &dst, command, input.then_some(&new[..]), reset, check, || only_new(&dst, &new));
    };
    run("file", &[], false, "");
    run("pipe", &[], true, "");
    // Slow enough to keep something.
    run("resume", &["--resume", "-b", "256K", "--rate-limit", "60M"], false, ".dst.partial.dio-cp");
}

#[test]
fn a_copy_killed_in_place_leaves_blocks_that_are_old_or_new() {
    let scratch = Scratch::new();
    let (src, dst, run) = places(&scratch);
    let (old, new) = (content(OLD), content(NEW));
    let command = || {
        let mut command = dio_cp();
        command.args(["-q", "-b", "64K", "--in-place"]).args([&src, &dst]);
        command
    };
    let check = || match names(&run) == ["dst"] {
        true => promises::mixed(&fs::read(&dst).unwrap(), &old, &new),
        false => Some("something was left".into()),
    };
    kill("in place", &dst, command, None, |_| reset_file(&dst, &old, 1), check, || only_new(&dst, &new));
}

/// A tree of files, some with two names, symbolic links and FIFOs.
fn files(root: &Path) {
    for i in 0..400 {
        let directory = root.join(format!("d{}", i % 5)).join(format!("e{}", i % 3));
        fs::create_dir_all(&directory).unwrap();
        let file = directory.join(format!("f{i}"));
        fs::write(&file, content([0, 1, 511, 4096, 5000, 70_000][i % 6])).unwrap();
        if i % 10 == 0 {
            fs::hard_link(&file, root.join(format!("also {i}"))).unwrap();
            symlink(format!("f{i}"), directory.join(format!("link {i}"))).unwrap();
            tool("touch", ["-h", "-d", "2001-02-03", directory.join(format!("link {i}")).to_str().unwrap()]);
            tool("mkfifo", ["-m", "620", directory.join(format!("fifo {i}")).to_str().unwrap()]);
        }
    }
    fs::write(root.join("large"), content(3_000_001)).unwrap();
}

#[test]
fn a_killed_copy_of_a_tree_leaves_each_file_absent_old_or_new() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.path("src"), scratch.path("dst"));
    files(&src);
    let new = manifest(&src);
    let old_tree = scratch.path("old");
    // Every second file is there, with other content.
    for path in new.iter().filter(|(_, entry)| matches!(entry.content, manifest::Content::File(_))).step_by(2) {
        let file = old_tree.join(path.0);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, b"old").unwrap();
    }
    let old = manifest_of_copy(&old_tree, &scratch.path("copy"));
    let command = || {
        let mut command = dio_cp();
        command.args(["-q", "-auT"]).args([&src, &dst]);
        command
    };
    let has_old = std::cell::Cell::new(false);
    let reset = |round: usize| {
        let _ = fs::remove_dir_all(&dst);
        has_old.set(round % 2 == 1);
        if has_old.get() {
            tool("cp", ["-a", old_tree.to_str().unwrap(), dst.to_str().unwrap()]);
        }
    };
    let check = || {
        let old = if has_old.get() { old.clone() } else { Entries::new() };
        promises::each_old_or_new(&manifest(&dst), &old, &new, false)
    };
    kill("tree", &dst, command, None, reset, check, || difference(&new, &manifest(&dst)));
}

fn manifest_of_copy(tree: &Path, copy: &Path) -> Entries {
    tool("cp", ["-a", tree.to_str().unwrap(), copy.to_str().unwrap()]);
    manifest(copy)
}

/// Calls that only a child process makes, to create and to rename. strace would kill the child, and then the program when
/// it repeats the call. A unit test in `sys/replace.rs` covers a child that ends alone.
const CALLS_OF_CHILD: [&str; 7] = ["rename", "symlink", "mknod", "fchownat", "chmod", "lsetxattr", "lremovexattr"];

/// Kills the program after each call.
fn kill_after_calls(variants: &[Variant]) {
    if !has_tool("strace") {
        return skip("needs the tool strace");
    }
    let arena = Arena::new();
    let log = arena.scratch.path("log");
    let mut wrong = Vec::new();
    let (mut copies, mut killed) = (0, 0);
    for variant in variants {
        arena.reset(variant);
        let (old, new) = (manifest(&arena.dst), expected(&arena, variant));
        let (command, input) = arena.command(variant);
        // One fault for each place, whatever the error would be.
        let mut faults = faults_of(&log, &command, &input);
        faults.retain(|fault| !CALLS_OF_CHILD.iter().any(|call| fault.call.starts_with(call)));
        faults.dedup_by_key(|fault| (fault.call.clone(), fault.when));
        let faults = if is_long() { faults } else { sample(faults, variant.sample) };
        for fault in faults.into_iter().map(|fault| Fault { error: KILL, ..fault }) {
            arena.reset(variant);
            let outcome = inject(&log, &fault, &command, &input);
            wait_for_children(&arena.dst);
            copies += 1;
            // timeout(1) ends as the command did, by the signal or with its number.
            let was_killed = outcome.status.signal() == Some(9) || outcome.status.code() == Some(137);
            killed += usize::from(was_killed);
            let mut left = names(&arena.run);
            left.retain(|name| {
                name != "dst" && !(name == ".dst.partial.dio-cp" && variant.options.contains(&"--resume"))
            });
            let (before, after) = (only_file(&old).unwrap_or_default(), content(LEN));
            let what = if !left.is_empty() {
                Some(format!("{left:?} was left"))
            } else if !was_killed {
                (!outcome.status.success()).then(|| format!("{}: {}", outcome.status, outcome.stderr))
            } else if variant.kind == Kind::Tree {
                promises::each_old_or_new(&manifest(&arena.dst), &old, &new, false)
            } else {
                not_whole(&arena.dst, before, &after, ".dst.partial.dio-cp")
            };
            let Fault { call, when, .. } = &fault;
            wrong.extend(what.map(|what| format!("{}: {call} {when}: {what}", variant.name)));
        }
    }
    eprintln!("{copies} copies, {killed} killed, {} wrong", wrong.len());
    assert!(killed * 2 > copies, "{killed} of {copies} were killed");
    assert!(wrong.is_empty(), "{} of {copies}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_file_copy_killed_after_any_call_leaves_it_absent_old_or_new() {
    let variant = |name, kind, options, old| Variant { name, kind, options, old, sample: 40 };
    kill_after_calls(&[
        variant("new", Kind::File, &[], false),
        variant("replace", Kind::File, &["-p"], true),
        variant("resume", Kind::File, &["--resume"], true),
        variant("from a pipe", Kind::FromPipe, &[], true),
    ]);
}

#[test]
fn a_tree_copy_killed_after_any_call_leaves_each_name_absent_old_or_new() {
    let variant = |name, options, old| Variant { name, kind: Kind::Tree, options, old, sample: 80 };
    kill_after_calls(&[variant("a new tree", &["-aT"], false), variant("an updated tree", &["-auT"], true)]);
}
