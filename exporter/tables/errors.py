"""What keeps tables and data sets from being made: one sentence each, which names no patient."""

from __future__ import annotations

from listener.foundation.errors import Unusable


class TableError(Unusable):
    """A table or a data set cannot be made; the sentence says why and what to do."""


class TableRequestError(TableError):
    """What was asked for makes no sense: an unknown column, shares that do not add up."""

    exit_code = 2
