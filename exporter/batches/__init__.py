"""A backfill cut into batches that run anywhere: plan, run, merge.

The plan lists the units of every batch; a start of a batch leaves media and a journal below its own folder; the merge
makes one output folder of all, equal to that of a local run.

engines   who runs a batch: processes, Slurm, Dask
estimate  what a backfill will cost, from a sample
merging   what the batches left becomes one output folder
journal   what a start of a batch leaves for later ones and for the merge
plan      units and settings of every batch
rounds    batches that are not complete are started again
run_note  a backfill that runs can be cancelled from elsewhere
running   one start of one batch
shards    the shards of batches become those of one output folder
source    the units of one batch as an input reader
view      how far the batches are
"""
