"""Every sender, every transfer syntax of the corpus, with and without TLS: the spool holds the bytes that were sent.

In its full form (EXPORTER_TEST_INTEROP=full) every file of the corpus is sent; otherwise one of each transfer syntax.
"""

from __future__ import annotations

import gc
import os
from typing import TYPE_CHECKING

import pytest
from pydicom import config

from tests.listener.sources.dimse import byte_identity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

EVERY = os.environ.get("EXPORTER_TEST_INTEROP") == "full"
FEWEST = {
    "storescu": 13,
    "dcmsend": 13,
    "Orthanc": 10,
    "pynetdicom": 15,
    "GDCM": 16,
    "odil": 21,
    "CTN": 18,
    "PixelMed": 20,
    "dcmjs-dimse": 20,
    "pynetdicom2": 23,
    "raw": 17,
}
"""Transfer syntaxes that each sender of this table is known to send; a number that falls is a test that tests less."""


@pytest.fixture(scope="module")
def samples(corpus: Path) -> list[byte_identity.Sample]:
    return byte_identity.samples_of(corpus, every=EVERY)


@pytest.fixture
def unjudged() -> Iterator[None]:
    """Pydicom reads and writes values as they are: what is odd in the corpus is to be sent, not judged."""
    settings = config.settings
    before = settings.reading_validation_mode, settings.writing_validation_mode
    settings.reading_validation_mode = settings.writing_validation_mode = config.IGNORE
    yield
    settings.reading_validation_mode, settings.writing_validation_mode = before


@pytest.mark.filterwarnings("ignore")  # of pydicom, about files that are odd
@pytest.mark.usefixtures("unjudged")
@pytest.mark.parametrize(
    ("sender", "encrypted"), [pytest.param(*c, id="-".join((c[0], "TLS" * c[1]))) for c in byte_identity.columns()]
)
def test_what_a_sender_sends_is_what_lies_in_the_spool(
    samples: list[byte_identity.Sample], tmp_path: Path, peer: Callable[[str], str], sender: str, encrypted: bool
) -> None:
    cells = byte_identity.compare(sender, samples, tmp_path, peer, encrypted=encrypted)
    gc.collect()  # pynetdicom leaves some sockets to it, and another test would be blamed
    print(byte_identity.table({(sender, encrypted): cells}))  # noqa: T201 - what was compared
    assert {syntax: cell for syntax, cell in cells.items() if not cell.is_well} == {}
    if not EVERY or sender != "Orthanc":  # see the docs for what storescp does not take from it
        assert sum(cell.more for cell in cells.values()) == 0
    assert sum(cell.sent > 0 for cell in cells.values()) >= FEWEST[sender]


@pytest.mark.filterwarnings("ignore")  # the same, where this test is the first that needs the samples
def test_the_table_of_the_docs_has_every_transfer_syntax_and_no_difference(samples: list[byte_identity.Sample]) -> None:
    text = byte_identity.DOCUMENT.read_text().partition(byte_identity.MARKS[0])[2].partition(byte_identity.MARKS[1])[0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines()[2:]]
    assert {row[0].split()[0] for row in rows[:-1]} == {sample.syntax for sample in samples}
    for row in rows:
        assert len(row) == len(byte_identity.columns()) + 1
        for cell in row[1:]:
            assert cell == "-" or len(set(cell.partition(" ")[0].split("/"))) == 1, row
