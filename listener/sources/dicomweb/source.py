"""The DICOMweb source: the store application behind the HTTP server, as one way into the spool."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from listener.foundation.errors import SourceUnusable
from listener.network.http_server import Guard, HttpServer
from listener.network.tls import days_left, server_context
from listener.network.token import Token, is_open_to_others
from listener.sources.dicomweb.app import StoreApp, StorePolicy

if TYPE_CHECKING:
    from listener.settings.listener import ListenerSettings
    from listener.sources.contract import Surroundings

log = structlog.get_logger()


class DicomwebSource:
    """STOW-RS on the address of the section `status`."""

    def __init__(self, settings: ListenerSettings, surroundings: Surroundings) -> None:
        self._settings = settings
        guard = _guard(settings)
        self._app = StoreApp(_policy(settings), surroundings)
        self._server = HttpServer(self._app, guard, surroundings.counters)

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return self._server.port

    def start(self) -> str:
        """Bind the port and serve; raises `SourceUnusable` where that cannot be done."""
        status = self._settings.status
        self._server.start(status.host, status.port)
        scheme = "https" if status.tls else "http"
        return f"DICOMweb store at {scheme}://{status.host}:{self.port}/dicom-web/studies"

    def is_alive(self) -> bool:
        """Whether requests are served."""
        return self._server.is_alive()

    def reload(self, settings: ListenerSettings) -> None:
        """New requests get the new token, limits and deadlines, new connections the new certificate."""
        if not settings.dicomweb.enabled:
            log.warning("DICOMweb is no longer in the configuration: it is served until the next start")
            return
        try:
            guard, policy = _guard(settings), _policy(settings)
        except SourceUnusable as error:
            log.error("reload refused, the old settings stay", problem=str(error))  # noqa: TRY400 - no traceback
            return
        self._app.policy, self._server.guard = policy, guard

    def stop(self, within_s: float) -> int:
        """Close the port, and let requests under way be answered.

        Returns:
            The number of requests that were cut off.
        """
        cut_off = self._server.stop(within_s)
        self._app.close()
        return cut_off


def _policy(settings: ListenerSettings) -> StorePolicy:
    path = settings.dicomweb.token_file
    if path is None:
        raise SourceUnusable("`dicomweb.enabled` needs `dicomweb.token_file`")
    token = Token(path)
    if is_open_to_others(path):
        log.warning("others than its owner can read the token file", file=path)
    if settings.status.tls is not None:
        days = days_left(settings.status.tls)
        if days < settings.status.tls.warn_days:
            log.warning("certificate expires soon" if days >= 0 else "certificate has expired", days=round(days, 1))
    return StorePolicy(settings, token)


def _guard(settings: ListenerSettings) -> Guard:
    limits, tls = settings.dicomweb.limits, settings.status.tls
    return Guard(
        max_associations=limits.max_connections,
        max_associations_per_peer=limits.max_connections_per_peer,
        header_s=settings.dicomweb.deadlines.header_s,
        handshake_s=tls.handshake_s if tls else 0.0,
        tls=server_context(tls, "status.tls") if tls else None,
    )
