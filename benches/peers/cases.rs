//! The cases of `cargo bench -- CASE…`: what is copied, and by which commands.

use crate::peer::{Peer, bare, cp, dd, dio, file_copies, limits, mbuffer, nbdcopy, peer, qemu_img, xcp};
use crate::place::Storage;
use crate::source::{CacheState, Content};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// What becomes of the copy that the previous run made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum PreviousCopy {
    Deleted,
    /// It is deleted at the end of the round, and the next one begins a minute later.
    DeletedLater,
    /// It stays, so that a run begins with a complete copy.
    Kept,
}

/// One task, and the commands that do it.
pub struct Task {
    pub name: &'static str,
    /// `{size}` stands for the size of one copy.
    pub title: &'static str,
    pub storage: Storage,
    pub content: Content,
    pub state: CacheState,
    /// The size of one copy.
    pub bytes: u64,
    /// How many copies a run makes, each by its own command.
    pub copies: u64,
    pub previous: PreviousCopy,
    pub peers: Vec<Peer>,
    /// The default number of rounds.
    pub rounds: usize,
    /// Remarks for the results.
    pub notes: &'static [&'static str],
}

/// The case that measures a random reader during copies: see neighbours.rs.
pub const NEIGHBOURS: &str = "neighbours";

/// All cases, in the order of the tables.
pub fn all() -> Vec<Task> {
    let with_limits = || [file_copies(), limits()].concat();
    vec![
        Task { copies: 50, ..cold("file-4k", "{size}, cold, file to file, one command each", 4096) },
        Task { copies: 20, ..cold("file-1m", "{size}, cold, file to file, one command each", MIB) },
        Task { copies: 4, ..cold("file-64m", "{size}, cold, file to file, one command each", 64 * MIB) },
        Task { peers: with_limits(), ..cold("file-1g", "{size}, cold, file to file", GIB) },
        Task { peers: with_limits(), rounds: 3, ..cold("file-8g", "{size}, cold, file to file", 8 * GIB) },
        Task { state: CacheState::Hot, peers: hot(), ..cold("hot-1g", "{size}, source cached", GIB) },
        Task {
            state: CacheState::HalfHot,
            peers: hot(),
            ..cold("half-hot-1g", "{size}, half of the source cached", GIB)
        },
        Task {
            state: CacheState::Dirty,
            peers: hot(),
            ..cold("dirty-1g", "{size}, source not yet on the medium", GIB)
        },
        Task {
            content: Content::Sparse,
            peers: vec![dio(), sparse_cp(), qemu_img(), nbdcopy(), xcp()],
            rounds: 3,
            notes: &["left out: dd, cat, mbuffer, dcfldd and ddrescue, which would read the holes, or write them"],
            ..cold("sparse-64g", "{size} with 1/64 of it data, the rest holes", 64 * GIB)
        },
        Task {
            state: CacheState::Hot,
            peers: pipe_in(),
            ..cold("pipe-in", "{size} from a pipe, source cached", 2 * GIB)
        },
        Task { peers: pipe_out(), ..cold("pipe-out", "{size}, cold, into a pipe", 2 * GIB) },
        Task { peers: verify(), ..cold("verify", "{size}, cold, and compared with the medium", GIB) },
        Task { peers: proof(), ..cold("proof", "{size}, cold, file to file, with proof", GIB) },
        Task {
            state: CacheState::Hot,
            copies: 300,
            peers: small(),
            ..cold("small", "{size}, cached, one command each", 4096)
        },
        Task {
            content: Content::Served,
            state: CacheState::Hot,
            peers: url(),
            ..cold("url", "{size} from nginx on this machine", 2 * GIB)
        },
        Task {
            content: Content::Served,
            state: CacheState::Hot,
            peers: paced(),
            ..cold("paced", "{size} from nginx at 50 MB/s a connection", GIB / 2)
        },
        Task {
            content: Content::Tree,
            state: CacheState::Hot,
            peers: residency(),
            ..cold("residency", "the residency of 20,000 files of {size}", 5000)
        },
        Task { peers: depths(), ..cold("sweep-depth", "{size}, cold, file to file, by queue depth", GIB) },
        Task { peers: blocks(), ..cold("sweep-block", "{size}, cold, file to file, by block size", GIB) },
        Task {
            storage: Storage::Zram,
            content: Content::Filled,
            peers: zram(),
            notes: &["on this device the bare loops, not fio, show what is possible"],
            ..cold("zram-1g", "{size}, cold, file to file, at memory speed", GIB)
        },
        Task {
            storage: Storage::Zram,
            content: Content::Filled,
            peers: depths(),
            ..cold("zram-sweep-depth", "{size} at memory speed, by queue depth", GIB)
        },
        Task {
            storage: Storage::Zram,
            content: Content::Filled,
            peers: blocks(),
            ..cold("zram-sweep-block", "{size} at memory speed, by block size", GIB)
        },
        Task {
            storage: Storage::Loop4Kn,
            peers: with_limits(),
            ..cold("4kn-1g", "{size}, cold, file to file, 4096-byte sectors", GIB)
        },
    ]
}

