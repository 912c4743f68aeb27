"""Search for the identifiers of one instance in everything that is about to be published of it.

Contract: `refuse_identifiers` looks through texts and files and raises where an identifier stands in one. Short
spellings are searched for only where text can stand (`exporter.privacy.identifiers`). Keyed values of ours, long
hexadecimal numbers, are passed over: three of their letters may spell a name by chance.

Must never: say which identifier was found.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import orjson

from exporter.errors import PrivacyUnknown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from exporter.privacy.identifiers import CollectedIdentifiers

_LEAST_BYTES: Final = 8
"""Shortest spelling that is searched for in pictures and sound, where shorter ones occur by chance."""
_PIECE: Final = 8 << 20
_OVERLAP: Final = 1024
"""More bytes than the longest spelling has in any encoding."""
_TEXT_SUFFIXES: Final = (".txt", ".csv")
_JSON_SUFFIXES: Final = (".json", ".jsonl")
_KEYED: Final = re.compile(r"(?<![^\W_])(?:[0-9a-f]{16,64}|[0-9A-F]{16,64})(?![^\W_])")
_BETWEEN: Final = "\n\x1f\n"
_SVG_TEXT: Final = re.compile(r">([^<]+)<")


def refuse_identifiers(
    identifiers: CollectedIdentifiers, texts: Iterable[str], files: Iterable[tuple[Path, str]]
) -> None:
    """Do nothing if no identifier occurs in what is about to be published.

    Args:
        identifiers: Those of the instance.
        texts: Names, sentences and values of its line.
        files: Media files with the ending that their names will have, and folders of such files.

    Raises:
        PrivacyUnknown: One occurs.
    """
    _refuse(_in_text(identifiers, _BETWEEN.join(texts)), "the metadata line")
    for path, suffix in files:
        for file, ending in _files(path, suffix):
            _refuse(_in_file(identifiers, file, ending), f"a medium ({ending.lstrip('.') or 'file'})")


def strings_of(value: Any) -> Iterator[str]:
    """Every text within a JSON value, but not the keys of its objects, which are ours."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, list):
            waiting += one
        elif isinstance(one, dict):
            waiting += one.values()


def _refuse(kinds: frozenset[str], place: str) -> None:
    if kinds:
        raise PrivacyUnknown(f"verification: {place} holds an identifier of the instance ({', '.join(sorted(kinds))})")


def _files(path: Path, suffix: str) -> Iterator[tuple[Path, str]]:
    if not path.is_dir():
        yield path, suffix.lower()
        return
    for file in sorted(path.iterdir()):
        yield file, file.suffix.lower()


def _in_file(identifiers: CollectedIdentifiers, path: Path, suffix: str) -> frozenset[str]:
    if suffix.endswith((*_TEXT_SUFFIXES, *_JSON_SUFFIXES, ".svg")):
        return _in_text(identifiers, _text_of(path.read_bytes(), suffix))
    kinds: frozenset[str] = frozenset()
    with path.open("rb") as file:
        tail = b""
        while piece := file.read(_PIECE):
            kinds |= identifiers.found_in_bytes(tail + piece, _LEAST_BYTES)
            tail = piece[-_OVERLAP:]
    return kinds


def _text_of(data: bytes, suffix: str) -> str:
    """The texts of a text file: all of it, but of JSON its values and of drawings what they show."""
    if suffix.endswith(_JSON_SUFFIXES):
        return _BETWEEN.join(text for line in _documents(data, suffix) for text in strings_of(orjson.loads(line)))
    text = data.decode("utf-8", "replace")
    return _BETWEEN.join(_SVG_TEXT.findall(text)) if suffix.endswith(".svg") else text


def _documents(data: bytes, suffix: str) -> list[bytes]:
    return data.splitlines() if suffix.endswith(".jsonl") else [data]


def _in_text(identifiers: CollectedIdentifiers, text: str) -> frozenset[str]:
    spellings = identifiers.spellings
    plain = _KEYED.sub(lambda run: run[0] if run[0].casefold() in spellings else "", text)
    return identifiers.found_in_text(plain)
