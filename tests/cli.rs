//! What users and scripts see: usage errors, exit statuses, the summary line, progress.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use common::*;

#[test]
fn invalid_arguments_are_usage_errors_and_change_no_file() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 5000), scratch.path("dst"));
    let (s, d) = (src.to_str().unwrap(), dst.to_str().unwrap());
    write(&dst, b"old");
    for (args, message) in [
        (vec![], "SRC and DST are missing"),
        (vec![s], "DST is missing"),
        (vec![s, d, d], "is not a directory"),
        (vec![s, d, "--no-such"], "unexpected"),
        (vec![s, d, "--direct", "perhaps"], "auto, always, never"),
        (vec![s, d, "--queue-depth", "0"], "1..=1024"),
        (vec![s, d, "--queue-depth", "many"], "--queue-depth"),
        (vec![s, d, "--queue-depth", "1000"], "1 GiB"),
        (vec![s, d, "-b", "0"], "at least one byte"),
        (vec![s, d, "-b", "4X"], "64K"),
        (vec![s, d, "-b", "1000"], "multiple of"),
        (vec![s, d, "-b", "5000"], "multiple of"),
        (vec![s, d, "--count=-1"], "--count"),
        (vec![s, d, "--skip", "5001"], "past the end"),
        (vec![s, d, "-n", "--seek", "1"], "overwrite"),
        (vec![s, d, "-p", "--in-place"], "attributes"),
        (vec![s, d, "-q", "-v"], "cannot be used"),
        (vec![s, "-", "--seek", "1"], "no offset"),
        (vec![s, "-", "-n"], "always exists"),
        (vec!["-", d, "-p"], "no attributes"),
        (vec!["-", scratch.0.to_str().unwrap()], "has no file name"),
        (vec!["if=a", "of=b"], "dio-cp a b"),
        (vec![s, "https://example.org/x"], "reads from URLs"),
        (vec!["", d], "empty"),
    ] {
        let stderr = fails(2, &args);
        assert!(stderr.contains(message), "{args:?}: {stderr}");
        assert_eq!(fs::read(&dst).unwrap(), b"old");
        assert_eq!(scratch.names(), ["dst", "src"], "{args:?}");
    }
}

#[test]
fn a_missing_source_a_directory_and_a_socket_are_errors() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 10), scratch.path("dst"));
    for (source, message) in [(scratch.path("missing"), "No such file"), (scratch.0.clone(), "it is a directory")] {
        let stderr = fails(1, [&source, &dst]);
        assert!(stderr.contains(message) && stderr.starts_with("dio-cp: opening '"), "{stderr}");
    }
    fs::create_dir(&dst).unwrap();
    fs::create_dir(dst.join("src")).unwrap();
    assert!(fails(1, [&src, &dst]).contains("it is a directory"));
    let _socket = std::os::unix::net::UnixListener::bind(scratch.path("socket")).unwrap();
    assert!(fails(1, [scratch.path("socket"), scratch.path("x")]).contains("socket"));
    assert!(fails(1, [src.clone(), scratch.path("socket")]).contains("socket"));
    assert!(fails(1, [src.clone(), scratch.path("new/")]).contains("does not exist") || !scratch.path("new").exists());
}

#[test]
fn control_characters_in_names_are_escaped() {
    let scratch = Scratch::new();
    let stderr = fails(1, [scratch.path("a\x1b[2Jb\n"), scratch.path("dst")]);
    assert!(!stderr.contains('\x1b') && stderr.contains("\\u{1b}[2Jb\\n"), "{stderr}");
}

#[test]
fn a_copy_into_a_directory_has_the_name_of_the_source() {
    let scratch = Scratch::new();
    let (src, dir) = (scratch.file("src", 5000), scratch.path("dir"));
    fs::create_dir(&dir).unwrap();
    copies([&src, &dir]);
    same(&dir.join("src"), &content(5000));
    // With relative paths.
    let output = dio_cp().args(["src", "."]).current_dir(&scratch.0).output().unwrap();
    assert_eq!(output.status.code(), Some(1)); // the same file
    assert!(dio_cp().args(["src", "copy"]).current_dir(&scratch.0).status().unwrap().success());
    same(&scratch.path("copy"), &content(5000));
    // With the longest name that Linux allows.
    let long = scratch.path(&"x".repeat(255));
    copies([&src, &long]);
    copies([&src, &long]);
    same(&long, &content(5000));
}

#[test]
fn the_summary_line_is_like_that_of_dd_and_quiet_prints_nothing() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 5_000_001), scratch.path("dst"));
    let stderr = copies([&src, &dst]);
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.starts_with("5000001 bytes (5.0 MB, 4.8 MiB) copied, "), "{stderr}");
    assert!(stderr.trim_end().ends_with("B/s"), "{stderr}");
    assert_eq!(copies(["-q".as_ref(), src.as_os_str(), dst.as_os_str()]), "");
    let output = dio_cp().arg(&src).arg(&dst).output().unwrap();
    assert!(output.stdout.is_empty());
    let stderr = copies(["-v".as_ref(), src.as_os_str(), dst.as_os_str()]);
    assert!(stderr.contains("read direct, alignment") && stderr.contains("written direct"), "{stderr}");
}

