//! Sections of the man page about several files and trees.

use super::Section;

pub const TREES: Section = Section {
    title: "TREES",
    text: &[
        "With -r or -a, or with several sources, names follow the rules of cp(1): into DST if it is a directory, otherwise as \
         DST; -t and -T decide it. Existing directories are merged. URLs may be among several sources. Symbolic links in a \
         tree stay symbolic links; FIFOs and device nodes are created anew; sockets are skipped with a note.",
        "Each file is copied as described above: exact, as a whole or not at all, and cloned where the filesystem can. A tree \
         is atomic file by file. At exit status 0, everything is on the medium: data, names, attributes and directories. \
         While a directory is being filled, only its owner may enter it; it gets its mode last.",
        "A file that cannot be copied does not end the copy. It is reported, even with -q, and the exit status is 1 at the end \
         (3 if only the content of files was not as required). After an interrupted copy, -u copies the rest.",
        "-u skips a file if the copy has the same size and modification time, without opening either. For a nightly backup, a \
         line in /etc/cron.d: 15 3 * * * root dio-cp -q -a -u --idle /srv/data /backup/",
        "Small files (up to 512 KiB) are read with direct I/O and written through the page cache, which is faster than direct \
         writes. At most 8 MiB of them are there at a time: they are written back together with syncfs(2), evicted, and get \
         their names afterwards. syncfs(2) also writes what other programs have written to the same filesystem. With --verify, \
         --checksum, --checksum-file, --rate-limit, --idle, and --sparse or --direct other than auto, all files are copied \
         like large ones.",
        "No symbolic link is followed on the way, except those that the command line names: both trees are reached only \
         through open directories, one name at a time. Users who can change them during the copy cannot redirect it.",
    ],
    terms: &[],
};

pub const JSON_REPORT_OF_TREES: Section = Section {
    title: "JSON REPORT OF TREES",
    text: &["With --json and several files or trees, one JSON object on standard output:"],
    terms: &[
        ("sources, destination", "As given."),
        (
            "files, directories",
            "Files (and links, FIFOs and device nodes) that were copied; directories that were created.",
        ),
        ("bytes, cloned", "Bytes of these files; of these, bytes that share their blocks with the source."),
        ("skipped", "Files that -u found unchanged or -n left alone, and sockets."),
        ("failed, failures", "Number of files that were not copied; path and error of the first 10,000 of them."),
        ("read, written", "Bytes by I/O mode, as for one file."),
        (
            "cache",
            "With --check-cache: pages that the copy left in the page cache, of the source and of the destination; and unknown, \
             the number of files for which the kernel does not say. Otherwise null.",
        ),
        ("seconds, synced, notes", "As for one file."),
    ],
};
