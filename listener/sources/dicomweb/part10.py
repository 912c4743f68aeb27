"""One uploaded instance: a DICOM file (PS3.10) on its way into the spool, judged like one that came by C-STORE.

Contract: the bytes go to the spool as they came; beside that, the file meta information is read for the transfer
syntax and the UIDs, and the data set is walked over. `Upload.finish` ends in exactly one `StoreStatus`, success only
once the spool has committed. Trouble with the spool becomes a situation: nothing here raises for it.

A file is made in the spool once the file meta information is complete: a part that is no DICOM file costs no disk,
unless it is to be kept in quarantine.

Must never: decode a value other than UIDs, or hold more than the file meta information.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from listener.intake import store_status
from listener.intake.file_meta import PREFIX_BYTES, SOP_CLASS, SOP_INSTANCE, TRANSFER_SYNTAX, ArrivingFileMeta
from listener.intake.reception import InstanceReception, StoreIdentity, failed, judge, refusal_for_space
from listener.intake.transfer_syntaxes import DEFLATED, EXPLICIT_LITTLE, encoding_of, is_storage
from listener.intake.walk import DataSetScanner
from listener.spool.errors import SpoolWriteFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from listener.foundation.durable import Buffer
    from listener.intake.store_status import StoreStatus
    from listener.settings.listener import ListenerSection
    from listener.sources.contract import Surroundings

LONGEST_UID: Final = 64
MOST_INFLATED: Final = 1 << 20
"""So much of a deflated data set is looked at, for its UIDs."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one instance."""

    situation: StoreStatus
    sop_class_uid: str
    sop_instance_uid: str
    """Both as they were sent, as far as they are known; else empty."""
    size_bytes: int


@dataclass(frozen=True, slots=True)
class UploadTerms:
    """What holds for all instances of one request."""

    surroundings: Surroundings
    settings: ListenerSection
    study_instance_uid: bytes | None
    """The study that the address names; none takes any."""


