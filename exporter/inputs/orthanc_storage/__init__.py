"""An Orthanc storage folder at rest: its index, its attachments, and what lies there that the index does not know.

storage      one storage folder from start to end
index        Orthanc's SQLite index
attachments  attachments: compression, MD5
stored       instances that the index lists
unindexed    files that no index lists
orphans      files that belong to nothing
ahead        attachments prepared while workers work
"""
