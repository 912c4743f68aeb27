"""DICOM's own protocol as a source: C-STORE and C-ECHO as SCP, on our own upper layer.

    source       the port, and who serves a connection
    upper_layer  PS3.8 and PS3.7 on one socket, both roles
    acceptor     our side as SCP
    processes    further receiving processes
    commitment   storage commitment

Nothing here decodes a data set, and nothing that a peer sends becomes a path.
"""

from listener.sources.dimse.source import DimseSource

__all__ = ["DimseSource"]