class Upload(InstanceReception):
    """One instance on its way."""

    def __init__(self, terms: UploadTerms, refusal: StoreStatus | None = None, *, keeps_malformed: bool = True) -> None:
        """Begin with no bytes.

        Args:
            terms: What holds for all instances of the request.
            refusal: Why it is refused already.
            keeps_malformed: Whether it goes into quarantine where it turns out to be no DICOM file.
        """
        around = terms.surroundings
        super().__init__(around.spool, terms.settings, refusal or refusal_for_space(around.space))
        self._study_wanted = terms.study_instance_uid
        self._keeps_malformed = keeps_malformed
        self._held: list[bytes] = []
        """The bytes, until there is a file for them."""
        self._meta = ArrivingFileMeta()
        self._inflate: _Inflated | None = None

    @property
    def is_malformed(self) -> bool:
        """Whether it was kept although it is no DICOM file."""
        return self._situation in {store_status.NOT_PART_10, store_status.BAD_META}

    def write(self, piece: memoryview) -> None:
        """Take the next bytes of the file."""
        self.size_bytes += len(piece)
        self._look(piece)
        if self._situation is not None:
            return
        if self.size_bytes > self._settings.limits.max_instance_bytes:
            self._give_up(store_status.TOO_LARGE)
            return
        if self._incoming is not None:
            self._append([piece])
        elif self._meta.is_complete:
            self._held.append(bytes(piece))
            self._write_held()
        elif self._meta.fault is None or self._keeps_malformed:
            self._held.append(bytes(piece))
            if self._meta.fault is not None:
                self._write_held()

    def _write_held(self) -> None:
        """Make a file in the spool, and write what was held."""
        held, self._held = self._held, []
        try:
            self._incoming = self._spool.receive()
        except SpoolWriteFailed as error:
            self._give_up(failed(error))
        self._append(held)

    def _append(self, pieces: Sequence[Buffer]) -> None:
        if self._incoming is None:
            return
        try:
            self._incoming.write(pieces)
        except SpoolWriteFailed as error:
            self._give_up(failed(error))

    def finish(self) -> StoreStatus:
        """Judge the complete file, and make it durable where its status says.

        Returns:
            What its sender is answered.
        """
        if self._situation is None and self._incoming is None and self._keeps_malformed:
            self._write_held()
        self._situation = self._situation or self._judge()
        if self.is_malformed and not self._keeps_malformed:
            self.discard()
        return super().finish()

    def answer(self) -> Answer:
        """`finish`, with what the response says of the instance."""
        situation = self.finish()
        said = self._identity(of_data_set=True)
        return Answer(situation, _shown(said.sop_class_uid), _shown(said.sop_instance_uid), self.size_bytes)

    def _look(self, piece: memoryview) -> None:
        """Go over the bytes for structure and UIDs; also of what is refused, so that the answer can name it."""
        data: memoryview | None = piece
        if not self._meta.is_complete:
            data = self._meta.feed(piece) if self._meta.fault is None else None
            if data is not None:
                self._begin_walk()
        if not data:
            return
        if self._walk is not None:
            self._walk.feed(data)
        elif self._inflate is not None:
            self._inflate.feed(data)

    def _begin_walk(self) -> None:
        syntax = _text(self._meta.values.get(TRANSFER_SYNTAX))
        encoding = encoding_of(syntax)
        limits = self._settings.limits
        bounds = {"max_depth": limits.max_depth, "max_elements": limits.max_elements}
        if encoding is not None:
            self._walk = DataSetScanner(encoding, **bounds, study=True)
        elif syntax == DEFLATED:
            explicit = encoding_of(EXPLICIT_LITTLE)
            assert explicit is not None  # noqa: S101 - the table has it
            self._inflate = _Inflated(DataSetScanner(explicit, **bounds, study=True))

    def _judge(self) -> StoreStatus:
        if self._meta.fault is not None:
            return self._meta.fault
        if not self._meta.is_complete:
            return store_status.NOT_PART_10 if self.size_bytes < PREFIX_BYTES else store_status.BAD_META
        said = self._identity()
        if not self._meta.values.get(TRANSFER_SYNTAX) or said.sop_class_uid is None:
            return store_status.BAD_META
        if not is_storage(_text(said.sop_class_uid)):
            return store_status.CLASS_NOT_SUPPORTED
        situation = judge(self._walk, said, self._settings)
        if situation is store_status.MISMATCH:
            # Nobody announced the instance, as a command does: its own careless file meta information differs.
            situation = store_status.MISMATCH_ACCEPTED
        wanted = self._study_wanted
        if situation.is_success and wanted is not None and self._study() != wanted:
            return store_status.OTHER_STUDY
        return situation

    def _looked(self) -> DataSetScanner | None:
        return self._walk if self._walk is not None or self._inflate is None else self._inflate.walk

    def _identity(self, *, of_data_set: bool = False) -> StoreIdentity:
        """What the instance is: by the file meta information, or by the data set; by the other where one is silent."""
        walk, meta = self._looked(), self._meta.values
        pairs = [(meta.get(SOP_CLASS), meta.get(SOP_INSTANCE))]
        if walk is not None:
            pairs.insert(0 if of_data_set else 1, (walk.sop_class_uid, walk.sop_instance_uid))
        classes, instances = zip(*pairs, strict=True)
        return StoreIdentity(next(filter(None, classes), None), next(filter(None, instances), b""))

    def _study(self) -> bytes | None:
        walk = self._looked()
        return walk.study_instance_uid if walk is not None else None


class _Inflated:
    """The beginning of a deflated data set (PS3.5 A.5), for its UIDs alone."""

    def __init__(self, walk: DataSetScanner) -> None:
        self.walk = walk
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._left = MOST_INFLATED

    def feed(self, piece: memoryview) -> None:
        """Go over bytes; nothing where they cannot be inflated, which the exporter will say."""
        if self._left <= 0:
            return
        try:
            inflated = self._inflater.decompress(piece, self._left)
        except zlib.error:
            self._left = 0
            return
        self._left -= len(inflated)
        if self._inflater.unconsumed_tail:
            self._left = 0
        self.walk.feed(memoryview(inflated))


def _text(uid: bytes | None) -> str:
    return (uid or b"").decode("ascii", "replace")


def _shown(uid: bytes | None) -> str:
    """A UID as text, as it was sent where that is 64 plain characters at most; otherwise empty."""
    return _text(uid) if uid and len(uid) <= LONGEST_UID and all(0x20 < byte < 0x7F for byte in uid) else ""
