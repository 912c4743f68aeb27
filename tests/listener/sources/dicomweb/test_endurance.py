"""The listener as a process: killed while it takes uploads, and given an instance larger than its memory may grow."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from http.client import HTTPException
from typing import TYPE_CHECKING

from tests.faults.daemons import Footprint
from tests.listener.requestor import eventually
from tests.listener.sources.dicomweb.store import TOKEN, header, instance, multipart, part, read_answer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KILLS = int(os.environ.get("EXPORTER_TEST_KILLS", "0")) or 3
LARGE_BYTES = (1 << 30) if "EXPORTER_TEST_KILLS" in os.environ else (96 << 20)


class Listener:
    """The command `listener` with STOW-RS."""

    def __init__(self, folder: Path, port: int, http: int) -> None:
        self.http = http
        self.new = folder / "data" / "spool" / "new"
        self.tmp = folder / "data" / "spool" / "tmp"
        (folder / "token").write_text(TOKEN)
        (folder / "token").chmod(0o600)
        (folder / "x.yml").write_text(
            f"listener:\n  port: {port}\nstatus:\n  port: {http}\n"
            f"dicomweb:\n  enabled: true\n  token_file: {folder / 'token'}\n"
        )
        command = [sys.executable, "-m", "listener", "--config", str(folder / "x.yml"), "--data", str(folder / "data")]
        self.process = subprocess.Popen([*command, "--log-level", "error"])
        eventually(self.is_open, "it listens", 100)

    def is_open(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.http)).close()
        except OSError:
            return False
        return True

    def resident(self) -> int:
        """Bytes, of all its processes."""
        return Footprint.of_family(self.process.pid).resident_kb << 10

    def end(self) -> None:
        self.process.kill()
        self.process.wait()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.http), timeout=100)


def test_killed_amid_uploads_what_was_acknowledged_is_there(tmp_path: Path, free_port: int) -> None:
    acknowledged: set[bytes] = set()
    sent: set[bytes] = set()
    for turn in range(KILLS):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            http = int(probe.getsockname()[1])
        listener = Listener(tmp_path, free_port, http)
        before = len(acknowledged)
        threads = [
            threading.Thread(target=send_until_gone, args=(listener, f"1.2.{turn}.{n}", acknowledged, sent))
            for n in range(3)
        ]
        try:
            for thread in threads:
                thread.start()
            wanted = before + 20
            eventually(lambda wanted=wanted: len(acknowledged) >= wanted, "it stores", 30)  # type: ignore[misc]
            listener.process.send_signal(signal.SIGKILL)
        finally:
            listener.end()
        for thread in threads:
            thread.join(100)
        there = {path.read_bytes() for path in listener.new.iterdir()}
        assert acknowledged <= there
        assert there <= sent


def send_until_gone(listener: Listener, root: str, acknowledged: set[bytes], sent: set[bytes]) -> None:
    number = 0
    while True:
        files = [instance(f"{root}.{number}.{n}", pixels=bytes(20_000)) for n in range(2)]
        sent.update(files)
        body = multipart(part(file) for file in files)
        try:
            with listener.connect() as sock:
                sock.sendall(header(len(body)) + body)
                answer = read_answer(sock)
        except (OSError, HTTPException):
            return
        assert answer.status in (200, 503)
        if answer.status == 200:
            acknowledged.update(files)
        number += 1


def test_memory_does_not_grow_with_the_instance(tmp_path: Path, free_port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        http = int(probe.getsockname()[1])
    listener = Listener(tmp_path, free_port, http)
    try:
        body = multipart([part(instance(pixels=bytes(1000)))])
        with listener.connect() as sock:
            sock.sendall(header(len(body)) + body)
            assert read_answer(sock).status == 200
        at_first = listener.resident()
        with listener.connect() as sock:
            peak = send_large(sock, listener.resident)
            assert read_answer(sock).status == 200
        assert max(path.stat().st_size for path in listener.new.iterdir()) > LARGE_BYTES
        assert peak - at_first < 24 << 20
        assert list(listener.tmp.iterdir()) == []
    finally:
        listener.end()


def send_large(sock: socket.socket, measure: Callable[[], int]) -> int:
    """Send one large instance; the largest that was measured meanwhile."""
    small = instance(pixels=b"")
    head, tail = multipart([part(small[:-4] + LARGE_BYTES.to_bytes(4, "little"))]).split(b"\r\n--a-boundary--")
    sock.sendall(header(len(head) + LARGE_BYTES + len(b"\r\n--a-boundary--" + tail)) + head)
    piece, peak = bytes(1 << 20), 0
    for _ in range(LARGE_BYTES >> 20):
        sock.sendall(piece)
        peak = max(peak, measure())
    sock.sendall(b"\r\n--a-boundary--" + tail)
    return peak
