"""Byte identity: what each real sender puts on the wire, for each transfer syntax, is what lies in the spool.

Contract: senders parse and write data sets anew, so a file is no measure of what they sent. Each one therefore sends
the same files twice: to our listener and to an independent receiver that writes what it reads: DCMTK's ``storescp
--bit-preserving`` for the senders built on DCMTK, pynetdicom's acceptor, which knows every transfer syntax, for the
others (they come from `further_senders`). The data sets of both, byte by byte, are compared by transfer syntax, as
multisets of hashes. Our own raw requestor and pynetdicom2 send a file's own bytes, and what is spooled is compared with
those.

    python -m tests.listener.sources.dimse.byte_identity      # every file of the corpus: rewrites the table of the docs
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydicom import config as pydicom_config
from pydicom import dcmread
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID

from listener.intake.transfer_syntaxes import choose
from tests.listener.certificates import make_certificate
from tests.listener.requestor import Receiver, Requestor, eventually, proposed
from tests.listener.sources.dimse import further_senders
from tests.orthanc_server import OrthancServer
from tests.ports import free_port
from tests.pynetdicom_requestor import associate, release

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

REPOSITORY = Path(__file__).resolve().parents[4]
DOCUMENT = REPOSITORY / "docs" / "receiving.md"
MARKS = ("<!-- byte identity: made by tests/listener/sources/dimse/byte_identity.py -->\n", "<!-- end -->\n")
WITNESS = "WITNESS"
CALLED = {"us": "EXPORTER", "witness": WITNESS}
SENDERS = ("storescu", "dcmsend", "Orthanc", "pynetdicom", *further_senders.NAMES, "raw")
SPEAK_TLS = {"storescu", "Orthanc", "pynetdicom", *further_senders.SPEAK_TLS, "raw"}
BUILT_ON_DCMTK = {"storescu", "dcmsend", "Orthanc"}
SEND_A_FILES_BYTES = {"raw", "pynetdicom2"}
PATIENCE_S = 300
"""Both receivers wait so long for a sender that pauses: what it sends is compared, not when."""
SAYS = re.compile(rb"\A\x00{0}.{128}DICM\x02\x00\x00\x00UL\x04\x00(.{4})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Sample:
    """A file that a sender can name on the wire: it says what it is."""

    path: Path
    syntax: str
    sop_class: str
    sop_instance: str

    @property
    def data_set(self) -> bytes:
        """Its bytes after the file meta information."""
        return data_set_of(self.path.read_bytes())


Got = dict[str, Counter[str]]
"""By transfer syntax: how often a data set of that SHA-256 was received."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One sender, one transfer syntax, with or without TLS."""

    sent: int
    """Data sets that the independent receiver got."""
    identical: int
    """Those of them that lie in our spool."""
    more: int
    """What lies in our spool and the other one did not take."""

    @property
    def is_well(self) -> bool:
        return self.sent == self.identical

    def __str__(self) -> str:
        return f"{self.identical}/{self.sent}{f' +{self.more}' if self.more else ''}"


class Sender(Protocol):
    """Sends files to an address, as it does for its users."""

    def __call__(self, samples: list[Sample], called: str, port: int, *, encrypted: bool) -> None:
        """Send all of them; what it cannot send it leaves out."""
        ...


def data_set_of(content: bytes) -> bytes:
    """What follows the file meta information of a file in our, DCMTK's or pydicom's form."""
    found = SAYS.match(content)
    assert found is not None
    return content[144 + int.from_bytes(found[1], "little") :]


def samples_of(corpus: Path, *, every: bool) -> list[Sample]:
    """The files of the corpus that senders can name; without `every`, the smallest of each transfer syntax."""
    found: list[Sample] = []
    for path in sorted((p for p in corpus.rglob("*") if p.is_file()), key=lambda p: (p.stat().st_size, p.name)):
        content = path.read_bytes()
        if SAYS.match(content) is None:
            continue
        try:
            read = dcmread(path, stop_before_pixels=True)
            meta = read.file_meta
            sample = Sample(path, str(meta.TransferSyntaxUID), str(read.SOPClassUID), str(read.SOPInstanceUID))
            same = read.SOPInstanceUID == meta.MediaStorageSOPInstanceUID
            same &= read.SOPClassUID == meta.MediaStorageSOPClassUID
        except (AttributeError, ValueError, OSError, EOFError, NotImplementedError):
            continue  # broken files are for other tests
        if same and re.fullmatch(r"[0-9.]{1,64}", sample.sop_instance):
            found.append(sample)
    if every:
        return found
    first: dict[str, Sample] = {}
    for sample in found:
        if "PixelData" in dcmread(sample.path, defer_size=64):
            first.setdefault(sample.syntax, sample)
    return list(first.values())


