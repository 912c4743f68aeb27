"""Search for the identifiers of one instance in everything that is about to be published of it.

Contract: `refuse_identifiers` looks through texts and files and raises where an identifier stands in one. Short
spellings are searched for only where text can stand (`exporter.privacy.identifiers`). Keyed values of ours, long
hexadecimal numbers, are passed over: three of their letters may spell a name by chance.

Must never: say which identifier was found.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import orjson

from exporter.errors import PrivacyUnknown
from exporter.privacy.vocabulary import standard_meanings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from exporter.privacy.documents import DocumentTexts
    from exporter.privacy.identifiers import CollectedIdentifiers

_LEAST_BYTES: Final = 8
"""Shortest spelling that is searched for in pictures and sound, where shorter ones occur by chance."""
_PIECE: Final = 8 << 20
_OVERLAP: Final = 1024
"""More bytes than the longest spelling has in any encoding."""
_TEXT_SUFFIXES: Final = (".txt", ".csv")
_JSON_SUFFIXES: Final = (".json", ".jsonl")
_DOCUMENT_SUFFIXES: Final = (".pdf", ".cda.xml", ".stl", ".obj", ".mtl")
"""Endings of documents that `privacy.permit` lets leave."""
_KEYED: Final = re.compile(r"(?<![^\W_])(?:[0-9a-f]{16,64}|[0-9A-F]{16,64})(?![^\W_])")
_MEANINGS: Final = frozenset(("Code Meaning", "00080104", "meaning"))
"""Keys of the meanings of codes, in both forms of records and in reports."""
_BETWEEN: Final = "\n\x1f\n"
_SVG_TEXT: Final = re.compile(r">([^<]+)<")


def refuse_identifiers(
    identifiers: CollectedIdentifiers, elements: Any, statements: Any, files: Iterable[tuple[Path, str]]
) -> None:
    """Do nothing if no identifier occurs in what is about to be published.

    Args:
        identifiers: Those of the instance.
        elements: JSON value: elements of the instance in its line.
        statements: JSON value: what the line says besides. Its words are ours, and any may be somebody's name: single
            words of names are not searched for.
        files: Media files with the ending that their names will have, and folders of such files.

    Raises:
        PrivacyUnknown: One occurs.
    """
    meanings: set[str] = set()
    _refuse(_in_text(identifiers, _BETWEEN.join(_texts_in(elements, meanings))), "the metadata line")
    whole = {text: kind for text, kind in identifiers.spellings.items() if kind != "name" or not text.isalpha()}
    stated = _BETWEEN.join(_texts_in(statements, set()))
    _refuse(_in_text(replace(identifiers, spellings=whole), stated), "the metadata line")
    # JSON before texts: a report as text shows the meanings of its tree.
    listed = [found for path, suffix in files for found in _files(path, suffix)]
    for file, ending in sorted(listed, key=lambda one: not one[1].endswith(_JSON_SUFFIXES)):
        _refuse(_in_file(identifiers, file, ending, meanings), f"a medium ({ending.lstrip('.') or 'file'})")


def refuse_document(identifiers: CollectedIdentifiers, data: bytes, suffix: str) -> None:
    """Do nothing if no identifier occurs in a document.

    Args:
        identifiers: Those of the instance.
        data: The document.
        suffix: Ending of its name, as the document writer gives it.

    Raises:
        PrivacyUnknown: One occurs, or the document cannot be searched.
    """
    from exporter.privacy.documents import texts_of_document

    kinds = _in_document(identifiers, texts_of_document(data, suffix))
    _refuse(kinds, f"the document ({suffix.lstrip('.')})")


def _texts_in(value: Any, meanings: set[str]) -> Iterator[str]:
    """Every text within a JSON value, but neither keys of its objects, which are ours, nor meanings of standard codes.

    Args:
        value: The value.
        meanings: Gets the meanings that were passed over: words of the Standard, which may be somebody's name.
    """
    waiting = [("", value)]
    while waiting:
        key, one = waiting.pop()
        if isinstance(one, str):
            if key in _MEANINGS and one in standard_meanings():
                meanings.add(one)
            else:
                yield one
        elif isinstance(one, list):
            waiting += ((key, part) for part in one)
        elif isinstance(one, dict):
            is_value = set(one) <= {"vr", "Value"}
            waiting += ((key if is_value else name, part) for name, part in one.items())


def _refuse(kinds: frozenset[str], place: str) -> None:
    if kinds:
        raise PrivacyUnknown(f"verification: {place} holds an identifier of the instance ({', '.join(sorted(kinds))})")


def _files(path: Path, suffix: str) -> Iterator[tuple[Path, str]]:
    if not path.is_dir():
        yield path, suffix.lower()
        return
    for file in sorted(path.iterdir()):
        yield file, file.suffix.lower()


def _in_file(identifiers: CollectedIdentifiers, path: Path, suffix: str, meanings: set[str]) -> frozenset[str]:
    document = next((kind for kind in _DOCUMENT_SUFFIXES if suffix.endswith(kind)), None)
    if document is not None:
        from exporter.privacy.documents import texts_of_document

        return _in_document(identifiers, texts_of_document(path.read_bytes(), document))
    if suffix.endswith((*_TEXT_SUFFIXES, *_JSON_SUFFIXES, ".svg")):
        return _in_text(identifiers, _text_of(path.read_bytes(), suffix, meanings))
    kinds: frozenset[str] = frozenset()
    with path.open("rb") as file:
        tail = b""
        while piece := file.read(_PIECE):
            kinds |= identifiers.found_in_bytes(tail + piece, _LEAST_BYTES)
            tail = piece[-_OVERLAP:]
    return kinds


def _in_document(identifiers: CollectedIdentifiers, texts: DocumentTexts) -> frozenset[str]:
    """Kinds of the identifiers that occur in a document, also in pieces that are shown side by side."""
    kinds = identifiers.found_in_text(_BETWEEN.join(texts.words))
    for run in texts.letters:
        kinds |= identifiers.found_in_run(run, texts.least_letters)
    for data in texts.raw:
        kinds |= identifiers.found_in_bytes(data, _LEAST_BYTES)
    return kinds


def _text_of(data: bytes, suffix: str, meanings: set[str]) -> str:
    """The texts of a text file: all of it, but of JSON its values and of drawings what they show."""
    if suffix.endswith(_JSON_SUFFIXES):
        documents = data.splitlines() if suffix.endswith(".jsonl") else [data]
        return _BETWEEN.join(text for one in documents for text in _texts_in(orjson.loads(one), meanings))
    text = data.decode("utf-8", "replace")
    for meaning in sorted(meanings, key=len, reverse=True):
        text = text.replace(f"{meaning} (", "(")
    return _BETWEEN.join(_SVG_TEXT.findall(text)) if suffix.endswith(".svg") else text


def _in_text(identifiers: CollectedIdentifiers, text: str) -> frozenset[str]:
    spellings = identifiers.spellings
    plain = _KEYED.sub(lambda run: run[0] if run[0].casefold() in spellings else "", text)
    return identifiers.found_in_text(plain)
