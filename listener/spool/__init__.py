"""The durable hand-over between receiving and exporting: the folder an item is in is its state.

spool        items, and what moves them
names        names in order of arrival
quarantine   what is kept because something is wrong with it
early_flush  large files flushed while they arrive
space        free space and inodes, with hysteresis
view         what is in a spool, looked at from outside
"""
