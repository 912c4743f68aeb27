"""The settings of receiving: the sections of the YAML file that the listener reads, and the data folder.

Contract: an object of these classes exists only if it is valid; defaults here are the defaults of
`config/exporter.yml`. Every field's docstring is its documentation.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator

from listener.foundation.configuration import FilePath, Section
from listener.foundation.fields import AETitle, Port, PositiveInt, PositiveSeconds, is_loopback
from listener.foundation.logs import LogSection
from listener.settings.dicomweb import SOURCE_NAME, DicomwebSection
from listener.settings.expect import ExpectSection, SourceName
from listener.settings.orthanc import OrthancSection
from listener.settings.watch import WatchedFolders

MOST_BY_ITSELF = 3
"""Most receiving processes without being told: of 45 MB each, so that all of them stay below 150 MB."""

MOST_ASSOCIATIONS_OF_PYNETDICOM = 400
"""It waits by select(2), which knows no descriptor above 1023; an association takes two."""


class PeerSection(Section):
    """Who may send: a calling AE title, networks, or both together."""

    ae_title: AETitle | None = None
    """Calling AE title; none means any."""
    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    """Networks in CIDR notation, such as `192.0.2.0/24`; none means any."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.ae_title is None and not self.networks:
            raise ValueError("a peer needs `ae_title`, `networks`, or both; to let anybody in, set `allow_any: true`")
        return self


class UserSection(Section):
    """A user identity that is accepted (PS3.7 D.3.3.7), over TLS only."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    """User name."""
    passcode_file: FilePath | None = None
    """File whose first line is the passcode; none accepts the name without one."""


class TLSSection(Section):
    """Transport security after BCP 195 (PS3.15 B.12)."""

    certificate: FilePath
    """Certificate chain of this server, PEM."""
    key: FilePath | None = None
    """Private key, PEM; none where the certificate file holds it too."""
    client_ca: FilePath | None = None
    """Certificates that clients' certificates must descend from, PEM; with it, clients must show one."""
    minimum_version: Literal["1.2", "1.3"] = "1.2"
    """Oldest version of TLS that is spoken."""
    handshake_s: PositiveSeconds = 10.0
    """Time a client has for the handshake."""
    warn_days: PositiveInt = 30
    """A certificate that expires within so many days is warned of."""


class DeadlineSection(Section):
    """How long a peer may keep us waiting."""

    request_s: PositiveSeconds = 10.0
    """From the connection until the whole A-ASSOCIATE-RQ is there."""
    pdu_s: PositiveSeconds = 30.0
    """From the first byte of a PDU to its last; a slow but steady sender needs 5 KB/s."""
    idle_s: PositiveSeconds = 120.0
    """Between two PDUs."""
    drain_s: PositiveSeconds = 20.0
    """For messages under way when the daemon is told to stop."""


class ReceiveLimitSection(Section):
    """What a peer may cost."""

    max_pdu_bytes: Annotated[int, Field(ge=4096, le=1 << 20)] = 131_072
    """Longest PDU we say we receive; longer ones end the association."""
    max_request_bytes: Annotated[int, Field(ge=4096, le=1 << 20)] = 262_144
    """Longest A-ASSOCIATE-RQ."""
    max_instance_bytes: PositiveInt = 8 << 30
    """Longest data set; a longer one is refused with 0xA700."""
    max_associations: PositiveInt = 300
    """Most connections at once; more are rejected as transient."""
    max_associations_per_peer: PositiveInt = 250
    """Most connections at once from one address; more are rejected as transient."""
    max_depth: PositiveInt = 64
    """Deepest nesting of sequences in a data set."""
    max_elements: PositiveInt = 2_000_000
    """Most elements of a data set, items included."""


class CommitmentTargetSection(Section):
    """Where storage commitment reports for one requester go when its association is gone."""

    ae_title: AETitle
    """AE title of the requester."""
    host: str
    """Its host."""
    port: Port
    """Its port."""
    tls: bool = False
    """Whether it speaks TLS."""


class CommitmentSection(Section):
    """Storage commitment, push model (PS3.4 Annex J)."""

    enabled: bool = False
    """Whether it is offered."""
    targets: tuple[CommitmentTargetSection, ...] = ()
    """Addresses for reports on a new association."""
    retry_s: PositiveSeconds = 60.0
    """Pause before a report is tried again; doubled each time, to at most an hour."""
    give_up_days: PositiveInt = 7
    """How long a report is tried."""


