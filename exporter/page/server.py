"""The process `exporter page`: the application behind the HTTP server that DICOMweb uses, until a signal.

Contract: it has neither the spool's nor the ledger's lock and writes nothing but what `/retry` is asked for, so that it
can neither slow nor end receiving and exporting, and still answers when both are down. At SIGHUP it reads
configuration, certificate and token again; what cannot be used changes nothing, and another address needs a restart.
"""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Final

import structlog

from exporter.page.app import Page
from exporter.page.guard import PageGuard, host_names
from exporter.settings.settings import load_settings
from listener.foundation.counters import Counters
from listener.foundation.errors import SourceUnusable, Unusable
from listener.foundation.notify import notify, reloading, watchdog_interval_s
from listener.foundation.signals import STOP, handling
from listener.network.http_server import Guard, HttpServer
from listener.network.tls import days_left, server_context
from listener.network.token import Token, is_open_to_others

if TYPE_CHECKING:
    from pathlib import Path

    from exporter.settings.page import PageSection
    from exporter.settings.settings import Settings
    from listener.settings.listener import DataFolder

log = structlog.get_logger()

MOST_CONNECTIONS: Final = 200
MOST_PER_PEER: Final = 100
HEADER_S: Final = 10.0
STOP_S: Final = 3.0


class PageServer:
    """The page on its address."""

    def __init__(self, settings: Settings, data: DataFolder, *, config: Path | None = None) -> None:
        """Read the token and the certificate.

        Raises:
            SourceUnusable: One of them cannot be used.
        """
        self._section = settings.page
        self._data = data
        self._config = config
        page = Page(settings, data, config=config)
        names = host_names(self._section.host, self._section.names)
        self._app = PageGuard(page.application(), names, _token(self._section))
        self._server = HttpServer(self._app, _guard(self._section), Counters(), "page")

    @property
    def address(self) -> str:
        """Where the page is."""
        scheme = "https" if self._section.tls else "http"
        host = f"[{self._section.host}]" if ":" in self._section.host else self._section.host
        return f"{scheme}://{host}:{self._server.port}/"

    @property
    def is_alive(self) -> bool:
        """Whether requests are answered."""
        return self._server.is_alive()

    def start(self) -> None:
        """Bind the port and serve.

        Raises:
            SourceUnusable: It cannot be had.
        """
        self._server.start(self._section.host, self._section.port)

    def reload(self, settings: Settings) -> None:
        """Answer new requests by other settings, and new connections with the new certificate; the address stays.

        Raises:
            SourceUnusable: Token or certificate cannot be used; the old settings stay.
        """
        guard, token = _guard(settings.page), _token(settings.page)
        page = Page(settings, self._data, config=self._config)
        self._app.within, self._app.token = page.application(), token
        self._app.names = host_names(self._section.host, settings.page.names)
        self._server.guard = guard

    def stop(self) -> None:
        """Close the port, and let requests under way be answered."""
        self._server.stop(STOP_S)


def run(settings: Settings, data: DataFolder, *, config: Path | None = None) -> int:
    """Serve the page until SIGTERM or SIGINT.

    Returns:
        Exit code 0.

    Raises:
        SourceUnusable: It cannot start.
    """
    server = PageServer(settings, data, config=config)
    ended, hung_up, woken = threading.Event(), threading.Event(), threading.Event()

    def heed(number: int) -> None:
        (hung_up if number == signal.SIGHUP else ended).set()
        woken.set()

    with handling(heed, *STOP, signal.SIGHUP):
        server.start()
        log.info("page", address=server.address)
        every_s = watchdog_interval_s()
        notify("READY=1", f"STATUS={server.address}")
        while not ended.is_set():
            woken.wait(min(every_s or 5.0, 5.0))
            woken.clear()
            if hung_up.is_set():
                hung_up.clear()
                reloading()
                _reload(server, config)
                notify("READY=1")
            if server.is_alive:
                notify("WATCHDOG=1")
        notify("STOPPING=1")
        server.stop()
    return 0


def _reload(server: PageServer, config: Path | None) -> None:
    """Read the configuration again; say why where it cannot be used."""
    try:
        server.reload(load_settings(config))
    except Unusable as error:
        log.error("reload refused, the old settings stay", problem=str(error))  # noqa: TRY400 - no traceback
    else:
        log.info("configuration reloaded")


def _token(section: PageSection) -> Token | None:
    if section.token_file is None:
        return None
    if is_open_to_others(section.token_file):
        raise SourceUnusable(
            f"page.token_file: others can read {section.token_file}; keep it from them: chmod 600 {section.token_file}"
        )
    return Token(section.token_file)


def _guard(section: PageSection) -> Guard:
    tls = section.tls
    if tls is not None and (days := days_left(tls)) < tls.warn_days:
        log.warning("certificate expires soon" if days >= 0 else "certificate has expired", days=round(days, 1))
    return Guard(
        max_associations=MOST_CONNECTIONS,
        max_associations_per_peer=MOST_PER_PEER if not section.behind_tls_proxy else MOST_CONNECTIONS,
        header_s=HEADER_S,
        handshake_s=tls.handshake_s if tls else 0.0,
        tls=server_context(tls, "page.tls") if tls else None,
    )
