"""Inputs at rest that can be exported; each way in is an `InputReader` of one contract.

contract         what a reader gives, and what it is told of earlier runs
walk             files below a folder
folder           a folder of files
fileset          DICOM media with a DICOMDIR
archives         zip and tar archives
orthanc_storage  the storage folder of an Orthanc
place            a file as it lies
scratch          temporary copies for workers
entry_source     what a reader holds as a source of work
backfill         one backfill from start to end
"""
