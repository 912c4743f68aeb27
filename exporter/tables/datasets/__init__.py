"""Data sets of exported media that training code can load directly.

Contract: they are made from lines and media, which are not changed; the same lines and media give the same bytes.
Samples have keyed names without dots, which do not contain names of inputs.

samples       the media files of each instance, in the order of keys
destination   the folder of a data set, new or replaced
card          the data set card
croissant     the Croissant description
folder        images/, videos/ and audio/ with one Parquet table in each split
webdataset    shards of samples in tar files
"""
