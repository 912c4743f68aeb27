"""Niffler's PNG extractor as it is: its configuration, its tables and its folders, over the one engine of exports.

keyed_names    names of folders and files that nobody can compute without the key
header_values  header values under the names of its columns
niffler_file   its ``config.json``, read strictly, and what it means for our settings
our_settings   configurations of Niffler and of the DICOM Media Exporter, written as ours
source_files   files below ``DICOMHome``: their rows, and what the engine exports of them
row_store      rows on the disk, and the columns they have
csv_tables     ``metadata.csv``, ``mapping.csv`` and their parts
failed_dicom   ``failed-dicom/``: classes, copies and reasons
notice         the e-mail at the end
extraction     one run from start to end
"""
