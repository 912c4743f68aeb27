"""Volumes of whole series: which instances belong together, and the worker that assembles them.

folder    the output folder of series, where they are published
assemble  single-frame instances to volumes
found     series of an exported folder
live      series that are being received
job       one series in a worker process
"""