# -- receivers -------------------------------------------------------------------------------------------------------


def received(paths: Iterable[Path]) -> Got:
    """What files with file meta information hold."""
    found: Got = {}
    for path in paths:
        content = path.read_bytes()
        syntax = str(read_file_meta_info(path).TransferSyntaxUID)  # no more: dcmjs-dimse calls deflated what is not
        found.setdefault(syntax, Counter())[hashlib.sha256(data_set_of(content)).hexdigest()] += 1
    return found


@contextmanager
def witness(program: str, folder: Path, samples: list[Sample], certificate: Path | None) -> Iterator[tuple[int, Path]]:
    """DCMTK's storescp, which writes what it reads; its port and its folder."""
    output = folder / "witness"
    output.mkdir()
    port = free_port()
    command = [
        program,
        "-aet",
        WITNESS,
        "-od",
        str(output),
        "+B",
        "+uf",
        "-xf",
        str(profile(samples, folder)),
        "Take",
    ]
    command += ["+tls", str(certificate), str(certificate), "-ic"] if certificate is not None else []
    server = subprocess.Popen([*command, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: _answers(port), "storescp answers", 100)
        yield port, output
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(100)


@contextmanager
def pynetdicom_witness(samples: list[Sample], certificate: Path | None) -> Iterator[tuple[int, Got]]:
    """Pynetdicom's acceptor, which keeps the encoded data sets; its port, and what it got."""
    from pynetdicom import AE, _config, evt

    got: Got = {}

    def take(event: evt.Event) -> int:
        content = event.encoded_dataset(include_meta=False)
        got.setdefault(str(event.context.transfer_syntax), Counter())[hashlib.sha256(content).hexdigest()] += 1
        return 0

    def choose_as_we_do(event: evt.Event) -> None:
        for context in event.assoc.requestor.primitive.presentation_context_definition_list:
            context.transfer_syntax = in_our_order(context.transfer_syntax)  # the first of them is taken

    entity = AE(WITNESS)
    entity.network_timeout = entity.dimse_timeout = PATIENCE_S
    for sop_class in {sample.sop_class for sample in samples}:
        entity.add_supported_context(sop_class, in_our_order(sample.syntax for sample in samples))
    before, _config.UNRESTRICTED_STORAGE_SERVICE = _config.UNRESTRICTED_STORAGE_SERVICE, True  # private classes too
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    server = entity.start_server(
        ("127.0.0.1", 0),
        block=False,
        evt_handlers=[(evt.EVT_REQUESTED, choose_as_we_do), (evt.EVT_C_STORE, take)],
        ssl_context=context,
    )
    assert server is not None
    try:
        yield server.server_address[1], got
    finally:
        server.shutdown()
        _config.UNRESTRICTED_STORAGE_SERVICE = before


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def profile(samples: list[Sample], folder: Path) -> Path:
    """A DCMTK configuration with two profiles: `Ask` has each class in each of its syntaxes, each in a context of its
    own; `Take` has each class in every syntax, in the order in which our listener prefers them: where a sender offers a
    choice, both receivers make the same."""
    pairs = sorted({(sample.sop_class, sample.syntax) for sample in samples})
    assert len(pairs) <= 128, "more presentation contexts than an association can have"
    syntaxes = sorted({syntax for _, syntax in pairs})
    lines = ["[[TransferSyntaxes]]", "[Every]"]
    lines += [f"TransferSyntax{k} = {s}" for k, s in enumerate(in_our_order(syntaxes), 1)]
    lines += [f"[Only{k}]\nTransferSyntax1 = {s}" for k, s in enumerate(syntaxes)]
    lines += ["[[PresentationContexts]]", "[Ask]"]
    lines += [f"PresentationContext{k} = {c}\\Only{syntaxes.index(s)}" for k, (c, s) in enumerate(pairs, 1)]
    lines += ["[Take]"]
    lines += [f"PresentationContext{k} = {c}\\Every" for k, c in enumerate(sorted({c for c, _ in pairs}), 1)]
    lines += ["[[Profiles]]", "[Ask]", "PresentationContexts = Ask", "[Take]", "PresentationContexts = Take"]
    path = folder / "profile.cfg"
    path.write_text("\n".join(lines) + "\n")
    return path


def in_our_order(syntaxes: Iterable[str]) -> list[str]:
    """Transfer syntaxes, the one that our listener prefers first."""
    rest, in_order = sorted(set(syntaxes)), []
    while rest:
        in_order.append(choose(tuple(rest)))
        rest.remove(in_order[-1])
    return in_order


# -- senders ---------------------------------------------------------------------------------------------------------


def dcmtk(program: str, folder: Path) -> Sender:
    """DCMTK's storescu, or dcmsend, with everything on one association."""

    def send(samples: list[Sample], called: str, port: int, *, encrypted: bool) -> None:
        command = [program, "-aec", called]
        if program.endswith("storescu"):
            command += ["-nh", *(["+tla", "-ic"] if encrypted else []), "-xf", str(profile(samples, folder)), "Ask"]
        else:
            assert not encrypted, "dcmsend speaks no TLS"
            command += ["--no-halt", "-dn", "-nuc"]
        command += ["127.0.0.1", str(port), *(str(sample.path) for sample in samples)]
        subprocess.run(command, capture_output=True, timeout=300, check=False)

    return send


def orthanc(program: str, folder: Path, certificate: Path) -> Sender:
    """A real Orthanc that was given the files over HTTP, and is told to send all it holds."""

    def send(samples: list[Sample], called: str, port: int, *, encrypted: bool) -> None:
        modality = {"AET": called, "Host": "127.0.0.1", "Port": port, "UseDicomTls": encrypted}
        tls: dict[str, Any] = {
            "DicomTlsCertificate": str(certificate),
            "DicomTlsPrivateKey": str(certificate),
            "DicomTlsTrustedCertificates": str(certificate),
        }
        data = folder / f"orthanc-{called}-{encrypted}"
        with OrthancServer(program, data, DicomModalities={"us": modality}, DicomScuTimeout=30, **tls) as server:
            for sample in samples:
                with suppress(AssertionError):  # what Orthanc does not take, it cannot send
                    server.add(sample.path.read_bytes())
            held = server.instances()
            server.json("/modalities/us/store", {"Resources": held, "Permissive": True, "Synchronous": True})

    return send


def pynetdicom(samples: list[Sample], called: str, port: int, *, encrypted: bool) -> None:
    """Pynetdicom as its storescu uses it: data sets read by pydicom, each file's own transfer syntax proposed."""
    from pynetdicom import AE

    for sample in samples:
        entity = AE("PYNETDICOM")
        entity.add_requested_context(sample.sop_class, [sample.syntax])
        arguments: dict[str, Any] = {"tls_args": (client_context(), "localhost")} if encrypted else {}
        association = associate(entity, "127.0.0.1", port, ae_title=called, **arguments)
        if not association.is_established:
            continue
        try:
            association.send_c_store(dcmread(sample.path))
        except (ValueError, AttributeError, NotImplementedError, TypeError, KeyError, UnboundLocalError):
            pass  # pydicom cannot write what it read, or pynetdicom trips over it: nothing was sent
        finally:
            release(association)


def raw(samples: list[Sample], called: str, port: int, *, encrypted: bool) -> None:
    """Our own requestor: the file's own bytes, parsed by nobody."""
    for sample in samples:
        with Requestor(port, wait_s=30) as requestor:
            if encrypted:
                requestor.sock = client_context().wrap_socket(requestor.sock)
            accepted = requestor.associate(proposed(1, sample.sop_class, sample.syntax), called=called)
            assert accepted[0] == 2, sample
            requestor.store(sample.sop_instance, sample.data_set, sop_class=sample.sop_class)
            requestor.release()


def client_context() -> ssl.SSLContext:
    """A client that looks at nobody's certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def sender_named(name: str, folder: Path, find: Callable[[str], str], certificate: Path) -> Sender:
    """One of `SENDERS`."""
    senders: dict[str, Callable[[], Sender]] = {
        "storescu": lambda: dcmtk(find("storescu"), folder),
        "dcmsend": lambda: dcmtk(find("dcmsend"), folder),
        "Orthanc": lambda: orthanc(find("Orthanc"), folder, certificate),
        "pynetdicom": lambda: pynetdicom,
        "raw": lambda: raw,
    }
    return senders[name]() if name in senders else further_senders.sender_of(name, find)


# -- the matrix ------------------------------------------------------------------------------------------------------


def compare(
    name: str, samples: list[Sample], folder: Path, find: Callable[[str], str], *, encrypted: bool
) -> dict[str, Cell]:
    """What one sender delivers, by transfer syntax.

    Args:
        name: One of `SENDERS`.
        samples: What it is to send.
        folder: An empty folder.
        find: Path of a program.
        encrypted: Whether over TLS.
    """
    certificate = make_certificate(folder, "server")
    send = sender_named(name, folder, find, certificate)
    deadlines = dict.fromkeys(("request_s", "pdu_s", "idle_s"), PATIENCE_S)
    keep: dict[str, Any] = {"mismatch": "accept", "damaged": "accept", "deadlines": deadlines}
    receiver = Receiver(
        folder / "data", {"listener": keep | ({"tls": {"certificate": str(certificate)}} if encrypted else {})}
    )
    try:
        send(samples, CALLED["us"], receiver.port, encrypted=encrypted)
        ours = received(receiver.new())
        assert receiver.quarantined() == []
    finally:
        receiver.daemon.stop()
    if name in SEND_A_FILES_BYTES:
        theirs: Got = {}
        for sample in samples:
            theirs.setdefault(sample.syntax, Counter())[hashlib.sha256(sample.data_set).hexdigest()] += 1
    elif name not in BUILT_ON_DCMTK:
        with pynetdicom_witness(samples, certificate if encrypted else None) as (port, theirs):
            send(samples, CALLED["witness"], port, encrypted=encrypted)
    else:
        with witness(find("storescp"), folder, samples, certificate if encrypted else None) as (port, output):
            send(samples, CALLED["witness"], port, encrypted=encrypted)
            theirs = received(output.iterdir())
    syntaxes = sorted({sample.syntax for sample in samples} | ours.keys() | theirs.keys())
    cells = {}
    for syntax in syntaxes:
        mine, other = ours.get(syntax, Counter()), theirs.get(syntax, Counter())
        cells[syntax] = Cell(other.total(), (mine & other).total(), (mine - other).total())
    return cells


def columns() -> list[tuple[str, bool]]:
    """Every sender, plain and over TLS where it speaks that."""
    return [(name, encrypted) for name in SENDERS for encrypted in (False, True) if not encrypted or name in SPEAK_TLS]


Matrix = dict[tuple[str, bool], dict[str, Cell]]


def table(matrix: Mapping[tuple[str, bool], dict[str, Cell]]) -> str:
    """The matrix as the docs show it: identical of sent."""
    names = {"raw": "raw requestor"}
    heads = [f"{names.get(name, name)}{' TLS' if encrypted else ''}" for name, encrypted in matrix]
    lines = [f"| Transfer syntax | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
    for syntax in sorted({syntax for cells in matrix.values() for syntax in cells}, key=_in_order):
        told = [cells.get(syntax, Cell(0, 0, 0)) for cells in matrix.values()]
        shown = [str(cell) if cell.sent or cell.more else "-" for cell in told]
        name = UID(syntax).name
        lines.append(f"| {syntax}{'' if name == syntax else f' {name}'} | {' | '.join(shown)} |")
    sums = [
        str(Cell(*(sum(getattr(cell, part) for cell in cells.values()) for part in ("sent", "identical", "more"))))
        for cells in matrix.values()
    ]
    return "\n".join([*lines, f"| **all** | {' | '.join(sums)} |"]) + "\n"


def _in_order(syntax: str) -> list[int]:
    return [int(part) for part in syntax.split(".")]


def main() -> int:
    """Run everything and rewrite the table; the exit code is 1 where a single byte differs."""
    own = str(REPOSITORY / ".venv")
    path = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if not p.startswith(own)) + ":/usr/sbin"
    samples = samples_of(REPOSITORY.parent / "shared" / "corpus", every=True)
    matrix: Matrix = {}
    with ExitStack() as stack:
        for column in columns():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            started = time.monotonic()
            matrix[column] = compare(
                column[0], samples, folder, lambda name: shutil.which(name, path=path) or name, encrypted=column[1]
            )
            sys.stderr.write(f"{column[0]}{' TLS' * column[1]}: {time.monotonic() - started:.0f} s\n")
    head, mark, rest = DOCUMENT.read_text().partition(MARKS[0])
    assert mark, "the document has no place for the table"
    DOCUMENT.write_text(head + mark + table(matrix) + MARKS[1] + rest.partition(MARKS[1])[2])
    bad = {
        (*column, syntax): cell
        for column, cells in matrix.items()
        for syntax, cell in cells.items()
        if not cell.is_well
    }
    sys.stderr.writelines(f"differs: {place}: {cell}\n" for place, cell in bad.items())
    return 1 if bad else 0


if __name__ == "__main__":
    pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE
    pydicom_config.settings.writing_validation_mode = pydicom_config.IGNORE
    sys.exit(main())
