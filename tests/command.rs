//! `--from-command`: what a command prints is copied if the command succeeds, and nothing is published if it fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::*;

/// Runs `dio-cp OPTIONS --from-command DST -- sh -c SCRIPT`.
fn from_script(options: &[&str], dst: &Path, script: &str) -> Output {
    let mut command = dio_cp();
    command.args(options).arg("--from-command").arg(dst).args(["--", "sh", "-c", script]).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A number of seconds for sleep(1) that no other process uses.
fn unique_sleep(scratch: &Scratch) -> String {
    format!("{}.{}", 100_000 + std::process::id(), scratch.0.file_name().unwrap().to_str().unwrap().replace('-', ""))
}

fn is_running(argument: &str) -> bool {
    Command::new("pgrep").args(["-f", &format!("sleep {argument}")]).stdout(Stdio::null()).status().unwrap().success()
}

fn signal(child: &Child, name: &str) {
    tool("kill", [&format!("-{name}"), &child.id().to_string()]);
}

#[test]
fn the_output_of_a_command_is_copied_exactly_and_direct() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 5_000_001), scratch.path("dst"));
    let mut command = dio_cp();
    command.args(["-q", "--json", "--verify", "--checksum", "sha256", "--from-command"]).arg(&dst).args(["--", "cat"]);
    let output = command.arg(&src).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&json["source"], &json["command"]["status"]), (&"cat".into(), &0.into()));
    assert_eq!(json["written"]["direct"], 5_000_001);
    assert_eq!(json["verified"], true);
    assert_eq!(json["digest"]["hex"], tool("sha256sum", [&src])[..64]);
    same(&dst, &content(5_000_001));
    assert_eq!(scratch.names(), ["dst", "src"]);
}

#[test]
fn a_command_that_fails_publishes_nothing() {
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    for (script, reason) in [
        ("exit 3", "exited with status 3 after printing 0 bytes"),
        ("head -c 1000 /dev/urandom; exit 7", "exited with status 7 after printing 1000 bytes"),
        ("head -c 9000001 /dev/urandom; exit 1", "exited with status 1 after printing 9000001 bytes"),
        ("head -c 9000001 /dev/urandom; kill -9 $$", "was ended by SIGKILL after printing 9000001 bytes"),
        ("kill -TERM $$", "was ended by SIGTERM"),
        ("echo text; exec >&-; sleep 0.3; exit 4", "exited with status 4 after printing 5 bytes"),
    ] {
        for old in [None, Some(b"old")] {
            let _ = fs::remove_file(&dst);
            old.iter().for_each(|old| write(&dst, *old));
            let output = from_script(&[], &dst, script);
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(6), "{script}: {said}");
            assert!(said.contains("running 'sh'") && said.contains(reason), "{script}: {said}");
            assert_eq!(fs::read(&dst).ok().as_deref(), old.map(|old| &old[..]), "{script}");
            assert_eq!(scratch.names().len(), old.iter().count(), "{script}: {:?}", scratch.names());
            let state = if old.is_some() { "is as it was" } else { "was not created" };
            assert!(said.contains(state), "{script}: {said}");
        }
    }
}

#[test]
fn a_command_that_cannot_be_started_publishes_nothing() {
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    write(&dst, b"old");
    let not_executable = scratch.file("text", 10);
    for (program, reason) in [
        ("/nonexistent/program", "No such file"),
        (not_executable.to_str().unwrap(), "Permission denied"),
        (scratch.0.to_str().unwrap(), "Permission denied"),
    ] {
        let said = fails(6, ["--from-command", dst.to_str().unwrap(), "--", program]);
        assert!(said.contains("cannot be started") && said.contains(reason), "{program}: {said}");
        same(&dst, b"old");
        assert_eq!(scratch.names(), ["dst", "text"]);
    }
}

