"""What happened to every instance: the one SQLite database of a data or output folder.

`Ledger` is the way in; `types` has the values that travel; `rows` the transitions; `names` the output names; `commit`
the shared transactions; `schema` the tables.
"""

from exporter.ledger.schema import LedgerUnusable
from exporter.ledger.store import Ledger
from exporter.ledger.types import (
    Arrival,
    Counts,
    Ending,
    Entry,
    OutboxLine,
    Relation,
    State,
)

__all__ = [
    "Arrival",
    "Counts",
    "Ending",
    "Entry",
    "Ledger",
    "LedgerUnusable",
    "OutboxLine",
    "Relation",
    "State",
]
