//! Promise 3: under the final name stands the old content or the whole new one, at every moment, and
//! nothing else is left behind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::*;

fn signal(child: &Child, name: &str) {
    tool("kill", [&format!("-{name}"), &child.id().to_string()]);
}

/// A copy from a pipe that has been fed `len` bytes and stays open.
fn half_a_copy(dst: &Path, len: usize, words: &[&str]) -> Child {
    let mut child =
        dio_cp().args(words).arg("-").arg(dst).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(&content(len)).unwrap();
    child
}

fn stderr(child: &mut Child) -> String {
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    said
}

#[test]
fn sigkill_at_any_moment_leaves_the_old_content_or_the_new() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 24_000_001), scratch.path("dst"));
    let (old, new) = (content(3_000_000), content(24_000_001));
    let (mut kept, mut replaced) = (0, 0);
    // Kills from the very beginning to well behind the end, however fast this disk is.
    write(&dst, &old);
    let start = Instant::now();
    copies([&src, &dst]);
    let whole = start.elapsed();
    for round in 0..60u32 {
        write(&dst, &old);
        let mut child = dio_cp().arg(&src).arg(&dst).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(whole * round / 30);
        child.kill().unwrap();
        child.wait().unwrap();
        let found = fs::read(&dst).unwrap();
        assert!(found == old || found == new, "round {round}: {} bytes", found.len());
        if found == old {
            kept += 1
        } else {
            replaced += 1
        }
        assert_eq!(scratch.names(), ["dst", "src"], "round {round}");
    }
    assert!(kept > 0 && replaced > 0, "the kills were all too early or too late: {kept}, {replaced}");
}

#[test]
fn every_signal_cleans_up_and_ends_the_program_by_that_signal() {
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    for (name, number) in [("INT", 2), ("TERM", 15), ("HUP", 1)] {
        for existed in [false, true] {
            if existed {
                write(&dst, b"old");
            }
            // The pipe stays open: the signal must not wait for it.
            let mut child = half_a_copy(&dst, 9_000_000, &[]);
            let _open = child.stdin.take();
            signal(&child, name);
            let start = Instant::now();
            let status = child.wait().unwrap();
            assert!(start.elapsed() < Duration::from_secs(5));
            assert_eq!(status.signal(), Some(number));
            let said = stderr(&mut child);
            let left = if existed { "is as it was" } else { "was not created" };
            assert!(said.contains(left) && said.contains(&format!("SIG{name}")), "{said}");
            assert_eq!(scratch.names(), if existed { vec!["dst"] } else { vec![] });
        }
        assert_eq!(fs::read(&dst).unwrap(), b"old");
        fs::remove_file(&dst).unwrap();
    }
}

#[test]
fn signals_that_were_ignored_stay_ignored() {
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    // What nohup(1) does.
    let mut child = Command::new("sh")
        .args(["-c", "trap '' HUP; exec \"$0\" - \"$1\"", env!("CARGO_BIN_EXE_dio-cp")])
        .arg(&dst)
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.as_mut().unwrap().write_all(&content(5_000_000)).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    signal(&child, "HUP");
    std::thread::sleep(Duration::from_millis(100));
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    same(&dst, &content(5_000_000));
}

#[test]
fn sigusr1_prints_a_line_and_goes_on() {
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    let mut child = half_a_copy(&dst, 9 << 20, &[]);
    std::thread::sleep(Duration::from_millis(200));
    signal(&child, "USR1");
    std::thread::sleep(Duration::from_millis(200));
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    let said = stderr(&mut child);
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}");
    assert!(lines[0].starts_with("8388608 bytes (8.4 MB, 8.0 MiB) copied, "), "{said}");
    assert!(lines[1].starts_with("9437184 bytes"), "{said}");
    same(&dst, &content(9 << 20));
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly_by_sigpipe() {
    let scratch = Scratch::new();
    let src = scratch.file("src", 20 << 20);
    let mut child = dio_cp().arg(&src).arg("-").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut some = [0; 1000];
    child.stdout.take().unwrap().read_exact(&mut some).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.signal(), Some(13));
    assert_eq!(stderr(&mut child), "");
}

#[test]
fn nothing_has_the_name_before_it_is_complete() {
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    let mut child = half_a_copy(&dst, 9_000_000, &[]);
    std::thread::sleep(Duration::from_millis(150));
    assert_eq!(scratch.names(), Vec::<String>::new());
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    assert_eq!(scratch.names(), ["dst"]);
}

