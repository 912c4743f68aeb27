"""DICOM's own protocol as a source: C-STORE and C-ECHO as SCP, on our own upper layer.

    source        the port, a thread per association, limits        wire         buffer, deadlines
    admission     places for connections                            pdu          PDUs of PS3.8 9.3
    turned_away   connections beyond the limits                     identity     who we are
    association   one association, state by state                   command      command sets of PS3.7
    negotiation   reject or accept, contexts, roles, identity       syntaxes     storage classes, preference
    storage       one data set into the spool                       walk         lengths and tags, bounded
    statuses      the table of answers                              file_meta    group 0002
    tls           contexts, expiry

Nothing here decodes a data set, and nothing that a peer sends becomes a path.
"""

from listener.sources.dimse.source import DimseSource

__all__ = ["DimseSource"]
