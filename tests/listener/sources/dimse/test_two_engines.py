"""The native engine and pynetdicom accept, answer and store the same, but for the differences that are listed.

A difference that is not in the lists of `engine_probe` fails here, and one in the lists that is no more.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from pydicom import config

from tests.listener.certificates import make_certificate
from tests.listener.requestor import Receiver
from tests.listener.sources.dimse import byte_identity, engine_probe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

EVERY_FILE = os.environ.get("EXPORTER_TEST_INTEROP") == "full"
SMALL = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.5")
"""Transfer syntaxes that nearly every sender has; the slow form sends files of all."""

pytestmark = [
    # pynetdicom's threads break over some of what is sent to them, and leave sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore"),  # of pydicom, about UIDs that are none
]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Receiver]]:
    """A receiver on each engine."""
    running = {
        engine: Receiver(tmp_path_factory.mktemp(engine), {"listener": {"engine": engine}})
        for engine in engine_probe.ENGINES
    }
    yield running
    for receiver in running.values():
        receiver.daemon.stop()


def negotiate(both: dict[str, Receiver], *, every: bool) -> None:
    ports = {engine: receiver.port for engine, receiver in both.items()}
    seen, unlisted = set(), []
    for one in engine_probe.compare(ports, engine_probe.proposals(every=every)):
        for field in one.differ_in:
            fitting = [listed for listed in engine_probe.NEGOTIATED if listed.field == field and listed.applies(one)]
            seen.update(listed.situation for listed in fitting)
            if len(fitting) != 1:
                unlisted.append((field, one))
    assert unlisted == []
    assert {listed.situation for listed in engine_probe.NEGOTIATED} - seen == set()


def test_every_class_transfer_syntax_and_role_is_answered_the_same_but_for_what_is_listed(
    both: dict[str, Receiver],
) -> None:
    negotiate(both, every=False)


@pytest.mark.slow
def test_every_pair_of_class_and_transfer_syntax_is_too(both: dict[str, Receiver]) -> None:
    negotiate(both, every=True)


@pytest.mark.parametrize("situation", engine_probe.SITUATIONS)
def test_a_message_or_request_ends_the_same_but_for_what_is_listed(both: dict[str, Receiver], situation: str) -> None:
    native, second = (engine_probe.observe(both[engine], situation) for engine in engine_probe.ENGINES)
    listed = engine_probe.ANSWERED.get(situation)
    if listed is None:
        assert native == second
    else:
        assert (native, second) == listed[:2]
        assert native != second


def test_every_listed_difference_is_tried() -> None:
    assert engine_probe.ANSWERED.keys() <= engine_probe.SITUATIONS.keys()


def test_the_docs_have_the_lists() -> None:
    text = engine_probe.DOCUMENT.read_text().partition(engine_probe.MARKS[0])[2].partition(engine_probe.MARKS[1])[0]
    assert text == engine_probe.tables()


# -- real senders ----------------------------------------------------------------------------------------------------


def deliver(
    sender: str,
    samples: list[byte_identity.Sample],
    folder: Path,
    find: Callable[[str], str],
    settings: dict[str, Any],
    *,
    encrypted: bool,
) -> dict[str, Any]:
    """What one sender delivers to each engine: data sets that are stored, and what was answered."""
    certificate = make_certificate(folder, "server")
    send = byte_identity.sender_named(sender, folder, find, certificate)
    tls = {"tls": {"certificate": str(certificate)}} if encrypted else {}
    deadlines = dict.fromkeys(("request_s", "pdu_s", "idle_s"), byte_identity.PATIENCE_S)
    found = {}
    for engine in engine_probe.ENGINES:
        (folder / engine).mkdir()
        listener = {"engine": engine, "deadlines": deadlines} | settings | tls
        receiver = Receiver(folder / engine, {"listener": listener})
        try:
            send(samples, byte_identity.CALLED["us"], receiver.port, encrypted=encrypted)
        finally:
            receiver.daemon.stop()
        counts = receiver.daemon.counters.snapshot()["counts"]
        found[engine] = {
            "stored": byte_identity.received(receiver.new()),
            "refused": byte_identity.received(receiver.quarantined()),
            "answered": {name: count for name, count in counts.items() if name.startswith("instances_")},
        }
    return found


@pytest.fixture(scope="module")
def samples(corpus: Path) -> list[byte_identity.Sample]:
    return byte_identity.samples_of(corpus, every=EVERY_FILE)


@pytest.fixture
def _unjudged() -> Iterator[None]:
    """Pydicom reads and writes values as they are."""
    settings = config.settings
    before = settings.reading_validation_mode, settings.writing_validation_mode
    settings.reading_validation_mode = settings.writing_validation_mode = config.IGNORE
    yield
    settings.reading_validation_mode, settings.writing_validation_mode = before


@pytest.mark.usefixtures("_unjudged")
@pytest.mark.parametrize(
    "sender",
    [
        pytest.param(sender, marks=() if sender in ("storescu", "GDCM", "raw") else pytest.mark.slow)
        for sender in byte_identity.SENDERS
    ],
)
def test_what_a_real_sender_sends_is_answered_and_stored_the_same(
    samples: list[byte_identity.Sample], tmp_path: Path, peer: Callable[[str], str], sender: str
) -> None:
    some = [sample for sample in samples if sample.syntax in SMALL]
    found = deliver(sender, some, tmp_path, peer, {}, encrypted=False)
    if sender == "pynetdicom2":  # it pads AE titles with zeros: `ANSWERED` has it
        assert found["native"]["stored"]
        assert found["pynetdicom"] == {"stored": {}, "refused": {}, "answered": {}}
        return
    assert found["native"]["stored"]
    assert found["native"] == found["pynetdicom"]


@pytest.mark.slow
@pytest.mark.usefixtures("_unjudged")
@pytest.mark.parametrize(
    ("sender", "encrypted"),
    [pytest.param(*c, id="-".join((c[0], "TLS" * c[1]))) for c in byte_identity.columns() if c[0] != "pynetdicom2"],
)
def test_what_a_real_sender_sends_in_every_transfer_syntax_is_too(
    samples: list[byte_identity.Sample], tmp_path: Path, peer: Callable[[str], str], sender: str, encrypted: bool
) -> None:
    keep = {"mismatch": "accept", "damaged": "accept"}
    found = deliver(sender, samples, tmp_path, peer, keep, encrypted=encrypted)
    assert found["native"]["stored"]
    assert found["native"] == found["pynetdicom"]