#[test]
fn a_failed_command_is_reported_rather_than_its_short_output() {
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    for options in [&["--size", "1M"][..], &["--skip", "1M"], &["--checksum", &format!("sha256:{}", "00".repeat(32))]] {
        let output = from_script(options, &dst, "echo text; exit 9");
        assert_eq!(output.status.code(), Some(6), "{options:?}: {}", stderr(&output));
        assert_eq!(scratch.names(), [""; 0]);
    }
}

#[test]
fn content_that_is_not_as_required_publishes_nothing_and_ends_the_command() {
    let scratch = Scratch::new();
    let (dst, sleep) = (scratch.path("dst"), unique_sleep(&scratch));
    let wrong_digest = format!("sha256:{}", "00".repeat(32));
    let and_wait = format!("head -c 9M /dev/zero; sleep {sleep}");
    for (options, script) in [
        (["--size", "4M"], and_wait.as_str()),
        (["--size", "10M"], "head -c 9M /dev/zero"),
        (["--checksum", &wrong_digest], "echo text"),
    ] {
        let output = from_script(&options, &dst, script);
        assert_eq!(output.status.code(), Some(3), "{options:?}: {}", stderr(&output));
        assert_eq!(scratch.names(), [""; 0]);
        assert!(!is_running(&sleep), "{options:?}");
    }
}

#[test]
fn a_full_disk_ends_the_command_and_everything_it_started() {
    let scratch = Scratch::new();
    let (dst, sleep) = (scratch.path("dst"), unique_sleep(&scratch));
    // The shell ignores SIGTERM, and a process in the background keeps running.
    let script = format!("trap '' TERM; sleep {sleep} & head -c 40M /dev/zero; sleep {sleep}");
    let shell = format!("ulimit -f 10000; exec {} --from-command \"$0\" -- sh -c \"$1\"", binary());
    let output = Command::new("bash").args(["-c", &shell]).arg(&dst).arg(&script).output().unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("File too large"), "{said}");
    assert!(!is_running(&sleep), "{said}");
    assert_eq!(scratch.names(), [""; 0]);
}

#[test]
fn a_failed_command_leaves_no_process_even_if_one_holds_its_output() {
    let scratch = Scratch::new();
    let (dst, sleep) = (scratch.path("dst"), unique_sleep(&scratch));
    for script in [format!("sleep {sleep} > /dev/null & exit 1"), format!("sleep {sleep} & exit 1")] {
        let start = Instant::now();
        let output = from_script(&[], &dst, &script);
        assert_eq!(output.status.code(), Some(6), "{script}: {}", stderr(&output));
        assert!(!is_running(&sleep), "{script}");
        assert!(start.elapsed() < Duration::from_secs(20), "{script}");
        assert_eq!(scratch.names(), [""; 0]);
    }
}

#[test]
fn count_does_not_wait_for_a_command_that_prints_no_more() {
    let scratch = Scratch::new();
    let (dst, sleep) = (scratch.path("dst"), unique_sleep(&scratch));
    let start = Instant::now();
    let output = from_script(&["--count", "3"], &dst, &format!("printf 123; exec sleep {sleep}"));
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(start.elapsed() < Duration::from_secs(20) && !is_running(&sleep));
    same(&dst, b"123");
}

#[test]
fn a_destination_that_is_refused_starts_no_command() {
    let scratch = Scratch::new();
    let (dst, ran) = (scratch.file("dst", 10), scratch.path("ran"));
    let output = from_script(&["-n"], &dst, &format!("touch {}", ran.display()));
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(!ran.exists());
}

