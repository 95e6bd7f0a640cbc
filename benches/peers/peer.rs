//! The commands, and where their tools are.

use std::path::{Path, PathBuf};
use std::process::Command;

/// One command. In its line stand:
///
/// ```text
/// {dio} {tool} {self}   dio-cp, what this peer needs, this benchmark's own program
/// {src} {dst}           the two ends; {sync} waits for {dst}, in a case of many files for its name too
/// {sink}                reads standard input to its end
/// {fio}                 options of all fio lines
/// ```
#[derive(Clone)]
pub struct Peer {
    pub name: String,
    /// What it needs to be installed.
    pub tool: &'static str,
    pub line: String,
}

pub fn peer(name: &str, tool: &'static str, line: &str) -> Peer {
    Peer { name: name.into(), tool, line: line.into() }
}

impl Peer {
    /// The device's own speed, which is no copy.
    pub fn is_limit(&self) -> bool {
        self.tool == "fio"
    }

    /// As people would type it.
    pub fn shown(&self) -> String {
        let words = [
            ("{dio}", "dio-cp"),
            ("{tool}", self.tool),
            ("{self}", "bench"),
            ("{sync}", "sync DST"),
            ("{src}", "SRC"),
            ("{dst}", "DST"),
            ("{sink}", "cat > /dev/null"),
            ("{fio}", FIO),
        ];
        words.iter().fold(self.line.clone(), |line, (word, shown)| line.replace(word, shown))
    }
}

/// fio is the device's own limit, at queue depth 8 × 4 MiB, by its own clock, without its start.
pub const FIO: &str = "--bs=4M --iodepth=8 --ioengine=libaio --direct=1 --fallocate=posix --end_fsync=1";

pub fn dio() -> Peer {
    peer("dio-cp", "sh", "{dio} -q {src} {dst}")
}

pub fn dd(block: &str) -> Peer {
    let line = format!("dd if={{src}} of={{dst}} bs={block} iflag=direct oflag=direct conv=fsync status=none");
    peer(&format!("dd {block} direct"), "dd", &line)
}

pub fn cp() -> Peer {
    peer("cp + sync", "cp", "cp {src} {dst} && {sync}")
}

pub fn qemu_img() -> Peer {
    let line = "qemu-img convert -f raw -O raw -t none -T none -m 8 -W {src} {dst} && {sync}";
    peer("qemu-img -t none", "qemu-img", line)
}

pub fn nbdcopy() -> Peer {
    peer("nbdcopy", "nbdcopy", "nbdcopy --flush {src} {dst}")
}

pub fn mbuffer() -> Peer {
    peer("mbuffer -m 64M", "mbuffer", "mbuffer -q -m 64M -i {src} -o {dst} && {sync}")
}

pub fn xcp() -> Peer {
    peer("xcp + sync", "xcp", "{tool} --no-progress {src} {dst} && {sync}")
}

/// Whole files, with the medium reached at the end.
pub fn files() -> Vec<Peer> {
    vec![
        dio(),
        dd("1M"),
        dd("4M"),
        dd("16M"),
        peer(
            "uutils dd 4M direct",
            "uutils-dd",
            "{tool} if={src} of={dst} bs=4M iflag=direct oflag=direct conv=fsync status=none",
        ),
        cp(),
        peer("cat + sync", "cat", "cat {src} > {dst} && {sync}"),
        xcp(),
        mbuffer(),
        qemu_img(),
        nbdcopy(),
        // It has no direct I/O.
        peer("dcfldd 4M + sync", "dcfldd", "dcfldd if={src} of={dst} bs=4M status=off && {sync}"),
        // By itself it copies 64 KiB at a time, which is for damaged disks.
        peer("ddrescue direct", "ddrescue", "ddrescue -q -d -D -p -c 8192 {src} {dst} && {sync}"),
    ]
}

/// The device's own speed with these bytes.
pub fn limits() -> Vec<Peer> {
    vec![
        peer("fio, only reading", "fio", "fio --name=limit --rw=read --filename={src} --size={bytes} {fio}"),
        peer("fio, only writing", "fio", "fio --name=limit --rw=write --filename={dst} --size={bytes} {fio}"),
    ]
}

/// A loop that can do nothing but this, tuned by hand: what a copy program could cost at least.
pub fn bare(workers: usize, mib: usize) -> Peer {
    let line = format!("{{self}} bare-loop {{src}} {{dst}} {workers} {}", mib << 20);
    peer(&format!("bare loop {workers} × {mib} MiB"), "sh", &line)
}

/// Where this tool is: in PATH, or of those that `install-peers` made.
pub fn find(tool: &str) -> Option<PathBuf> {
    let own = peers_dir().join("bin");
    if tool == "uutils-dd" {
        // The second one is Debian's.
        return [own.join("dd"), "/usr/lib/cargo/bin/coreutils/dd".into()].into_iter().find(|path| path.is_file());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain([own]).map(|dir| dir.join(tool)).find(|path| path.is_file())
}

/// What the installed tools say of themselves, in a line each.
pub fn versions() -> Vec<String> {
    let asked = [
        "dd",
        "uutils-dd",
        "cp",
        "cat",
        "xcp",
        "mbuffer",
        "qemu-img",
        "nbdcopy",
        "dcfldd",
        "ddrescue",
        "curl",
        "wget",
        "fio",
    ];
    let version = |tool: &str| {
        let output = Command::new(find(tool)?).arg("--version").output().ok()?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let line = said.lines().find(|line| !line.trim().is_empty())?;
        let words: Vec<&str> = line.split_whitespace().take(6).collect();
        Some(format!("{tool}: {}", words.join(" ")))
    };
    let own = concat!("dio-cp: ", env!("CARGO_PKG_VERSION")).to_string();
    [own].into_iter().chain(asked.into_iter().filter_map(version)).collect()
}

fn peers_dir() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("peers")
}

/// Those that cargo has, under the target directory.
pub fn install() {
    for package in ["xcp", "uu_dd"] {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let status = Command::new(cargo).args(["install", "--locked", package, "--root"]).arg(peers_dir()).status();
        match status {
            Ok(status) if status.success() => println!("installed: {package}"),
            Ok(status) => println!("not installed: {package}: cargo ended with {status}"),
            Err(error) => println!("not installed: {package}: {error}"),
        }
    }
}
