"""Search of an existing output for identifiers that its sources still have, and for settings that leak.

Contract: looks only. Every source that can be found (a folder that was exported, and what the spool still has) is
compared with what the output has of it: names, metadata line, media. Then every other file below the output is searched
for the patient IDs, names and UIDs of all sources together, and every name of a file. The spool itself holds originals
and is passed over. A place is a path below the output, with levels that are themselves identifiers left out.

Must never: give a value in a result.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

import orjson

from exporter.errors import ExportError, PrivacyUnknown, SkipInstance
from exporter.inputs.backfill import BackfillRequest, every_entry
from exporter.inputs.entry_source import keyed
from exporter.inputs.scratch import Scratch
from exporter.privacy.identifiers import collect_identifiers
from exporter.privacy.input_names import InputNames
from exporter.privacy.rules import PrivacyOption
from exporter.privacy.verification import refuse_identifiers
from exporter.results.deidentification import fingerprint_of
from exporter.results.ledger import Ledger
from exporter.results.stores.shard_reading import ExtractedMedia, MediumDamaged
from listener.spool import view
from listener.spool.names import SpoolState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from exporter.privacy.identifiers import CollectedIdentifiers
    from exporter.results.ledger import InstanceRow
    from exporter.settings.settings import Settings
    from listener.settings.listener import DataFolder

_WORD: Final = re.compile(r"[^\W_]+")
_UID: Final = re.compile(r"[0-9]+(?:\.[0-9]+){3,}")
_RUN: Final = re.compile(rb"[\x20-\x7e]{6,}")
_WIDE_RUN: Final = re.compile(rb"(?:[\x20-\x7e]\0){6,}")
_PIECE: Final = 8 << 20
_EMBEDDED: Final = re.compile(rb"data:[a-z]+/[a-z0-9]+;base64,[A-Za-z0-9+/=]*")
"""A picture in a document: its characters mean nothing as text, and short identifiers occur among them by chance."""
_OWN_KEYS: Final = ("dicom_file", "media_file", "media_type", "export")
_LEAST_NAME: Final = 6
"""Shortest whole name that is searched for in files of other instances."""
_HIDDEN: Final = "***"


@dataclass(slots=True)
class LeakReport:
    """Places where an output, or its settings, may identify somebody."""

    sources: int = 0
    """Instances of the sources that were compared."""
    unknown: int = 0
    """Those of them that the output does not have."""
    unread: int = 0
    """Files of the sources that are no instances, or cannot be read."""
    files: int = 0
    """Files of the output that were searched."""
    places: dict[str, str] = field(default_factory=dict)
    """Finding by place; no place or finding holds a value."""

    def add(self, place: str, finding: str) -> None:
        """Note a finding; a place keeps its first one."""
        self.places.setdefault(place, finding)


class _AllIdentifiers:
    """Patient IDs, whole names and UIDs of all sources, by their first word, so that many are found in one pass."""

    def __init__(self) -> None:
        self._by_word: dict[str, set[str]] = {}
        self._uids: set[str] = set()

    def add(self, identifiers: CollectedIdentifiers) -> None:
        self._uids |= identifiers.uids
        for spelling, kind in identifiers.spellings.items():
            words = _WORD.findall(spelling)
            is_whole_name = kind == "name" and len(words) > 1 and len(spelling) >= _LEAST_NAME
            if words and (kind == "identifier" or is_whole_name):
                self._by_word.setdefault(words[0], set()).add(spelling)

    def found_in(self, text: str) -> str | None:
        """Kind of the first identifier in a text; None without any."""
        lower = text.casefold()
        for word in _WORD.finditer(lower):
            for spelling in self._by_word.get(word[0], ()):
                end = word.start() + len(spelling)
                if lower.startswith(spelling, word.start()) and not lower[end : end + 1].isalnum():
                    return "an identifier or name"
        return "a UID" if any(uid in self._uids for uid in _UID.findall(lower)) else None

    def found_in_file(self, path: Path) -> str | None:
        """Kind of the first identifier in the text runs of a file."""
        with path.open("rb") as file:
            tail = b""
            while piece := file.read(_PIECE):
                if _ends_in_a_picture(piece):
                    piece += file.read(_PIECE)
                data = _EMBEDDED.sub(b" ", tail + piece)
                runs = [run.decode("ascii") for run in _RUN.findall(data)]
                runs += [run[::2].decode("ascii") for run in _WIDE_RUN.findall(data)]
                with suppress(UnicodeDecodeError):
                    if not data.isascii():
                        runs.append(data.decode("utf-8"))
                if (kind := self.found_in("\n".join(runs))) is not None:
                    return kind
                tail = data[-1024:]
        return None


def _ends_in_a_picture(piece: bytes) -> bool:
    """Whether the last picture of a piece goes on after it, as far as one can see."""
    begin = piece.rfind(b"data:")
    found = _EMBEDDED.match(piece, begin) if begin >= 0 else None
    return found is not None and found.end() == len(piece)


def find_leaks(data: DataFolder, settings: Settings, source: Path | None) -> LeakReport:
    """Search an output.

    Args:
        data: The data or output folder.
        settings: Those of the output, with its key where it is de-identified.
        source: Folder that was exported; None: only the spool has sources.

    Raises:
        InputUnusable: The source cannot be read.
        LedgerUnusable: The ledger cannot be read.
        KeyUnusable: The key cannot be used.
    """
    report, everything = LeakReport(), _AllIdentifiers()
    _look_at_settings(data, settings, report)
    with (
        Ledger.open_read_only(data.ledger) as ledger,
        ExtractedMedia(settings.media_folder(data)) as extracted,
        TemporaryDirectory() as folder,
    ):
        search = _Search(data, settings, InputNames.of(settings), report, extracted)
        if fingerprint_of(ledger) is None:
            report.add(data.ledger.name, "the output was begun without de-identification")
        with Scratch(Path(folder) / "copies", settings.archives.copies_bytes) as scratch:
            for name, path in _sources(data, settings, source, scratch):
                identifiers = _identifiers_of(path, settings)
                if identifiers is None:
                    report.unread += 1
                    continue
                report.sources += 1
                everything.add(identifiers)
                search.instance(ledger, name, identifiers)
        search.rest(ledger, everything, source)
    return report


def _look_at_settings(data: DataFolder, settings: Settings, report: LeakReport) -> None:
    """Note settings that leak, or undo de-identification."""
    for title, own in {"": settings, **settings.by_ae_title}.items():
        of = f"setting ae_titles ({InputNames.of(settings).ae_title(title)}) privacy" if title else "setting privacy"
        if own.privacy.profile == "none":
            report.add(f"{of}.profile", "`none`: lines hold every element as it is")
        elif own.privacy.pixels == "allow":
            report.add(f"{of}.pixels", "`allow`: pictures leave of which nothing says that they are clean")
        if own.privacy.profile != "none" and "audio" in own.privacy.permit:
            report.add(f"{of}.permit", "`audio`: sound leaves, and nothing listens to what it says")
    output = data.root.resolve()
    for key in ("key_file", "exclude", "pseudonyms"):
        path = getattr(settings.privacy, key)
        if path is not None and path.resolve().is_relative_to(output) and settings.deidentifies:
            report.add(f"setting privacy.{key}", "the file lies below the output")


def _sources(data: DataFolder, settings: Settings, source: Path | None, scratch: Scratch) -> Iterator[tuple[str, Path]]:
    """Name in the ledger and path of every source that is still there."""
    for state in SpoolState:
        if state is SpoolState.RECEIVING:
            continue
        for reason in view.reasons(data.spool) if state is SpoolState.QUARANTINE else ("",):
            folder = view.folder(data.spool, state, reason)
            yield from ((name, folder / name) for name in view.entries(data.spool, state, reason))
    if source is None:
        return
    names = InputNames.of(settings)
    for entry in every_entry(BackfillRequest(source, data.root, settings), scratch):
        if entry.content is not None:
            with suppress(ExportError):
                yield keyed(entry, names).name, entry.content.readable()
                entry.content.release()


def _identifiers_of(path: Path, settings: Settings) -> CollectedIdentifiers | None:
    """The identifiers of an instance; None for another file."""
    from exporter.dicom.instance import Instance
    from exporter.privacy.deidentify import weeks_for
    from exporter.privacy.key import key_of
    from exporter.privacy.pseudonyms import Pseudonyms

    options = frozenset(map(PrivacyOption, settings.privacy.options))
    try:
        with Instance.open(path, settings.limits) as instance:
            weeks = 0
            if PrivacyOption.RETAIN_LONGITUDINAL_MODIFIED_DATES in options:
                weeks = weeks_for(instance.source_header, Pseudonyms(key_of(settings.privacy)))
            return collect_identifiers(instance.source_header, options, weeks)
    except (ExportError, SkipInstance, OSError):
        return None


@dataclass(frozen=True, slots=True)
class _Search:
    """The search of one output."""

    data: DataFolder
    settings: Settings
    names: InputNames
    report: LeakReport
    extracted: ExtractedMedia

    def instance(self, ledger: Ledger, name: str, identifiers: CollectedIdentifiers) -> None:
        """Search what the output has of one instance for its own identifiers."""
        row = ledger.entry(name)
        if row is None:
            self.report.unknown += 1
            return
        media = ledger.media(name)
        text = ledger.line(row.line_seq) if row.line_seq is not None else None
        said = orjson.loads(text) if text is not None else {}
        ours = {key: said.pop(key) for key in _OWN_KEYS if key in said}
        texts = [row.name, row.message, row.ae_title, *(one.file for one in media), *_of_row(row)]
        self._note("the ledger", identifiers, ({}, texts), ())
        place = f"{self.settings.metadata_file(self.data).name} (line {row.line_seq})"
        if self._note(place, identifiers, (said, ours), ()):
            said, ours = {}, {}  # their media may be clean
        for number, one in enumerate(media):
            place = f"media of the instance of line {row.line_seq} (number {number + 1}, {one.suffix})"
            try:
                path = self.extracted.path(one.file, one.sha256)
            except MediumDamaged:
                self.report.add(place, "cannot be searched: its shard is damaged")
                continue
            if path is not None:
                self._note(place, identifiers, (said, ours), [(path, one.suffix)])
        self.extracted.forget()

    def _note(
        self,
        place: str,
        identifiers: CollectedIdentifiers,
        line: tuple[object, object],
        files: Iterable[tuple[Path, str]],
    ) -> bool:
        """Note whether an identifier of the instance stands in elements and statements of its line, or in files.

        Returns:
            Whether one does.
        """
        try:
            refuse_identifiers(identifiers, *line, files)
        except PrivacyUnknown as error:
            _, _, found = str(error).partition(" holds ")
            self.report.add(place, f"holds {found}")
            return True
        return False

    def rest(self, ledger: Ledger, everything: _AllIdentifiers, source: Path | None) -> None:
        """Search every file below the output, but for media and spool, for the identifiers of all sources."""
        root = self.data.root
        passed_over = {self.data.spool.resolve(), *([source.resolve()] if source is not None else [])}
        media = self.settings.media_folder(self.data).resolve()
        for seq, _, _ in ledger.line_places():
            text = ledger.line(seq)
            if text is not None and (kind := everything.found_in(text.decode("utf-8", "replace"))) is not None:
                self.report.add(f"line {seq}", f"holds {kind} of a source")
        for folder, folders, files in os.walk(root):
            here = Path(folder)
            folders[:] = [name for name in folders if (here / name).resolve() not in passed_over]
            for name in (*folders, *files):
                if everything.found_in(name) is not None:
                    self.report.add(_shown(here / name, root, everything), "its name is an identifier of a source")
            for name in files:
                self.report.files += 1
                path = here / name
                if path.is_symlink() or path.resolve().is_relative_to(media) or not path.is_file():
                    continue
                with suppress(OSError):
                    kind = everything.found_in_file(path)
                    if kind is not None:
                        self.report.add(_shown(path, root, everything), f"holds {kind} of a source")


def _of_row(row: InstanceRow) -> list[str]:
    identity = row.identity
    hashes = [row.source_sha256 or "", row.base or ""]
    if identity is None:
        return hashes
    return [*hashes, identity.sop_instance_uid, identity.study_instance_uid, identity.series_instance_uid]


def _shown(path: Path, root: Path, everything: _AllIdentifiers) -> str:
    """A path below the output, with levels that identify somebody left out."""
    parts = path.relative_to(root).parts
    return "/".join(_HIDDEN if everything.found_in(part) is not None else part for part in parts)
