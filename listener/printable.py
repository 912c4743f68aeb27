"""Text that may be shown: on a terminal, in a log, in a message.

Contract: what comes out is one line without any character that could move a cursor, colour a terminal, reverse the
reading direction or begin another line; nothing else is changed. Imports nothing, so that light commands stay light.
"""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with every control, format, separator and surrogate character but the space written as an escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
