complete -c dio-cp -l exclude -d 'Leave out names that match (gitignore syntax)' -r
complete -c dio-cp -s t -l target-directory -d 'Copy every SRC into DIR' -r -f -a "(__fish_complete_directories)"
complete -c dio-cp -l count -d 'Copy at most this many bytes' -r
complete -c dio-cp -l skip -d 'Start at this offset in SRC' -r
complete -c dio-cp -l seek -d 'Start at this offset in DST (implies --in-place)' -r
complete -c dio-cp -l sparse -d 'What to do with holes' -r -f -a "auto\t'Holes in SRC stay holes'
always\t'Blocks of zeros also become holes'
never\t'Everything is written'"
complete -c dio-cp -l reflink -d 'When to clone SRC instead of copying its data' -r -f -a "auto\t'Clone if the filesystem can; otherwise copy the data'
always\t'Fail with exit status 1 if the file cannot be cloned'
never\t'Copy the data'"
complete -c dio-cp -l direct -d 'What to do if direct I/O is refused' -r -f -a "auto\t'Copy without direct I/O, keep the page cache clean by other means, and report it'
always\t'Fail with exit status 4'
never\t'Use the page cache in any case, even where direct I/O works'"
complete -c dio-cp -s b -l block-size -d 'Bytes per read and write [default: 4M]' -r
complete -c dio-cp -l queue-depth -d 'Blocks in flight [default: 4]' -r
complete -c dio-cp -l checksum -d 'Print the digest of the copy, or require it' -r
complete -c dio-cp -l checksum-file -d 'Require the digest listed in FILE' -r -F
complete -c dio-cp -l size -d 'Require SRC to have exactly this many bytes' -r
complete -c dio-cp -l rate-limit -d 'Limit the rate, in bytes per second' -r
complete -c dio-cp -l header -d 'Add a request header ("Name: value"); may be given more than once' -r
complete -c dio-cp -l connections -d 'Download over N connections [default: 1]' -r
complete -c dio-cp -l retry -d 'Give up after N retries in a row [default: 5]' -r
complete -c dio-cp -l timeout -d 'Longest wait for data from the server [default: 60]' -r
complete -c dio-cp -l connect-timeout -d 'Longest wait for a connection [default: 30]' -r
complete -c dio-cp -l cacert -d 'Trust the certificates in FILE (PEM) only' -r -F
complete -c dio-cp -l progress -d 'How to show progress' -r -f -a "auto\t'A bar on a terminal, nothing elsewhere'
bar\t'A bar, or lines of text if there is no terminal'
json\t'One JSON object per line'
none\t'Nothing'"
complete -c dio-cp -s r -l recursive -d 'Copy directories with everything in them'
complete -c dio-cp -s a -l archive -d 'Like -r -p, and keep hard links'
complete -c dio-cp -s u -l update -d 'Skip files whose copy has the same size and time'
complete -c dio-cp -s x -l one-file-system -d 'Do not enter other filesystems'
complete -c dio-cp -s T -l no-target-directory -d 'Treat DST as the name of the copy, even if it is a directory'
complete -c dio-cp -l from-command -d 'Copy what a command prints'
complete -c dio-cp -l in-place -d 'Overwrite DST in place instead of replacing it'
complete -c dio-cp -s n -l no-clobber -d 'Never replace an existing file'
complete -c dio-cp -l resume -d 'Keep an interrupted copy, and continue it later'
complete -c dio-cp -s p -l preserve -d 'Preserve timestamps, owner, mode, ACLs and xattrs'
complete -c dio-cp -s f -l force -d 'Write to a block device without asking'
complete -c dio-cp -l no-sync -d 'Do not wait until the data are on the medium'
complete -c dio-cp -l verify -d 'Read DST back from the medium and compare'
complete -c dio-cp -l check-cache -d 'Fail if the copy leaves pages in the page cache'
complete -c dio-cp -l residency -d 'Copy nothing; report which pages are resident'
complete -c dio-cp -l cgroups -d 'With --residency, list memory cgroups (root only)'
complete -c dio-cp -l idle -d 'Use the disk only when nobody else does'
complete -c dio-cp -l json -d 'Print the report as JSON on standard output'
complete -c dio-cp -s q -l quiet -d 'Print nothing but errors'
complete -c dio-cp -s v -l verbose -d 'Explain what was chosen, and why'
complete -c dio-cp -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dio-cp -s V -l version -d 'Print version'