#[test]
fn no_clobber_is_decided_when_the_file_gets_its_name() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 100), scratch.path("dst"));
    write(&dst, b"old");
    let said = fails(1, ["-n".as_ref(), src.as_os_str(), dst.as_os_str()]);
    assert!(said.contains("exists"), "{said}");
    fs::remove_file(&dst).unwrap();
    // It appears while the copy runs.
    let mut child = half_a_copy(&dst, 5_000_000, &["-n"]);
    std::thread::sleep(Duration::from_millis(100));
    write(&dst, b"somebody else's");
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(stderr(&mut child).contains("created by another process"));
    assert_eq!(fs::read(&dst).unwrap(), b"somebody else's");
    // Without -n the later one wins.
    fs::remove_file(&dst).unwrap();
    let mut child = half_a_copy(&dst, 5_000_000, &[]);
    std::thread::sleep(Duration::from_millis(100));
    write(&dst, b"somebody else's");
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    same(&dst, &content(5_000_000));
    assert_eq!(scratch.names(), ["dst", "src"]);
}

#[test]
fn a_new_file_has_the_mode_of_the_source_under_the_umask() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 100), scratch.path("dst"));
    for (mode, umask, expected) in
        [(0o644, "022", 0o644), (0o777, "027", 0o750), (0o400, "022", 0o400), (0o4755, "0", 0o755)]
    {
        fs::set_permissions(&src, Permissions::from_mode(mode)).unwrap();
        let line =
            format!("umask {umask}; exec {} -q {} {}", env!("CARGO_BIN_EXE_dio-cp"), src.display(), dst.display());
        tool("sh", ["-c", &line]);
        assert_eq!(fs::metadata(&dst).unwrap().mode() & 0o7777, expected, "{mode:o}");
        fs::remove_file(&dst).unwrap();
    }
    let line = format!("umask 027; echo hello | {} -q - {}", env!("CARGO_BIN_EXE_dio-cp"), dst.display());
    tool("sh", ["-c", &line]);
    assert_eq!(fs::metadata(&dst).unwrap().mode() & 0o7777, 0o640);
}

#[test]
fn a_replaced_file_keeps_its_mode_owner_and_extended_attributes() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 5000), scratch.path("dst"));
    write(&dst, b"old");
    fs::set_permissions(&dst, Permissions::from_mode(0o604)).unwrap();
    if xattr::set(&dst, "user.origin", b"here").is_err() {
        return skip("the filesystem has no extended attributes");
    }
    if is_root() {
        std::os::unix::fs::chown(&dst, Some(1234), Some(4321)).unwrap();
    }
    let before = fs::metadata(&dst).unwrap();
    copies([&src, &dst]);
    let after = fs::metadata(&dst).unwrap();
    assert_ne!(after.ino(), before.ino()); // it was replaced, not rewritten
    assert_eq!((after.mode(), after.uid(), after.gid()), (before.mode(), before.uid(), before.gid()));
    assert_eq!(xattr::get(&dst, "user.origin").unwrap().as_deref(), Some(&b"here"[..]));
    same(&dst, &content(5000));
}

#[test]
fn access_lists_are_kept_and_not_inherited_by_what_had_none() {
    if !has_tool("setfacl") {
        return skip("needs the tool setfacl");
    }
    let scratch = Scratch::new();
    let (src, with, without) = (scratch.file("src", 5000), scratch.path("with"), scratch.path("without"));
    let acl = |path: &Path| tool("getfacl", ["-cp".as_ref(), path.as_os_str()]);
    for path in [&with, &without] {
        write(path, b"old");
        fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    }
    tool("setfacl", ["-m".as_ref(), "u:1234:r".as_ref(), with.as_os_str()]);
    tool("setfacl", ["-d".as_ref(), "-m".as_ref(), "u:4321:rw".as_ref(), scratch.0.as_os_str()]);
    for path in [&with, &without] {
        let before = acl(path);
        copies([&src, path]);
        assert_eq!(acl(path), before);
    }
    // A new file inherits, as any other would.
    let new = scratch.path("new");
    copies([&src, &new]);
    assert!(acl(&new).contains("user:4321:"), "{}", acl(&new));
}

#[test]
fn preserve_keeps_times_owner_mode_and_extended_attributes_of_the_source() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 5001), scratch.path("dst"));
    fs::set_permissions(&src, Permissions::from_mode(0o751)).unwrap();
    if xattr::set(&src, "user.origin", b"there").is_err() {
        return skip("the filesystem has no extended attributes");
    }
    if is_root() {
        std::os::unix::fs::chown(&src, Some(1234), Some(4321)).unwrap();
    }
    tool("touch", ["-d", "2001-02-03T04:05:06.123456789Z", src.to_str().unwrap()]);
    copies(["-p".as_ref(), src.as_os_str(), dst.as_os_str()]);
    let (a, b) = (fs::metadata(&src).unwrap(), fs::metadata(&dst).unwrap());
    assert_eq!((a.mode(), a.uid(), a.gid()), (b.mode(), b.uid(), b.gid()));
    assert_eq!((a.mtime(), a.mtime_nsec()), (b.mtime(), b.mtime_nsec()));
    assert_eq!(xattr::get(&dst, "user.origin").unwrap().as_deref(), Some(&b"there"[..]));
}

