"""Every status code of the conformance statement is provoked once, over real associations and real HTTP.

Codes that a peer answers us with are provoked by `tests/exporter/pull/test_stated_statuses.py`, from the same tables.
"""

from __future__ import annotations

import ast
import re
import struct
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from exporter.commands.conformance.statement import statement
from exporter.settings.settings import Settings
from listener.sources.dimse.commitment import queue
from listener.spool.errors import SpoolWriteFailed
from listener.spool.space import SpaceLevel
from listener.spool.spool import Spool
from tests.exporter.commands.conformance import reading
from tests.listener.certificates import make_certificate
from tests.listener.requestor import (
    CT,
    EXPLICIT,
    Receiver,
    Requestor,
    command,
    data_set,
    explicit,
    pdu,
    pdv,
    proposed,
)
from tests.listener.sources.dicomweb.store import STUDY, Store, instance, meta, multipart, part, stores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REPOSITORY = Path(__file__).resolve().parents[4]
PUSH: Final = "1.2.840.10008.1.20.1"
WELL_KNOWN: Final = "1.2.840.10008.1.20.1.1"
MR: Final = "1.2.840.10008.5.1.4.1.1.4"
MUCH: Final = 1 << 60
ELSEWHERE: Final = {
    408: "tests/listener/sources/dicomweb/test_hostile_clients.py"
    "::test_a_body_that_stops_or_drips_is_cut_and_nothing_is_left",
}
"""HTTP status codes whose provoking takes a deadline, and the test that provokes them."""


@pytest.fixture(scope="module")
def bodies() -> dict[str, str]:
    """Sections of the statement of a listener that commits."""
    settings = Settings.model_validate({"listener": {"commitment": {"enabled": True}}}, strict=False)
    return {one.number: one.body for one in reading.sections(statement(settings, is_default=False))}


@pytest.fixture
def receive(tmp_path: Path) -> Iterator[Callable[..., Receiver]]:
    """Starts receivers, each over a folder of its own."""
    with ExitStack() as stack:

        def start(**settings: Any) -> Receiver:
            receiver = Receiver(tmp_path / str(len(list(tmp_path.iterdir()))), settings)
            stack.callback(receiver.daemon.stop)
            return receiver

        yield start


def situations(body: str) -> set[tuple[int, str]]:
    """Codes of a table of store statuses, with their situations."""
    return {(int(row[1], 16), reading.plain(row[3])) for row in reading.tables(body)[-1]}


def codes(body: str) -> set[int]:
    """Codes of a plain table of status codes."""
    return {int(row[1], 16) for rows in reading.tables(body) for row in rows if re.fullmatch("[0-9A-F]{4}", row[1])}


# -- C-STORE ---------------------------------------------------------------------------------------------------------


