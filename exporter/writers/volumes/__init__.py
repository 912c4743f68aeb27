"""Volumes: headers to planes, planes to grids (`exporter.dicom.geometry`), frames to NIfTI and NRRD files.

Contract: memory stays at a few frames whatever the volume's size; the same input gives the same bytes; the written file
is read back before it counts. Nothing in here resamples, interpolates or invents a slice.

    planes   headers to planes
    build    planes to files
    voxels   voxels written by position
    formats  NIfTI and NRRD headers
"""
