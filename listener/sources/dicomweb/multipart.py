"""The parts of a multipart body while it arrives (RFC 2046 5.1, RFC 2387), in memory that does not grow with it.

Contract: `Multipart.feed` takes the body in pieces of any size and tells its `Parts` of every part: its header, its
bytes in views that are good until the call returns, its end. At most one line's worth of bytes is held back, since it
could be the beginning of a boundary. `Multipart.finish` says whether the last boundary came.

Must never: take for a boundary what does not begin a line, or hold more than a header of bounded length.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST_HEADER: Final = 8192
"""Longest header of one part, in bytes."""
LONGEST_PADDING: Final = 256
"""Most white space after a boundary."""
LONGEST_VALUE: Final = 1024
"""Longest header value that is read for its parameters."""
BOUNDARY: Final = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_WORD: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_TYPE: Final = re.compile(rf"\s*({_WORD}/{_WORD})\s*")
_PARAMETER: Final = re.compile(rf';\s*(?:({_WORD})=(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))\s*)?')
_NAME: Final = re.compile(rf"({_WORD}):(.*)", re.DOTALL)


class Malformed(Exception):
    """The body is not what it says it is; the words name no value of the peer."""


@dataclass(frozen=True, slots=True)
class ContentType:
    """A media type with its parameters (RFC 9110 8.3.1); names in lower case."""

    name: str
    parameters: Mapping[str, str]


def media_type(value: str) -> ContentType:
    """Read the value of a Content-Type.

    Raises:
        Malformed: It is none, or gives a parameter twice.
    """
    found = _TYPE.match(value) if len(value) <= LONGEST_VALUE else None
    if found is None:
        raise Malformed("a Content-Type is not a media type")
    parameters: dict[str, str] = {}
    at = found.end()
    while at < len(value):
        one = _PARAMETER.match(value, at)
        if one is None:
            raise Malformed("a parameter of a Content-Type cannot be read")
        at = one.end()
        if one[1] is not None:
            name = one[1].lower()
            if name in parameters:
                raise Malformed("a parameter of a Content-Type is given twice")
            parameters[name] = re.sub(r"\\(.)", r"\1", one[2]) if one[2] is not None else one[3]
    return ContentType(found[1].lower(), parameters)


class Parts(Protocol):
    """The receiver of the parts."""

    def begin_part(self, header: Mapping[str, str]) -> None:
        """A part begins; names of its header are in lower case."""
        ...

    def data(self, piece: memoryview) -> None:
        """Bytes of the part."""
        ...

    def end_part(self) -> None:
        """The part is complete."""
        ...


class _State(Enum):
    PREAMBLE = auto()
    BOUNDARY = auto()
    """Behind a boundary: the end of its line, or two hyphens."""
    HEADER = auto()
    BODY = auto()
    EPILOGUE = auto()


class Multipart:
    """One body."""

    def __init__(self, boundary: str, parts: Parts) -> None:
        if not BOUNDARY.fullmatch(boundary):
            raise Malformed("the boundary is not one that RFC 2046 permits")
        self._delimiter = b"\r\n--" + boundary.encode("ascii")
        self._parts = parts
        self._state = _State.PREAMBLE
        # The first boundary may begin the body: it is treated as if a line had ended before it.
        self._held = b"\r\n"

    def feed(self, piece: bytes) -> None:
        """Take the next bytes of the body.

        Raises:
            Malformed: It cannot be a multipart body.
        """
        buffer = self._held + piece if self._held else piece
        position = 0
        while position < len(buffer):
            match self._state:
                case _State.PREAMBLE:
                    used = self._preamble(buffer, position)
                case _State.BOUNDARY:
                    used = self._boundary(buffer, position)
                case _State.HEADER:
                    used = self._header(buffer, position)
                case _State.BODY:
                    used = self._body(buffer, position)
                case _State.EPILOGUE:
                    used = len(buffer) - position
            if not used:
                break
            position += used
        self._held = buffer[position:]

    def finish(self) -> None:
        """No more bytes come.

        Raises:
            Malformed: The last boundary is missing.
        """
        if self._state is _State.BOUNDARY and self._held == b"--":
            return
        if self._state is not _State.EPILOGUE:
            raise Malformed("the body ends before its last boundary")

    def _preamble(self, buffer: bytes, position: int) -> int:
        """Bytes used; 0 where more are needed first. The same for all of these."""
        found = buffer.find(self._delimiter, position)
        if found >= 0:
            self._state = _State.BOUNDARY
            return found + len(self._delimiter) - position
        return max(0, len(buffer) - position - len(self._delimiter) + 1)

    def _boundary(self, buffer: bytes, position: int) -> int:
        rest = buffer[position : position + LONGEST_PADDING + 2]
        if rest.startswith(b"--"):
            if len(rest) == 2 and len(buffer) == position + 2:
                return 0  # the end of the body or of this piece: `finish` knows
            self._state = _State.EPILOGUE
            return 2
        if rest == b"-":
            return 0
        text = rest.lstrip(b" \t")
        if text.startswith(b"\r\n"):
            self._state = _State.HEADER
            return len(rest) - len(text) + 2
        if len(rest) > LONGEST_PADDING or text not in (b"", b"\r"):
            raise Malformed("a boundary is followed by something else on its line")
        return 0

    def _header(self, buffer: bytes, position: int) -> int:
        if buffer.startswith(b"\r\n", position):
            end, length = position, 2
        else:
            end, length = buffer.find(b"\r\n\r\n", position, position + LONGEST_HEADER + 4), 4
            if end < 0:
                if len(buffer) - position > LONGEST_HEADER:
                    raise Malformed(f"the header of a part is longer than {LONGEST_HEADER} bytes")
                return 0
        self._parts.begin_part(_fields(buffer[position:end]))
        self._state = _State.BODY
        return end + length - position

    def _body(self, buffer: bytes, position: int) -> int:
        found = buffer.find(self._delimiter, position)
        end = found if found >= 0 else max(position, len(buffer) - len(self._delimiter) + 1)
        if end > position:
            self._parts.data(memoryview(buffer)[position:end])
        if found < 0:
            return end - position
        self._parts.end_part()
        self._state = _State.BOUNDARY
        return found + len(self._delimiter) - position


def _fields(header: bytes) -> dict[str, str]:
    """The fields of a part's header, folded lines joined."""
    fields: dict[str, str] = {}
    text = re.sub(r"\r\n[ \t]+", " ", header.decode("latin-1"))
    for line in text.split("\r\n") if text else ():
        found = _NAME.fullmatch(line)
        if found is None:
            raise Malformed("the header of a part has a line that is no field")
        name = found[1].lower()
        if name in fields:
            raise Malformed("the header of a part gives a field twice")
        fields[name] = found[2].strip()
    return fields
