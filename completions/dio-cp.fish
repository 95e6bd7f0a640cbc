complete -c dio-cp -s b -l block-size -d 'Bytes per read and write [default: 4M; less under --rate-limit]' -r
complete -c dio-cp -l queue-depth -d 'Blocks in flight; memory = N × block size [default: 4; fewer under --rate-limit]' -r
complete -c dio-cp -l direct -d 'Where direct I/O is refused: go on uncached and say so, fail with status 4, or do not try' -r -f -a "auto\t'As it turns out'
always\t'In any case'
never\t'In no case'"
complete -c dio-cp -l skip -d 'Start at this offset of SRC' -r
complete -c dio-cp -l count -d 'Copy at most this many bytes' -r
complete -c dio-cp -l seek -d 'Start at this offset of DST; implies --in-place, and nothing outside the written range changes' -r
complete -c dio-cp -l sparse -d 'Holes: keep those of SRC, make zeros holes too, or write everything' -r -f -a "auto\t'As it turns out'
always\t'In any case'
never\t'In no case'"
complete -c dio-cp -l size -d 'SRC must have exactly this many bytes; for a pipe, reserves the space and gives the bar a total' -r
complete -c dio-cp -l checksum -d 'Digest of the bytes copied: sha256, sha512 or blake3; with HEX, a mismatch publishes nothing (also ALG=HEX, ALG-HEX)' -r
complete -c dio-cp -l checksum-file -d 'Require the digest that this list (SHA256SUMS; GNU or BSD lines) has for SRC\'s or DST\'s name' -r -F
complete -c dio-cp -l rate-limit -d 'The most bytes per second, evenly; the blocks shrink with it, so that the disk is spared, too' -r
complete -c dio-cp -l header -d 'For a URL: a header line of the request ("Name: value"); may be given more than once' -r
complete -c dio-cp -l cacert -d 'For a URL: trust the certificates in this file (PEM) instead of the system\'s' -r -F
complete -c dio-cp -l connect-timeout -d 'For a URL: how long looking up the name and connecting may take [default: 30]' -r
complete -c dio-cp -l timeout -d 'For a URL: how long the server may be silent [default: 60]' -r
complete -c dio-cp -l retry -d 'For a URL: how often, in a row, to try again after a lost connection, a time-out, or status 408, 429 or 5xx [default: 5]' -r
complete -c dio-cp -l connections -d 'For a URL: fetch ranges side by side over this many connections; memory = N × block size if that is more than the queue depth [default: 1]' -r
complete -c dio-cp -l progress -d 'What to show: a bar on a terminal and nothing elsewhere, always a bar, JSON lines, or nothing' -r -f -a "auto\t'A bar on a terminal, otherwise nothing'
bar\t'A bar; lines where there is no terminal'
json\t'One JSON object a line'
none\t'Nothing'"
complete -c dio-cp -l residency -d 'Report the resident pages of files and trees; nothing is copied'
complete -c dio-cp -l cgroups -d 'With --residency: by the memory cgroup that is charged for the pages, too (root)'
complete -c dio-cp -l in-place -d 'Overwrite DST\'s own bytes, instead of replacing it whole at the end'
complete -c dio-cp -s n -l no-clobber -d 'Fail if DST exists, decided when the file gets its name'
complete -c dio-cp -s f -l force -d 'Write to a block device without asking'
complete -c dio-cp -l no-sync -d 'Do not wait for the medium'
complete -c dio-cp -s p -l preserve -d 'Keep timestamps, owner, mode and extended attributes too'
complete -c dio-cp -l verify -d 'Read DST back from the medium and compare, before it gets its name'
complete -c dio-cp -l check-cache -d 'Report the pages of SRC and DST in the page cache before, during and after; fail with status 5 if the copy left any'
complete -c dio-cp -l resume -d 'Keep what was copied if the copy is interrupted, and go on from what an earlier one kept'
complete -c dio-cp -l idle -d 'Take only what nobody else wants of the disk: idle I/O class, and small blocks with pauses while others use it'
complete -c dio-cp -l json -d 'The final report as one JSON object on standard output'
complete -c dio-cp -s q -l quiet -d 'Say nothing but errors'
complete -c dio-cp -s v -l verbose -d 'Say what was chosen, and why'
complete -c dio-cp -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dio-cp -s V -l version -d 'Print version'
