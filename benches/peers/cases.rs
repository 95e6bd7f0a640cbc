//! What is measured: the cases of `cargo bench -- CASE…`.

use crate::peer::{Peer, bare, cp, dd, dio, files, limits, mbuffer, nbdcopy, peer, qemu_img, xcp};
use crate::place::On;
use crate::source::{Content, State};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// One task, and the commands that do it.
pub struct Task {
    pub name: &'static str,
    /// `{size}` is that of one copy.
    pub title: &'static str,
    pub on: On,
    pub content: Content,
    pub state: State,
    /// Of one copy; of each, where a run makes several, one command each.
    pub bytes: u64,
    pub copies: u64,
    pub peers: Vec<Peer>,
    /// Rounds where nothing else is asked for.
    pub rounds: usize,
    /// What to know about it.
    pub said: &'static [&'static str],
}

/// The random reader beside copies is a case of its own kind: see neighbours.rs.
pub const NEIGHBOURS: &str = "neighbours";

/// All of them, in the order of the tables.
pub fn all() -> Vec<Task> {
    let with_limits = || [files(), limits()].concat();
    let plain = |name, title, bytes| Task {
        name,
        title,
        on: On::Disk,
        content: Content::Random,
        state: State::Cold,
        bytes,
        copies: 1,
        peers: files(),
        rounds: 5,
        said: &[],
    };
    vec![
        Task { copies: 50, ..plain("file-4k", "{size}, cold, file to file, one command each", 4096) },
        Task { copies: 20, ..plain("file-1m", "{size}, cold, file to file, one command each", MIB) },
        Task { copies: 4, ..plain("file-64m", "{size}, cold, file to file, one command each", 64 * MIB) },
        Task { peers: with_limits(), ..plain("file-1g", "{size}, cold, file to file", GIB) },
        Task { peers: with_limits(), rounds: 3, ..plain("file-8g", "{size}, cold, file to file", 8 * GIB) },
        Task { state: State::Hot, peers: hot(), ..plain("hot-1g", "{size}, source cached", GIB) },
        Task { state: State::HalfHot, peers: hot(), ..plain("half-hot-1g", "{size}, half of the source cached", GIB) },
        Task { state: State::Dirty, peers: hot(), ..plain("dirty-1g", "{size}, source not yet on the medium", GIB) },
        Task {
            content: Content::Sparse,
            peers: vec![dio(), sparse_cp(), qemu_img(), nbdcopy(), xcp()],
            rounds: 3,
            said: &["left out: dd, cat, mbuffer, dcfldd and ddrescue, which would read the holes, or write them"],
            ..plain("sparse-64g", "{size} with 1/64 of it data, the rest holes", 64 * GIB)
        },
        Task { state: State::Hot, peers: pipe_in(), ..plain("pipe-in", "{size} from a pipe, source cached", 2 * GIB) },
        Task { peers: pipe_out(), ..plain("pipe-out", "{size}, cold, into a pipe", 2 * GIB) },
        Task { peers: verify(), ..plain("verify", "{size}, cold, and compared with the medium", GIB) },
        Task { peers: proof(), ..plain("proof", "{size}, cold, file to file, with proof", GIB) },
        Task {
            state: State::Hot,
            copies: 300,
            peers: small(),
            ..plain("small", "{size}, cached, one command each", 4096)
        },
        Task {
            content: Content::Served,
            state: State::Hot,
            peers: url(),
            ..plain("url", "{size} from nginx on this machine", 2 * GIB)
        },
        Task {
            content: Content::Served,
            state: State::Hot,
            peers: paced(),
            ..plain("paced", "{size} from nginx at 50 MB/s a connection", GIB / 2)
        },
        Task {
            content: Content::Tree,
            state: State::Hot,
            peers: residency(),
            ..plain("residency", "the residency of 20,000 files of {size}", 5000)
        },
        Task { peers: depths(), ..plain("sweep-depth", "{size}, cold, file to file, by queue depth", GIB) },
        Task { peers: blocks(), ..plain("sweep-block", "{size}, cold, file to file, by block size", GIB) },
        Task {
            on: On::Zram,
            content: Content::Filled,
            peers: zram(),
            said: &["on this device the bare loops, not fio, show what is possible"],
            ..plain("zram-1g", "{size}, cold, file to file, at memory speed", GIB)
        },
        Task {
            on: On::Zram,
            content: Content::Filled,
            peers: depths(),
            ..plain("zram-sweep-depth", "{size} at memory speed, by queue depth", GIB)
        },
        Task {
            on: On::Zram,
            content: Content::Filled,
            peers: blocks(),
            ..plain("zram-sweep-block", "{size} at memory speed, by block size", GIB)
        },
        Task {
            on: On::Loop4Kn,
            peers: with_limits(),
            ..plain("4kn-1g", "{size}, cold, file to file, 4096-byte sectors", GIB)
        },
    ]
}

fn hot() -> Vec<Peer> {
    let line = "dd if={src} of={dst} bs=4M oflag=direct conv=fsync status=none";
    vec![dio(), peer("dd 4M, writing direct", "dd", line), dd("4M"), cp(), xcp(), qemu_img(), nbdcopy(), mbuffer()]
}

fn sparse_cp() -> Peer {
    peer("cp --sparse=auto + sync", "cp", "cp --sparse=auto {src} {dst} && {sync}")
}

