"""Uploaded files: what is said of one does not depend on how it is cut, and hostile ones cost nothing."""

from __future__ import annotations

import random
import time
import zlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from listener.foundation.counters import Counters
from listener.intake.file_meta import LONGEST_META
from listener.settings.listener import ListenerSettings
from listener.sources.contract import Surroundings
from listener.sources.dicomweb.intake import MOST_KEPT, Intake
from listener.sources.dicomweb.part10 import Answer, Upload, UploadTerms
from listener.spool.space import SpaceGuard
from listener.spool.spool import Spool
from tests.listener.requestor import CT, EXPLICIT, IMPLICIT, data_set, explicit
from tests.listener.sources.dicomweb.store import BOUNDARY, STUDY, instance, meta, multipart, part

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from listener.spool.incoming import Incoming


@pytest.fixture
def terms(tmp_path: Path) -> Iterator[UploadTerms]:
    with Spool.open(tmp_path / "spool") as spool:
        listener = ListenerSettings()
        surroundings = Surroundings(spool, SpaceGuard(spool.root, listener.spool), Counters(), tmp_path)
        yield UploadTerms(surroundings, listener.listener, STUDY.encode())


def judged(terms: UploadTerms, file: bytes, cuts: Iterable[int] = ()) -> Answer:
    upload = Upload(terms)
    at = 0
    for cut in [*sorted(cuts), len(file)]:
        upload.write(memoryview(file)[at:cut])
        at = cut
    return upload.answer()


def deflated(content: bytes) -> bytes:
    squeezer = zlib.compressobj(wbits=-15)
    return squeezer.compress(content) + squeezer.flush()


WHOLE = instance("1.2.3")
CONTENT = WHOLE[len(meta("1.2.3")) :]
FILES = {
    "stored": WHOLE,
    "damaged": WHOLE[:-3],
    "other_study": instance(study="1.2"),
    "mismatch_accepted": meta("1.2.4") + CONTENT,
    "not_part_10": CONTENT + bytes(200),
    "bad_file_meta": meta(syntax="") + CONTENT,
    "class_not_supported": instance(sop_class="1.2.840.10008.1.1"),
}
MORE = {
    "without_uids": (meta("", "") + CONTENT, "stored"),
    "deflated": (meta("1.2.3", CT, "1.2.840.10008.1.2.1.99") + deflated(CONTENT), "stored"),
    "deflated_bomb": (meta("1.2.3", CT, "1.2.840.10008.1.2.1.99") + deflated(bytes(64 << 20)), "other_study"),
    "implicit_label": (meta("1.2.3", CT, IMPLICIT) + CONTENT, "damaged"),
    "private": (meta("1.2.3", CT, "1.2.3.4.5") + CONTENT, "other_study"),
    "meta_alone": (meta("1.2.3"), "bad_file_meta"),
    "long_meta": (meta(more=explicit(0x00020102, b"OB", bytes(LONGEST_META))) + CONTENT, "bad_file_meta"),
    "many_in_meta": (meta(more=explicit(0x00020100, b"UI", b"1") * 20_000) + CONTENT, "bad_file_meta"),
    "prefix_alone": (bytes(128) + b"DICM", "bad_file_meta"),
    "nothing": (b"", "not_part_10"),
    "zeros": (bytes(10_000), "not_part_10"),
}
ALL = {name: (file, name) for name, file in FILES.items()} | MORE


@pytest.mark.parametrize("name", ALL)
def test_a_file_is_judged_the_same_however_it_is_cut(terms: UploadTerms, name: str) -> None:
    file, wanted = ALL[name]
    whole = judged(terms, file)
    assert whole.situation.word == wanted
    chance = random.Random(3)  # noqa: S311 - the same cuts each time
    near = min(len(file), 600)
    for cuts in ([*range(near)], [131, 132, 133], [chance.randrange(near + 1) for _ in range(20)]):
        assert judged(terms, file, [cut for cut in cuts if cut <= len(file)]) == whole


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_mutants_are_judged_the_same_however_they_are_cut(terms: UploadTerms, data: st.DataObject) -> None:
    file = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        file[data.draw(st.integers(120, len(file) - 1))] = data.draw(st.integers(0, 255))
    cuts = data.draw(st.lists(st.integers(0, len(file)), max_size=12))
    assert judged(terms, bytes(file), cuts) == judged(terms, bytes(file))


def test_bytes_that_come_one_by_one_cost_no_more_than_their_number(terms: UploadTerms) -> None:
    """A header that is read anew for every byte would take hours."""
    long = meta(more=explicit(0x00020100, b"UI", b"1.2") * 4000) + data_set()
    assert len(long) < LONGEST_META
    began = time.monotonic()
    judged(terms, long, range(len(long)))
    assert time.monotonic() - began < 10


def test_what_is_said_in_an_answer_is_plain(terms: UploadTerms) -> None:
    evil = meta("1.2.3") + explicit(0x00080016, b"UI", CT.encode()) + explicit(0x00080018, b"UI", b"1.2.3")
    assert judged(terms, evil.replace(b"1.2.3", b"\xff\n<3", 1)).sop_instance_uid == ""
    assert EXPLICIT.encode() in evil


def malformed(terms: UploadTerms, content: bytes, count: int) -> tuple[list[Answer], int]:
    """The answers to a request of `count` such parts, and the number of files that were made for them."""
    intake, made, receive = Intake(BOUNDARY, terms, count), [], terms.surroundings.spool.receive

    def counted() -> Incoming:
        made.append(receive())
        return made[-1]

    terms.surroundings.spool.receive = counted  # type: ignore[method-assign]  # counts, and does what it does
    intake.feed(multipart([part(content)] * count))
    return intake.finish(), len(made)


@pytest.mark.parametrize("content", [b"", b"x" * 20, bytes(128) + b"DICM"])
def test_parts_that_are_no_dicom_files_cost_no_disk_beyond_the_first_few(terms: UploadTerms, content: bytes) -> None:
    answers, made = malformed(terms, content, 1000)
    assert len(answers) == 1000
    assert {answer.situation.word for answer in answers} <= {"not_part_10", "bad_file_meta"}
    assert made == MOST_KEPT
    assert terms.surroundings.spool.counts().quarantined <= MOST_KEPT


def test_sound_parts_among_many_that_are_none_are_stored(terms: UploadTerms) -> None:
    intake = Intake(BOUNDARY, terms, 100)
    intake.feed(multipart([part(b"")] * 50 + [part(WHOLE)] + [part(b"?")] * 10))
    assert [answer.situation.word for answer in intake.finish()].count("stored") == 1
    assert terms.surroundings.spool.counts().new == 1
