"""Volumes: from headers to planes, from planes to grids (`exporter.geometry`), from frames to NIfTI and NRRD files.

Contract: memory stays at a few frames whatever the volume's size; the same input gives the same bytes; what was written
is read back before it counts. Nothing in here resamples, interpolates or invents a slice.
"""
