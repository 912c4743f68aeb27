"""Several receiving processes are one listener: to peers, to the spool, to counters and to whoever operates it."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from listener.foundation.counters import Counters
from listener.foundation.errors import SourceUnusable
from listener.network.connection_slots import ConnectionSlots
from listener.settings.listener import ListenerSettings
from listener.sources.contract import Surroundings
from listener.sources.dimse.processes.child import read_settings
from listener.sources.dimse.processes.pool import PoolTiming, ReceiverPool
from listener.spool.names import is_of
from listener.spool.space import SpaceGuard
from listener.spool.spool import Spool
from tests.listener.process import listening
from tests.listener.requestor import CT, Receiver, Requestor, data_set, eventually, pdu, pdv
from tests.listener.requestor import stored_data_set as stored
from tests.listener.sources.dimse.commitment.test_commitment import ON, Requester, ScriptedRequester, queued

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import ModuleType

    from listener.network.connection_slots import ConnectionSlot

    Receive = Callable[..., Receiver]
    StartPool = Callable[[PoolTiming], "PoolHarness"]


@pytest.fixture
def two(receive: Receive) -> Receiver:
    """A listener of two processes."""
    return of_two(receive)


def of_two(receive: Receive, *, listener: Mapping[str, Any] = MappingProxyType({}), **settings: Any) -> Receiver:
    """A listener of two processes that both serve: its port may be open before, on a machine that is busy."""
    receiver = receive(listener={"processes": 2, **listener}, **settings)
    eventually(lambda: processes(receiver) == 2, "both processes serve", 100)
    return receiver


def processes(receiver: Receiver) -> int:
    """How many processes serve, as `exporter status` tells."""
    gauges: Any = receiver.daemon.counters.snapshot()["gauges"]
    return int(gauges["receiving_processes"])


def other_process(listener: int) -> psutil.Process:
    """The process beside the listener's own."""

    def found() -> list[psutil.Process]:
        return [p for p in psutil.Process(listener).children() if is_member(p)]

    def is_member(process: psutil.Process) -> bool:
        try:
            return "listener.sources.dimse.processes.child" in process.cmdline()
        except psutil.Error:  # it has just ended
            return False

    eventually(lambda: len(found()) == 1, "there is one more process")
    return found()[0]


def is_of_the_listener(receiver: Receiver, path: Path) -> bool:
    """Whether the listener's own process received a file, and not another one."""
    return is_of(receiver.daemon._spool.mark, path.name)


class PoolHarness:
    """A pool of one process with a port of its own, for what no peer of a whole listener can bring about."""

    def __init__(self, folder: Path, timing: PoolTiming) -> None:
        settings = ListenerSettings()
        self.slots = ConnectionSlots()
        self.bounds = settings.listener.limits
        self.spool = Spool.open(folder / "spool", settings=settings.spool)
        space = SpaceGuard(self.spool.root, settings.spool)
        self.pool = ReceiverPool(
            1,
            Surroundings(self.spool, space, Counters(), folder / "state"),
            on_leave=lambda: None,
            on_declined=lambda slot: slot.sock.close(),
            on_ended=lambda _: None,
            timing=timing,
        )
        self.pool.start(settings)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.pool.wait(60)

    @contextmanager
    def connection(self) -> Iterator[tuple[Requestor, ConnectionSlot]]:
        """A requestor, and the slot of its connection."""
        with Requestor(self.listening.getsockname()[1]) as requestor:
            sock, (host, _) = self.listening.accept()
            slot = self.slots.admit(sock, host, self.bounds)
            assert slot is not None
            with sock:
                yield requestor, slot
            slot.release()

    def serves_there(self) -> bool:
        """Whether the process takes a connection and serves it."""
        with self.connection() as (requestor, slot):
            return self.pool.hand_over(slot, 1) and requestor.associate()[0] == 2

    def close(self) -> None:
        self.pool.tell_to_stop(0.0)
        self.pool.join(time.monotonic())
        self.listening.close()
        self.spool.close()


@pytest.fixture
def start_pool(tmp_path: Path) -> Iterator[StartPool]:
    running: list[PoolHarness] = []

    def start(timing: PoolTiming) -> PoolHarness:
        running.append(PoolHarness(tmp_path / f"pool{len(running)}", timing))
        return running[-1]

    yield start
    for one in running:
        one.close()


