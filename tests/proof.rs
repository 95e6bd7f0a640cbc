//! --checksum, --checksum-file, --verify, --json: proof that a user can check.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::*;

const TOOLS: [(&str, &str); 3] = [("sha256", "sha256sum"), ("sha512", "sha512sum"), ("blake3", "b3sum")];

#[test]
fn digests_are_those_of_the_usual_tools_and_in_their_format() {
    needs_root_and!("sha256sum", "sha512sum", "b3sum");
    let scratch = Scratch::new();
    let (src, dst) = (scratch.path("src"), scratch.path("dst"));
    for len in [0, 1, 4096, 100_001, (9 << 20) + 7] {
        write(&src, &content(len));
        for (algorithm, name) in TOOLS {
            let output = run(["-q", "--checksum", algorithm, src.to_str().unwrap(), dst.to_str().unwrap()]);
            assert!(output.status.success());
            let line = String::from_utf8(output.stdout).unwrap();
            assert_eq!(line, tool(name, [&dst]), "{algorithm} of {len} bytes");
            let mut command = Command::new(name);
            command.args(["-c"]);
            assert!(feed(command, line.as_bytes(), 100).status.success());
            // From a pipe, and to one: then the line is on standard error.
            let mut command = dio_cp();
            command.args(["-q", "--checksum", algorithm, "-", "-"]);
            let output = feed(command, &content(len), 70_000);
            assert!(output.stdout == content(len));
            assert_eq!(String::from_utf8(output.stderr).unwrap()[..], line.replace(dst.to_str().unwrap(), "-"));
        }
    }
    // A part, at odd offsets; holes count as zeros.
    sparse(&src, 20 << 20, &[(5_000_001, 70_000), ((20 << 20) - 3, 3)]);
    for (algorithm, name) in TOOLS {
        for args in
            [vec![], vec!["--sparse", "always"], vec!["--skip", "4999999", "--count", "9000001"], vec!["-b", "12K"]]
        {
            let mut command = dio_cp();
            let output =
                command.args(["-q", "--checksum", algorithm]).args(&args).arg(&src).arg(&dst).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), tool(name, [&dst]), "{algorithm} {args:?}");
        }
    }
}

#[test]
fn a_wrong_digest_publishes_nothing_and_shows_both() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 5_000_001), scratch.path("dst"));
    let (s, d) = (src.to_str().unwrap(), dst.to_str().unwrap());
    let right = tool("sha256sum", [&src])[..64].to_string();
    let wrong = "0".repeat(64);
    for mark in [":", "=", "-"] {
        copies(["--checksum", &format!("sha256{mark}{right}"), s, d]);
        copies(["--checksum", &format!("SHA256{mark}{}", right.to_uppercase()), s, d]);
    }
    write(&dst, b"old");
    let stderr = fails(3, ["--checksum", &format!("sha256:{wrong}"), s, d]);
    assert!(stderr.contains(&right) && stderr.contains(&wrong) && stderr.contains("is as it was"), "{stderr}");
    assert_eq!(fs::read(&dst).unwrap(), b"old");
    fs::remove_file(&dst).unwrap();
    let mut command = dio_cp();
    command.args(["--checksum", &format!("sha256:{wrong}"), "-", d]);
    assert_eq!(feed(command, &content(5_000_001), 70_000).status.code(), Some(3));
    assert_eq!(scratch.names(), ["src"]);
    for bad in ["md5", "sha256:", "sha256:12", &format!("sha512:{right}"), "sha256:zz", &format!("blake3:{right}0")] {
        fails(2, ["--checksum", bad, s, d]);
    }
    assert_eq!(scratch.names(), ["src"]);
}

#[test]
fn a_checksum_list_is_looked_up_by_either_name() {
    let scratch = Scratch::new();
    let (src, dst, list) = (scratch.file("os.iso", 100_001), scratch.path("dst"), scratch.path("SHA256SUMS"));
    let args = ["--checksum-file".as_ref(), list.as_os_str(), src.as_os_str(), dst.as_os_str()];
    let right = tool("sha256sum", [&src])[..64].to_string();
    let wrong = "0".repeat(64);
    for (text, status) in [
        (format!("{wrong}  other\n{right}  os.iso\n"), 0),
        (format!("{right} *dst\n"), 0),
        (format!("SHA256 (os.iso) = {right}\n"), 0),
        (tool("sha512sum", ["--tag".as_ref(), src.as_os_str()]), 0),
        (format!("{wrong}  os.iso\n"), 3),
        (format!("{right}  other\n"), 3),
        (String::new(), 3),
    ] {
        write(&list, text.as_bytes());
        let stderr = fails(status, args);
        assert_eq!(dst.exists(), status == 0, "{text}: {stderr}");
        let _ = fs::remove_file(&dst);
    }
    fs::remove_file(&list).unwrap();
    assert!(fails(1, args).contains("SHA256SUMS"));
    assert!(!dst.exists());
}