#[test]
fn in_place_keeps_the_inode_and_everything_outside_the_range() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 5000), scratch.file("dst", 20_000));
    let before = fs::metadata(&dst).unwrap();
    copies(["--in-place".as_ref(), src.as_os_str(), dst.as_os_str()]);
    let after = fs::metadata(&dst).unwrap();
    assert_eq!((after.ino(), after.len()), (before.ino(), 20_000));
    same(&dst, &[&content(5000), &content(20_000)[5000..]].concat());
}

#[test]
fn links_are_followed_and_dangling_ones_refused() {
    let scratch = Scratch::new();
    let (src, real, link) = (scratch.file("src", 5000), scratch.path("real"), scratch.path("link"));
    write(&real, b"old");
    symlink("real", &link).unwrap();
    copies([&src, &link]);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    same(&real, &content(5000));
    fs::remove_file(&real).unwrap();
    let said = fails(1, [&src, &link]);
    assert!(said.contains("symbolic link to a file that does not exist"), "{said}");
    assert!(!real.exists());
}

#[test]
fn the_same_file_is_refused_by_whatever_name() {
    let scratch = Scratch::new();
    let (src, hard, soft) = (scratch.file("src", 5000), scratch.path("hard"), scratch.path("soft"));
    fs::hard_link(&src, &hard).unwrap();
    symlink(&src, &soft).unwrap();
    for (a, b) in [(&src, &src), (&src, &hard), (&soft, &src), (&src, &soft), (&hard, &soft)] {
        for option in ["-q", "--in-place"] {
            let said = fails(1, [option.as_ref(), a.as_os_str(), b.as_os_str()]);
            assert!(said.contains("same file"), "{said}");
        }
    }
    let file = fs::File::open(&src).unwrap();
    let output = dio_cp().arg("-").arg(&src).stdin(file).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let file = fs::File::options().append(true).open(&src).unwrap();
    let output = dio_cp().arg(&src).arg("-").stdout(file).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    same(&src, &content(5000));
}

#[test]
fn without_nameless_files_a_hidden_one_is_used_and_removed() {
    needs_root_and!("mount");
    if !Path::new("/dev/fuse").exists() || !has_tool("bindfs") {
        return skip("needs FUSE and bindfs, a filesystem without O_TMPFILE");
    }
    let scratch = Scratch::new();
    let (src, under, at) = (scratch.file("src", 9_000_001), scratch.path("under"), scratch.path("at"));
    fs::create_dir(&under).unwrap();
    fs::create_dir(&at).unwrap();
    tool("bindfs", [&under, &at]);
    let dst = at.join("dst");
    let result = std::panic::catch_unwind(|| {
        let said = copies(["-v".as_ref(), src.as_os_str(), dst.as_os_str()]);
        assert!(said.contains("hidden name"), "{said}");
        same(&dst, &content(9_000_001));
        assert_eq!(fs::metadata(&dst).unwrap().mode() & 0o777, 0o644);
        // A signal while it is there.
        let mut child = half_a_copy(&dst, 9_000_000, &[]);
        wait_until("there is a hidden file", || names(&under).len() == 2);
        let hidden = names(&under).into_iter().find(|n| n != "dst").unwrap();
        assert!(hidden.starts_with(".dst."), "{hidden}");
        assert_eq!(fs::metadata(under.join(&hidden)).unwrap().mode() & 0o777, 0o600);
        let open = child.stdin.take();
        signal(&child, "TERM");
        assert_eq!(child.wait().unwrap().signal(), Some(15));
        drop(open);
        // FUSE keeps a deleted file under another name until the last user has closed it.
        wait_until("the hidden file is gone", || names(&under) == ["dst"]);
        // An error, and -n.
        let mut command = dio_cp();
        command.args(["--size", "10", "-"]).arg(&dst);
        assert_eq!(feed(command, &content(5000), 1000).status.code(), Some(3));
        wait_until("the hidden file is gone", || names(&under) == ["dst"]);
        let mut child = half_a_copy(&at.join("new"), 100, &["-n"]);
        wait_until("there is a hidden file", || names(&under).len() == 2);
        write(&at.join("new"), b"somebody else's");
        drop(child.stdin.take());
        assert_eq!(child.wait().unwrap().code(), Some(1));
        wait_until("the hidden file is gone", || names(&under) == ["dst", "new"]);
    });
    tool("umount", ["-l".as_ref(), at.as_os_str()]);
    result.unwrap();
}