fn pipe_in() -> Vec<Peer> {
    let dd = |block: &str| {
        let line =
            format!("cat {{src}} | dd of={{dst}} bs={block} iflag=fullblock oflag=direct conv=fsync status=none");
        peer(&format!("dd {block} direct"), "dd", &line)
    };
    vec![
        peer("dio-cp", "sh", "cat {src} | {dio} -q - {dst}"),
        dd("1M"),
        dd("4M"),
        dd("16M"),
        peer("cat + sync", "cat", "cat {src} | cat > {dst} && {sync}"),
        peer("mbuffer -m 64M", "mbuffer", "cat {src} | mbuffer -q -m 64M -o {dst} && {sync}"),
        peer("dcfldd 4M + sync", "dcfldd", "cat {src} | dcfldd of={dst} bs=4M status=off && {sync}"),
    ]
}

fn pipe_out() -> Vec<Peer> {
    let dd = |block: &str| {
        let line = format!("dd if={{src}} bs={block} iflag=direct status=none | {{sink}}");
        peer(&format!("dd {block} direct"), "dd", &line)
    };
    vec![
        peer("dio-cp", "sh", "{dio} -q {src} - | {sink}"),
        dd("1M"),
        dd("4M"),
        dd("16M"),
        peer("cat + sync", "cat", "cat {src} | {sink}"),
        peer("mbuffer -m 64M", "mbuffer", "mbuffer -q -m 64M -i {src} -o - | {sink}"),
        peer("dcfldd 4M + sync", "dcfldd", "dcfldd if={src} bs=4M status=off | {sink}"),
    ]
}

/// The peers compare what the medium has by dropping it from the cache first.
fn verify() -> Vec<Peer> {
    let dropped = "dd if={dst} iflag=nocache count=0 status=none && cmp {src} {dst}";
    vec![
        peer("dio-cp --verify", "sh", "{dio} -q --verify {src} {dst}"),
        peer("dd 4M direct, cmp", "dd", &format!("{} && cmp {{src}} {{dst}}", dd("4M").line)),
        peer("cp + sync, drop, cmp", "cp", &format!("{} && {dropped}", cp().line)),
        peer(
            "qemu-img, compare",
            "qemu-img",
            &format!("{} && qemu-img compare -f raw -F raw -T none {{src}} {{dst}}", qemu_img().line),
        ),
        peer(
            "ddrescue direct, cmp",
            "ddrescue",
            "ddrescue -q -d -D -p -c 8192 {src} {dst} && {sync} && cmp {src} {dst}",
        ),
    ]
}

fn proof() -> Vec<Peer> {
    let with = |words: &str| peer(&format!("… {words}"), "sh", &format!("{{dio}} -q {words} {{src}} {{dst}}"));
    let reading = limits().swap_remove(0);
    let sums = ["blake3", "sha256", "sha512"].map(|name| with(&format!("--checksum {name}")));
    [vec![dio(), with("--verify")], sums.to_vec(), vec![reading]].concat()
}

fn small() -> Vec<Peer> {
    vec![dio(), cp()]
}

/// From nginx on this machine, which has the file in its cache.
fn url() -> Vec<Peer> {
    vec![
        peer("dio-cp http", "nginx", "{dio} -q {url} {dst}"),
        peer("dio-cp http × 2", "nginx", "{dio} -q --connections 2 {url} {dst}"),
        peer("curl -o + sync", "curl", "curl -sf -o {dst} {url} && {sync}"),
        peer(
            "curl | dd 4M direct",
            "curl",
            "curl -sf {url} | dd of={dst} oflag=direct bs=4M iflag=fullblock conv=fsync status=none",
        ),
        peer("wget + sync", "wget", "wget -q -O {dst} {url} && {sync}"),
        peer("dio-cp https", "nginx", "{dio} -q --cacert {cacert} {tls} {dst}"),
        peer("curl https + sync", "curl", "curl -sf --cacert {cacert} -o {dst} {tls} && {sync}"),
        peer("curl https, no sync", "curl", "curl -sf --cacert {cacert} -o {dst} {tls}"),
    ]
}

/// 50 MB/s a connection.
fn paced() -> Vec<Peer> {
    vec![
        peer("dio-cp, 4 at once", "nginx", "{dio} -q --connections 4 {paced} {dst}"),
        peer("dio-cp, 1", "nginx", "{dio} -q {paced} {dst}"),
        peer("curl -o + sync", "curl", "curl -sf -o {dst} {paced} && {sync}"),
    ]
}

fn residency() -> Vec<Peer> {
    vec![
        peer("dio-cp --residency", "sh", "{dio} --residency {src}"),
        peer("vmtouch", "vmtouch", "vmtouch {src}"),
        peer("fincore", "fincore", "find {src} -type f -print0 | xargs -0 fincore -nb -o PAGES"),
    ]
}

/// dio-cp as it is comes first, as everywhere: the ratio is to its defaults.
fn swept(option: &str, values: &[&str]) -> Vec<Peer> {
    let one = |value: &&str| {
        peer(&format!("{option} {value}"), "sh", &format!("{{dio}} -q {option} {value} {{src}} {{dst}}"))
    };
    let own = peer("dio-cp", "sh", "{dio} -q {src} {dst}");
    [own].into_iter().chain(values.iter().map(one)).collect()
}

fn depths() -> Vec<Peer> {
    swept("--queue-depth", &["1", "2", "3", "4", "6", "8", "16"])
}

fn blocks() -> Vec<Peer> {
    swept("--block-size", &["64K", "128K", "256K", "512K", "1M", "2M", "4M", "8M", "16M"])
}

fn zram() -> Vec<Peer> {
    let mut peers = files();
    for workers in [2, 4] {
        peers.extend([1, 2, 4].map(|mib| bare(workers, mib)));
    }
    // What fio makes up would have to be compressed, which the filled source has not.
    peers
        .extend(limits().into_iter().map(|peer| Peer { line: format!("{} --buffer_pattern=0x5a", peer.line), ..peer }));
    peers
}
