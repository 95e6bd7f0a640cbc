//! --residency, --cgroups and --check-cache: which pages are in the page cache, and which cgroup is charged for them.
//! If the kernel does not report the pages of a file, they are "unknown".
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::*;

/// The JSON report of `dio-cp --residency` for these paths.
fn residency(args: &[&str], paths: &[&Path]) -> serde_json::Value {
    let output = dio_cp().args(["--residency", "--json"]).args(args).args(paths).output().unwrap();
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// Creates files of which no page, all pages, or some pages are cached, and a sparse file.
fn create_files(dir: &Path) -> Vec<PathBuf> {
    let path = |name: &str| dir.join(name);
    for (name, len) in [("empty", 0), ("byte", 1), ("cold", 3_000_001), ("hot", 3_000_001), ("part", 3_000_001)] {
        write(&path(name), &content(len));
        make_cold(&path(name));
    }
    make_hot(&path("hot"));
    let mut start = vec![0; 100_000];
    File::open(path("part")).unwrap().read_exact(&mut start).unwrap();
    // Whole pages, because mincore does not count a page that was only partly written, which is not up to date.
    sparse(&path("sparse"), 50 << 20, &[(7 << 20, 25 * 4096)]);
    names(dir).into_iter().filter(|name| name != "lost+found").map(|name| path(&name)).collect()
}

/// The number of resident pages, according to fincore.
fn fincore(path: &Path) -> u64 {
    tool("fincore", ["-nb".as_ref(), "-o".as_ref(), "PAGES".as_ref(), path.as_os_str()]).trim().parse().unwrap()
}

/// The numbers of resident pages and of all pages, according to vmtouch.
fn vmtouch(path: &Path) -> (u64, u64) {
    let text = tool("vmtouch", [path]);
    let line = text.lines().find(|line| line.contains("Resident Pages")).unwrap();
    let (resident, pages) = line.split_whitespace().nth(2).unwrap().split_once('/').unwrap();
    (resident.parse().unwrap(), pages.parse().unwrap())
}

#[test]
fn page_counts_equal_those_of_fincore_and_vmtouch() {
    needs_root_and!("fincore", "vmtouch", "losetup", "mkfs.ext4", "mkfs.xfs", "mkfs.btrfs");
    let scratch = Scratch::new();
    let shm = Path::new("/dev/shm").join(format!("dio-cp-residency-{}", std::process::id()));
    fs::create_dir(&shm).unwrap();
    let mut dirs = vec![shm.clone()];
    let mounts: Vec<Mount> = ["ext4", "xfs", "btrfs"].map(|k| Mount::filesystem(&scratch, k, 400 << 20, 512)).into();
    dirs.extend(mounts.iter().map(|mount| mount.at.clone()));
    for dir in dirs {
        let files = create_files(&dir);
        for file in &files {
            let report = residency(&[], &[file]);
            let (resident, pages) = (report["resident"].as_u64().unwrap(), report["pages"].as_u64().unwrap());
            assert_eq!((resident, pages), vmtouch(file), "{}", file.display());
            assert_eq!(resident, fincore(file), "{}", file.display());
        }
        let all: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
        let sum: u64 = files.iter().map(|file| fincore(file)).sum();
        assert_eq!(residency(&[], &all)["resident"].as_u64(), Some(sum));
        let tree = residency(&["-v"], &[&dir]);
        assert_eq!((tree["resident"].as_u64(), tree["failed"].as_u64()), (Some(sum), Some(0)));
        assert_eq!(tree["list"].as_array().unwrap().len() as u64, tree["files"].as_u64().unwrap());
    }
    fs::remove_dir_all(&shm).unwrap();
}

#[test]
fn a_page_that_is_not_up_to_date_is_counted_although_mincore_misses_it() {
    needs_root_and!("vmtouch");
    if !can_count_pages() {
        return skip("needs cachestat (Linux 6.5)");
    }
    let scratch = Scratch::new();
    // Truncating a file within a page zeroes the rest of the page in the cache.
    let path = scratch.file("cut", 8192);
    make_cold(&path);
    File::options().write(true).open(&path).unwrap().set_len(5000).unwrap();
    let report = residency(&["-v"], &[&path]);
    assert_eq!(report["resident"].as_u64(), Some(1));
    assert_eq!(report["list"][0]["dirty"].as_u64(), Some(1));
    assert_eq!(vmtouch(&path).0, 0, "mincore counts the page now, so this test is no longer needed");
}

#[test]
fn pages_that_the_kernel_does_not_report_are_unknown() {
    needs_root_and!("setpriv", "vmtouch");
    // A directory that any user can reach.
    let dir = Path::new("/var/tmp").join(format!("dio-cp-unknown-{}", std::process::id()));
    fs::create_dir(&dir).unwrap();
    let (file, binary) = (dir.join("file"), dir.join("dio-cp"));
    write(&file, &content(100_000));
    make_cold(&file);
    fs::copy(common::binary(), &binary).unwrap();
    let nobody = |program: &Path, args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program).args(args).arg(&file);
        command.output().unwrap()
    };
    let output = nobody(&binary, &["--residency", "-v", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((report["unknown"].as_u64(), report["resident"].as_u64()), (Some(1), Some(0)));
    assert!(report["list"][0]["resident"].is_null());
    // mincore calls all pages resident, and so does vmtouch.
    let stderr = String::from_utf8(nobody(Path::new("vmtouch"), &[]).stdout).unwrap();
    assert!(stderr.contains("25/25"), "{stderr}");
    let stderr = String::from_utf8(nobody(&binary, &["--residency", "-v"]).stdout).unwrap();
    assert!(stderr.contains("unknown/25") && stderr.contains("1 file (not reported by the kernel)"), "{stderr}");
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn unreadable_paths_are_reported_and_the_others_are_counted() {
    let scratch = Scratch::new();
    let good = scratch.file("good", 10_000);
    let (fifo, missing) = (scratch.path("fifo"), scratch.path("missing"));
    tool("mkfifo", [&fifo]);
    let paths = [missing.as_path(), &fifo, Path::new("/dev/null"), &good];
    let output = dio_cp().arg("--residency").args(paths).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("missing") && stderr.contains("fifo") && stderr.contains("/dev/null"), "{stderr}");
    assert!(stderr.contains("3 paths could not be read"), "{stderr}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("Files: 1"), "{output:?}");
    assert_eq!(residency(&[], &paths)["failed"].as_u64(), Some(3));
    // In a directory, FIFOs are skipped, because the user has not named them.
    assert_eq!(residency(&[], &[&scratch.0])["failed"].as_u64(), Some(0));
    fails(2, ["--residency"]);
    fails(2, ["--cgroups".as_ref(), good.as_os_str()]);
    fails(2, ["--residency".as_ref(), "--verify".as_ref(), good.as_os_str()]);
}

#[test]
fn growing_files_devices_and_huge_holes_are_counted() {
    needs_root_and!("losetup");
    let scratch = Scratch::new();
    let growing = scratch.file("growing", 10_000);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = File::options().append(true).open(&growing).unwrap();
            for _ in 0..200 {
                file.write_all(&content(5000)).unwrap();
            }
        });
        for _ in 0..20 {
            assert_eq!(residency(&[], &[&growing])["failed"].as_u64(), Some(0));
        }
    });
    let huge = scratch.path("huge");
    sparse(&huge, 10 << 40, &[(5 << 40, 4096)]);
    let report = residency(&["--cgroups"], &[&huge]);
    assert!(report["seconds"].as_f64().unwrap() < 5.0 && report["pages"].as_u64() == Some((10 << 40) / 4096));
    let disk = Loop::new(&scratch, 8 << 20, 512);
    // The device stays open, because the kernel evicts its pages at the last close.
    let mut device = File::open(&disk.device).unwrap();
    std::io::copy(&mut device, &mut std::io::sink()).unwrap();
    assert!(residency(&[], &[&disk.device])["resident"].as_u64().unwrap() > 0);
}

