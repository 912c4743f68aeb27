"""SIGHUP: what takes effect at once, what keeps what it has, and what is said to need a restart."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from listener.settings.listener import ListenerSettings
from tests.listener.requestor import Receiver, Requestor, eventually
from tests.listener.sources.dimse.commitment.test_commitment import ON, Requester, store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


NO_ROOM: dict[str, int] = {"reject_below_bytes": 0, "refuse_below_bytes": 1 << 60, "resume_above_bytes": 1 << 60}


def reload(receiver: Receiver, **sections: Any) -> None:
    """What SIGHUP does, with other settings."""
    sections["listener"] = {"port": 0} | sections.get("listener", {})
    receiver.daemon.reload(ListenerSettings.model_validate(sections))


def test_marks_of_the_spool_count_from_the_next_look_on(receiver: Receiver) -> None:
    with receiver.requestor() as requestor:
        requestor.associate()
        assert requestor.store("1.2.1").status == 0
        reload(receiver, spool=NO_ROOM)
        eventually(lambda: requestor.store("1.2.2").status == 0xA700, "refused under the new marks")
        reload(receiver)
        eventually(lambda: requestor.store("1.2.3").status == 0, "taken under the old ones")


# pynetdicom's requester ends its association while our report on it arrives: now and then its thread breaks over that
# and leaves its socket to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_a_commitment_report_goes_to_a_target_that_was_added_meanwhile(
    receive: Callable[..., Receiver], free_port: int
) -> None:
    receiver = receive(listener={"commitment": ON})
    requester = Requester()
    store(receiver, "1.2.3")
    assert requester.ask(receiver.port, ("1.2.840.10008.5.1.4.1.1.2", "1.2.3"), wait=False) == 0
    receiver.wait_for("commitment_report_failed")  # nobody has said where
    server = requester.ae.start_server(("127.0.0.1", free_port), block=False, evt_handlers=requester.handlers())
    assert server is not None
    try:
        targets = [{"ae_title": "REQUESTER", "host": "127.0.0.1", "port": free_port}]
        reload(receiver, listener={"commitment": ON | {"targets": targets}})
        receiver.wait_for("commitment_reports_delivered")
    finally:
        server.shutdown()
    assert [event_type for event_type, _ in requester.reports] == [1]
    del requester, server
    gc.collect()


def test_allow_lists_and_limits_count_for_new_associations_only(receiver: Receiver) -> None:
    with receiver.requestor() as requestor:
        assert requestor.associate()[0] == 2
        reload(receiver, listener={"peers": [{"ae_title": "ELSE"}], "more_ae_titles": ["SECOND"]})
        assert requestor.store().status == 0
        with receiver.requestor() as other:
            assert other.associate() == (3, bytes((0, 1, 1, 3)))
        with receiver.requestor() as other:
            assert other.associate(calling="ELSE", called="SECOND")[0] == 2


def test_what_cannot_change_while_running_stays_and_is_said(
    receiver: Receiver, capsys: pytest.CaptureFixture[str], free_port: int
) -> None:
    port = receiver.port
    changed = {"port": free_port, "host": "127.0.0.9", "commitment": {"enabled": True}}
    reload(receiver, listener=changed, log={"level": "warning"})
    told = "".join(capsys.readouterr())
    for setting in ("listener.port", "listener.host", "listener.commitment.enabled", "log"):
        assert any("needs a restart" in line and f"setting={setting}" in line for line in told.splitlines()), setting
    assert receiver.port == port
    with receiver.requestor() as requestor:
        assert requestor.associate()[0] == 2


def test_a_reload_that_is_refused_says_so_and_changes_no_association(
    receiver: Receiver, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = {"certificate": str(tmp_path / "absent.pem")}
    reload(receiver, listener={"tls": absent, "peers": [{"ae_title": "ELSE"}]})
    assert "reload refused" in "".join(capsys.readouterr())
    with receiver.requestor() as requestor:
        assert requestor.associate()[0] == 2


def test_the_signal_itself(tmp_path: Path, free_port: int) -> None:
    config, log = tmp_path / "config.yml", tmp_path / "log"
    config.write_text(f"listener: {{port: {free_port}}}\n")
    command = [sys.executable, "-m", "listener", "--config", str(config), "--data", str(tmp_path / "data")]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        eventually(lambda: "listening" in log.read_text(), "it listens", 100)
        config.write_text(f"listener: {{port: {free_port + 1}, more_ae_titles: [SECOND]}}\n")
        process.send_signal(signal.SIGHUP)
        eventually(lambda: "needs a restart" in log.read_text(), "it read its configuration again")
        with Requestor(free_port) as requestor:
            assert requestor.associate(called="SECOND")[0] == 2
        config.write_text("listener: {port: no port}\n")
        process.send_signal(signal.SIGHUP)
        eventually(lambda: "'no port'" in log.read_text(), "the fault is told")
        with Requestor(free_port) as requestor:
            assert requestor.associate(called="SECOND")[0] == 2
    finally:
        process.terminate()
        assert process.wait(100) == 0
