"""The section `page`: the operator's page and what is served beside it for monitoring."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from listener.foundation.configuration import FilePath, Section
from listener.foundation.fields import is_loopback
from listener.settings.listener import TLSSection


class PageSection(Section):
    """The operator's page (`exporter page`), `/metrics`, `/healthz` and `/readyz`."""

    host: str = "127.0.0.1"
    """Address to listen on; beyond loopback, a token is needed, and TLS or a proxy that speaks it."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8091
    """Port to listen on; 0 takes a free one."""
    tls: TLSSection | None = None
    """Transport security; none speaks plain HTTP."""
    behind_tls_proxy: bool = False
    """Whether a proxy in front of us speaks TLS to the outside, so that plain HTTP may be spoken beyond loopback."""
    token_file: FilePath | None = None
    """File whose first line is the token that a browser is asked for as a password, whatever the user name, and that
    Prometheus shows as Bearer: 16 printable ASCII characters or more, readable by its owner alone."""
    names: tuple[Annotated[str, StringConstraints(min_length=1, max_length=253)], ...] = ()
    """Further names by which browsers reach the page, such as `dicom.example.org`; requests for others are refused."""
    thumbnails: Literal["auto", "on", "off"] = "auto"
    """Whether pictures of recent instances are shown: `auto` where the page is bound to loopback."""
    show_patient: bool = False
    """Whether the page may show what could name a patient: paths of input files, and messages of failures."""

    @model_validator(mode="after")
    def _is_guarded(self) -> Self:
        if is_loopback(self.host):
            return self
        if self.tls is None and not self.behind_tls_proxy:
            raise ValueError(
                f"`host: {self.host}` can be reached by others: give a certificate under `tls`, or set "
                "`behind_tls_proxy: true` where a proxy speaks TLS for us"
            )
        if self.token_file is None:
            raise ValueError(f"`host: {self.host}` can be reached by others: name a `token_file`")
        return self

    @property
    def shows_thumbnails(self) -> bool:
        """Whether pictures are shown."""
        return self.thumbnails == "on" or (self.thumbnails == "auto" and is_loopback(self.host))
