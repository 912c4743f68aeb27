"""The SQLite database of a data or output folder, which records what happened to every instance.

ledger        the way in
reader        questions to the ledger
browsing      questions of people: pages, numbers, search
sampling      samples for a report of bounded size
transitions   states and what changes them
rejections    what rejection notes say
relations     duplicates and conflicts
output_names  reserved output names
commit        transactions shared by many writers
schema        tables, versions, files
damage        damaged ledgers counted over restarts
types         values that travel in and out
"""

from exporter.results.ledger.ledger import Ledger
from exporter.results.ledger.schema import LedgerUnusable
from exporter.results.ledger.types import (
    Completed,
    Counts,
    DuplicateCheck,
    InstanceRow,
    InstanceStatus,
    OutboxLine,
    WorkItem,
)

__all__ = [
    "Completed",
    "Counts",
    "DuplicateCheck",
    "InstanceRow",
    "InstanceStatus",
    "Ledger",
    "LedgerUnusable",
    "OutboxLine",
    "WorkItem",
]
