"""What people and monitoring see of a data folder: a process of its own that reads, and the command `exporter status`.

condition   the one query behind page, status and metrics
disks       sizes of file systems, also of those that do not answer
standing    what it finds: how everything stands
problems    what is wrong, in sentences
failures    what failed, and trying it again
metrics     the same for Prometheus
readiness   whether instances can be received and exported now
plots       drawings of numbers, as SVG
views       what the pages show
guard       who may ask, and what every answer says to browsers
app         addresses and answers
server      the process `exporter page`
report      one file that shows what was done

The pages' templates are in `templates/`, their style sheet and script in `static/`. Only `app` and `views` need the
extra `page`.
"""
