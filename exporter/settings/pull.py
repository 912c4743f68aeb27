"""The section `pull`: the peers that `exporter pull` may ask, and how much it may ask of them."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from exporter.settings.windows import Window
from listener.foundation.configuration import FilePath, Section, Spelling
from listener.foundation.fields import AETitle, Port, PositiveInt, PositiveSeconds

Level = Literal["patient", "study", "series", "instance"]
Method = Literal["move", "get"]
CharacterSet = Literal[
    "ISO_IR 192",
    "ISO_IR 100",
    "ISO_IR 101",
    "ISO_IR 109",
    "ISO_IR 110",
    "ISO_IR 144",
    "ISO_IR 127",
    "ISO_IR 126",
    "ISO_IR 138",
    "ISO_IR 148",
    "ISO_IR 203",
    "ISO_IR 166",
    "ISO_IR 13",
    "GB18030",
    "GBK",
]


def _window(value: str) -> str:
    try:
        Window.parse(value)
    except ValueError:
        permitted = {"permitted": "two different times of day, such as 20:00-06:00"}
        raise PydanticCustomError("window", "is no window of time", permitted) from None
    return value


class PullTLSSection(Section):
    """Transport security towards a peer, after BCP 195 (PS3.15 B.12)."""

    ca: FilePath | None = None
    """Certificates that the peer's certificate must descend from, PEM; none: those that the system trusts."""
    certificate: FilePath | None = None
    """Our certificate, PEM, where the peer asks for one."""
    key: FilePath | None = None
    """Private key of that certificate, PEM; not needed where the certificate file holds the key too."""
    check_host: bool = True
    """Whether the peer's certificate must be for its `host`."""


class PullTimeSection(Section):
    """Longest times that a peer may keep us waiting."""

    connect_s: PositiveSeconds = 15.0
    """Time for a connection, and for the answer to the request for an association."""
    pdu_s: PositiveSeconds = 30.0
    """Time from the first byte of a PDU to its last."""
    find_s: PositiveSeconds = 300.0
    """Time for all answers to one C-FIND; then the query is cancelled."""
    answer_s: PositiveSeconds = 600.0
    """Between two messages while a C-MOVE or C-GET is under way: archives may fetch from tape. Ten times that where the
    peer says that it goes on and its numbers of sub-operations stand still."""
    retrieve_s: PositiveSeconds = 43_200.0
    """Time for one C-MOVE or C-GET in all; then it is cancelled, and missing instances are asked for again."""
    settle_s: PositiveSeconds = 15.0
    """After the end of a C-MOVE, without another instance, until what is not here counts as missing."""


class PullPeerSection(Section):
    """A PACS that `exporter pull --from NAME` asks."""

    name: Annotated[str, Spelling(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$", "up to 40 letters, digits, _ and -")]
    """Name of the PACS on the command line."""
    ae_title: AETitle
    """AE title of the PACS."""
    host: Annotated[str, Field(min_length=1, max_length=253)]
    """Host name or address of the PACS."""
    port: Port = 104
    """Port of the PACS."""
    tls: PullTLSSection | None = None
    """Transport security; none speaks plain TCP."""
    calling_ae_title: AETitle | None = None
    """AE title that we call ourselves; default: `listener.ae_title`."""
    method: Method = "move"
    """`move`: C-MOVE, the peer sends to our listener, on associations of its own. `get`: C-GET, it sends on ours."""
    move_to: AETitle | None = None
    """AE title that the peer knows our listener by; default: `listener.ae_title`."""
    level: Level = "study"
    """Level that is fetched for a row: the whole patient, the whole study, the series, or the instance."""
    parallel: Annotated[int, Field(ge=1, le=32)] = 2
    """Moves at once, each on an association of its own."""
    moves_per_minute: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Most C-MOVE or C-GET requests per minute, all associations together."""
    window: Annotated[str, AfterValidator(_window)] | None = None
    """Time of day in which the peer is asked, in local time, such as `20:00-06:00`; a transfer under way
    at its end is finished."""
    attempts: Annotated[int, Field(ge=1, le=20)] = 3
    """Number of requests for a target before its absent instances count as missing."""
    max_matches: PositiveInt = 1000
    """Most answers to one row; a row that has more is not fetched, for it is rarely what was meant."""
    max_get_bytes: PositiveInt | None = None
    """Longest instance taken by C-GET; default: `listener.limits.max_instance_bytes`."""
    character_set: CharacterSet = "ISO_IR 192"
    """Character set of keys that are not ASCII; `ISO_IR 192` is UTF-8, `ISO_IR 100` Latin-1."""
    times: PullTimeSection = PullTimeSection()
    """Longest times that the PACS may keep us waiting."""


def _as_list(value: Any) -> Any:
    """One peer may stand without a list around it."""
    if isinstance(value, list):  # what a validator has handled before the type is strict Python, no longer JSON
        return tuple(value)
    return (value,) if isinstance(value, dict) and value else value or ()


def _names_differ(peers: tuple[PullPeerSection, ...]) -> tuple[PullPeerSection, ...]:
    twice = [name for name, count in Counter(peer.name for peer in peers).items() if count > 1]
    if twice:
        raise PydanticCustomError(
            "same_name", "has two peers of the same name", {"permitted": "a name of its own for each"}
        )
    return peers


PullPeers = Annotated[tuple[PullPeerSection, ...], BeforeValidator(_as_list), AfterValidator(_names_differ)]
