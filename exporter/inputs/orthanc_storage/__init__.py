"""An Orthanc storage folder at rest: its index, its attachments, and files that are not in the index.

storage      one storage folder from start to end
index        Orthanc's SQLite index
attachments  attachments: compression, MD5
stored       instances that the index lists
unindexed    files that no index lists
orphans      files that are not in the index
ahead        attachments prepared while workers work
"""
