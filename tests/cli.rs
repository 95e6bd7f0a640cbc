//! What users and scripts read: usage errors, exit statuses, the last line, progress.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use common::*;

#[test]
fn bad_arguments_are_usage_errors_and_touch_nothing() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 5000), scratch.path("dst"));
    let (s, d) = (src.to_str().unwrap(), dst.to_str().unwrap());
    write(&dst, b"old");
    for (words, right) in [
        (vec![], "Usage"),
        (vec![s], "<DST>"),
        (vec![s, d, d], "unexpected"),
        (vec![s, d, "--no-such"], "unexpected"),
        (vec![s, d, "--direct", "perhaps"], "auto, always, never"),
        (vec![s, d, "--queue-depth", "0"], "from 1 to 1024"),
        (vec![s, d, "--queue-depth", "many"], "from 1 to 1024"),
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
        (vec![s, "-", "-n"], "always there"),
        (vec!["-", d, "-p"], "no attributes"),
        (vec!["-", scratch.0.to_str().unwrap()], "has no file name"),
        (vec!["if=a", "of=b"], "dio-cp a b"),
        (vec![s, "https://example.org/x"], "reads from URLs"),
        (vec!["", d], "empty"),
    ] {
        let said = fails(2, &words);
        assert!(said.contains(right), "{words:?}: {said}");
        assert_eq!(fs::read(&dst).unwrap(), b"old");
        assert_eq!(scratch.names(), ["dst", "src"], "{words:?}");
    }
}

#[test]
fn what_is_not_there_or_no_file_is_told() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 10), scratch.path("dst"));
    for (source, word) in [(scratch.path("missing"), "No such file"), (scratch.0.clone(), "it is a directory")] {
        let said = fails(1, [&source, &dst]);
        assert!(said.contains(word) && said.starts_with("dio-cp: opening '"), "{said}");
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
fn a_name_cannot_give_the_terminal_orders() {
    let scratch = Scratch::new();
    let said = fails(1, [scratch.path("a\x1b[2Jb\n"), scratch.path("dst")]);
    assert!(!said.contains('\x1b') && said.contains("\\u{1b}[2Jb\\n"), "{said}");
}

#[test]
fn a_directory_keeps_the_name_of_the_source() {
    let scratch = Scratch::new();
    let (src, dir) = (scratch.file("src", 5000), scratch.path("dir"));
    fs::create_dir(&dir).unwrap();
    copies([&src, &dir]);
    same(&dir.join("src"), &content(5000));
    // Relative, as people type it.
    let output = dio_cp().args(["src", "."]).current_dir(&scratch.0).output().unwrap();
    assert_eq!(output.status.code(), Some(1)); // the same file
    assert!(dio_cp().args(["src", "copy"]).current_dir(&scratch.0).status().unwrap().success());
    same(&scratch.path("copy"), &content(5000));
    // The longest name that there is.
    let long = scratch.path(&"x".repeat(255));
    copies([&src, &long]);
    copies([&src, &long]);
    same(&long, &content(5000));
}

#[test]
fn the_last_line_is_dds_and_quiet_is_quiet() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 5_000_001), scratch.path("dst"));
    let said = copies([&src, &dst]);
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with("5000001 bytes (5.0 MB, 4.8 MiB) copied, "), "{said}");
    assert!(said.trim_end().ends_with("B/s"), "{said}");
    assert_eq!(copies(["-q".as_ref(), src.as_os_str(), dst.as_os_str()]), "");
    let output = dio_cp().arg(&src).arg(&dst).output().unwrap();
    assert!(output.stdout.is_empty());
    let said = copies(["-v".as_ref(), src.as_os_str(), dst.as_os_str()]);
    assert!(said.contains("read direct, alignment") && said.contains("written direct"), "{said}");
}

#[test]
fn json_progress_is_one_object_a_line_and_done_comes_last() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 9_000_001), scratch.path("dst"));
    let said = copies(["-q", "--progress", "json", src.to_str().unwrap(), dst.to_str().unwrap()]);
    let lines: Vec<serde_json::Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let phases: Vec<_> = lines.iter().map(|line| line["phase"].as_str().unwrap()).collect();
    assert_eq!(phases, ["reserving", "copying", "syncing", "done"]);
    let last = lines.last().unwrap();
    assert_eq!((last["bytes"].as_u64(), last["total"].as_u64()), (Some(9_000_001), Some(9_000_001)));
    assert!(last["seconds"].as_f64().unwrap() > 0.0 && last["bytes_per_second"].as_u64().unwrap() > 0);
    // From a pipe there is no total, and a line comes every second even if nothing moves.
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
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.lines().count() >= 5, "{said}");
    for line in said.lines() {
        assert!(serde_json::from_str::<serde_json::Value>(line).unwrap()["total"].is_null(), "{line}");
    }
}