class ListenerSection(Section):
    """The C-STORE service."""

    engine: Literal["native", "pynetdicom"] = "native"
    """Upper layer that serves associations: `native` is ours; `pynetdicom` is for a sender that disagrees with it. The
    second is slower and offers no storage commitment."""
    ae_title: AETitle = "EXPORTER"
    """Our AE title."""
    more_ae_titles: tuple[AETitle, ...] = ()
    """Further AE titles on the same port."""
    any_scp: bool = True
    """Whether the called AE title `ANY-SCP` is ours too: test tools send it unless told otherwise."""
    check_called_ae_title: bool = True
    """Whether an association that calls another AE title is rejected."""
    host: str = "127.0.0.1"
    """Address to listen on; beyond loopback, `peers` or `allow_any` must say who may send."""
    port: Annotated[int, Field(ge=0, le=65535)] = 11112
    """Port to listen on; 0 takes a free one."""
    processes: PositiveInt | Literal["auto"] = "auto"
    """Processes that receive: `auto` is one for each processor, three at most."""
    peers: tuple[PeerSection, ...] = ()
    """Who may send; with any entry, nobody else may."""
    allow_any: bool = False
    """Whether anybody who reaches the port may send."""
    users: tuple[UserSection, ...] = ()
    """User identities; with any entry, a requester must show one of them, over TLS."""
    tls: TLSSection | None = None
    """Transport security; none speaks plain TCP."""
    deadlines: DeadlineSection = DeadlineSection()
    """How long a peer may keep us waiting."""
    limits: ReceiveLimitSection = ReceiveLimitSection()
    """What a peer may cost."""
    mismatch: Literal["refuse", "accept"] = "refuse"
    """A data set that is not what its command says: refuse with 0xA900 and keep a copy, or accept it with 0xB007."""
    damaged: Literal["refuse", "accept"] = "refuse"
    """A data set that is cut off or lies about a length: refuse with 0xC000, keep a copy; or accept with 0xB007."""
    commitment: CommitmentSection = CommitmentSection()
    """Storage commitment."""

    @model_validator(mode="after")
    def _is_guarded(self) -> Self:
        if not self.is_loopback and not self.peers and not self.allow_any:
            raise ValueError(
                f"`host: {self.host}` can be reached by others: list who may send under `peers`, "
                "or set `allow_any: true`"
            )
        if self.users and self.tls is None:
            raise ValueError("`users` needs `tls`: passcodes are never taken in clear")
        return self

    @model_validator(mode="after")
    def _is_offered_by_the_engine(self) -> Self:
        if self.engine == "native":
            return self
        if self.commitment.enabled:
            raise ValueError(
                "`engine: pynetdicom` offers no storage commitment: set `engine: native`, or switch `commitment` off"
            )
        if self.limits.max_associations > MOST_ASSOCIATIONS_OF_PYNETDICOM:
            raise ValueError(
                f"`engine: pynetdicom` serves at most {MOST_ASSOCIATIONS_OF_PYNETDICOM} connections at once: set "
                "`engine: native`, or lower `limits.max_associations`"
            )
        return self

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach us."""
        return is_loopback(self.host)

    @property
    def receiving_processes(self) -> int:
        """How many processes receive."""
        return min(MOST_BY_ITSELF, len(os.sched_getaffinity(0))) if self.processes == "auto" else self.processes

    @property
    def called_ae_titles(self) -> frozenset[str]:
        """The AE titles that are ours."""
        return frozenset({self.ae_title, *self.more_ae_titles, *({"ANY-SCP"} if self.any_scp else ())})


class SpoolSection(Section):
    """The hand-over between receiving and exporting."""

    keep_days: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Days that received files stay after export; 0 deletes them once their outcome is durable."""
    sync_folder: Literal["auto", "always"] = "auto"
    """Small items on ext4 and XFS: `auto` makes file and name durable by one sync, which these file systems do;
    `always` syncs the file, then the folder, as POSIX wants it and as is done everywhere else."""
    refuse_below_bytes: Annotated[int, Field(ge=0)] = 1 << 30
    """Free space under which instances are refused with 0xA700."""
    reject_below_bytes: Annotated[int, Field(ge=0)] = 512 << 20
    """Free space under which associations are rejected as transient."""
    resume_above_bytes: Annotated[int, Field(ge=0)] = 1536 << 20
    """Free space from which everything is accepted again."""
    refuse_below_files: Annotated[int, Field(ge=0)] = 1000
    """Free inodes under which instances are refused with 0xA700."""
    reject_below_files: Annotated[int, Field(ge=0)] | None = None
    """Free inodes under which associations are rejected as transient; none is half of `refuse_below_files`."""
    resume_above_files: Annotated[int, Field(ge=0)] | None = None
    """Free inodes from which everything is accepted again; none is one and a half times `refuse_below_files`."""
    heed_exporter: bool = True
    """Whether these marks hold for the disks of media, metadata lines and ledger too, as the exporter tells of them;
    otherwise the spool takes what comes until its own disk is full."""
    max_pending: PositiveInt = 2_000_000
    """Most items waiting for export; more are refused with 0xA700."""

    @model_validator(mode="after")
    def _marks_are_in_order(self) -> Self:
        if not self.reject_below_bytes <= self.refuse_below_bytes <= self.resume_above_bytes:
            raise ValueError(
                "the marks must rise: `reject_below_bytes` <= `refuse_below_bytes` <= `resume_above_bytes`"
            )
        if not self.reject_files <= self.refuse_below_files <= self.resume_files:
            raise ValueError(
                "the marks must rise: `reject_below_files` <= `refuse_below_files` <= `resume_above_files`"
            )
        return self

    @property
    def reject_files(self) -> int:
        """`reject_below_files` as a number."""
        return self.refuse_below_files // 2 if self.reject_below_files is None else self.reject_below_files

    @property
    def resume_files(self) -> int:
        """`resume_above_files` as a number."""
        return self.refuse_below_files * 3 // 2 if self.resume_above_files is None else self.resume_above_files


