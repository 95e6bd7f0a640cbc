//! Promise 3: at any moment, DST has either its old content or the complete new content, and no temporary file is left.
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

/// Starts a copy from a pipe and writes `len` bytes to it. The pipe stays open.
fn start_copy_from_pipe(dst: &Path, len: usize, args: &[&str]) -> Child {
    let mut child = dio_cp().args(args).arg("-").arg(dst).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(&content(len)).unwrap();
    child
}

fn read_stderr(child: &mut Child) -> String {
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    text
}

#[test]
fn sigkill_at_any_moment_leaves_the_old_or_the_new_content() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 24_000_001), scratch.path("dst"));
    let (old, new) = (content(3_000_000), content(24_000_001));
    let (mut kept, mut replaced) = (0, 0);
    // The time of a whole copy, so that the kills are spread from its start to well after its end.
    write(&dst, &old);
    let start = Instant::now();
    copies([&src, &dst]);
    let copy_time = start.elapsed();
    for round in 0..60u32 {
        write(&dst, &old);
        let mut child = dio_cp().arg(&src).arg(&dst).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(copy_time * round / 30);
        child.kill().unwrap();
        child.wait().unwrap();
        let actual = fs::read(&dst).unwrap();
        assert!(actual == old || actual == new, "round {round}: {} bytes", actual.len());
        if actual == old {
            kept += 1
        } else {
            replaced += 1
        }
        assert_eq!(scratch.names(), ["dst", "src"], "round {round}");
    }
    assert!(kept > 0 && replaced > 0, "the kills were all too early or too late: {kept}, {replaced}");
}

#[test]
fn a_signal_deletes_the_temporary_file_and_ends_the_program_by_that_signal() {
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    for (name, number) in [("INT", 2), ("TERM", 15), ("HUP", 1)] {
        for existed in [false, true] {
            if existed {
                write(&dst, b"old");
            }
            // The pipe stays open, so the copy waits for data when the signal arrives.
            let mut child = start_copy_from_pipe(&dst, 9_000_000, &[]);
            let _open_pipe = child.stdin.take();
            signal(&child, name);
            let start = Instant::now();
            let status = child.wait().unwrap();
            assert!(start.elapsed() < Duration::from_secs(5));
            assert_eq!(status.signal(), Some(number));
            let stderr = read_stderr(&mut child);
            let state = if existed { "is as it was" } else { "was not created" };
            assert!(stderr.contains(state) && stderr.contains(&format!("SIG{name}")), "{stderr}");
            assert_eq!(scratch.names(), if existed { vec!["dst"] } else { vec![] });
        }
        assert_eq!(fs::read(&dst).unwrap(), b"old");
        fs::remove_file(&dst).unwrap();
    }
}

#[test]
fn a_signal_that_the_parent_ignored_stays_ignored() {
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    // What nohup(1) does.
    let mut child = Command::new("sh")
        .args(["-c", "trap '' HUP; exec \"$0\" - \"$1\"", binary()])
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
fn sigusr1_prints_the_progress_and_the_copy_continues() {
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    let mut child = start_copy_from_pipe(&dst, 9 << 20, &[]);
    std::thread::sleep(Duration::from_millis(200));
    signal(&child, "USR1");
    std::thread::sleep(Duration::from_millis(200));
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    let stderr = read_stderr(&mut child);
    let lines: Vec<_> = stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{stderr}");
    assert!(lines[0].starts_with("8388608 bytes (8.4 MB, 8.0 MiB) copied, "), "{stderr}");
    assert!(lines[1].starts_with("9437184 bytes"), "{stderr}");
    same(&dst, &content(9 << 20));
}

#[test]
fn a_closed_output_pipe_ends_the_program_by_sigpipe_without_a_message() {
    let scratch = Scratch::new();
    let src = scratch.file("src", 20 << 20);
    let mut child = dio_cp().arg(&src).arg("-").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut start = [0; 1000];
    child.stdout.take().unwrap().read_exact(&mut start).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.signal(), Some(13));
    assert_eq!(read_stderr(&mut child), "");
}

#[test]
fn the_destination_does_not_exist_before_the_copy_is_complete() {
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    let mut child = start_copy_from_pipe(&dst, 9_000_000, &[]);
    std::thread::sleep(Duration::from_millis(150));
    assert_eq!(scratch.names(), Vec::<String>::new());
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    assert_eq!(scratch.names(), ["dst"]);
}

