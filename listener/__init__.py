"""Receives DICOM instances and spools them; knows nothing of media.

    daemon      sources started, watched and drained
    foundation  what both daemons stand on; knows no DICOM
    settings    the configuration of the listener
    spool       the durable hand-over to the exporter
    intake      what makes received bytes an instance
    network     connections, TLS, HTTP
    sources     one package per way in

Each but `daemon` may import those above it.
"""