#[test]
fn what_follows_the_dashes_belongs_to_the_command() {
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    let d = dst.to_str().unwrap();
    copies(["--from-command", d, "--", "echo", "-v", "--help", "--", "-n"]);
    same(&dst, b"-v --help -- -n\n");
    for (words, reason) in [
        (vec!["--from-command", d, "echo", "text"], "--"),
        (vec!["--from-command", d], "COMMAND"),
        (vec!["--from-command", d, "--"], "COMMAND"),
        (vec!["--from-command", "--", "echo"], "DST"),
        (vec!["--from-command", "src", d, "--", "echo"], "unexpected"),
        (vec!["--from-command", "-p", d, "--", "echo"], "--preserve"),
        (vec!["--from-command", "--resume", d, "--", "echo"], "--resume"),
        (vec!["--from-command", "--retry", "1", d, "--", "echo"], "--retry"),
        (vec!["--from-command", scratch.0.to_str().unwrap(), "--", "echo"], "no file name"),
    ] {
        let said = fails(2, &words);
        assert!(said.contains(reason), "{words:?}: {said}");
    }
    // Without --from-command, -- only ends the options.
    std::os::unix::fs::symlink(&dst, scratch.path("-src")).unwrap();
    let output = dio_cp().current_dir(&scratch.0).args(["-q", "--", "-src", "-dst"]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    same(&scratch.path("-dst"), b"-v --help -- -n\n");
}

#[test]
fn count_ends_a_command_that_prints_more() {
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    let start = Instant::now();
    let output = from_script(&["-q", "--json", "--count", "3000001"], &dst, "exec cat /dev/zero");
    assert!(output.status.success(), "{}", stderr(&output));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(json["command"].is_object() && json["command"]["status"].is_null(), "{json}");
    same(&dst, &vec![0; 3_000_001]);
    assert!(start.elapsed() < Duration::from_secs(20));
    // Exactly that many bytes: the status counts.
    let output = from_script(&["--count", "1000"], &dst, "head -c 1000 /dev/urandom; exit 5");
    assert_eq!(output.status.code(), Some(6), "{}", stderr(&output));
    same(&dst, &vec![0; 3_000_001]);
}

#[test]
fn the_command_inherits_standard_input_environment_and_directory() {
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    let mut command = dio_cp();
    command.current_dir(&scratch.0).env("GREETING", "hello");
    command.args(["--from-command", "dst", "--", "sh", "-c", "pwd; echo $GREETING; cat; echo problem >&2"]);
    let output = feed(command, b"from standard input\n", 100);
    assert!(output.status.success());
    same(&dst, format!("{}\nhello\nfrom standard input\n", scratch.0.display()).as_bytes());
    assert!(stderr(&output).contains("problem"));
}

#[test]
fn a_stream_as_destination_gets_the_output() {
    let output = run(["-q", "--from-command", "-", "--", "echo", "text"]);
    assert!(output.status.success());
    assert_eq!(output.stdout, b"text\n");
    assert_eq!(run(["-q", "--from-command", "-", "--", "false"]).status.code(), Some(6));
}

/// Starts a copy whose command prints a byte, and waits until that has happened.
fn start(dst: &Path, script: &str) -> Child {
    let ready = dst.with_file_name("ready");
    let script = format!("echo x; touch {}; {script}", ready.display());
    let mut command = dio_cp();
    command.arg("--from-command").arg(dst).args(["--", "sh", "-c", &script]);
    // In a process group of its own, because the kernel does not stop an orphaned one.
    let child = command.process_group(0).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("the command has started", || ready.exists());
    fs::remove_file(ready).unwrap();
    child
}

#[test]
fn a_signal_ends_the_command_too_and_reaches_it_once() {
    let scratch = Scratch::new();
    let (dst, log, sleep) = (scratch.path("dst"), scratch.path("log"), unique_sleep(&scratch));
    for (name, number) in [("INT", 2), ("TERM", 15), ("HUP", 1)] {
        let count = format!("trap 'echo {name} >> {}' {name}; ", log.display());
        let script = format!("{count} sleep {sleep} & while :; do wait; done");
        let child = start(&dst, &script);
        signal(&child, name);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.signal(), Some(number), "{}", stderr(&output));
        assert_eq!(fs::read_to_string(&log).unwrap(), format!("{name}\n"));
        assert!(!is_running(&sleep), "{name}");
        fs::remove_file(&log).unwrap();
        assert_eq!(scratch.names(), [""; 0]);
    }
}