#[test]
fn no_clobber_is_checked_when_the_file_gets_its_name() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 100), scratch.path("dst"));
    write(&dst, b"old");
    let stderr = fails(1, ["-n".as_ref(), src.as_os_str(), dst.as_os_str()]);
    assert!(stderr.contains("exists"), "{stderr}");
    fs::remove_file(&dst).unwrap();
    // Another process creates it while the copy runs.
    let mut child = start_copy_from_pipe(&dst, 5_000_000, &["-n"]);
    std::thread::sleep(Duration::from_millis(100));
    write(&dst, b"another process");
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(read_stderr(&mut child).contains("created by another process"));
    assert_eq!(fs::read(&dst).unwrap(), b"another process");
    // Without -n, the copy replaces it.
    fs::remove_file(&dst).unwrap();
    let mut child = start_copy_from_pipe(&dst, 5_000_000, &[]);
    std::thread::sleep(Duration::from_millis(100));
    write(&dst, b"another process");
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    same(&dst, &content(5_000_000));
    assert_eq!(scratch.names(), ["dst", "src"]);
}

#[test]
fn a_new_file_has_the_mode_of_the_source_masked_by_the_umask() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 100), scratch.path("dst"));
    for (mode, umask, expected) in
        [(0o644, "022", 0o644), (0o777, "027", 0o750), (0o400, "022", 0o400), (0o4755, "0", 0o755)]
    {
        fs::set_permissions(&src, Permissions::from_mode(mode)).unwrap();
        let line = format!("umask {umask}; exec {} -q {} {}", binary(), src.display(), dst.display());
        tool("sh", ["-c", &line]);
        assert_eq!(fs::metadata(&dst).unwrap().mode() & 0o7777, expected, "{mode:o}");
        fs::remove_file(&dst).unwrap();
    }
    let line = format!("umask 027; echo hello | {} -q - {}", binary(), dst.display());
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
    assert_ne!(after.ino(), before.ino()); // the file was replaced, not overwritten
    assert_eq!((after.mode(), after.uid(), after.gid()), (before.mode(), before.uid(), before.gid()));
    assert_eq!(xattr::get(&dst, "user.origin").unwrap().as_deref(), Some(&b"here"[..]));
    same(&dst, &content(5000));
}

#[test]
fn a_replaced_file_keeps_its_acl_and_does_not_inherit_one() {
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
    // A new file inherits the default ACL of the directory.
    let new = scratch.path("new");
    copies([&src, &new]);
    assert!(acl(&new).contains("user:4321:"), "{}", acl(&new));
}

#[test]
fn preserve_copies_times_owner_mode_and_extended_attributes_of_the_source() {
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
fn in_place_keeps_the_inode_and_all_bytes_outside_the_range() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 5000), scratch.file("dst", 20_000));
    let before = fs::metadata(&dst).unwrap();
    copies(["--in-place".as_ref(), src.as_os_str(), dst.as_os_str()]);
    let after = fs::metadata(&dst).unwrap();
    assert_eq!((after.ino(), after.len()), (before.ino(), 20_000));
    same(&dst, &[&content(5000), &content(20_000)[5000..]].concat());
}

#[test]
fn symbolic_links_are_followed_and_dangling_links_are_refused() {
    let scratch = Scratch::new();
    let (src, real, link) = (scratch.file("src", 5000), scratch.path("real"), scratch.path("link"));
    write(&real, b"old");
    symlink("real", &link).unwrap();
    copies([&src, &link]);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    same(&real, &content(5000));
    fs::remove_file(&real).unwrap();
    let stderr = fails(1, [&src, &link]);
    assert!(stderr.contains("symbolic link to a file that does not exist"), "{stderr}");
    assert!(!real.exists());
}

