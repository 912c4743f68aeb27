"""Turns DICOM instances into media with one line of metadata each."""
