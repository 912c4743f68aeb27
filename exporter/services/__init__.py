"""What runs for long: the export daemon, `serve`, and what every run opens and closes.

context  everything one exporter works with
daemon   `exporter run`: from the spool to the engine and back
serve    `exporter serve`: both daemons in one command
demo     sample instances sent as a modality would
pause    backpressure from disks that run full
reserve  space kept for what must still be written
"""
