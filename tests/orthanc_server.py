"""A real Orthanc on loopback: over a given folder, with given options, started, stopped, killed and started again.

server = OrthancServer(peer("Orthanc"), tmp_path / "orthanc", StorageCompression=True)
with server:                      # started; stopped at the end, by its process id
    server.add(file.read_bytes())
    server.kill(); server.start()
"""

from __future__ import annotations

import base64
import http.client
import json
import signal
import ssl
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from tests.ports import free_port

if TYPE_CHECKING:
    from pathlib import Path

READY_WITHIN_S = 30.0


class OrthancRefused(AssertionError):
    """Orthanc answered something else than success."""

    def __init__(self, status: int, content: bytes) -> None:
        super().__init__(f"HTTP status {status}: {content[:300]!r}")
        self.status = status


class OrthancServer:
    """One Orthanc process at a time over one storage folder; its ports stay the same over restarts."""

    def __init__(
        self, program: str, folder: Path, *, credentials: tuple[str, str] | None = None, **options: Any
    ) -> None:
        """Choose ports; nothing runs before `start`.

        Args:
            program: Path of Orthanc.
            folder: Made where needed; holds `storage/` (index and attachments), `orthanc.json` and `orthanc.log`.
            credentials: User and password that Orthanc must ask for, and that `rest` shows.
            options: Keys of Orthanc's configuration that differ from those here.
        """
        self.folder = folder
        self.storage = folder / "storage"
        self.http_port = free_port()
        self.dicom_port = free_port()
        self.credentials = credentials
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        self.options: dict[str, Any] = {
            "Name": "TESTED",
            "StorageDirectory": str(self.storage),
            "IndexDirectory": str(self.storage),
            "HttpPort": self.http_port,
            "DicomPort": self.dicom_port,
            "DicomAet": "ORTHANC",
            "DicomServerEnabled": False,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": credentials is not None,
            "RegisteredUsers": dict([credentials] if credentials else []),
            "Plugins": [],
        } | options

    @property
    def url(self) -> str:
        """Where its REST interface is."""
        return f"{'https' if self.options.get('SslEnabled') else 'http'}://127.0.0.1:{self.http_port}/"

    @property
    def pid(self) -> int:
        """Process id of the one that runs."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it; returns once its REST interface answers."""
        assert self._process is None, "it runs already"
        self.storage.mkdir(parents=True, exist_ok=True)
        configuration = self.folder / "orthanc.json"
        configuration.write_text(json.dumps(self.options))
        with (self.folder / "orthanc.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, str(configuration)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        until = time.monotonic() + READY_WITHIN_S
        while not self._is_up():
            ended = self._process.poll() is not None
            if ended or time.monotonic() > until:
                self.kill()
                raise AssertionError(f"Orthanc does not start: {(self.folder / 'orthanc.log').read_text()[-2000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Ask it to end, and wait; harmless when it does not run."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut would; harmless when it does not run."""
        self._end(signal.SIGKILL)

    def restart(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it and start it again over the same storage."""
        self._end(how)
        self.start()

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.send_signal(how)
        try:
            process.wait(100)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(100)

    def rest(self, path: str, body: bytes | None = None, *, method: str | None = None) -> bytes:
        """One request: POST where there is a body, else GET, unless told otherwise; the answer's bytes.

        Raises:
            OrthancRefused: Its status is not 200.
            OSError, http.client.HTTPException: It does not answer.
        """
        status, content = self._request(path, body, method or ("GET" if body is None else "POST"))
        if status != 200:
            raise OrthancRefused(status, content)
        return content

    def json(self, path: str, value: Any = None, *, method: str | None = None) -> Any:
        """The same with JSON both ways."""
        return json.loads(self.rest(path, None if value is None else json.dumps(value).encode(), method=method))

    def add(self, dicom: bytes) -> str:
        """Store one DICOM file; its Orthanc identifier."""
        return str(json.loads(self.rest("/instances", dicom))["ID"])

    def instances(self) -> list[str]:
        """The Orthanc identifiers of all instances it holds."""
        return [str(one) for one in self.json("/instances")]

    def delete(self, instance: str) -> None:
        """Delete one instance."""
        self.rest(f"/instances/{instance}", method="DELETE")

    def _is_up(self) -> bool:
        with suppress(OSError, http.client.HTTPException, OrthancRefused):
            return bool(self.rest("/system"))
        return False

    def _request(self, path: str, body: bytes | None, method: str) -> tuple[int, bytes]:
        headers = {}
        if self.credentials is not None:
            headers["Authorization"] = "Basic " + base64.b64encode(":".join(self.credentials).encode()).decode()
        connection = self._connection()
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if not self.options.get("SslEnabled"):
            return http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=100)
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return http.client.HTTPSConnection("127.0.0.1", self.http_port, timeout=100, context=context)
