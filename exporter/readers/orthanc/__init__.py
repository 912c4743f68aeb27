"""An Orthanc storage folder at rest: its index, its attachments, and what lies there that the index does not know."""
