"""The DICOM Conformance Statement, made from the code and the settings in force.

Contract: every number, UID, status and limit of the statement is read from the module that acts on it, or from the
settings; sentences say what those cannot. The order of sections is that of PS3.2 Annex N, and each of them has a body:
what does not apply says why. The committed `docs/conformance.md` is the statement of the default settings, and a test
compares it; after a change run `exporter conformance --to docs/conformance.md` in the repository.

    annexes              Annexes A.A to A.E
    command              `exporter conformance`
    communication        section 7.1 and 7.2: associations
    configuration        section 6: parameters
    markdown             tables and sentences of the statement
    overview             sections 1 to 4
    presentation         SOP classes and transfer syntaxes, with what is accepted
    security             section 8
    services             section 5: services
    statement            the whole document
    status_codes         section 7.3: status codes
    template             sections of PS3.2 Annex N
"""