#[test]
fn a_source_that_shrinks_publishes_nothing() {
    let scratch = Scratch::new();
    let (src, fifo, dst) = (scratch.path("src"), scratch.path("fifo"), scratch.path("dst"));
    tool("mkfifo", [&fifo]);
    for sparse_file in [false, true] {
        if sparse_file {
            sparse(&src, 64 << 20, &[(0, 100), ((64 << 20) - 10, 10)]);
        } else {
            write(&src, &content(64 << 20));
        }
        write(&dst, b"old");
        // Slow enough to be caught: one block at a time, to a reader that waits.
        let mut child = dio_cp()
            .args(["-b", "4096", "--queue-depth", "1", "--sparse", if sparse_file { "never" } else { "auto" }])
            .arg(&src)
            .arg(&fifo)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut reader = fs::File::open(&fifo).unwrap();
        reader.read_exact(&mut vec![0; 4096]).unwrap();
        fs::File::options().write(true).open(&src).unwrap().set_len(5_000_000).unwrap();
        std::io::copy(&mut reader, &mut std::io::sink()).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(1));
        let said = stderr(&mut child);
        assert!(said.contains("it shrank from"), "{said}");
        assert_eq!(fs::read(&dst).unwrap(), b"old");
    }
}

#[test]
fn a_signal_does_not_wait_for_a_standard_error_that_nobody_reads() {
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    let (_reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(&[b'x'; 65_536]).unwrap(); // full
    let mut child =
        dio_cp().arg("-").arg(&dst).stdin(Stdio::piped()).stderr(writer.try_clone().unwrap()).spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(&content(100)).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let _open = child.stdin.take();
    signal(&child, "USR1");
    signal(&child, "TERM");
    let start = Instant::now();
    assert_eq!(child.wait().unwrap().signal(), Some(15));
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(scratch.names(), Vec::<String>::new());
}

#[test]
fn a_signal_at_the_end_and_the_end_itself_do_not_both_tell_their_story() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 100_000), scratch.path("dst"));
    for round in 0..150u64 {
        let mut child = dio_cp().arg(&src).arg(&dst).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(1000 + round * 50));
        let _ = Command::new("kill").arg(child.id().to_string()).stderr(Stdio::null()).status();
        let status = child.wait().unwrap();
        let said = stderr(&mut child);
        let (copied, ended) = (said.contains("B/s") && !said.contains("ended"), said.contains("ended by SIGTERM"));
        assert!(said.lines().count() <= 2, "{said}");
        assert!(status.success() || status.signal() == Some(15), "{status}: {said}");
        assert!(!(ended && status.success()), "{status}: {said}");
        assert!(copied || status.signal() == Some(15), "{status}: {said}");
    }
}

#[test]
fn a_source_that_changes_meanwhile_is_told() {
    let scratch = Scratch::new();
    let (src, fifo) = (scratch.file("src", 8 << 20), scratch.path("fifo"));
    tool("mkfifo", [&fifo]);
    let words = ["-b", "4096", "--queue-depth", "1"];
    let mut child = dio_cp().args(words).arg(&src).arg(&fifo).stderr(Stdio::piped()).spawn().unwrap();
    let mut reader = fs::File::open(&fifo).unwrap();
    reader.read_exact(&mut vec![0; 4096]).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&fs::File::options().write(true).open(&src).unwrap(), b"new", 0).unwrap();
    std::io::copy(&mut reader, &mut std::io::sink()).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(stderr(&mut child).contains("changed during the copy"));
}

#[test]
fn a_parent_that_ignores_its_children_does_not_matter() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 5000), scratch.path("dst"));
    write(&dst, b"old");
    let line = format!("trap '' CHLD; exec {} -q {} {}", env!("CARGO_BIN_EXE_dio-cp"), src.display(), dst.display());
    tool("bash", ["-c", &line]);
    same(&dst, &content(5000));
    assert_eq!(scratch.names(), ["dst", "src"]);
}

#[test]
fn what_a_killed_child_did_not_do_is_done_all_the_same() {
    needs_root_and!("strace");
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 5000), scratch.path("dst"));
    write(&dst, b"old");
    // The child that names the file dies before its rename; the parent has a rename of its own.
    let words =
        ["-f", "-qq", "-o", "/dev/null", "-e", "trace=rename", "-e", "inject=rename:signal=KILL:retval=0:when=1"];
    let output = Command::new("strace").args(words).arg(env!("CARGO_BIN_EXE_dio-cp")).arg(&src).arg(&dst).output();
    let said = String::from_utf8_lossy(&output.unwrap().stderr).into_owned();
    assert_eq!(scratch.names(), ["dst", "src"], "{said}");
    let found = fs::read(&dst).unwrap();
    assert!(found == b"old" || found == content(5000), "{said}");
}
