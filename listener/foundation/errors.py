"""Errors that end a command or a daemon: what cannot be used, the cause, and what to do."""

from __future__ import annotations


class SourceUnusable(Exception):
    """The source cannot start: what is in the way and what to do, in one sentence."""