/// A copy of a cold file of random bytes, once, on the disk.
pub fn cold(name: &'static str, title: &'static str, bytes: u64) -> Task {
    Task {
        name,
        title,
        storage: Storage::Disk,
        content: Content::Random,
        state: CacheState::Cold,
        bytes,
        copies: 1,
        previous: PreviousCopy::Deleted,
        peers: file_copies(),
        rounds: 5,
        notes: &[],
    }
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

/// The peers evict the copy from the page cache first, so that they compare what is on the medium.
fn verify() -> Vec<Peer> {
    let evict_and_compare = "dd if={dst} iflag=nocache count=0 status=none && cmp {src} {dst}";
    vec![
        peer("dio-cp --verify", "sh", "{dio} -q --verify {src} {dst}"),
        peer("dd 4M direct, cmp", "dd", &format!("{} && cmp {{src}} {{dst}}", dd("4M").line)),
        peer("cp + sync, drop, cmp", "cp", &format!("{} && {evict_and_compare}", cp().line)),
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
    let with = |options: &str| peer(&format!("… {options}"), "sh", &format!("{{dio}} -q {options} {{src}} {{dst}}"));
    let read_limit = limits().swap_remove(0);
    let checksums = ["blake3", "sha256", "sha512"].map(|name| with(&format!("--checksum {name}")));
    [vec![dio(), with("--verify")], checksums.to_vec(), vec![read_limit]].concat()
}

fn small() -> Vec<Peer> {
    vec![dio(), cp()]
}

/// Downloads from nginx on this machine, whose file is in the page cache.
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

/// Downloads from a server that limits each connection to 50 MB/s.
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

/// The first row is dio-cp with its defaults, so that the ratios compare with them.
fn sweep(option: &str, values: &[&str]) -> Vec<Peer> {
    let with = |value: &&str| {
        peer(&format!("{option} {value}"), "sh", &format!("{{dio}} -q {option} {value} {{src}} {{dst}}"))
    };
    [dio()].into_iter().chain(values.iter().map(with)).collect()
}

fn depths() -> Vec<Peer> {
    sweep("--queue-depth", &["1", "2", "3", "4", "6", "8", "16"])
}

fn blocks() -> Vec<Peer> {
    sweep("--block-size", &["64K", "128K", "256K", "512K", "1M", "2M", "4M", "8M", "16M"])
}

fn zram() -> Vec<Peer> {
    let mut peers = file_copies();
    for workers in [2, 4] {
        peers.extend([1, 2, 4].map(|mib| bare(workers, mib)));
    }
    // Without the pattern, fio writes random bytes, which zram has to compress, unlike the bytes of the source.
    let pattern = |peer: Peer| Peer { line: format!("{} --buffer_pattern=0x5a", peer.line), ..peer };
    peers.extend(limits().into_iter().map(pattern));
    peers
}