#[test]
fn pages_are_counted_by_the_cgroup_that_is_charged() {
    needs_root_and!("cat");
    let root = Path::new("/sys/fs/cgroup");
    let v2 = fs::read_to_string(root.join("cgroup.controllers")).is_ok_and(|c| c.contains("memory"));
    let parent = if v2 { root.to_path_buf() } else { root.join("memory") };
    let name = format!("dio-cp-charged-{}", std::process::id());
    if !Path::new("/proc/kpagecgroup").exists() || fs::create_dir(parent.join(&name)).is_err() {
        return skip("needs memory cgroups and /proc/kpagecgroup");
    }
    let scratch = Scratch::new();
    let file = scratch.file("file", 4 << 20);
    make_cold(&file);
    let procs = parent.join(&name).join("cgroup.procs");
    let line = format!("echo $$ > {} && exec cat {} > /dev/null", procs.display(), file.display());
    tool("sh", ["-c", &line]);
    let report = residency(&["--cgroups"], &[&file]);
    let charges = report["cgroups"].as_array().unwrap();
    let own = charges.iter().find(|charge| charge["path"] == format!("/{name}")).unwrap_or_else(|| panic!("{report}"));
    assert_eq!(own["pages"].as_u64(), Some(1024), "{report}");
    assert_eq!(charges.iter().map(|c| c["pages"].as_u64().unwrap()).sum::<u64>(), report["resident"].as_u64().unwrap());
    let stderr = copies(["--residency".as_ref(), "--cgroups".as_ref(), file.as_os_str()]);
    assert_eq!(stderr, "");
    make_cold(&file);
    fs::remove_dir(parent.join(&name)).unwrap();
    if has_tool("setpriv") {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]);
        let binary = Path::new("/dev/shm").join(format!("dio-cp-cgroups-{}", std::process::id()));
        fs::copy(common::binary(), &binary).unwrap();
        let output = command.arg(&binary).args(["--residency", "--cgroups", "/dev/shm"]).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        fs::remove_file(&binary).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("/proc/kpagecgroup") || stderr.contains("/proc/self/pagemap"), "{stderr}");
    }
}