def test_every_status_of_c_store_is_provoked(
    bodies: dict[str, str], receive: Callable[..., Receiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[tuple[int, str]] = set()

    def store(receiver: Receiver, *arguments: Any, **options: Any) -> None:
        before = dict(receiver.daemon.counters.snapshot()["counts"])
        with receiver.requestor() as requestor:
            requestor.associate()
            status = requestor.store(*arguments, **options).status
        counts = receiver.daemon.counters.snapshot()["counts"]
        (word,) = (name for name in counts if name.startswith("instances_") and counts[name] > before.get(name, 0))
        seen.add((status, word.removeprefix("instances_")))

    strict = receive(listener={"limits": {"max_instance_bytes": 20_000}})
    store(strict)
    store(strict, "no.uid", data_set("no.uid"))
    store(strict, "1.2.3", data_set("9.9.9"))
    store(strict, "1.2.3", data_set()[:-9])
    store(strict, "1.2.3", data_set(pixels=bytes(30_000)))
    store(strict, "1.2.3", sop_class=MR)
    with strict.requestor() as requestor:
        requestor.associate()
        elements: dict[int, bytes | int] = {2: CT.encode(), 0x100: 1, 0x110: 9, 0x800: 0x101, 0x1000: b"1.2.3"}
        requestor.send(pdu(4, pdv(1, 3, command(elements))))
        seen.add((requestor.response().status, "no_data_set"))
    assert strict.count("instances_no_data_set") == 1

    def broken(*_: object) -> None:
        raise SpoolWriteFailed("test", OSError(5, "Input/output error"))

    with monkeypatch.context() as patch:
        patch.setattr(Spool, "receive", broken)
        store(strict)
    strict.daemon._space.queue_full = True
    store(strict)
    lenient = receive(listener={"mismatch": "accept", "damaged": "accept"})
    store(lenient, "1.2.3", data_set("9.9.9"))
    store(lenient, "1.2.3", data_set()[:-9])
    store(receive(spool={"reject_below_bytes": 0, "refuse_below_bytes": MUCH, "resume_above_bytes": MUCH}))
    assert seen == situations(bodies["7.3.2.5.2"])


# -- other services --------------------------------------------------------------------------------------------------


def test_every_status_of_verification_and_of_foreign_operations_is_provoked(
    bodies: dict[str, str], receive: Callable[..., Receiver]
) -> None:
    with receive().requestor() as requestor:
        requestor.associate()
        seen = {requestor.echo(3).status, requestor.echo(1).status}
        elements: dict[int, bytes | int] = {2: CT.encode(), 0x100: 0x0020, 0x110: 9, 0x800: 0x101}
        requestor.send(pdu(4, pdv(1, 3, command(elements))))
        seen.add(requestor.response().status)
        elements = {0x0100: 0x0FFF, 0x0120: 9, 0x800: 0x101}
        requestor.send(pdu(4, pdv(1, 3, command(elements))))
        assert requestor.echo(3).status == 0  # and nothing for the C-CANCEL before
    assert seen == codes(bodies["7.3.2"])


def ask(requestor: Requestor, action: int = 1, well_known: str = WELL_KNOWN, content: bytes | None = None) -> int:
    """One N-ACTION; its status."""
    reference = explicit(0x00081150, b"UI", CT.encode()) + explicit(0x00081155, b"UI", b"1.2.3")
    items = struct.pack("<HHI", 0xFFFE, 0xE000, len(reference)) + reference
    asked = explicit(0x00081195, b"UI", b"1.2.3.4") + explicit(0x00081199, b"SQ", items)
    elements: dict[int, bytes | int] = {3: PUSH.encode(), 0x100: 0x130, 0x110: 1, 0x800: 1}
    elements |= {0x1001: well_known.encode(), 0x1008: action}
    requestor.send(pdu(4, pdv(1, 3, command(elements))))
    requestor.send(pdu(4, pdv(1, 2, asked if content is None else content)))
    return requestor.response().status


def test_every_status_of_storage_commitment_is_provoked(
    bodies: dict[str, str], receive: Callable[..., Receiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver = receive(listener={"commitment": {"enabled": True}})
    seen = set()
    with receiver.requestor() as requestor:
        requestor.associate(proposed(1, PUSH, EXPLICIT))
        seen |= {ask(requestor, action=2), ask(requestor, well_known="1.2.3"), ask(requestor, content=b"\0" * 8)}
        with monkeypatch.context() as patch:
            patch.setattr(queue, "MOST_REPORTS_OF_ONE", 0)
            seen.add(ask(requestor))

        def refuses(*_: object, **__: object) -> None:
            raise OSError(30, "Read-only file system")

        with monkeypatch.context() as patch:
            patch.setattr(queue.CommitmentQueue, "accept", refuses)
            seen.add(ask(requestor))
        seen.add(ask(requestor))
    assert seen == codes(bodies["7.3.2.6.3"])


def test_every_failure_reason_of_a_commitment_report_is_provoked(
    bodies: dict[str, str], receive: Callable[..., Receiver]
) -> None:
    receiver = receive(listener={"commitment": {"enabled": True}})
    seen = set()
    with receiver.requestor() as sender:
        sender.associate()
        assert sender.store("1.2.3").status == 0
    for sop_class, uid in ((MR, "1.2.3"), (CT, "1.2.99")):
        reference = explicit(0x00081150, b"UI", sop_class.encode()) + explicit(0x00081155, b"UI", uid.encode())
        items = struct.pack("<HHI", 0xFFFE, 0xE000, len(reference)) + reference
        with receiver.requestor() as requestor:
            requestor.associate(proposed(1, PUSH, EXPLICIT))
            content = explicit(0x00081195, b"UI", b"1.2.3.4") + explicit(0x00081199, b"SQ", items)
            assert ask(requestor, content=content) == 0
            assert requestor.response().elements[0x0100] == b"\0\1"  # N-EVENT-REPORT-RQ
            _, report = requestor.receive()
        at = report.index(b"\x08\0\x97\x11US\2\0") + 8
        seen.add(struct.unpack_from("<H", report, at)[0])
    stated = {int(row[0], 16) for row in reading.tables(bodies["5.2.6.2"])[0]}
    assert seen == stated


def test_a_report_that_is_not_confirmed_is_kept_and_one_that_is_is_forgotten(
    bodies: dict[str, str], receive: Callable[..., Receiver]
) -> None:
    receiver = receive(listener={"commitment": {"enabled": True}})
    rows = reading.tables(bodies["7.3.2.6.4"])[0]
    assert [row[1] for row in rows] == ["0000", "any"]
    for status, left in ((0x0000, 0), (0x0110, 1)):
        with receiver.requestor() as requestor:
            requestor.associate(proposed(1, PUSH, EXPLICIT))
            assert ask(requestor) == 0
            number = int.from_bytes(requestor.response().elements[0x0110], "little")
            requestor.receive()
            answer: dict[int, bytes | int] = {2: PUSH.encode(), 0x100: 0x8100, 0x120: number, 0x800: 0x101}
            requestor.send(pdu(4, pdv(1, 3, command(answer | {0x900: status, 0x1000: WELL_KNOWN.encode()}))))
            assert requestor.release() == 6
        assert len(list((receiver.spool / "commitment").glob("*.json"))) == left


# -- rejections ------------------------------------------------------------------------------------------------------


def test_every_rejection_is_provoked(bodies: dict[str, str], receive: Callable[..., Receiver], tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path, "server")
    (passcode := tmp_path / "passcode").write_text("secret\n")
    passcode.chmod(0o600)
    seen = set()

    def rejected(receiver: Receiver, **options: Any) -> None:
        with receiver.requestor() as requestor:
            kind, body = requestor.associate(**options)
            assert kind == 3
            seen.add(tuple(body[1:]))

    plain = receive(listener={"peers": [{"ae_title": "TESTER"}]})
    rejected(plain, called="NOBODY")
    rejected(plain, calling="STRANGER")
    rejected(plain, application_context=b"1.2.3")
    rejected(plain, version=2)
    full = receive(listener={"limits": {"max_associations": 1}})
    with full.requestor() as first:
        assert first.associate()[0] == 2
        rejected(full)
    rejected(receive(spool={"reject_below_bytes": MUCH, "refuse_below_bytes": MUCH, "resume_above_bytes": MUCH}))
    guarded = receive(
        listener={"tls": {"certificate": str(certificate)}, "users": [{"name": "anna", "passcode_file": str(passcode)}]}
    )
    seen.add(rejected_over_tls(guarded, certificate))
    stated = {tuple(int(cell) for cell in row[:3]) for row in reading.tables(bodies["7.3.1.2"])[0]}
    assert seen == stated


def rejected_over_tls(receiver: Receiver, certificate: Path) -> tuple[int, ...]:
    """The rejection of a request without a user identity."""
    import ssl

    context = ssl.create_default_context(cafile=str(certificate))
    context.check_hostname = False
    with receiver.requestor() as requestor:
        requestor.sock = context.wrap_socket(requestor.sock)
        kind, body = requestor.associate()
        assert kind == 3
        return tuple(body[1:])


# -- HTTP ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Store]]:
    """Starts sources over one spool."""
    with stores(tmp_path) as start:
        yield start


def test_every_status_code_of_http_is_provoked(
    bodies: dict[str, str], serve: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = serve(dicomweb={"limits": {"max_instances": 2}})
    one = instance()
    seen = {
        store.store(one).status,
        store.store(one, b"no DICOM").status,
        store.store().status,
        store.store(one, headers={"Authorization": "Bearer wrong"}).status,
        store.store(one, path="/dicom-web/instances").status,
        store.store(one, method="GET").status,
        store.store(one, headers={"Accept": "text/html"}).status,
        store.store(b"no DICOM").status,
        store.store(one, one, one).status,
        store.store(one, headers={"Content-Encoding": "gzip"}).status,
    }
    store.space.state = SpaceLevel.REFUSE_INSTANCES
    seen.add(store.store(one).status)
    store.space.state = SpaceLevel.ENOUGH
    with monkeypatch.context() as patch:
        patch.setattr("listener.sources.dicomweb.app.response.encoded", None)
        seen.add(store.store(one).status)
    stated = {int(row[1]) for row in reading.tables(bodies["7.3.3.3.3"])[0]}
    assert seen | ELSEWHERE.keys() == stated
    assert seen.isdisjoint(ELSEWHERE)


@pytest.mark.parametrize("code", ELSEWHERE)
def test_the_test_that_provokes_another_code_exists_and_names_it(code: int) -> None:
    place, _, name = ELSEWHERE[code].partition("::")
    text = (REPOSITORY / place).read_text()
    (found,) = (node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef) and node.name == name)
    assert str(code) in (ast.get_source_segment(text, found) or "")


def test_every_reason_of_an_uploaded_instance_is_provoked(
    bodies: dict[str, str], serve: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = serve(listener={"limits": {"max_instance_bytes": 5000}})
    lenient = serve(listener={"mismatch": "accept", "damaged": "accept"})
    of_another_class = meta("1.2.6", MR) + instance("1.2.6")[len(meta("1.2.6")) :]
    strict.store(
        instance("1.2.2")[:-7],
        instance("1.2.3", study="1.2.9"),
        b"%PDF-1.7 no DICOM",
        instance("1.2.5", sop_class="1.2.840.10008.1.3.10"),
        meta("1.2.8", syntax="") + data_set("1.2.8"),
        instance("1.2.9", pixels=bytes(6000)),
        instance("no.uid"),
        path=f"/dicom-web/studies/{STUDY}",
    )
    strict.post(multipart([part(instance(), "application/dicom+json")]))
    lenient.store(instance("1.2.2")[:-7], of_another_class)

    def broken() -> None:
        raise SpoolWriteFailed("test", OSError(5, "Input/output error"))

    with monkeypatch.context() as patch:
        patch.setattr(strict.spool, "receive", broken)
        strict.store(instance())
    for state, is_full in ((SpaceLevel.REFUSE_INSTANCES, False), (SpaceLevel.ENOUGH, True)):
        # Room is looked for before the body is read, and once more at each instance: it may go amid a request.
        monkeypatch.setattr("listener.sources.dicomweb.app.StoreApp._find_room", lambda _: None)
        strict.space.state, strict.space.queue_full = state, is_full
        strict.store(instance())
    counted = strict.counters.snapshot()["counts"] | lenient.counters.snapshot()["counts"]
    seen = {name.removeprefix("instances_") for name in counted if name.startswith("instances_")} - {"stored"}
    assert seen == {word for _, word in situations(bodies["7.3.3.3.3"])}
