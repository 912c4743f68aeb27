"""Volumes of whole series: which instances belong together, and the worker that assembles them.

assemble  single-frame instances to volumes
found     series of a folder that was exported
live      series that arrive
job       one series in a worker process
"""