def is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@contextmanager
def handed_over(receiver: Receiver, **options: Any) -> Iterator[Requestor]:
    """A requestor whose association goes to the other process: our own serves one that does nothing."""
    with Requestor(receiver.port) as idle, Requestor(receiver.port, **options) as requestor:
        # Connections are handed out in order; the answer to the first says that it has its place.
        assert idle.associate()[0] == 2
        yield requestor


def test_associations_at_once_are_spread_and_every_byte_is_kept(two: Receiver) -> None:
    with ExitStack() as stack:
        requestors = [stack.enter_context(two.requestor()) for _ in range(6)]
        assert {requestor.associate()[0] for requestor in requestors} == {2}
        for number, requestor in enumerate(requestors):
            for one in range(5):
                assert requestor.store(f"1.2.{number}.{one}").status == 0
            assert requestor.echo().status == 0
        assert {requestor.release() for requestor in requestors} == {6}
    two.wait_for("associations_released", 6)
    files = two.new()
    assert {stored(path) for path in files} == {data_set(f"1.2.{n}.{m}") for n in range(6) for m in range(5)}
    assert sum(is_of_the_listener(two, path) for path in files) == 15
    assert two.count("instances_stored") == 30
    assert two.count("bytes_stored") == 30 * len(data_set("1.2.0.0"))
    assert two.count("echoes") == 6


def test_the_line_of_an_association_is_the_same_whoever_served_it(tmp_path: Path, free_port: int) -> None:
    with listening(tmp_path, free_port, processes=2) as listener:
        with Requestor(free_port) as first, Requestor(free_port) as second:
            for requestor in (first, second):
                assert requestor.associate()[0] == 2
                assert requestor.store().status == 0
            assert {first.release(), second.release()} == {6}
        eventually(lambda: len(listener.associations) == 2, "both are told")
        one, other = ({k: v for k, v in line.items() if k not in VARIES} for line in listener.associations)
    assert one == other
    assert one["stored"] == 1


VARIES = ("seconds", "slowest_commit_s", "timestamp")


def test_a_process_that_is_killed_costs_its_own_associations_and_is_replaced(two: Receiver) -> None:
    process = other_process(os.getpid())
    with two.requestor() as here, two.requestor() as there:
        assert {here.associate()[0], there.associate()[0]} == {2}
        assert there.store("1.2.1").status == 0
        there.send(pdu(4, pdv(1, 3, there.store_command("1.2.2"))))
        there.send(pdu(4, pdv(1, 0, data_set("1.2.2")[:500])))
        eventually(lambda: len(list((two.spool / "tmp").iterdir())) == 1, "it is being received")
        process.kill()
        assert there.is_closed()
        assert here.store("1.2.3").status == 0
        two.wait_for("receiving_processes_ended")
        assert here.release() == 6
    eventually(lambda: not list((two.spool / "tmp").iterdir()), "what it had begun is deleted")
    assert {stored(path) for path in two.new()} == {data_set("1.2.1"), data_set("1.2.3")}
    eventually(lambda: other_process(os.getpid()).pid != process.pid, "another process is there")

    def is_served_there() -> bool:
        with handed_over(two) as requestor:
            assert requestor.associate()[0] == 2
            assert requestor.store("1.2.4").status == 0
        return not is_of_the_listener(two, two.new()[-1])

    eventually(is_served_there, "the new process serves")


def test_a_process_that_has_been_silent_for_too_long_gets_no_connection(start_pool: StartPool) -> None:
    attentive, impatient = start_pool(PoolTiming()), start_pool(PoolTiming(busy_s=0.0))
    with attentive.connection() as (_, slot):
        assert attentive.pool.hand_over(slot, 1)
    with impatient.connection() as (_, slot):
        assert not impatient.pool.hand_over(slot, 1)


def test_a_process_that_hangs_is_ended_and_replaced(start_pool: StartPool) -> None:
    timing = PoolTiming()
    harness = start_pool(timing)
    process = other_process(os.getpid())
    with harness.connection() as (requestor, slot):
        eventually(lambda: harness.pool.hand_over(slot, 1), "the process takes the connection")
        process.suspend()
        timing.silent_s = 1.5
        assert requestor.is_closed()  # at the end of the process
    timing.silent_s = 60.0
    eventually(lambda: not is_alive(process), "it is ended")
    eventually(lambda: other_process(os.getpid()).pid != process.pid, "another process is there")
    eventually(harness.serves_there, "the new process serves", 100)


