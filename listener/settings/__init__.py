"""Settings of the listener, one module for each part of the configuration file.

listener  receiving, spool and data folder
dicomweb  the section `dicomweb`
expect    the section `expect`
orthanc   the section `orthanc`
watch     one entry of `sources`
"""
