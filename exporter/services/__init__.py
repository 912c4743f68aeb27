"""What runs for long: the export daemon, `serve`, and what every run opens and closes.

context       everything one exporter works with
spool_source  the spool as a source of work
daemon        `exporter run`: feeds the engine from the spool
serve         `exporter serve`: both daemons in one command
demo          sample instances sent as a modality would
pause         backpressure from disks that run full
reserve       space kept for what must still be written
"""
