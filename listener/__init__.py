"""Receives DICOM and spools it durably; knows nothing of media."""