def test_a_process_that_sends_what_is_no_message_is_ended_and_replaced(
    start_pool: StartPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[socket.socket] = []
    socketpair = socket.socketpair

    def keep_theirs(*options: Any) -> tuple[socket.socket, socket.socket]:
        ours, theirs = socketpair(*options)
        kept.append(theirs.dup())
        return ours, theirs

    monkeypatch.setattr(socket, "socketpair", keep_theirs)
    harness = start_pool(PoolTiming())
    monkeypatch.undo()
    process = other_process(os.getpid())
    with kept.pop() as theirs:
        theirs.send(b"Nonsense {}")
        eventually(lambda: not is_alive(process), "it is ended")
    eventually(harness.serves_there, "another process serves", 100)


def test_no_process_outlives_the_listener_not_even_one_that_is_killed(tmp_path: Path, free_port: int) -> None:
    config = tmp_path / "config.yml"
    config.write_text(json.dumps({"listener": {"port": free_port, "processes": 3}}))
    command = [sys.executable, "-m", "listener", "--config", str(config), "--data", str(tmp_path / "data")]
    with psutil.Popen(command) as listener, ExitStack() as stack:
        eventually(lambda: len(listener.children()) == 2 and is_open(free_port), "it listens", 100)
        others = listener.children()
        requestors = [stack.enter_context(Requestor(free_port)) for _ in range(3)]
        assert {requestor.associate()[0] for requestor in requestors} == {2}
        listener.kill()
        assert psutil.wait_procs(others, 60)[1] == []
        assert all(requestor.is_closed() for requestor in requestors)


def is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def test_signals_that_reach_the_whole_group_are_the_business_of_the_listener(two: Receiver) -> None:
    process = other_process(os.getpid())
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        process.send_signal(number)
    with handed_over(two) as requestor:
        assert requestor.associate()[0] == 2
        assert requestor.store().status == 0
    assert process.is_running()


def test_bounds_hold_for_all_processes_together(receive: Receive) -> None:
    receiver = of_two(receive, listener={"limits": {"max_associations": 4, "max_associations_per_peer": 3}})
    with ExitStack() as stack:
        first = [stack.enter_context(receiver.requestor()) for _ in range(3)]
        assert [requestor.associate()[0] for requestor in first] == [2, 2, 2]
        assert stack.enter_context(receiver.requestor()).associate() == (3, bytes((0, 2, 3, 2)))
        other = stack.enter_context(receiver.requestor(source="127.0.0.2"))
        assert other.associate()[0] == 2
        late = stack.enter_context(receiver.requestor(source="127.0.0.3"))
        assert late.associate() == (3, bytes((0, 2, 3, 2)))
        assert {requestor.release() for requestor in (*first, other)} == {6}
        receiver.wait_for("associations_released", 4)
        again = [stack.enter_context(receiver.requestor(source="127.0.0.4")) for _ in range(3)]
        assert [requestor.associate()[0] for requestor in again] == [2, 2, 2]


def test_silent_connections_make_room_wherever_they_are(receive: Receive) -> None:
    receiver = of_two(receive, listener={"limits": {"max_associations": 4}})
    with ExitStack() as stack:
        silent = [stack.enter_context(receiver.requestor(source="127.0.0.2")) for _ in range(4)]
        for number in range(4):
            requestor = stack.enter_context(receiver.requestor(source=f"127.0.0.{number + 3}"))
            assert requestor.associate()[0] == 2
            assert requestor.store().status == 0
        assert all(requestor.is_closed() for requestor in silent)


def test_settings_that_are_read_again_reach_every_process(receive: Receive) -> None:
    receiver = of_two(receive)
    with handed_over(receiver) as requestor:
        assert requestor.associate(called="NEW") == (3, bytes((0, 1, 1, 7)))
    settings = receiver.settings.listener.model_copy(update={"more_ae_titles": ("NEW",)})
    receiver.daemon.reload(ListenerSettings(listener=settings))

    def is_known() -> bool:
        with handed_over(receiver) as requestor:
            return requestor.associate(called="NEW")[0] == 2

    eventually(is_known, "the other process knows the new AE title")


def test_a_lack_of_room_is_told_by_every_process(receive: Receive) -> None:
    receiver = of_two(receive, spool={"refuse_below_bytes": 0, "reject_below_bytes": 0})
    with handed_over(receiver) as requestor:
        assert requestor.associate()[0] == 2
        assert requestor.store("1.2.1").status == 0
        marks = {"refuse_below_bytes": 1 << 60, "resume_above_bytes": 1 << 60, "reject_below_bytes": 0}
        receiver.daemon.reload(
            ListenerSettings.model_validate({"listener": receiver.settings.listener, "spool": marks})
        )
        eventually(lambda: requestor.store("1.2.2").status == 0xA700, "it refuses")
    receiver.wait_for("instances_out_of_space")


def test_what_is_under_way_in_any_process_is_answered_when_the_listener_stops(two: Receiver) -> None:
    with two.requestor() as idle, two.requestor() as requestor:
        assert {idle.associate()[0], requestor.associate()[0]} == {2}
        content = data_set("1.2.3")
        requestor.send(pdu(4, pdv(1, 3, requestor.store_command("1.2.3"))))
        requestor.send(pdu(4, pdv(1, 0, content[:500])))
        eventually(lambda: len(list((two.spool / "tmp").iterdir())) == 1, "it is being received")
        stopped: list[int] = []
        stop = threading.Thread(target=lambda: stopped.append(two.daemon.stop()))
        stop.start()
        assert idle.receive()[0] == 7
        requestor.send(pdu(4, pdv(1, 2, content[500:])))
        assert requestor.response().status == 0
        stop.join(100)
    assert stopped == [0]
    assert [stored(path) for path in two.new()] == [content]
    assert two.count("instances_stored") == 1


def test_what_does_not_end_in_time_is_cut_off_and_counted(receive: Receive) -> None:
    receiver = of_two(receive, listener={"deadlines": {"drain_s": 2.0}})
    with handed_over(receiver) as requestor:
        assert requestor.associate()[0] == 2
        requestor.send(pdu(4, pdv(1, 3, requestor.store_command())))
        requestor.send(pdu(4, pdv(1, 0, data_set()[:500])))
        eventually(lambda: len(list((receiver.spool / "tmp").iterdir())) == 1, "it is being received")
        process = other_process(os.getpid())
        assert receiver.daemon.stop() == 1
        assert not process.is_running()
        assert requestor.is_closed()


def test_the_handshake_of_tls_takes_place_where_the_association_is_served(receive: Receive, certificate: Path) -> None:
    receiver = of_two(receive, listener={"tls": {"certificate": str(certificate)}})
    context = ssl.create_default_context(cafile=certificate)
    for _ in range(2):
        with Requestor(receiver.port) as idle, Requestor(receiver.port) as requestor:
            for one in (idle, requestor):
                one.sock = context.wrap_socket(one.sock, server_hostname="localhost")
                assert one.associate()[0] == 2
                assert one.store().status == 0
                assert one.release() == 6
    receiver.wait_for("associations_released", 4)
    assert 1 <= sum(is_of_the_listener(receiver, path) for path in receiver.new()) <= 3


# pynetdicom 3.0.4 breaks over a report that comes while its association is aborted.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_storage_commitment_is_one_service_whichever_process_is_asked(receive: Receive, free_port: int) -> None:
    targets = [{"ae_title": "REQUESTER", "host": "127.0.0.1", "port": free_port}]
    receiver = of_two(receive, listener={"commitment": ON | {"targets": targets}})
    with receiver.requestor() as here, receiver.requestor() as there:
        assert {here.associate()[0], there.associate()[0]} == {2}
        assert {here.store("1.2.1").status, there.store("1.2.2").status} == {0}
        assert {here.release(), there.release()} == {6}
    receiver.wait_for("associations_released", 2)
    with ExitStack() as stack:
        for number in range(2):  # the second is handed over
            requester = Requester()
            assert requester.ask(receiver.port, (CT, "1.2.1"), (CT, "1.2.2")) == 0
            assert [kind for kind, _ in requester.reports] == [1]
            receiver.wait_for("commitment_reports_delivered", number + 1)
            if number == 0:
                assert stack.enter_context(receiver.requestor()).associate()[0] == 2
        assert not list((receiver.spool / "commitment").iterdir())
        later = Requester()
        server = later.ae.start_server(("127.0.0.1", free_port), block=False, evt_handlers=later.handlers())
        assert server is not None
        try:
            assert later.ask(receiver.port, (CT, "1.2.1"), wait=False) == 0
            assert later.got.wait(100)
        finally:
            server.shutdown()
    assert [kind for kind, _ in later.reports] == [1]


def test_a_receiving_process_that_is_killed_leaves_its_reports_for_new_associations(
    receive: Receive,
) -> None:
    receiver = of_two(receive, listener={"commitment": ON})
    held: list[bool] = []  # of each report, whether the listener's own process holds it
    with ExitStack() as stack:
        while len(set(held)) < 2:
            assert len(held) < 10, "both processes are given associations"
            requester = ScriptedRequester(stack.enter_context(receiver.requestor()))
            assert requester.ask() == 0
            requester.report()
            held = [is_of_the_listener(receiver, Path(name)) for name in queued(receiver, "*.held")]
        other_process(os.getpid()).kill()
        eventually(lambda: len(queued(receiver, "*.json")) == held.count(False), "what it held is released", 100)
        assert len(queued(receiver, "*.held")) == held.count(True)


def test_without_another_process_the_listener_serves_everybody(
    receive: Receive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    receiver = receive(listener={"processes": 2})
    assert processes(receiver) == 1
    with ExitStack() as stack:
        requestors = [stack.enter_context(receiver.requestor()) for _ in range(4)]
        assert {requestor.associate()[0] for requestor in requestors} == {2}
        assert {requestor.store().status for requestor in requestors} == {0}
    assert all(is_of_the_listener(receiver, path) for path in receiver.new())


def test_a_port_that_is_taken_leaves_no_process_behind(receive: Receive, free_port: int) -> None:
    with socket.create_server(("127.0.0.1", free_port)), pytest.raises(SourceUnusable, match="in use"):
        receive(listener={"port": free_port, "processes": 3})
    assert [p for p in psutil.Process().children() if "listener.sources.dimse.processes.child" in p.cmdline()] == []


def test_a_process_without_threads_gives_connections_back(two: Receiver) -> None:
    process = other_process(os.getpid())
    limit = process.memory_info().vms + (300 << 10)  # no address space for the stack of a thread
    resource.prlimit(process.pid, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    with handed_over(two) as requestor:
        assert requestor.associate()[0] == 2
        assert requestor.store().status == 0
    assert [is_of_the_listener(two, path) for path in two.new()] == [True]
    assert process.is_running()


def test_settings_arrive_as_they_were_sent(certificate: Path, tmp_path: Path) -> None:
    passcode = tmp_path / "passcode"
    passcode.write_text("secret\n")
    sent = ListenerSettings.model_validate(
        {
            "listener": {
                "host": "0.0.0.0",  # noqa: S104 - nothing is bound
                "more_ae_titles": ["A", "B"],
                "peers": [{"ae_title": "PEER", "networks": ["192.0.2.0/24", "2001:db8::/32"]}, {"ae_title": "OTHER"}],
                "users": [{"name": "user", "passcode_file": str(passcode)}],
                "tls": {"certificate": str(certificate), "minimum_version": "1.3"},
                "commitment": {"enabled": True, "targets": [{"ae_title": "T", "host": "192.0.2.1", "port": 104}]},
            },
            "spool": {"keep_days": 1.5, "sync_folder": "always"},
            "log": {"level": "warning", "format": "json"},
        }
    )
    descriptor = os.memfd_create("settings")
    os.write(descriptor, json.dumps(sent.model_dump(mode="json", include={"listener", "spool", "log"})).encode())
    assert read_settings(descriptor) == sent


def test_a_process_without_descriptors_gives_connections_back(two: Receiver) -> None:
    """The descriptor of the connection cannot be received; who sent it must not wait for ever."""
    process = other_process(os.getpid())
    _, most = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (3, most))  # those it has stay open
    with handed_over(two) as requestor:
        assert requestor.associate()[0] == 2
        assert requestor.store().status == 0
    assert [is_of_the_listener(two, path) for path in two.new()] == [True]
    assert process.is_running()


@pytest.mark.parametrize(("module", "call"), [(socket, "socketpair"), (os, "memfd_create")])
def test_a_process_that_ends_while_there_are_no_descriptors_is_replaced_once_there_are(
    two: Receiver, monkeypatch: pytest.MonkeyPatch, module: ModuleType, call: str
) -> None:
    tried: list[str] = []

    def without_descriptors(*_: object) -> None:
        tried.append(call)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    process = other_process(os.getpid())
    monkeypatch.setattr(module, call, without_descriptors)
    process.kill()
    eventually(lambda: tried, "another one is started, in vain", 100)
    eventually(lambda: processes(two) == 1, "the listener serves alone", 100)
    monkeypatch.undo()
    eventually(lambda: other_process(os.getpid()).pid != process.pid, "another process is there", 100)
    assert two.daemon.is_alive()
    eventually(lambda: processes(two) == 2, "both processes serve", 100)
    with handed_over(two) as requestor:
        assert requestor.associate()[0] == 2


def test_settings_that_a_process_had_no_descriptor_for_reach_it_later(receive: Receive) -> None:
    receiver = of_two(receive)
    process = other_process(os.getpid())
    before = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (3, before[1]))
    settings = receiver.settings.listener.model_copy(update={"more_ae_titles": ("NEW",)})
    receiver.daemon.reload(ListenerSettings(listener=settings))
    with handed_over(receiver) as requestor:  # comes back: what was sent before it has arrived
        assert requestor.associate()[0] == 2
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, before)

    def is_known_there() -> bool:
        with handed_over(receiver) as requestor:
            accepted = requestor.associate(called="NEW")[0] == 2
            if accepted:
                assert requestor.store().status == 0
        return accepted and not is_of_the_listener(receiver, receiver.new()[-1])

    eventually(is_known_there, "the other process knows the new AE title")