#[test]
fn verify_reads_back_and_agrees() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.path("src"), scratch.path("dst"));
    for len in [0, 1, 4097, (9 << 20) + 7] {
        write(&src, &content(len));
        for args in [vec![], vec!["--sparse", "always"], vec!["-b", "12K"]] {
            let mut command = dio_cp();
            let output = command.args(["--verify"]).args(&args).arg(&src).arg(&dst).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            same(&dst, &content(len));
        }
    }
    sparse(&src, 30 << 20, &[(5_000_001, 70_000), ((30 << 20) - 3, 3)]);
    copies(["--verify".as_ref(), src.as_os_str(), dst.as_os_str()]);
    copies(["--verify".as_ref(), "--seek".as_ref(), "12345".as_ref(), src.as_os_str(), dst.as_os_str()]);
    if can_count_pages() {
        assert_eq!(cached_pages(&dst), 0);
    }
    for args in [["-", "/dev/null"], [src.to_str().unwrap(), "-"]] {
        assert!(fails(2, [&["--verify"][..], &args].concat()).contains("read back"));
    }
    fails(2, ["--verify".as_ref(), "--no-sync".as_ref(), src.as_os_str(), dst.as_os_str()]);
}

/// Runs `dio-cp --verify`, and flips one bit of what is at `at` in the source on the disk behind
/// `disk` while the copy waits for its fsync.
fn with_a_flipped_bit(disk: &Loop, args: &[&str], bytes: &[u8], at: usize) -> (Option<i32>, String) {
    let child = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync", "-e", "inject=fsync:delay_exit=3000000:when=1"])
        .arg(env!("CARGO_BIN_EXE_dio-cp"))
        .arg("--verify")
        .args(args)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The needle is on the medium when the fsync is under way.
    let needle = &bytes[at..at + 512];
    let start = Instant::now();
    let place = loop {
        assert!(start.elapsed() < Duration::from_secs(20), "the bytes did not reach the disk");
        std::thread::sleep(Duration::from_millis(300));
        let image = fs::read(&disk.backing).unwrap();
        if let Some(place) = image.chunks(512).position(|sector| sector == needle) {
            break place as u64 * 512;
        }
    };
    let backing = fs::File::options().read(true).write(true).open(&disk.backing).unwrap();
    backing.write_all_at(&[needle[7] ^ 1], place + 7).unwrap();
    backing.sync_all().unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_bit_that_flips_on_the_medium_is_found_in_a_file_and_on_a_device() {
    needs_root_and!("losetup", "mkfs.ext4", "strace");
    let scratch = Scratch::new();
    let bytes = content(9 << 20);
    let src = scratch.file("src", 9 << 20);
    let (src, at) = (src.to_str().unwrap(), 5 << 20);
    let block = "the first one at byte 4194304";
    {
        // Small blocks are not told one by one: their digests would not fit in memory.
        let disk = Loop::new(&scratch, 64 << 20, 512);
        let (code, stderr) = with_a_flipped_bit(&disk, &["-b", "64K", "-f", src, disk.name()], &bytes, at);
        assert_eq!(code, Some(3), "{stderr}");
        assert!(stderr.contains("1 of 3 ranges differ") && stderr.contains(block), "{stderr}");
    }
    let disk = Loop::new(&scratch, 64 << 20, 512);
    tool("mkfs.ext4", ["-q", disk.name()]);
    let at_mount = scratch.path("mnt");
    fs::create_dir(&at_mount).unwrap();
    tool("mount", [disk.device.as_os_str(), at_mount.as_os_str()]);
    let dst = at_mount.join("dst");
    write(&dst, b"old");
    let result = std::panic::catch_unwind(|| {
        let (code, stderr) = with_a_flipped_bit(&disk, &[src, dst.to_str().unwrap()], &bytes, at);
        assert_eq!(code, Some(3), "{stderr}");
        assert!(stderr.contains("1 of 3 ranges differ") && stderr.contains(block), "{stderr}");
        assert!(stderr.contains("is as it was"), "{stderr}");
        assert_eq!(fs::read(&dst).unwrap(), b"old");
    });
    tool("umount", [at_mount.as_os_str()]);
    result.unwrap();
}

/// The terms of a section of the man page.
fn described(man: &str, title: &str) -> Vec<String> {
    let section = man.split(&format!(".SH \"{title}\"")).nth(1).unwrap().split(".SH").next().unwrap();
    let terms = section.lines().filter_map(|line| line.strip_prefix("\\fB"));
    let mut names: Vec<String> =
        terms.flat_map(|line| line.trim_end_matches("\\fR").split(", ")).map(str::to_string).collect();
    names.sort();
    names
}

fn fields(object: &serde_json::Value) -> Vec<String> {
    let mut names: Vec<String> = object.as_object().unwrap().keys().cloned().collect();
    names.sort();
    names
}

#[test]
fn json_has_every_field_that_the_man_page_has() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 5_000_001), scratch.path("dst"));
    make_cold(&src);
    let output =
        run(["-q", "--json", "--verify", "--checksum", "sha256", src.to_str().unwrap(), dst.to_str().unwrap()]);
    assert!(output.stderr.is_empty() && output.status.success());
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["bytes"], 5_000_001);
    assert_eq!(report["written"]["direct"], 5_000_001);
    assert_eq!(report["read"]["direct"], 5_000_001);
    assert_eq!(report["digest"]["hex"], tool("sha256sum", [&src])[..64]);
    assert!(report["seconds"]["verify"].as_f64().unwrap() > 0.0 && report["verified"] == true);
    let man = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("man/dio-cp.1")).unwrap();
    assert_eq!(fields(&report), described(&man, "JSON REPORT"));
    fails(2, ["--json".as_ref(), src.as_os_str(), "-".as_ref()]);
    // A reader that is gone is no reason to fail loudly, and the copy stands.
    let mut child = dio_cp().args(["-q", "--json"]).arg(&src).arg(&dst).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let _ = child.wait().unwrap();
    same(&dst, &content(5_000_001));
    std::io::stdout().flush().unwrap();
}