#[test]
fn a_bar_on_a_terminal_then_the_last_line() {
    if !has_tool("script") {
        return skip("needs the tool script");
    }
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 60 << 20), scratch.path("dst"));
    let on_terminal = |line: &str| {
        let command = Command::new("script").args(["-qec", line, "/dev/null"]).stdin(Stdio::null()).output().unwrap();
        assert!(command.status.success());
        String::from_utf8(command.stdout).unwrap()
    };
    let dio = env!("CARGO_BIN_EXE_dio-cp");
    let seen = on_terminal(&format!("{dio} {} {}", src.display(), dst.display()));
    assert!(seen.contains("of 60.00 MiB") && seen.contains('%') && seen.contains("syncing"), "{seen:?}");
    assert!(seen.trim_end().ends_with("B/s"), "{seen:?}");
    // Unknown length: no percentage.
    let seen = on_terminal(&format!("(cat {0}; sleep 0.3) | {dio} - {1}", src.display(), dst.display()));
    assert!(seen.contains("copied") && !seen.contains('%'), "{seen:?}");
    for quiet in ["-q", "-q --progress none"] {
        assert_eq!(on_terminal(&format!("{dio} {quiet} {} {}", src.display(), dst.display())), "");
    }
    // Not on a terminal: lines.
    let mut child = dio_cp()
        .args(["--progress", "bar", "-"])
        .arg(&dst)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1300));
    drop(child.stdin.take());
    let said = String::from_utf8(child.wait_with_output().unwrap().stderr).unwrap();
    assert_eq!(said.lines().count(), 2, "{said}");
}

#[test]
fn a_closed_standard_error_does_not_matter() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 9_000_001), scratch.path("dst"));
    let line = format!("{} {} {} 2>&-", env!("CARGO_BIN_EXE_dio-cp"), src.display(), dst.display());
    tool("sh", ["-c", &line]);
    same(&dst, &content(9_000_001));
}

#[test]
fn options_work_together_wherever_they_stand() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 100_000), scratch.path("dst"));
    copies(["--no-sync", "-b64K", src.to_str().unwrap(), "--queue-depth=2", dst.to_str().unwrap(), "--sparse=never"]);
    same(&dst, &content(100_000));
    // Files whose names begin with a dash.
    assert!(dio_cp().args(["--", "src", "-dst"]).current_dir(&scratch.0).status().unwrap().success());
    same(&scratch.path("-dst"), &content(100_000));
}

#[test]
fn closed_standard_streams_lose_nothing() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 5000), scratch.path("dst"));
    write(&dst, b"precious");
    let dio = env!("CARGO_BIN_EXE_dio-cp");
    for line in [format!("{dio} - {} <&-", dst.display()), format!("{dio} {} - >&-", src.display())] {
        let output = Command::new("sh").args(["-c", &line]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{line}: {said}");
        assert!(said.contains("it is closed"), "{said}");
    }
    assert_eq!(fs::read(&dst).unwrap(), b"precious");
    // /dev/null on purpose is something else.
    assert!(dio_cp().arg("-").arg(&dst).status().unwrap().success());
    same(&dst, b"");
}

#[test]
fn what_dd_users_type_gets_the_right_line() {
    let scratch = Scratch::new();
    let src = scratch.file("src", 5000);
    for words in [vec!["if=a", "of=b", "bs=4M", "count=2"], vec!["if=a"], vec!["of=b", "bs=1M"]] {
        let said = fails(2, &words);
        assert!(said.contains("try: dio-cp "), "{said}");
    }
    // Unless it is the name of a file.
    assert!(dio_cp().args(["--", "src", "of=x"]).current_dir(&scratch.0).status().unwrap().success());
    same(&scratch.path("of=x"), &fs::read(&src).unwrap());
}

#[test]
fn a_mistyped_device_does_not_become_a_file_in_memory() {
    let scratch = Scratch::new();
    let src = scratch.file("src", 5000);
    let said = fails(1, [src.to_str().unwrap(), "/dev/no-such-device"]);
    assert!(said.contains("no such device"), "{said}");
    assert!(!std::path::Path::new("/dev/no-such-device").exists());
}

#[cfg(not(feature = "url"))]
#[test]
fn without_the_feature_a_url_is_an_error_that_names_it() {
    let scratch = Scratch::new();
    let said = fails(2, ["https://user:secret@example.org/x", scratch.path("dst").to_str().unwrap(), "--retry", "1"]);
    assert!(said.contains("cargo feature `url`") && said.contains("curl -fL"), "{said}");
    assert!(!said.contains("secret"), "{said}");
}
