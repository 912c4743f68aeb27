"""`exporter serve`: listener and exporter in one go, each a process of its own, supervised from here.

Contract: the two daemons are those of `listener` and `exporter run`; a crash of one does not touch the other, and it is
started again after a pause that grows. They tell when they are ready and that they are alive as they would tell systemd
(sd_notify(3)), and end with this process. What cannot start at all ends the command with the daemon's own sentence and
exit code.

Must never: import what the daemons do, so that nothing of theirs can end this process.
"""

from __future__ import annotations

import secrets
import select
import signal
import socket
import sys
import time
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Final

import structlog

from listener.foundation.backoff import Backoff
from listener.foundation.processes import ChildProcess, exit_in_words

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import FrameType

    from exporter.settings.settings import Settings
    from listener.settings.listener import DataFolder

log = structlog.get_logger()

TICK_S: Final = 0.2
READY_S: Final = 120.0
SILENT_S: Final = 180.0
"""A daemon that was ready and says nothing for so long hangs: it is killed and started again."""
STOP_S: Final = 75.0


class _Daemon:
    """One of the two daemons, over all its lives."""

    def __init__(self, name: str, *arguments: str) -> None:
        self.name = name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        address = f"exporter-serve-{secrets.token_hex(8)}"
        self._socket.bind(f"\0{address}")
        self._socket.setblocking(False)
        watched = {"NOTIFY_SOCKET": f"@{address}", "WATCHDOG_USEC": str(int(SILENT_S * 1e6))}
        self.child = ChildProcess(*arguments, environment=watched, backoff=Backoff(1.0, 30.0))
        self._was_ready = False

    def fileno(self) -> int:
        """Descriptor of the socket on which the daemon sends its notifications."""
        return self._socket.fileno()

    def supervise(self) -> int | None:
        """Read the daemon's notifications, end it where it hangs, start it again where it ended.

        Returns:
            Its exit code if it ended before it was ever ready; otherwise None.
        """
        with suppress(BlockingIOError):
            while lines := self._socket.recv(4096):
                self.child.hear(is_ready=b"READY=1" in lines.split(b"\n"))
        self._was_ready |= self.child.is_ready
        if self.child.is_due:
            self.child.start()
            return None
        code = self.child.exit_code()
        if code is None:
            if self.child.exists and self.child.silent_s > (SILENT_S if self.child.is_ready else READY_S):
                log.error("a daemon gives no sign of life: ended", daemon=self.name)
                self.child.kill()
            return None
        if not self._was_ready and code > 0:
            return code
        how, pause_s = exit_in_words(code), self.child.postpone()
        log.error("a daemon ended unexpectedly: started again", daemon=self.name, how=how, pause_s=pause_s)
        return None

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def serve(
    settings: Settings,
    data: DataFolder,
    *,
    config: Path | None = None,
    log_level: str | None = None,
    demo: bool = False,
) -> int:
    """Run listener and exporter until SIGTERM or SIGINT; the exit code of the command.

    Args:
        settings: Read from `config` already: what is said here comes from it.
        data: The data folder of both.
        config: The configuration file, which both read for themselves.
        log_level: The least that both log.
        demo: Whether a few sample instances are sent to the listener once it is ready.
    """
    options = ["--data", str(data.root)]
    options += ["--config", str(config)] if config is not None else []
    options += ["--log-level", log_level] if log_level is not None else []
    daemons = [_Daemon("listener", "listener", *options), _Daemon("exporter", "exporter", "run", *options)]
    with _signals() as told:
        try:
            for daemon in daemons:  # one after the other: what is wrong with both is then said once
                daemon.child.start()
                code = _until_ready(daemon, daemons, told)
                if code is not None:
                    return code
            _say(settings, data)
            with _samples(settings) if demo else nullcontext():
                return _watch(daemons, told)
        finally:
            _stop(daemons, told)


def _until_ready(daemon: _Daemon, daemons: list[_Daemon], told: list[int]) -> int | None:
    """Wait for one daemon; the exit code if there is nothing to wait for any more."""
    while not daemon.child.is_ready:
        if told:
            return 0
        select.select([daemon], [], [], TICK_S)
        for one in daemons[: daemons.index(daemon) + 1]:
            code = one.supervise()
            if code is not None:
                return code
    return None


def _watch(daemons: list[_Daemon], told: list[int]) -> int:
    while not told:
        select.select(daemons, [], [], TICK_S)
        for daemon in daemons:
            daemon.supervise()
    return 0


def _stop(daemons: list[_Daemon], told: list[int]) -> None:
    """Have both finish what is under way; another signal makes them hurry, and time out ends them."""
    until = time.monotonic() + STOP_S
    passed_on = -1
    while any(daemon.child.exists and daemon.child.exit_code() is None for daemon in daemons):
        if len(told) > passed_on:
            passed_on = len(told)
            for daemon in daemons:
                daemon.child.send_signal(signal.SIGTERM)
        if time.monotonic() > until:
            break
        time.sleep(TICK_S / 4)
    for daemon in daemons:
        daemon.child.end()
        daemon.close()


def _say(settings: Settings, data: DataFolder) -> None:
    """What runs and what to try, in plain words."""
    listener = settings.listener
    host = _reachable(listener.host)
    secure = " +tla" if listener.tls is not None else ""
    lines = [
        f"Receiving DICOM on {listener.host}, port {listener.port}, as {listener.ae_title}.",
        f"Media go to {settings.media_folder(data)}, metadata to {settings.metadata_file(data)}.",
        "Try it from another terminal:",
        f"  echoscu{secure} -aec {listener.ae_title} {host} {listener.port}",
        f"  storescu{secure} -aec {listener.ae_title} +sd +r {host} {listener.port} FOLDER-OF-DICOM-FILES",
        f"  {_own_command()} status --data {data.root}",
        "Stop with Ctrl-C.",
    ]
    _write("\n".join(lines))


def _own_command() -> str:
    """This command as it was called: a virtual environment's is seldom on the reader's path."""
    called = sys.argv[0]
    return called if called.rpartition("/")[2] == "exporter" else "exporter"


@contextmanager
def _samples(settings: Settings) -> Iterator[None]:
    """Have another process send pydicom's sample files to our own listener, by the network like anybody else."""
    listener = settings.listener
    if listener.tls is not None:
        _write("The samples of --demo are sent without TLS only: none are sent.")
        yield
        return
    demo = ChildProcess("exporter.services.demo", _reachable(listener.host), str(listener.port), listener.ae_title)
    demo.start()
    try:
        yield
    finally:
        demo.end()


def _write(text: str) -> None:
    with suppress(BrokenPipeError):
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


def _reachable(host: str) -> str:
    """The address at which this machine reaches what is bound to `host`."""
    return "127.0.0.1" if host in {"0.0.0.0", "::", "localhost"} else host  # noqa: S104 - nothing is bound here


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals that told us to stop, as they come."""
    told: list[int] = []

    def on_signal(number: int, _: FrameType | None) -> None:
        told.append(number)

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
