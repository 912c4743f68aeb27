"""What both daemons stand on; nothing in here knows DICOM.

configuration  one file, one model, every fault at once
yaml_file      YAML with the line of every key
fields         kinds of values that sections share
errors         what cannot be used, and what to do
logs           logs without patient data
text           foreign text, written safely
counters       counters of a daemon in a small file
notify         sd_notify(3)
processes      child processes that run modules of ours
cpu_limit      processor time of this process
locks          lock files
backoff        pauses between attempts that double
durable        files and names that survive a power cut
file_kind      what a path leads to, in a word
sqlite_files   files of an open database, watched
"""
