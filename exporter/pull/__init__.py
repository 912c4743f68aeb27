"""Pulling from a PACS: the rows of a CSV file are asked for (C-FIND), and what they find is brought here.

    cohort       the CSV file: columns, rows, and what is wrong with them
    keys         which keyword belongs to which level, and how its values are written
    matching     whether an answer is what was asked for
    identifiers  what we ask and what is answered, as bytes and as values
    peer         associations with the peer: asking, and what can go wrong
    statuses     what the peer's statuses mean
    finding      rows to targets, targets to the instances they consist of
    asking       questions repeated while a peer cannot be reached
    getting      C-GET on the asking association
    receiver     who receives what C-MOVE sends
    fetching     targets moved or got
    arrivals     which instances are here
    journal      what was done, durably
    pace         night window, moves per minute
    request      what one run is to do
    outcome      what became of each row
    run          all of it together
    report       CSV files for the user

Contract: a target counts as done only when each of its instances is in the spool, or was exported, skipped or
quarantined from it. Logs and messages name rows by number; identifiers are only in files that the user asked for.
"""
