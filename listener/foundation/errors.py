"""Errors that end a command or a daemon: what cannot be used, the cause, and what to do."""

from __future__ import annotations

from listener.foundation.text import printable


class Unusable(Exception):
    """Something that a command or a daemon needs cannot be used: a matter for the administrator.

    The text is for people; a subclass says by its `exit_code` how the command ends.
    """

    exit_code: int = 1
    """What the command that is ended by this tells its caller."""
    names_its_file: bool = False
    """Whether each line of the text begins with the file at fault, where editors look for it."""

    def __init__(self, what: str, cause: str = "", hint: str = "") -> None:
        """Make one sentence: ``what: cause; hint``.

        Args:
            what: What cannot be used, or the whole sentence.
            cause: Why not.
            hint: What to do.
        """
        super().__init__(what + (f": {cause}" if cause else "") + (f"; {hint}" if hint else ""))
        self.cause = cause
        self.hint = hint

    def report(self, speaker: str) -> str:
        """The text for standard error, safe to print, with the name of the program before each line."""
        before = "" if self.names_its_file else f"{speaker}: "
        return "".join(f"{before}{printable(line)}\n" for line in str(self).splitlines())


class SourceUnusable(Unusable):
    """A source of instances cannot start."""
