"""What both daemons stand on; nothing in here knows DICOM.

configuration  one file, one model, every fault at once
yaml_file      YAML with the line of every key
fields         kinds of values that sections share, and what they mean
errors         what cannot be used, and what to do
logs           logs without patient data
text           foreign text, written safely
counters       counters of a daemon in a small file
notify         sd_notify(3)
signals        what asks a process to stop
processes      child processes that run modules of ours
process_identity  whether a process still runs
fork_server    a process that has loaded what its children need
quick_start    a cheap start and end of our own processes
cpu_limit      processor time of this process
locks          locks between processes
backoff        pauses between attempts that double
durable        files and names that survive a power cut
disk           what an error of the file system says
arrivals_hint  a hint that files have come into a folder
file_kind      what a path leads to, in a word
sqlite_files   databases: made, opened, explained, watched
"""
