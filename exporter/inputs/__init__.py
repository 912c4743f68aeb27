"""Inputs at rest that can be exported; each kind is an `InputReader`.

contract         what a reader yields, and the outcomes of earlier runs
walk             files below a folder
folder           a folder of files
fileset          DICOM media with a DICOMDIR
archives         zip and tar archives
orthanc_storage  the storage folder of an Orthanc
place            one file of a folder as an entry
scratch          temporary copies for workers
entry_source     the entries of a reader as a source of work
backfill         one backfill from start to end
leaks            an existing output searched for identifiers
"""
