"""Data sets of exported media that training code loads as they lie.

Contract: made of lines and media, which stay as they are; made again from the same ones they are the same, byte by
byte. Samples have keyed names without dots, so that no name of an input is in them.

samples       which files of which instance go where
destination   the folder of a data set: ours, or not there yet
card          the data set card
croissant     the Croissant description
folder        images/, videos/ and audio/ with one Parquet table in each split
webdataset    shards of samples in tar files
"""
