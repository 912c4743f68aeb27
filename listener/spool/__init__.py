"""The durable hand-over between receiving and exporting: the folder an item is in is its state.

spool        items, and what moves them
incoming     one file from its first byte to its commit
names        names of folders, and of items in order of arrival
errors       what the spool cannot do
quarantine   what is kept because something is wrong with it
early_flush  large files flushed while they arrive
space        free space and inodes, with hysteresis
view         what is in a spool, looked at from outside
"""