#[test]
fn json_progress_is_one_object_per_line_and_the_last_one_is_done() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 9_000_001), scratch.path("dst"));
    let stderr = copies(["-q", "--progress", "json", src.to_str().unwrap(), dst.to_str().unwrap()]);
    let lines: Vec<serde_json::Value> = stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let phases: Vec<_> = lines.iter().map(|line| line["phase"].as_str().unwrap()).collect();
    assert_eq!(phases, ["reserving", "copying", "syncing", "done"]);
    let last = lines.last().unwrap();
    assert_eq!((last["bytes"].as_u64(), last["total"].as_u64()), (Some(9_000_001), Some(9_000_001)));
    assert!(last["seconds"].as_f64().unwrap() > 0.0 && last["bytes_per_second"].as_u64().unwrap() > 0);
    // From a pipe there is no total, and a line appears every second even if no data arrives.
    let mut child = dio_cp()
        .args(["-q", "--progress", "json", "-"])
        .arg(&dst)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(2500));
    drop(child.stdin.take());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.lines().count() >= 5, "{stderr}");
    for line in stderr.lines() {
        assert!(serde_json::from_str::<serde_json::Value>(line).unwrap()["total"].is_null(), "{line}");
    }
}

#[test]
fn a_terminal_shows_a_progress_bar_and_then_the_summary_line() {
    if !has_tool("script") {
        return skip("needs the tool script");
    }
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 60 << 20), scratch.path("dst"));
    let on_terminal = |line: &str| {
        let output = Command::new("script").args(["-qec", line, "/dev/null"]).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let dio = binary();
    let screen = on_terminal(&format!("{dio} {} {}", src.display(), dst.display()));
    assert!(screen.contains("of 60.00 MiB") && screen.contains('%') && screen.contains("syncing"), "{screen:?}");
    assert!(screen.trim_end().ends_with("B/s"), "{screen:?}");
    // If the length is unknown, there is no percentage.
    let screen = on_terminal(&format!("(cat {0}; sleep 0.3) | {dio} - {1}", src.display(), dst.display()));
    assert!(screen.contains("copied") && !screen.contains('%'), "{screen:?}");
    for quiet in ["-q", "-q --progress none"] {
        assert_eq!(on_terminal(&format!("{dio} {quiet} {} {}", src.display(), dst.display())), "");
    }
    // Without a terminal, --progress bar prints lines.
    let mut child = dio_cp()
        .args(["--progress", "bar", "-"])
        .arg(&dst)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1300));
    drop(child.stdin.take());
    let stderr = String::from_utf8(child.wait_with_output().unwrap().stderr).unwrap();
    assert_eq!(stderr.lines().count(), 2, "{stderr}");
}

#[test]
fn a_copy_succeeds_with_closed_standard_error() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 9_000_001), scratch.path("dst"));
    let line = format!("{} {} {} 2>&-", binary(), src.display(), dst.display());
    tool("sh", ["-c", &line]);
    same(&dst, &content(9_000_001));
}

#[test]
fn options_may_come_before_between_and_after_the_paths() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 100_000), scratch.path("dst"));
    copies(["--no-sync", "-b64K", src.to_str().unwrap(), "--queue-depth=2", dst.to_str().unwrap(), "--sparse=never"]);
    same(&dst, &content(100_000));
    // Files whose names begin with a dash.
    assert!(dio_cp().args(["--", "src", "-dst"]).current_dir(&scratch.0).status().unwrap().success());
    same(&scratch.path("-dst"), &content(100_000));
}

#[test]
fn closed_standard_input_or_output_is_an_error_and_changes_no_file() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 5000), scratch.path("dst"));
    write(&dst, b"precious");
    let dio = binary();
    for line in [format!("{dio} - {} <&-", dst.display()), format!("{dio} {} - >&-", src.display())] {
        let output = Command::new("sh").args(["-c", &line]).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{line}: {stderr}");
        assert!(stderr.contains("it is closed"), "{stderr}");
    }
    assert_eq!(fs::read(&dst).unwrap(), b"precious");
    // /dev/null as standard input is not an error.
    assert!(dio_cp().arg("-").arg(&dst).status().unwrap().success());
    same(&dst, b"");
}

#[test]
fn dd_operands_get_a_hint_with_the_right_command() {
    let scratch = Scratch::new();
    let src = scratch.file("src", 5000);
    for args in [vec!["if=a", "of=b", "bs=4M", "count=2"], vec!["if=a"], vec!["of=b", "bs=1M"]] {
        let stderr = fails(2, &args);
        assert!(stderr.contains("try: dio-cp "), "{stderr}");
    }
    // After --, such an argument is the name of a file.
    assert!(dio_cp().args(["--", "src", "of=x"]).current_dir(&scratch.0).status().unwrap().success());
    same(&scratch.path("of=x"), &fs::read(&src).unwrap());
}

#[test]
fn a_mistyped_device_name_does_not_create_a_file_in_dev() {
    let scratch = Scratch::new();
    let src = scratch.file("src", 5000);
    let stderr = fails(1, [src.to_str().unwrap(), "/dev/no-such-device"]);
    assert!(stderr.contains("no such device"), "{stderr}");
    assert!(!std::path::Path::new("/dev/no-such-device").exists());
}

#[cfg(not(feature = "url"))]
#[test]
fn without_the_url_feature_a_url_is_an_error_that_names_the_feature() {
    let scratch = Scratch::new();
    let stderr = fails(2, ["https://user:secret@example.org/x", scratch.path("dst").to_str().unwrap(), "--retry", "1"]);
    assert!(stderr.contains("cargo feature `url`") && stderr.contains("curl -fL"), "{stderr}");
    assert!(!stderr.contains("secret"), "{stderr}");
}

#[test]
fn a_report_that_cannot_be_printed_says_that_the_copy_is_complete() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 5000), scratch.path("dst"));
    for (option, state) in [("-v", "the copy is complete"), ("-ru", "the copy has finished")] {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let output = dio_cp().args([option, "--json"]).args([&src, &dst]).stdout(full).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("standard output: No space left on device\n") && stderr.contains(state), "{stderr}");
        assert!(!stderr.contains("try:"), "{stderr}");
        same(&dst, &content(5000));
    }
}
