"""Errors of tables and data sets: one sentence each, without patient data."""

from __future__ import annotations

from listener.foundation.errors import Unusable


class TableError(Unusable):
    """A table or a data set cannot be made; the sentence says why and what to do."""


class TableRequestError(TableError):
    """The request is invalid: an unknown column, shares that do not add up to 1."""

    exit_code = 2
