"""A real archive of DCMTK on loopback: `dcmqrscp` over a given folder, filled, started, stopped, and its log counted.

server = DcmqrscpServer(peer, tmp_path / "archive", receivers={"EXPORTER": port})
with server:
    server.add(files)
    ...
    assert len(server.requests("Move")) == 1
"""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

READY_WITHIN_S = 20.0
AE_TITLE = "ARCHIVE"
# Each line begins with its process: there is one for every association, and their lines mix. A file appender writes a
# line at once; one to the console writes it in pieces.
LOG = """log4cplus.rootLogger = INFO, file
log4cplus.appender.file = log4cplus::FileAppender
log4cplus.appender.file.File = {file}
log4cplus.appender.file.Append = true
log4cplus.appender.file.ImmediateFlush = true
log4cplus.appender.file.layout = log4cplus::PatternLayout
log4cplus.appender.file.layout.ConversionPattern = %i|%m%n
"""


class DcmqrscpServer:
    """One `dcmqrscp` process at a time over one folder; its port stays the same over restarts."""

    def __init__(
        self,
        peer: Callable[[str], str],
        folder: Path,
        *,
        receivers: Mapping[str, int],
        options: Sequence[str] = (),
    ) -> None:
        """Write its configuration; nothing runs before `start`.

        Args:
            peer: Finds programs of the system.
            folder: Made where needed; holds the data base, the configuration and the log.
            receivers: AE titles that it may move to, and their ports on loopback.
            options: Further ones for the command line.
        """
        self.folder = folder
        self.port = free_port()
        self.storage = folder / "storage"
        self._peer = peer
        self._options = list(options)
        self._process: subprocess.Popen[bytes] | None = None
        self.storage.mkdir(parents=True)
        hosts = "\n".join(f"r{at} = ({title}, localhost, {port})" for at, (title, port) in enumerate(receivers.items()))
        (folder / "dcmqrscp.cfg").write_text(
            f"NetworkTCPPort = {self.port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
            f"HostTable BEGIN\n{hosts}\nHostTable END\nVendorTable BEGIN\nVendorTable END\n"
            f"AETable BEGIN\n{AE_TITLE} {self.storage} RW (5000, 1024mb) ANY\nAETable END\n"
        )
        (folder / "log.cfg").write_text(LOG.format(file=folder / "log"))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def add(self, files: Sequence[Path]) -> None:
        """Put files into its data base, before it starts."""
        for at in range(0, len(files), 200):
            some = [str(file) for file in files[at : at + 200]]
            subprocess.run([self._peer("dcmqridx"), str(self.storage), *some], check=True, timeout=120)

    def start(self) -> None:
        """Start it; returns once it listens."""
        assert self._process is None, "it runs already"
        command = [self._peer("dcmqrscp"), "-lc", str(self.folder / "log.cfg"), "-c", str(self.folder / "dcmqrscp.cfg")]
        with (self.folder / "output").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *self._options], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        until = time.monotonic() + READY_WITHIN_S
        while not self._listens():
            assert self._process.poll() is None, (self.folder / "output").read_text()[-2000:]
            assert time.monotonic() < until, "dcmqrscp does not listen"
            time.sleep(0.05)

    def stop(self) -> None:
        """End it and wait; harmless when it does not run."""
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(100)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(100)

    def log(self) -> str:
        """Everything it said."""
        return (self.folder / "log").read_text(errors="replace")

    def requests(self, kind: str) -> list[dict[str, str]]:
        """What it was asked: the identifiers of all requests of a kind (`Find`, `Move`, `Get`), values by keyword."""
        asked: list[dict[str, str]] = []
        under_way: dict[str, dict[str, str] | None] = {}
        for process, line in re.findall(r"^(\d+)\|(.*)$", self.log(), re.MULTILINE):
            if line.startswith(f"{kind} SCP Request Identifiers:"):
                under_way[process] = {}
                asked.append(under_way[process])
            elif element := re.match(r"\([0-9a-f]{4},[0-9a-f]{4}\) \w\w (?:\[(.*)\]|.*?) *# .* (\w+)$", line):
                if (dump := under_way.get(process)) is not None:
                    dump[element[2]] = (element[1] or "").strip()
            elif line and not line.startswith("#"):
                under_way[process] = None
        return asked

    def _listens(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False
