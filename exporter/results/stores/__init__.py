"""Media stores: how media are kept below a media folder, one module for each store, and what reads all of them.

contract       what the publisher asks of every store
files          every medium is a file
shards         media and their lines in tar archives
shard_format   members of such an archive
shard_index    where every member is
shard_removal  members that count no more
shard_reading  media of either store, by their paths
compaction     files of finished studies become members of shards
"""
