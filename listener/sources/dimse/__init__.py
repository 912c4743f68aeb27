"""DICOM's own protocol as a source: C-STORE and C-ECHO as SCP, on our own upper layer.

    source        the port, a thread per association                wire         buffer, deadlines
    admission     places for connections                            pdu          PDUs of PS3.8 9.3
    turned_away   connections beyond the limits                     command      command sets of PS3.7
    association   one association, state by state                   syntaxes     storage classes, preference
    negotiation   reject or accept, contexts, roles, identity       walk         lengths and tags, bounded
    services      what each message is answered                     file_meta    group 0002
    storage       one data set into the spool                       identity     who we are
    statuses      the table of answers                              account      counts, the log line
    commitment, commitment_index, commitment_messages, reporting    tls          contexts, expiry
    scu           associations that we request                      connecting   connections that we open

Nothing here decodes a data set, and nothing that a peer sends becomes a path.
"""

from listener.sources.dimse.source import DimseSource

__all__ = ["DimseSource"]