def test_a_process_that_cannot_use_new_settings_gets_no_connection_until_it_can(
    receive: Receive, certificate: Path, tmp_path: Path
) -> None:
    """A certificate that is gone again when the other process reads it; the listener's own could read it."""
    pem = tmp_path / "listener.pem"
    pem.write_bytes(certificate.read_bytes())
    receiver = of_two(receive, listener={"tls": {"certificate": str(pem)}})
    context = ssl.create_default_context(cafile=certificate)
    process = other_process(os.getpid())
    process.suspend()
    settings = receiver.settings.listener.model_copy(update={"more_ae_titles": ("NEW",)})
    receiver.daemon.reload(ListenerSettings(listener=settings))
    pem.rename(tmp_path / "away.pem")
    process.resume()

    def is_served(title: str) -> bool:
        """Whether an association is accepted; by the listener's own process or by the other, as the spool tells."""
        with Requestor(receiver.port) as idle, Requestor(receiver.port) as requestor:
            for one in (idle, requestor):
                one.sock = context.wrap_socket(one.sock, server_hostname="localhost")
            assert idle.associate()[0] == 2
            accepted = requestor.associate(called=title)[0] == 2
            return accepted and requestor.store().status == 0

    until = time.monotonic() + 3.0  # long enough for it to be told again, more than once
    while time.monotonic() < until:
        assert is_served("NEW"), "the old settings do not know this AE title"
        assert is_of_the_listener(receiver, receiver.new()[-1])
    (tmp_path / "away.pem").rename(pem)
    eventually(
        lambda: is_served("NEW") and not is_of_the_listener(receiver, receiver.new()[-1]),
        "the other process serves by the new settings",
        30,
    )
    assert other_process(os.getpid()).pid == process.pid


