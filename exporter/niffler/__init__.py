"""A replacement for Niffler's PNG extractor: its configuration, tables and folders, made by the engine of all exports.

keyed_names    names of folders and files that cannot be computed without the key
header_values  header values by column name
header_reader  headers read in a worker process
niffler_file   its ``config.json``, read strictly, and what it means for our settings
our_settings   configurations of Niffler and of the DICOM Media Exporter, written as ours
source_files   files below ``DICOMHome``: their rows, and the entries to export
row_store      rows on disk, and their columns
csv_tables     ``metadata.csv``, ``mapping.csv`` and their parts
failed_dicom   ``failed-dicom/``: classes, copies and reasons
notice         the e-mail at the end
extraction     one run from start to end
"""
