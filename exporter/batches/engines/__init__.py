"""Engines: who runs the batches of a plan.

contract    what an engine does
dask_tasks  workers of a Dask cluster
processes   child processes of this one
slurm       an array of Slurm jobs
"""
