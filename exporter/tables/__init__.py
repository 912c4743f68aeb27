"""Tables of the metadata lines, and what people load: typed columns, CSV, Parquet, series, data sets.

The lines are the truth; everything here is a projection of them, made by streaming, and can be made again.

errors          what keeps tables from being made
columns         names, types and choice of columns
cells           values in the type of their column
dicom_json      records in the DICOM JSON Model under names
lines           the lines that count
patients        pseudonyms and splits
own_columns     the columns that every table has
projection      lines as rows, in two passes
series          one row per series
mapping         one row per medium
publication     files that appear whole
csv_file        tables as CSV
parquet_file    tables as Parquet and Arrow
output_folder   where lines, media and key are
reading         the Python side: a table by batches, one instance with its media
datasets        folders and archives that training code loads
"""