def test_a_connection_that_comes_back_while_the_listener_stops_is_closed(start_pool: StartPool) -> None:
    harness = start_pool(PoolTiming())
    process = other_process(os.getpid())
    _, most = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    process.suspend()
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (3, most))  # it cannot receive the connection
    with harness.connection() as (requestor, slot):
        assert harness.pool.hand_over(slot, 1)
        harness.pool.tell_to_stop(10.0)
        process.resume()  # what it sends now is heard by nobody else
        assert harness.pool.join(time.monotonic() + 100.0) == 0
        assert slot.sock.fileno() == -1
        assert requestor.is_closed()


def test_a_killed_process_that_does_not_end_keeps_nobody_waiting(two: Receiver) -> None:
    """As one that waits for a disk that hangs: it is dead to us, and cannot be waited for."""
    process = other_process(os.getpid())
    with traced(process.pid):
        process.kill()
        eventually(lambda: two.count("receiving_processes_ended") == 1, "its end is noticed")
        for _ in range(3):
            with two.requestor() as requestor:
                requestor.sock.settimeout(5)
                assert requestor.associate()[0] == 2
                assert requestor.store().status == 0
        assert two.daemon.is_alive()
        assert processes(two) == 1
    eventually(lambda: processes(two) == 2, "another process serves", 100)


TRACE = """
import ctypes, sys
PTRACE_SEIZE = 0x4206
print(ctypes.CDLL(None).ptrace(PTRACE_SEIZE, int(sys.argv[1]), 0, 0), flush=True)
sys.stdin.read()
"""


@contextmanager
def traced(pid: int) -> Iterator[None]:
    """Have another process trace one: once it is dead, its parent cannot reap it before the tracer ends (ptrace(2))."""
    command = [sys.executable, "-c", TRACE, str(pid)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as tracer:
        assert tracer.stdin is not None
        assert tracer.stdout is not None
        if tracer.stdout.readline() != "0\n":
            pytest.skip("this user may trace no process that is not its child")
        yield
        tracer.stdin.close()
