"""The section `orthanc`: which servers are polled, and how."""

from __future__ import annotations

import hashlib
import re
from datetime import date
from typing import TYPE_CHECKING, Annotated, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from listener.foundation.configuration import FilePath, Section, Spelling
from listener.foundation.fields import AETitle, PositiveInt, PositiveSeconds, is_loopback

if TYPE_CHECKING:
    from pathlib import Path

Address = Annotated[
    str,
    Spelling(
        r"^https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[A-Za-z0-9._~-]+)*/?$",
        "http:// or https://, a host, a port and folders; user and password belong into `credentials_file`",
    ),
]
Modality = Annotated[str, Spelling(r"^[A-Z0-9_]{1,16}$", "a modality as in Modality (0008,0060), such as US")]
Label = Annotated[str, Spelling(r"^[A-Za-z0-9_-]{1,64}$", "letters, digits, - and _, as in labels of Orthanc")]
Day = Annotated[str, Spelling(r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$", "a day such as 2026-01-31")]
Name = Annotated[str, Spelling(r"^[a-z0-9][a-z0-9-]{0,31}$", "1 to 32 small letters, digits and -")]


class OrthancFilterSection(Section):
    """Which instances are taken; every filter that is given must fit, and one of its entries is enough."""

    modalities: tuple[Modality, ...] = ()
    """Modalities of the series."""
    ae_titles: tuple[AETitle, ...] = ()
    """AE titles of those who sent to Orthanc (its metadata `RemoteAET`)."""
    labels: tuple[Label, ...] = ()
    """Labels of the instance, its series or its study; needs Orthanc 1.12.0 or newer."""
    study_date_from: Day | None = None
    """First Study Date that is taken; a study without date is not."""
    study_date_to: Day | None = None
    """Last Study Date that is taken; a study without date is not."""

    @model_validator(mode="after")
    def _days_exist(self) -> Self:
        days = [_day(text) for text in (self.study_date_from, self.study_date_to) if text is not None]
        if len(days) == 2 and days[0] > days[1]:
            raise ValueError("`study_date_from` is later than `study_date_to`: nothing would be taken")
        return self

    @property
    def fingerprint(self) -> str:
        """Tells one set of filters from another."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"there is no day {text}") from None


class OrthancSection(Section):
    """One Orthanc server that is polled for new instances."""

    url: Address
    """Where its REST interface is, such as `https://orthanc.example.org:8042/`."""
    name: Name | None = None
    """Name of this server in logs and of the file that remembers what was taken; without one, its host and port are."""
    credentials_file: FilePath | None = None
    """File whose first line is user, colon, password; it is read again whenever the server refuses."""
    ca_file: FilePath | None = None
    """Certificates that the server's certificate must descend from, PEM; without it, those of the system."""
    parallel: Annotated[int, Field(ge=1, le=32)] = 4
    """Downloads at once."""
    poll_s: PositiveSeconds = 2.0
    """Pause between two looks at what is new."""
    reconcile_s: PositiveSeconds = 3600.0
    """Pause between two comparisons with the list of all instances; one is made at every start, too."""
    compare_s: PositiveSeconds = 86_400.0
    """Pause between two comparisons that look for overwritten instances as well, which costs the server more."""
    only: OrthancFilterSection = OrthancFilterSection()
    """Which instances are taken; without filters, all."""
    max_instance_bytes: PositiveInt = 8 << 30
    """Longest file that is taken."""
    connect_s: PositiveSeconds = 5.0
    """Time for a connection."""
    answer_s: PositiveSeconds = 30.0
    """Time for an answer; a file has more by its length."""
    least_bytes_per_s: PositiveInt = 16_384
    """Rate under which a download is cut off."""
    attempts: Annotated[int, Field(ge=1, le=20)] = 4
    """How often an instance is tried before it counts as failed; reconciliation tries it again."""
    pause_s: PositiveSeconds = 1.0
    """First pause after a failure; doubled each time, with chance."""
    max_pause_s: PositiveSeconds = 300.0
    """Longest such pause; a longer one that the server asks for is kept, up to an hour."""
    delete_after_spooling: bool = False
    """Whether instances are deleted from Orthanc once they are durable here and their MD5 was that of Orthanc."""

    @property
    def label(self) -> str:
        """The name, or one made from host, port and folder."""
        if self.name is not None:
            return self.name
        parts = urlsplit(self.url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        plain = f"{parts.hostname}-{port}{parts.path.rstrip('/')}".lower()
        safe = re.sub(r"[^a-z0-9-]", "-", plain)
        return safe if safe == plain and len(safe) <= 64 else f"{safe[:48]}-{_short_hash(plain)}"

    @property
    def is_loopback(self) -> bool:
        """Whether it runs on this machine."""
        return is_loopback(urlsplit(self.url).hostname or "")

    def state_file(self, folder: Path) -> Path:
        """Where it is remembered what was taken from this server."""
        return folder / f"orthanc-{self.label}.db"


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