#[test]
fn a_killed_copy_ends_its_command() {
    let scratch = Scratch::new();
    let (dst, sleep) = (scratch.path("dst"), unique_sleep(&scratch));
    let mut child = start(&dst, &format!("exec sleep {sleep}"));
    signal(&child, "KILL");
    child.wait().unwrap();
    wait_until("the command has ended", || !is_running(&sleep));
    assert_eq!(scratch.names(), [""; 0]);
}

#[test]
fn a_stopped_copy_stops_its_command_and_both_continue() {
    let scratch = Scratch::new();
    let (dst, go) = (scratch.path("dst"), scratch.path("go"));
    let script = format!("echo $$; while [ ! -e {} ]; do sleep 0.01; done; echo done", go.display());
    let child = start(&dst, &script);
    let state = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().unwrap().chars().next().unwrap_or('?')
    };
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).unwrap();
    let command: u32 = children.trim().parse().unwrap();
    signal(&child, "TSTP");
    wait_until("both are stopped", || state(child.id()) == 'T' && state(command) == 'T');
    signal(&child, "CONT");
    wait_until("both are continued", || state(child.id()) != 'T' && state(command) != 'T');
    write(&go, b"");
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(fs::read(&dst).unwrap(), format!("x\n{command}\ndone\n").into_bytes());
}

/// Runs a shell command line on a terminal of its own, and types `keys` once `ready` exists.
fn on_a_terminal(line: &str, ready: &Path, keys: &[u8]) -> Output {
    let mut script = Command::new("script");
    script.args(["-qec", line, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = script.spawn().unwrap();
    wait_until("the command is ready", || ready.exists());
    let mut keyboard = child.stdin.take().unwrap();
    keyboard.write_all(keys).unwrap();
    keyboard.flush().unwrap();
    let output = child.wait_with_output().unwrap();
    drop(keyboard);
    output
}

#[test]
fn a_command_can_ask_a_question_on_the_terminal() {
    if !has_tool("script") {
        return skip("needs the tool script");
    }
    let scratch = Scratch::new();
    let (dst, ready) = (scratch.path("dst"), scratch.path("ready"));
    let line = format!(
        "{} --from-command {} -- sh -c 'touch {}; read answer < /dev/tty; echo got $answer'",
        binary(),
        dst.display(),
        ready.display()
    );
    let output = on_a_terminal(&line, &ready, b"secret\n");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    same(&dst, b"got secret\n");
}

#[test]
fn the_terminal_is_returned_when_the_command_has_ended() {
    if !has_tool("script") {
        return skip("needs the tool script");
    }
    let scratch = Scratch::new();
    let (dst, ready) = (scratch.path("dst"), scratch.path("ready"));
    // --rate-limit waits for the command in another place.
    for options in ["", "--rate-limit 1M"] {
        let _ = fs::remove_file(&ready);
        let line = format!(
            "{} {options} --from-command {} -- sh -c 'touch {}; read answer < /dev/tty; echo got $answer'; \
             read next < /dev/tty; echo next=$next",
            binary(),
            dst.display(),
            ready.display()
        );
        let output = on_a_terminal(&line, &ready, b"first\nsecond\n");
        let screen = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && screen.contains("next=second"), "{options}: {screen}");
        same(&dst, b"got first\n");
    }
}

#[test]
fn ctrl_c_reaches_the_copy_and_the_command_once() {
    if !has_tool("script") {
        return skip("needs the tool script");
    }
    let scratch = Scratch::new();
    let (dst, ready, log) = (scratch.path("dst"), scratch.path("ready"), scratch.path("log"));
    let line = format!(
        "{} --from-command {} -- sh -c 'trap \"echo INT >> {}; exit 1\" INT; touch {}; while :; do sleep 0.01; done'",
        binary(),
        dst.display(),
        log.display(),
        ready.display()
    );
    let output = on_a_terminal(&line, &ready, b"\x03");
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(fs::read_to_string(&log).unwrap(), "INT\n");
    assert!(!dst.exists());
}
