"""`exporter serve`: starts listener, exporter, page and notifier, each in its own process, and supervises them.

Contract: the two daemons are those of `listener` and `exporter run`; a crash of one does not affect the other, and the
crashed one is restarted with back-off. They report readiness and liveness as they would to systemd (sd_notify(3)), and
end with this process. A daemon that cannot start at all ends the command with its own message and exit code; a page
or a notifier that cannot start is done without.

Must never: import the code of the daemons, so that no fault of theirs can end this process.
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
from listener.foundation.signals import STOP, handling

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from exporter.settings.settings import Settings
    from listener.settings.listener import DataFolder

log = structlog.get_logger()

TICK_S: Final = 0.2
READY_S: Final = 120.0
SILENT_S: Final = 180.0
"""Time without a notification after which a daemon that was ready counts as hung: it is killed and restarted."""
STOP_S: Final = 75.0


class _Daemon:
    """One of the daemons, across restarts."""

    def __init__(self, name: str, *arguments: str) -> None:
        self.name = name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        address = f"exporter-serve-{secrets.token_hex(8)}"
        self._socket.bind(f"\0{address}")
        self._socket.setblocking(False)
        watched = {"NOTIFY_SOCKET": f"@{address}", "WATCHDOG_USEC": str(int(SILENT_S * 1e6))}
        self.child = ChildProcess(*arguments, environment=watched, backoff=Backoff(1.0, 30.0))
        self._was_ready = False
        self.status = ""
        """What the daemon last said of itself: of the page, its address."""

    def fileno(self) -> int:
        """Descriptor of the socket on which the daemon sends its notifications."""
        return self._socket.fileno()

    def supervise(self) -> int | None:
        """Read the daemon's notifications; kill it if it hangs, restart it if it ended.

        Returns:
            Its exit code if it ended before it was ever ready; otherwise None.
        """
        with suppress(BlockingIOError):
            while lines := self._socket.recv(4096):
                self.child.hear(is_ready=b"READY=1" in lines.split(b"\n"))
                for line in lines.split(b"\n"):
                    if line.startswith(b"STATUS="):
                        self.status = line.removeprefix(b"STATUS=").decode("utf-8", "replace")
        self._was_ready |= self.child.is_ready
        if self.child.is_due:
            self.child.start()
            return None
        code = self.child.exit_code()
        if code is None:
            if self.child.exists and self.child.silent_s > (SILENT_S if self.child.is_ready else READY_S):
                log.error("daemon is not responding: killed", daemon=self.name)
                self.child.kill()
            return None
        if not self._was_ready and code > 0:
            return code
        how, pause_s = exit_in_words(code), self.child.postpone()
        log.error("daemon ended unexpectedly: restarting", daemon=self.name, how=how, pause_s=pause_s)
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
    has_page: bool = True,
) -> int:
    """Run listener, exporter and page until SIGTERM or SIGINT.

    Args:
        settings: Already read from `config`, for the messages of this command.
        data: The data folder of both.
        config: The configuration file, which both daemons read.
        log_level: Lowest level that both daemons log.
        demo: Whether a few sample instances are sent to the listener once it is ready.
        has_page: Whether the extra `page` is installed.

    Returns:
        Exit code of the command.
    """
    options = ["--data", str(data.root)]
    options += ["--config", str(config)] if config is not None else []
    options += ["--log-level", log_level] if log_level is not None else []
    daemons = [_Daemon("listener", "listener", *options), _Daemon("exporter", "exporter", "run", *options)]
    page = _Daemon("page", "exporter", "page", *options) if has_page else None
    notifier = _Daemon("notifier", "exporter", "notify", "run", *options) if settings.notify.is_on else None
    beside = [one for one in (page, notifier) if one is not None]
    received: list[int] = []
    with handling(received.append, *STOP):
        try:
            for daemon in tuple(daemons):  # one after the other, so that a shared problem is reported once
                daemon.child.start()
                code = _until_ready(daemon, daemons, received)
                if code is not None:
                    return code
                for one in beside:
                    if not one.child.exists:
                        one.child.start()  # while the next one starts
            address = _start_page(page, daemons, received)
            if notifier is not None and not _start_beside(notifier, daemons, received):
                address += "\nNobody is notified: the message above says why."
            _say(settings, data, address)
            with _samples(settings) if demo else nullcontext():
                return _watch(daemons, received)
        finally:
            _stop([*daemons, *(one for one in beside if one not in daemons)], received)


def _until_ready(daemon: _Daemon, daemons: list[_Daemon], received: list[int]) -> int | None:
    """Wait until one daemon is ready.

    Returns:
        None when it is ready; an exit code if a signal came or a daemon cannot start.
    """
    while not daemon.child.is_ready:
        if received:
            return 0
        select.select([daemon], [], [], TICK_S)
        for one in daemons[: daemons.index(daemon) + 1]:
            code = one.supervise()
            if code is not None:
                return code
    return None


def _start_page(page: _Daemon | None, daemons: list[_Daemon], received: list[int]) -> str:
    """Wait for the page, and make it one of the daemons.

    Returns:
        Its address; a sentence where there is none.
    """
    if page is None:
        return "There is no page: it needs the extra `page`."
    if not _start_beside(page, daemons, received):
        return "There is no page: the message above says why."
    return f"See what it does: {page.status}"


def _start_beside(daemon: _Daemon, daemons: list[_Daemon], received: list[int]) -> bool:
    """Wait for a daemon that can be done without, and make it one of the daemons.

    Returns:
        Whether it runs.
    """
    if _until_ready(daemon, [*daemons, daemon], received) is not None:
        return False
    daemons.append(daemon)
    return True


def _watch(daemons: list[_Daemon], received: list[int]) -> int:
    while not received:
        select.select(daemons, [], [], TICK_S)
        for daemon in daemons:
            daemon.supervise()
    return 0


def _stop(daemons: list[_Daemon], received: list[int]) -> None:
    """Stop both daemons: each new signal is passed on; those that run after `STOP_S` are killed."""
    until = time.monotonic() + STOP_S
    passed_on = -1
    while any(daemon.child.exists and daemon.child.exit_code() is None for daemon in daemons):
        if len(received) > passed_on:
            passed_on = len(received)
            for daemon in daemons:
                daemon.child.send_signal(signal.SIGTERM)
        if time.monotonic() > until:
            break
        time.sleep(TICK_S / 4)
    for daemon in daemons:
        daemon.child.end()
        daemon.close()


def _say(settings: Settings, data: DataFolder, page: str) -> None:
    """Print the addresses, the folders, and commands to try."""
    listener = settings.listener
    host = _reachable(listener.host)
    secure = " +tla" if listener.tls is not None else ""
    lines = [
        f"Receiving DICOM on {listener.host}, port {listener.port}, as {listener.ae_title}.",
        page,
        f"Media go to {settings.media_folder(data)}, metadata to {settings.metadata_file(data)}.",
        "Try it from another terminal:",
        f"  echoscu{secure} -aec {listener.ae_title} {host} {listener.port}",
        f"  storescu{secure} -aec {listener.ae_title} +sd +r {host} {listener.port} FOLDER-OF-DICOM-FILES",
        f"  {_own_command()} status --data {data.root}",
        "Stop with Ctrl-C.",
    ]
    _write("\n".join(lines))


def _own_command() -> str:
    """Path by which this command was called: that of a virtual environment is seldom on PATH."""
    called = sys.argv[0]
    return called if called.rpartition("/")[2] == "exporter" else "exporter"


@contextmanager
def _samples(settings: Settings) -> Iterator[None]:
    """Send pydicom's sample files to our own listener over the network, from another process."""
    listener = settings.listener
    if listener.tls is not None:
        _write("--demo sends its samples without TLS only: no samples are sent.")
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
    """Address at which this machine reaches a listener that is bound to `host`."""
    return "127.0.0.1" if host in {"0.0.0.0", "::", "localhost"} else host  # noqa: S104 - nothing is bound here
