"""Long-running services: the export daemon, `serve`, and the resources that every run opens and closes.

context       everything one exporter works with
spool_source  the spool as a source of work
daemon        `exporter run`: feeds the engine from the spool
serve         `exporter serve`: both daemons in one command
demo          sample instances sent as a modality would
pause         pauses the daemon while disk space is low
reserve       disk space kept for necessary writes
"""
