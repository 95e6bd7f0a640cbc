//! The commands that are compared: dio-cp and other tools.

/// One command. Its line is for the shell, with these placeholders:
///
/// ```text
/// {dio} {tool} {self}   the paths of dio-cp, of this peer's tool, and of this benchmark
/// {src} {dst}           source and destination
/// {sync}                waits until {dst} is durable; in a case of several files, its name too
/// {sink}                reads standard input to its end
/// {bytes}               the size of one copy
/// {fio}                 options that all fio commands share
/// ```
#[derive(Clone)]
pub struct Peer {
    pub name: String,
    /// The tool that must be installed.
    pub tool: &'static str,
    pub line: String,
}

pub fn peer(name: &str, tool: &'static str, line: &str) -> Peer {
    Peer { name: name.into(), tool, line: line.into() }
}

impl Peer {
    /// True if it does not copy, but measures the speed of the device.
    pub fn is_limit(&self) -> bool {
        self.tool == "fio"
    }

    /// The line as a user would type it.
    pub fn display_line(&self) -> String {
        let values = [
            ("{dio}", "dio-cp"),
            ("{tool}", self.tool),
            ("{self}", "bench"),
            ("{sync}", "sync DST"),
            ("{src}", "SRC"),
            ("{dst}", "DST"),
            ("{sink}", "cat > /dev/null"),
            ("{fio}", FIO),
        ];
        values.iter().fold(self.line.clone(), |line, (placeholder, value)| line.replace(placeholder, value))
    }
}

/// fio measures the speed of the device with 8 requests of 4 MiB in flight.
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

/// Copies of a file that are durable when the command ends.
pub fn file_copies() -> Vec<Peer> {
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
        // dcfldd has no direct I/O.
        peer("dcfldd 4M + sync", "dcfldd", "dcfldd if={src} of={dst} bs=4M status=off && {sync}"),
        // By default, ddrescue copies 64 KiB at a time, which is meant for damaged disks.
        peer("ddrescue direct", "ddrescue", "ddrescue -q -d -D -p -c 8192 {src} {dst} && {sync}"),
    ]
}

/// The speed of the device when it only reads, or only writes, as many bytes.
pub fn limits() -> Vec<Peer> {
    vec![
        peer("fio, only reading", "fio", "fio --name=limit --rw=read --filename={src} --size={bytes} {fio}"),
        peer("fio, only writing", "fio", "fio --name=limit --rw=write --filename={dst} --size={bytes} {fio}"),
    ]
}

/// The minimal copy loop of bare.rs.
pub fn bare(workers: usize, mib: usize) -> Peer {
    let line = format!("{{self}} bare-loop {{src}} {{dst}} {workers} {}", mib << 20);
    peer(&format!("bare loop {workers} × {mib} MiB"), "sh", &line)
}