class StatusSection(Section):
    """Our HTTP service: what is offered there, other sections say."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8090
    """Port to listen on; 0 takes a free one."""
    tls: TLSSection | None = None
    """Transport security; none speaks plain HTTP."""
    behind_tls_proxy: bool = False
    """Whether a proxy in front of us speaks TLS to the outside, so that plain HTTP may be spoken beyond loopback."""

    @model_validator(mode="after")
    def _is_guarded(self) -> Self:
        if not is_loopback(self.host) and self.tls is None and not self.behind_tls_proxy:
            raise ValueError(
                f"`host: {self.host}` can be reached by others: give a certificate under `tls`, or set "
                "`behind_tls_proxy: true` where a proxy speaks TLS for us"
            )
        return self


def _as_list(value: Any) -> Any:
    """One server may stand without a list around it."""
    value = _tuples(value)
    return (value,) if isinstance(value, dict) and value else value or ()


def _tuples(value: Any) -> Any:
    """Lists as tuples at every level: what a validator has handled before its type is strict Python, no longer JSON."""
    if isinstance(value, dict):
        return {key: _tuples(one) for key, one in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _are_told_apart(servers: tuple[OrthancSection, ...]) -> tuple[OrthancSection, ...]:
    """What is remembered of a server is kept under its name."""
    labels = [server.label for server in servers]
    if len(set(labels)) < len(labels):
        raise ValueError("two servers have the same address or name: give each its own `name`")
    return servers


OrthancServers = Annotated[tuple[OrthancSection, ...], BeforeValidator(_as_list), AfterValidator(_are_told_apart)]


class ListenerSettings(Section):
    """What the command `listener` reads; the exporter's sections of the same file are ignored."""

    listener: ListenerSection = ListenerSection()
    """The C-STORE service."""
    spool: SpoolSection = SpoolSection()
    """The hand-over between receiving and exporting."""
    orthanc: OrthancServers = ()
    """Orthanc servers that are polled, one or several."""
    sources: WatchedFolders = ()
    """Further ways in."""
    dicomweb: DicomwebSection = DicomwebSection()
    """Instances over HTTP."""
    status: StatusSection = StatusSection()
    """Our HTTP service."""
    expect: dict[SourceName, ExpectSection] = Field(default_factory=dict)
    """Sources that must not fall silent."""
    log: LogSection = LogSection()
    """Logs of the daemon."""

    @property
    def source_names(self) -> frozenset[str]:
        """Sources by which arrivals are counted: every way in, and senders that are named by their AE title."""
        titles = {peer.ae_title for peer in self.listener.peers if peer.ae_title is not None}
        ways = {server.label for server in self.orthanc} | {str(section.watch) for section in self.sources}
        return frozenset(titles | ways | self.expect.keys() | ({SOURCE_NAME} if self.dicomweb.enabled else set()))


@dataclass(frozen=True, slots=True)
class DataFolder:
    """Where everything of one installation lives."""

    root: Path = Path("dicom-media")

    @property
    def spool(self) -> Path:
        """Folder of received files."""
        return self.root / "spool"

    @property
    def media(self) -> Path:
        """Folder of exported media."""
        return self.root / "media"

    @property
    def sources(self) -> Path:
        """Folder in which sources remember how far they are: names of files that were taken are as private as these."""
        return self.spool / "sources"

    @property
    def former_sources(self) -> Path:
        """Folder in which sources of earlier versions remembered how far they are."""
        return self.root / "sources"

    @property
    def metadata(self) -> Path:
        """File of metadata lines."""
        return self.root / "metadata.jsonl"

    @property
    def ledger(self) -> Path:
        """Data base of what happened to every instance."""
        return self.root / "exporter.db"

    @property
    def notifications(self) -> Path:
        """Data base of events that people and programs are to know; who sends them holds its lock."""
        return self.root / "notify.db"