#[test]
fn the_report_never_gets_into_the_data() {
    let scratch = Scratch::new();
    let src = scratch.file("src", 100_001);
    for args in [vec!["--checksum", "sha256"], vec!["--json"]] {
        for dst in ["/dev/stdout", "/dev/fd/1"] {
            let output = dio_cp().arg("-q").args(&args).arg(&src).arg(dst).output().unwrap();
            assert!(output.stdout == content(100_001), "{args:?} {dst}: {} bytes", output.stdout.len());
            assert!(!output.stderr.is_empty());
        }
        // Nowhere to tell it: before the copy, not after.
        let dst = scratch.path("dst");
        let line =
            format!("{} {} {} {} >&-", env!("CARGO_BIN_EXE_dio-cp"), args.join(" "), src.display(), dst.display());
        let output = Command::new("sh").args(["-c", &line]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{line}");
        assert!(!dst.exists());
    }
}

#[test]
fn check_cache_does_not_move_what_others_read() {
    needs_root_and!("losetup", "setpriv");
    let scratch = Scratch::new();
    let disk = Loop::new(&scratch, 24 << 20, 512);
    copies(["-f", scratch.file("src", 24 << 20).to_str().unwrap(), disk.name()]);
    let binary = Path::new("/dev/shm").join(format!("dio-cp-proof-{}", std::process::id()));
    fs::copy(env!("CARGO_BIN_EXE_dio-cp"), &binary).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&binary);
    let input = fs::File::open(&disk.device).unwrap();
    let out = fs::File::create(scratch.path("out")).unwrap();
    let output = command.args(["--check-cache", "-", "-"]).stdin(input).stdout(out).output();
    fs::remove_file(&binary).unwrap();
    output.unwrap();
    same(&scratch.path("out"), &content(24 << 20));
}

#[test]
fn what_was_compared_in_the_cache_is_not_called_verified() {
    let shm = Path::new("/dev/shm");
    if !shm.is_dir() {
        return skip("there is no /dev/shm");
    }
    let scratch = Scratch::new();
    let src = scratch.file("src", 5000);
    let dst = shm.join(format!("dio-cp-verify-{}", std::process::id()));
    let output = run(["-q".as_ref(), "--json".as_ref(), "--verify".as_ref(), src.as_os_str(), dst.as_os_str()]);
    fs::remove_file(&dst).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["verified"], false);
    assert!(report["notes"].to_string().contains("not verified on the medium"), "{report}");
}
