"""A peer that can be told to misbehave: an archive over made studies, on pynetdicom's server, in this process."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import pydicom
from pydicom import Dataset
from pynetdicom import AE, StoragePresentationContexts, build_context, evt
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from tests.exporter.pull.studies import CT, MR
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LEVELS = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}


@dataclass
class OddPeer:
    """Answers from real files; a test replaces `find`, `sends` or `move_ends` by what it wants to see survived."""

    files: list[Path]
    receiver_port: int
    port: int = field(default_factory=free_port)
    asked: list[Dataset] = field(default_factory=list)
    moved: list[Dataset] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)
    find: Callable[[Any, OddPeer], Iterator[tuple[int, Dataset | None]]] | None = None
    sends: Callable[[int, list[Dataset]], list[Dataset]] | None = None
    """Which instances are sent in answer to the n-th C-MOVE (from 1), of those it asks for."""
    says: Callable[[int, list[Dataset]], int] | None = None
    """How many sub-operations it claims; default: as many as it sends."""
    move: Callable[[Any, OddPeer], Iterator[Any]] | None = None

    def __post_init__(self) -> None:
        self.data = [pydicom.dcmread(path) for path in self.files]
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        entity = AE(ae_title="ODD")
        entity.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        entity.add_supported_context(StudyRootQueryRetrieveInformationModelMove)
        entity.add_supported_context(StudyRootQueryRetrieveInformationModelGet)
        for context in StoragePresentationContexts:
            entity.add_supported_context(context.abstract_syntax or "", scu_role=True, scp_role=True)
        handlers = [
            (evt.EVT_C_FIND, self._find),
            (evt.EVT_C_MOVE, self._move),
            (evt.EVT_C_GET, self._get),
        ]
        self._server = entity.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()

    @property
    def receiver(self) -> tuple[str, int, dict[str, Any]]:
        """Where it moves to, as pynetdicom wants to know it."""
        return "127.0.0.1", self.receiver_port, {"contexts": [build_context(uid) for uid in (CT, MR)]}

    def matching(self, asked: Dataset) -> list[Dataset]:
        """Instances that the UIDs and single values of an identifier name."""
        keys = [e for e in asked if e.keyword not in ("QueryRetrieveLevel", "SpecificCharacterSet") and e.value]
        values = {e.keyword: [*map(str, e.value)] if e.VM > 1 else [str(e.value)] for e in keys}
        return [data for data in self.data if all(str(data.get(name)) in wanted for name, wanted in values.items())]

    def answers(self, asked: Dataset) -> list[Dataset]:
        """What an honest peer answers."""
        unique = LEVELS[asked.QueryRetrieveLevel]
        made: dict[str, Dataset] = {}
        for data in self.matching(asked):
            answer = Dataset()
            answer.SpecificCharacterSet = "ISO_IR 100"
            answer.QueryRetrieveLevel = asked.QueryRetrieveLevel
            for element in asked:
                if element.keyword in data and element.keyword != "SpecificCharacterSet":
                    answer[element.keyword] = data[element.keyword]
            made.setdefault(str(data[unique].value), answer)
        return list(made.values())

    def _find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        asked = event.identifier
        with self._lock:
            self.asked.append(asked)
        if self.find is not None:
            yield from self.find(event, self)
            return
        for answer in self.answers(asked):
            yield 0xFF00, answer

    def _move(self, event: Any) -> Iterator[Any]:
        asked = event.identifier
        with self._lock:
            self.moved.append(asked)
            number = len(self.moved)
        if self.move is not None:
            yield from self.move(event, self)
            return
        wanted = self.matching(asked)
        sent = self.sends(number, wanted) if self.sends is not None else wanted
        yield self.receiver
        yield self.says(number, sent) if self.says is not None else len(sent)
        for data in sent:
            yield 0xFF00, data

    def _get(self, event: Any) -> Iterator[Any]:
        asked = event.identifier
        with self._lock:
            self.moved.append(asked)
            number = len(self.moved)
        wanted = self.matching(asked)
        sent = self.sends(number, wanted) if self.sends is not None else wanted
        yield len(sent)
        for data in sent:
            yield 0xFF00, data