#[test]
fn check_cache_reports_the_pages_and_fails_if_the_copy_leaves_some() {
    if !can_count_pages() {
        return skip("needs cachestat (Linux 6.5)");
    }
    let scratch = Scratch::new();
    let (src, dst) = (scratch.file("src", 20 << 20), scratch.path("dst"));
    let (s, d) = (src.to_str().unwrap(), dst.to_str().unwrap());
    make_cold(&src);
    let stderr = copies(["--check-cache", s, d]);
    assert!(
        stderr.contains("pages of the source in the cache: 0 before, 0 at most (sampled every 10 ms), 0 after"),
        "{stderr}"
    );
    assert!(stderr.contains("pages of the destination in the cache: 0 before"), "{stderr}");
    for (args, left) in
        [(vec!["--direct", "never"], "left 5120 pages"), (vec!["--direct", "never", "--no-sync"], "left")]
    {
        make_cold(&src);
        let stderr = fails(5, [&["--check-cache"][..], &args, &[s, d]].concat());
        assert!(stderr.contains(left) && stderr.contains("the copy is done"), "{stderr}");
        same(&dst, &content(20 << 20));
    }
    // Pages that were cached before the copy are not counted against it.
    make_hot(&src);
    let stderr = copies(["--check-cache", s, d]);
    assert!(stderr.contains("5120 before"), "{stderr}");
    // An in-place copy may evict pages of the destination.
    make_hot(&dst);
    File::options().write(true).open(&dst).unwrap().write_all_at(b"x", 0).unwrap();
    copies(["--check-cache", "--in-place", s, d]);
    let output = run(["-q", "--check-cache", "--json", s, d]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["cache"]["destination"]["after"].as_u64(), Some(0));
    let mut command = dio_cp();
    command.args(["--check-cache", "-", d]);
    assert!(feed(command, &content(100_000), 5000).status.success());
    fails(2, ["--check-cache", "-", "-"]);
}

#[test]
fn the_residency_json_has_the_fields_that_the_man_page_describes() {
    let scratch = Scratch::new();
    let file = scratch.file("file", 5000);
    let report = residency(&["-v"], &[&file]);
    let man = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("man/dio-cp.1")).unwrap();
    let section = man.split(".SH \"RESIDENCY REPORT\"").nth(1).unwrap().split(".SH").next().unwrap();
    let terms = section.lines().filter_map(|line| line.strip_prefix("\\fB"));
    let mut described: Vec<_> = terms.flat_map(|line| line.trim_end_matches("\\fR").split(", ")).collect();
    described.sort_unstable();
    let mut fields: Vec<_> = report.as_object().unwrap().keys().map(String::as_str).collect();
    fields.sort_unstable();
    assert_eq!(fields, described);
    for field in report["list"][0].as_object().unwrap().keys() {
        assert!(section.contains(&field.replace('-', "\\-")), "{field}");
    }
    // A closed output pipe ends it without a message.
    let line = format!("{} --residency -v /usr/lib /usr/share | head -n 1", binary());
    let output = Command::new("sh").args(["-c", &line]).stderr(Stdio::piped()).output().unwrap();
    assert!(!String::from_utf8_lossy(&output.stderr).contains("Broken pipe"));
}

#[test]
fn residency_does_not_read_the_data_of_a_fifo() {
    let scratch = Scratch::new();
    let fifo = scratch.path("fifo");
    tool("mkfifo", [&fifo]);
    let line = format!("echo precious > {}", fifo.display());
    let mut writer = Command::new("sh").args(["-c", &line]).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(200));
    fails(1, ["--residency".as_ref(), fifo.as_os_str()]);
    assert_eq!(fs::read(&fifo).unwrap(), b"precious\n");
    assert!(writer.wait().unwrap().success());
}

#[test]
fn a_file_with_several_names_is_counted_once() {
    let scratch = Scratch::new();
    let a = scratch.file("a", 10_000);
    fs::hard_link(&a, scratch.path("b")).unwrap();
    assert_eq!(residency(&[], &[&scratch.0])["files"].as_u64(), Some(1));
    assert_eq!(residency(&[], &[&a, &a])["files"].as_u64(), Some(1));
}

#[test]
fn cached_pages_of_holes_are_charged_to_a_cgroup_too() {
    needs_root_and!("cat");
    let scratch = Scratch::new();
    let path = scratch.path("sparse");
    sparse(&path, 10 << 20, &[(5_000_000, 1)]);
    make_hot(&path);
    let report = residency(&["--cgroups"], &[&path]);
    let charged: u64 = report["cgroups"].as_array().unwrap().iter().map(|c| c["pages"].as_u64().unwrap()).sum();
    assert_eq!((report["resident"].as_u64(), charged), (Some(2560), 2560));
}
