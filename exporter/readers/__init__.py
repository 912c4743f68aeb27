"""What a backfill can read: a folder, archives, DICOM media; each a `Reader` of the one contract."""
