"""Text in pictures that are about to leave: an identifier of the instance or a date denies them.

Contract: `text_that_denies` looks through every distinct picture with a `TextFinder` and returns a sentence that
denies, or None. None proves nothing: recall is that of the finder. `Tesseract` runs Debian's program as a child
process; pictures and texts go through pipes, never through names, arguments or files.

Must never: allow anything, or put a text that was found into a message.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, Self

import numpy as np

from exporter.errors import PrivacyUnknown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    Picture = NDArray[np.uint8]

_TIMEOUT_S: Final = 120
_SHORTEST: Final = 3
"""Letters and digits of the shortest identifier that is looked for, as a whole word."""
_LONG: Final = 6
"""From this length on an identifier may stand anywhere, and one letter of it may be misread."""
_MISREAD: Final = str.maketrans("oilzsbg", "0112589")
"""Letters and digits that finders confuse, as one of them."""
_MONTHS: Final = (
    "jan|feb|fev|mar|mrz|apr|avr|may|mai|mag|jun|jui|giu|jul|lug|aug|aou|ago|sep|set|oct|okt|ott|nov|dec|dez|dic"
    "|gen|ene"
)
_DAY: Final = r"(?:0?[1-9]|[12]\d|3[01])"
_MONTH: Final = r"(?:0?[1-9]|1[0-2])"
_YEAR: Final = r"(?:(?:19|20)\d\d)"
_DATES: Final = re.compile(
    rf"""(?<![\d.,])(?:
        {_DAY}\s?([./-])\s?{_MONTH}\s?\1\s?(?:{_YEAR}|\d\d)
      | {_MONTH}\s?([./-])\s?{_DAY}\s?\2\s?(?:{_YEAR}|\d\d)
      | {_YEAR}\s?([./-])\s?{_MONTH}\s?\3\s?{_DAY}
      | {_YEAR}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])
      | {_DAY}[\s./-]{{0,2}}(?:{_MONTHS})[a-z]*[\s.,/-]{{0,2}}(?:{_YEAR}|\d\d)
      | (?:{_MONTHS})[a-z]*[\s./-]{{1,2}}{_DAY}[\s,/-]{{1,2}}(?:{_YEAR}|\d\d)
    )(?![\d.])""",
    re.VERBOSE,
)


class TextFinder(Protocol):
    """A program or model that reads text in pictures."""

    @property
    def name(self) -> str:
        """Its name, for the record."""
        ...

    def find(self, picture: Picture) -> Sequence[str]:
        """Lines of text in one display picture, ``(rows, columns)`` or ``(rows, columns, 3)``.

        Raises:
            PrivacyUnknown: The picture cannot be looked through.
        """
        ...


@dataclass(frozen=True, slots=True)
class Tesseract:
    """Debian's `tesseract-ocr`, on enlarged pictures at several thresholds, as dark text on light."""

    program: str
    forms: tuple[tuple[int, int], ...] = ((2, 100), (2, 180), (4, 110))
    """Factor and threshold of each form in which a picture is read."""

    @classmethod
    def installed(cls) -> Self | None:
        """The program on the path; None where there is none."""
        program = shutil.which("tesseract")
        return None if program is None else cls(program)

    @property
    def name(self) -> str:
        """The program's name."""
        return "tesseract"

    def find(self, picture: Picture) -> Sequence[str]:
        """Lines of text, of one form after the other.

        Raises:
            PrivacyUnknown: The program cannot be run, fails, or takes too long.
        """
        lines: list[str] = []
        for form in self._forms(picture):
            head = f"P5 {form.shape[1]} {form.shape[0]} 255\n".encode()
            command = [self.program, "stdin", "stdout", "--psm", "11", "--dpi", "150"]
            try:
                done = subprocess.run(
                    command, input=head + form.tobytes(), capture_output=True, timeout=_TIMEOUT_S, check=False
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise PrivacyUnknown(f"text detection: tesseract failed ({type(error).__name__})") from None
            if done.returncode:
                raise PrivacyUnknown(f"text detection: tesseract ended with {done.returncode}")
            lines += done.stdout.decode("utf-8", "replace").splitlines()
        return [line for line in lines if line.strip()]

    def _forms(self, picture: Picture) -> Iterator[Picture]:
        """The picture enlarged, light text on dark turned into black on white."""
        from PIL import Image

        gray = picture if picture.ndim == 2 else picture.max(axis=2)  # coloured text is as light as white
        rows, columns = gray.shape
        for factor, threshold in self.forms:
            size = (factor * columns, factor * rows)
            enlarged = np.asarray(Image.fromarray(gray).resize(size, Image.Resampling.BICUBIC))
            yield np.where(enlarged >= threshold, 0, 255).astype(np.uint8)


class IdentifierSearch:
    """Search for collected identifiers in texts that may be misread by a letter."""

    def __init__(self, identifiers: Iterable[str]) -> None:
        parts = {_folded(part) for text in identifiers for part in (text, *re.split(r"[\W_]+", text))}
        self._parts = sorted(part for part in parts if len(part) >= _SHORTEST)

    def finds(self, text: str) -> bool:
        """Whether a text holds one of the identifiers, or a word of one."""
        words = {_folded(word) for word in re.split(r"[\W_]+", text)}
        joined = _folded(text)
        return any(part in words or (len(part) >= _LONG and _nearly_in(part, joined)) for part in self._parts)


def holds_date(text: str) -> bool:
    """Whether a text holds a calendar date with a year, in digits or with the month as a word."""
    return _DATES.search(_without_accents(text).casefold()) is not None


def text_that_denies(pictures: Iterable[Picture], finder: TextFinder, identifiers: Iterable[str]) -> str | None:
    """The sentence that denies pictures that are about to leave; None where nothing was found.

    Args:
        pictures: Display values after the mask, in order; equal ones are looked through once.
        finder: What reads text.
        identifiers: Names, IDs and dates collected from the instance before anything was removed.

    Raises:
        PrivacyUnknown: A picture cannot be looked through.
    """
    search = IdentifierSearch(identifiers)
    seen: set[bytes] = set()
    for number, picture in enumerate(pictures, 1):
        digest = hashlib.blake2b(np.ascontiguousarray(picture).tobytes(), digest_size=16).digest()
        if digest in seen:
            continue
        seen.add(digest)
        lines = finder.find(picture)
        if any(map(search.finds, lines)):
            return f"text detection ({finder.name}): picture {number} shows an identifier of the instance"
        if any(map(holds_date, lines)):
            return f"text detection ({finder.name}): picture {number} shows a date"
    return None


def _without_accents(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))


def _folded(text: str) -> str:
    """Letters and digits without accents and case, those that are confused with each other as one."""
    return "".join(filter(str.isalnum, _without_accents(text).casefold())).translate(_MISREAD)


def _nearly_in(part: str, text: str) -> bool:
    """Whether `part` stands in a text with at most one letter replaced."""
    if part in text:
        return True
    length = len(part)
    return any(
        sum(a != b for a, b in zip(part, text[at : at + length], strict=True)) <= 1
        for at in range(len(text) - length + 1)
    )
