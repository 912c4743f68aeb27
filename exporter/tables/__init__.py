"""Tables and data sets made from the metadata lines: typed columns, CSV, Parquet, series, data sets.

The lines are the only source: everything here is derived from them by streaming, and can be made again.

errors          errors of tables and data sets
columns         names, types and choice of columns
cells           values in the type of their column
dicom_json      records in the DICOM JSON Model under names
lines           reads metadata files, superseded lines removed
patients        pseudonyms and splits
own_columns     the columns that every table has
projection      lines as rows, in two passes
series          one row per series
mapping         one row per medium
combined        lines of several exporters as one file
publication     files that appear complete or not at all
csv_file        tables as CSV
parquet_file    tables as Parquet and Arrow
output_folder   paths of lines, media and key
reading         the Python interface: a table by batches, one instance with its media
datasets        folders and archives that training code loads
handover        cines for annotation tools
"""
