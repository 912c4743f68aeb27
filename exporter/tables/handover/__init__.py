"""Hand-over of cines to annotation tools: constant-rate videos, frame maps, and task files.

Contract: made from lines and media, which are not changed; the same lines and media give the same files.

constant_rate   a video whose frames follow each other at one rate, and are those of the medium
frame_map       the DICOM frame, time and scale of every frame of a video
tools           task files that annotation tools import
cines           the cines of an output, handed over one after the other
"""