#[test]
fn a_copy_of_a_file_onto_itself_is_refused_under_any_name() {
    let scratch = Scratch::new();
    let (src, hard, soft) = (scratch.file("src", 5000), scratch.path("hard"), scratch.path("soft"));
    fs::hard_link(&src, &hard).unwrap();
    symlink(&src, &soft).unwrap();
    for (a, b) in [(&src, &src), (&src, &hard), (&soft, &src), (&src, &soft), (&hard, &soft)] {
        for option in ["-q", "--in-place"] {
            let stderr = fails(1, [option.as_ref(), a.as_os_str(), b.as_os_str()]);
            assert!(stderr.contains("same file"), "{stderr}");
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
fn without_o_tmpfile_a_hidden_file_is_used_and_deleted() {
    needs_root_and!("mount");
    if !Path::new("/dev/fuse").exists() || !has_tool("bindfs") {
        return skip("needs FUSE and bindfs, a filesystem without O_TMPFILE");
    }
    let scratch = Scratch::new();
    let (src, under, mount_point) = (scratch.file("src", 9_000_001), scratch.path("under"), scratch.path("mnt"));
    fs::create_dir(&under).unwrap();
    fs::create_dir(&mount_point).unwrap();
    tool("bindfs", [&under, &mount_point]);
    let dst = mount_point.join("dst");
    let result = std::panic::catch_unwind(|| {
        let stderr = copies(["-v".as_ref(), src.as_os_str(), dst.as_os_str()]);
        assert!(stderr.contains("hidden name"), "{stderr}");
        same(&dst, &content(9_000_001));
        assert_eq!(fs::metadata(&dst).unwrap().mode() & 0o777, 0o644);
        // After a signal, the hidden file is deleted.
        let mut child = start_copy_from_pipe(&dst, 9_000_000, &[]);
        wait_until("the hidden file exists", || names(&under).len() == 2);
        let hidden = names(&under).into_iter().find(|n| n != "dst").unwrap();
        assert!(hidden.starts_with(".dst."), "{hidden}");
        assert_eq!(fs::metadata(under.join(&hidden)).unwrap().mode() & 0o777, 0o600);
        let open_pipe = child.stdin.take();
        signal(&child, "TERM");
        assert_eq!(child.wait().unwrap().signal(), Some(15));
        drop(open_pipe);
        // FUSE keeps a deleted file under another name until the last process has closed it.
        wait_until("the hidden file is gone", || names(&under) == ["dst"]);
        // The same after an error, and with -n.
        let mut command = dio_cp();
        command.args(["--size", "10", "-"]).arg(&dst);
        assert_eq!(feed(command, &content(5000), 1000).status.code(), Some(3));
        wait_until("the hidden file is gone", || names(&under) == ["dst"]);
        let mut child = start_copy_from_pipe(&mount_point.join("new"), 100, &["-n"]);
        wait_until("the hidden file exists", || names(&under).len() == 2);
        write(&mount_point.join("new"), b"another process");
        drop(child.stdin.take());
        assert_eq!(child.wait().unwrap().code(), Some(1));
        wait_until("the hidden file is gone", || names(&under) == ["dst", "new"]);
    });
    tool("umount", ["-l".as_ref(), mount_point.as_os_str()]);
    result.unwrap();
}

#[test]
fn a_source_that_shrinks_is_an_error() {
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
        // The copy waits for the reader of the FIFO, so the source can be truncated in time.
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
        let stderr = read_stderr(&mut child);
        assert!(stderr.contains("it shrank from"), "{stderr}");
        assert_eq!(fs::read(&dst).unwrap(), b"old");
    }
}

#[test]
fn a_signal_ends_the_program_even_if_standard_error_is_a_full_pipe() {
    let scratch = Scratch::new();
    let dst = scratch.path("dst");
    let (_reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(&[b'x'; 65_536]).unwrap(); // fills the pipe
    let mut child =
        dio_cp().arg("-").arg(&dst).stdin(Stdio::piped()).stderr(writer.try_clone().unwrap()).spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(&content(100)).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let _open_pipe = child.stdin.take();
    signal(&child, "USR1");
    signal(&child, "TERM");
    let start = Instant::now();
    assert_eq!(child.wait().unwrap().signal(), Some(15));
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(scratch.names(), Vec::<String>::new());
}

#[test]
fn a_signal_near_the_end_gives_either_a_success_or_an_interruption_message() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 100_000), scratch.path("dst"));
    for round in 0..150u64 {
        let mut child = dio_cp().arg(&src).arg(&dst).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(1000 + round * 50));
        let _ = Command::new("kill").arg(child.id().to_string()).stderr(Stdio::null()).status();
        let status = child.wait().unwrap();
        let stderr = read_stderr(&mut child);
        let (success_reported, interruption_reported) =
            (stderr.contains("B/s") && !stderr.contains("ended"), stderr.contains("ended by SIGTERM"));
        assert!(stderr.lines().count() <= 2, "{stderr}");
        assert!(status.success() || status.signal() == Some(15), "{status}: {stderr}");
        assert!(!(interruption_reported && status.success()), "{status}: {stderr}");
        assert!(success_reported || status.signal() == Some(15), "{status}: {stderr}");
    }
}

#[test]
fn a_source_that_changes_during_the_copy_is_reported() {
    let scratch = Scratch::new();
    let (src, fifo) = (scratch.file("src", 8 << 20), scratch.path("fifo"));
    tool("mkfifo", [&fifo]);
    let args = ["-b", "4096", "--queue-depth", "1"];
    let mut child = dio_cp().args(args).arg(&src).arg(&fifo).stderr(Stdio::piped()).spawn().unwrap();
    let mut reader = fs::File::open(&fifo).unwrap();
    reader.read_exact(&mut vec![0; 4096]).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&fs::File::options().write(true).open(&src).unwrap(), b"new", 0).unwrap();
    std::io::copy(&mut reader, &mut std::io::sink()).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(read_stderr(&mut child).contains("changed during the copy"));
}

#[test]
fn an_ignored_sigchld_does_not_affect_a_copy() {
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 5000), scratch.path("dst"));
    write(&dst, b"old");
    let line = format!("trap '' CHLD; exec {} -q {} {}", binary(), src.display(), dst.display());
    tool("bash", ["-c", &line]);
    same(&dst, &content(5000));
    assert_eq!(scratch.names(), ["dst", "src"]);
}
