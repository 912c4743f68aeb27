"""F80-F83, F87-F89: a token in every attribute, AE title and path, and where libraries quote; where does one show?

Nowhere but in the metadata lines and where their content is kept (the ledger, the spool's files, and a backfill's file
names, which mirror its input): not in logs at DEBUG, process titles, environments, temporary names, status output,
counters and metrics, reports of quarantine, or media containers. Nor does what peers write make any list grow.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.faults.daemons import COMMANDS, SMALL_MARKS, daemons, run, wait_for
from tests.faults.instances import SIDE, new_uid
from tests.faults.invariants import media_files
from tests.faults.report import Row, Scale, attempt
from tests.faults.senders import program
from tests.ports import free_port
from tests.product.hostile import SOP_CLASS, element, meta
from tests.product.running import family
from tests.pynetdicom_requestor import associate, release

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN: Final = re.compile(rb"PHITOKEN[0-9]{4,}", re.IGNORECASE)
TEXT_VRS: Final = frozenset(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT"))
GROUPS: Final = frozenset((0x0008, 0x0010, 0x0012, 0x0018, 0x0020, 0x0032, 0x0038, 0x0040))
NOT_PLANTED: Final = frozenset((0x00080005, 0x00080060, 0x00080016, 0x00080018))
"""Character set, modality and UIDs of the base: spoiled one at a time instead."""
SPOILED: Final = {
    "rows": (0x00280010, b"US"),
    "frames": (0x00280008, b"IS"),
    "window": (0x00281050, b"DS"),
    "slope": (0x00281053, b"DS"),
    "frame time": (0x00181063, b"DS"),
    "spacing": (0x00280030, b"DS"),
    "photometric": (0x00280004, b"CS"),
    "character set": (0x00080005, b"CS"),
    "birth date": (0x00100030, b"DA"),
    "study time": (0x00080030, b"TM"),
    "age": (0x00101010, b"AS"),
    "class": (0x00080016, b"UI"),
    "instance": (0x00080018, b"UI"),
    "study": (0x0020000D, b"UI"),
    "frame of reference": (0x00200052, b"UI"),
    "voi function": (0x00281056, b"CS"),
    "value representation": (0x00100010, b"Z?"),
    "modality": (0x00080060, b"CS"),
}
"""Elements whose reading goes wrong where a token stands in them, which is when libraries quote it."""
PNG_CHUNKS: Final = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"pHYs", b"sBIT", b"sRGB", b"gAMA"))
MP4_TAGS: Final = frozenset(
    ("major_brand", "minor_version", "compatible_brands", "encoder", "handler_name", "vendor_id")
)


class Tokens:
    """Hands out tokens and remembers where each was planted."""

    def __init__(self) -> None:
        self.where: list[str] = []

    def next(self, where: str) -> bytes:
        self.where.append(where)
        return b"PHITOKEN%04d" % len(self.where)


def planted(tokens: Tokens, *, frames: int = 1, spoiled: str | None = None, damaged: bool = False) -> bytes:
    """A file with a token in every text attribute of eight groups, nested and private ones too."""
    from pydicom._dicom_dict import DicomDictionary

    uid = new_uid()
    us = struct.Struct("<H").pack
    values: dict[int, tuple[bytes, bytes]] = {
        tag: (vr.encode(), tokens.next(keyword))
        for tag, (vr, _, _, _, keyword) in DicomDictionary.items()
        if vr in TEXT_VRS and keyword and tag >> 16 in GROUPS and tag not in NOT_PLANTED
    }
    nested = element(0x0010, 0x0010, b"PN", tokens.next("nested Patient's Name"))
    item = struct.pack("<HHI", 0xFFFE, 0xE000, len(nested)) + nested
    values |= {
        0x00080016: (b"UI", SOP_CLASS.encode()),
        0x00080018: (b"UI", uid.encode()),
        0x00080060: (b"CS", b"OT"),
        0x00081115: (b"SQ", item),
        0x00110010: (b"LO", tokens.next("private creator")),
        0x00111001: (b"LO", tokens.next("private element")),
        0x00111002: (b"UN", tokens.next("private bytes")),
        0x00181063: (b"DS", b"40"),
        0x0020000D: (b"UI", b"1.2.826.0.1.3680043.10.2"),
        0x0020000E: (b"UI", b"1.2.826.0.1.3680043.10.2.1"),
        0x00280002: (b"US", us(1)),
        0x00280004: (b"CS", b"MONOCHROME2"),
        0x00280008: (b"IS", b"%d" % frames),
        0x00280009: (b"AT", struct.pack("<HH", 0x0018, 0x1063)),
        0x00280010: (b"US", us(SIDE)),
        0x00280011: (b"US", us(SIDE)),
        0x00280100: (b"US", us(8)),
        0x00280101: (b"US", us(8)),
        0x00280102: (b"US", us(7)),
        0x00280103: (b"US", us(0)),
    }
    if spoiled is not None:
        tag, vr = SPOILED[spoiled]
        values[tag] = (vr, tokens.next(f"(spoiled) {spoiled}"))
    pixels = os.urandom(frames * SIDE * SIDE)
    body = b"".join(element(tag >> 16, tag & 0xFFFF, vr, value) for tag, (vr, value) in sorted(values.items()))
    whole = meta("1.2.840.10008.1.2.1", uid) + body + element(0x7FE0, 0x0010, b"OW", pixels)
    return whole[: -len(pixels) // 2] if damaged else whole


class Spy(threading.Thread):
    """Looks at titles, environments and names while the product works, over and over."""

    def __init__(self, pids: list[int], folders: list[Path]) -> None:
        super().__init__(daemon=True)
        self._pids, self._folders = pids, folders
        self._done = threading.Event()
        self.seen: set[bytes] = set()
        self.found: set[str] = set()
        self.core_limits: set[str] = set()

    def run(self) -> None:
        while not self._done.wait(0.01):
            for top in self._pids:
                for pid in family(top):
                    self._look_at(pid)
            for folder in self._folders:
                for _, folders, files in os.walk(folder):
                    self._note("name", os.fsencode("\n".join((*folders, *files))))

    def _look_at(self, pid: int) -> None:
        for what in ("cmdline", "comm", "environ"):
            with contextlib.suppress(OSError):
                self._note(f"process {what}", Path(f"/proc/{pid}/{what}").read_bytes())

    def _note(self, what: str, content: bytes) -> None:
        if content not in self.seen:
            self.seen.add(content)
            self.found |= {f"{what}: {token.decode()}" for token in TOKEN.findall(content)}

    def stop(self) -> None:
        self._done.set()
        self.join(20)


# -- what is looked through afterwards -------------------------------------------------------------------------------


def tokens_in(what: str, content: bytes | str) -> list[str]:
    """One sentence for each token in it."""
    if isinstance(content, str):
        content = content.encode(errors="surrogateescape")
    return [f"{what}: {token.decode()}" for token in sorted(set(TOKEN.findall(content)))]


def look_at_media(media: Path) -> tuple[int, list[str]]:
    """How many containers were opened, and what is in them beside pictures."""
    found: list[str] = []
    opened = 0
    for path in media_files(media):
        data = path.read_bytes()
        found += tokens_in(f"media {path.suffix}", data)
        if path.suffix == ".png":
            opened += 1
            found += [f"PNG chunk {kind.decode()}" for kind in _png_chunks(data) - PNG_CHUNKS]
        elif path.suffix == ".mp4":
            opened += 1
            found += [f"MP4 tag {tag}" for tag in _mp4_tags(path) - MP4_TAGS]
    return opened, sorted(set(found))


def _png_chunks(data: bytes) -> set[bytes]:
    kinds, at = set(), 8
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        kinds.add(kind)
        at += length + 12
    return kinds


def _mp4_tags(path: Path) -> set[str]:
    command = [program("ffprobe"), "-v", "error", "-of", "json", "-show_entries", "format_tags:stream_tags", str(path)]
    answer = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)
    tags = set(answer.get("format", {}).get("tags", {}))
    for stream in answer.get("streams", []):
        tags |= {tag for tag, value in stream.get("tags", {}).items() if (tag, value) != ("language", "und")}
    return tags


def too_open(data: Path) -> list[str]:
    """Files and folders below a data folder that others may read."""
    found = set()
    for path in (data / "spool", *(data / "spool").rglob("*"), *data.glob("exporter.db*"), data / "metadata.jsonl"):
        if path.exists() and stat.S_IMODE(path.lstat().st_mode) & 0o077:
            found.add(f"others may read {path.relative_to(data).parts[0]} ({path.suffix or 'folder'})")
    return sorted(found)


# -- rows ------------------------------------------------------------------------------------------------------------


def live_row(scratch: Path) -> Row:
    """Instances with tokens come by C-STORE, good ones, spoiled ones, damaged ones; daemons log at DEBUG."""
    tokens = Tokens()
    folder = scratch / "in"
    folder.mkdir()
    made = [planted(tokens), planted(tokens, frames=4), planted(tokens, damaged=True)]
    made += [planted(tokens, spoiled=name) for name in SPOILED]
    for number, data in enumerate(made):
        (folder / f"{number}.dcm").write_bytes(data)
    temporary = scratch / "tmp"
    temporary.mkdir()
    settings = SMALL_MARKS + "log: {level: debug}\n"
    environment = {"TMPDIR": str(temporary)}
    data_folder = scratch / "data"
    with daemons(data_folder, scratch / "logs", extra=settings, environment=environment) as product:
        pids = [product.start("listener").pid, product.start("run").pid]
        spy = Spy(pids, [data_folder / "spool", data_folder / "media" / ".partial", temporary])
        spy.start()
        titles = [tokens.next("calling AE title").decode() for _ in made]
        sent = sum(_send_raw(product.port, folder / f"{n}.dcm", titles[n]) for n in range(len(made)))
        _send_broken_handshakes(product.port)
        _send_planted_handshakes(product.port, tokens)
        product.settled(120)
        violations = [*_command_output(data_folder)]
        spy.stop()
        for name in ("run", "listener"):
            product.stop(name)
            violations += tokens_in(f"log of {name}", product.log(name))
            if re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", product.log(name)):
                violations.append(f"raw control characters in the log of {name}")
        violations += sorted(spy.found)
    for report in (data_folder / "spool" / "quarantine").rglob("*.json"):
        violations += tokens_in("report of quarantine", report.read_bytes())
    violations += tokens_in("counters", b"".join(p.read_bytes() for p in (data_folder / "spool").glob("*.json")))
    opened, found = look_at_media(data_folder / "media")
    violations += found + too_open(data_folder)
    lines = (data_folder / "metadata.jsonl").read_bytes()
    if not TOKEN.search(lines) or not opened:
        violations.append("no token in the metadata lines, or no media: nothing was shown")
    figure = (
        f"{len(tokens.where)} tokens planted in {len(made)} instances, {sent} taken; {len(spy.seen)} titles, "
        f"environments and names looked at, {opened} containers opened; {len(violations)} found"
    )
    return Row("F80-F83, F87 privacy", "live, logs at DEBUG", len(tokens.where), tuple(violations), figure)


def _send_raw(port: int, path: Path, title: str) -> bool:
    """Send a file without looking into it, as the calling AE title; whether it was kept."""
    from pydicom.uid import ExplicitVRLittleEndian
    from pynetdicom import AE, _config
    from pynetdicom.presentation import build_context

    entity = AE(ae_title=title)
    entity.implementation_version_name = title
    entity.requested_contexts = [build_context(SOP_CLASS, [ExplicitVRLittleEndian])]
    association = associate(entity, "127.0.0.1", port, ae_title="EXPORTER")
    _config.STORE_SEND_CHUNKED_DATASET = True
    try:
        answer = association.send_c_store(path)
    finally:
        _config.STORE_SEND_CHUNKED_DATASET = False
        release(association)
    return bool(answer) and answer.Status in (0x0000, 0xA900, 0xB007, 0xC000)


def _send_broken_handshakes(port: int) -> None:
    """AE titles with control characters, escapes and format directives: what a log must not repeat raw."""
    for title in (b"A\x1b[31m\x1b]0;x\x07B", b"A\nB{x}%s%n", b"\xe2\x80\xaeRTL", b"A\r\nlevel=error"):
        _shake_hands(port, calling=title)


def _send_planted_handshakes(port: int, tokens: Tokens) -> None:
    """A token wherever a request has room for words: titles, implementation, user identity, UIDs that are none."""
    for _ in range(3):
        _shake_hands(port, calling=tokens.next("calling AE title"))
        _shake_hands(port, called=tokens.next("called AE title"))
        _shake_hands(port, extra=_item(0x55, tokens.next("implementation version name")))
        _shake_hands(port, extra=_item(0x52, tokens.next("implementation class UID")))
        name, code = tokens.next("user name"), tokens.next("passcode")
        identity = b"\2\0" + struct.pack(">H", len(name)) + name + struct.pack(">H", len(code)) + code
        _shake_hands(port, extra=_item(0x58, identity))
        _shake_hands(port, abstract=tokens.next("abstract syntax"))
        _shake_hands(port, application=tokens.next("application context"))
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(tokens.next("no DICOM at all") * 10)
            with contextlib.suppress(OSError):
                connection.recv(1000)


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def _shake_hands(
    port: int,
    *,
    calling: bytes = b"TESTER",
    called: bytes = b"EXPORTER",
    abstract: bytes = b"1.2.840.10008.1.1",
    application: bytes = b"1.2.840.10008.3.1.1.1",
    extra: bytes = b"",
) -> None:
    """One association with these words in its request, released at once."""
    body = struct.pack(">HH", 1, 0) + called.ljust(16)[:16] + calling.ljust(16)[:16] + bytes(32)
    context = b"\x01\0\0\0" + _item(0x30, abstract) + _item(0x40, b"1.2.840.10008.1.2")
    user = _item(0x51, struct.pack(">I", 16384)) + extra
    body += _item(0x10, application) + _item(0x20, context) + _item(0x50, user)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(struct.pack(">BxI", 1, len(body)) + body)
        with contextlib.suppress(OSError):
            connection.recv(1000)
            connection.sendall(struct.pack(">BxI", 5, 4) + bytes(4))
            connection.recv(1000)


def _command_output(data: Path) -> list[str]:
    """Tokens in what the commands of an operator print."""
    found: list[str] = []
    for words in (
        ("status",),
        ("status", "--json"),
        ("failures", "list"),
        ("failures", "list", "--json"),
        ("reconcile",),
    ):
        done = run(*words, "--data", data)
        found += tokens_in(f"exporter {' '.join(words)}", done.stdout + done.stderr)
    for row in json.loads(run("failures", "list", "--json", "--data", data).stdout)[:5]:
        done = run("failures", "show", row["id"], "--data", data)
        found += tokens_in("exporter failures show", done.stdout + done.stderr)
    return sorted(set(found))


def backfill_row(scratch: Path) -> Row:
    """The same through backfill, with tokens in folder and file names as well, at DEBUG."""
    tokens = Tokens()
    folder = scratch / "in"
    made = 0
    for spoiled in (None, *SPOILED):
        for damaged in (False, True):
            place = folder / tokens.next("folder name").decode()
            place.mkdir(parents=True)
            path = place / f"{tokens.next('file name').decode()}.dcm"
            path.write_bytes(planted(tokens, spoiled=spoiled, damaged=damaged, frames=1 + made % 3))
            made += 1
    config = scratch / "debug.yml"
    config.write_text("log: {level: debug}\n")
    out = scratch / "out"
    with tempfile.TemporaryDirectory() as temporary:
        process = subprocess.Popen(
            [sys.executable, "-m", "exporter", "backfill", ".", "--output", out, "--config", config],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": temporary, "PYTHONPATH": os.environ.get("PYTHONPATH") or os.getcwd()},  # noqa: PTH109
        )
        spy = Spy([process.pid], [out / "media" / ".partial", Path(temporary)])
        spy.start()
        words = process.communicate(timeout=300)[0]
        spy.stop()
    violations = [*tokens_in("what backfill prints", words), *sorted(spy.found)]
    opened, found = look_at_media(out / "media")
    violations += [*found, *too_open(out)]
    violations += ["no media: nothing was shown"] * (not opened)
    figure = (
        f"{len(tokens.where)} tokens planted in {made} files and their names; {len(spy.seen)} titles, environments and "
        f"names looked at, {opened} containers opened; {len(violations)} found"
    )
    return Row("F80-F83, F87 privacy", "backfill, logs at DEBUG", len(tokens.where), tuple(violations), figure)


def configuration_row(scratch: Path) -> Row:
    """F88: a file that would run code, open the door or hold a wrong secret ends the daemon before it does anything."""
    tokens = Tokens()
    marker, violations = scratch / "was run", []
    secret = tokens.next("a passcode where a path belongs").decode()
    wrong = {
        "code in YAML": f"listener: !!python/object/apply:os.system ['touch {marker}']\n",
        "an alias bomb": "a: &a [x, x]\nb: &b [*a, *a]\nlistener: [*b, *b, *b]\n",
        "an unknown key": "listener: {prot: 104}\n",
        "a wrong type": "listener: {port: {}}\n",
        "open to everybody": "listener: {host: 0.0.0.0}\n",
        "users without TLS": f"listener: {{users: [{{name: a, passcode: {secret}}}]}}\n",
        "a value out of range": "spool: {refuse_below_bytes: -1}\n",
    }
    for what, text in wrong.items():
        path, data = scratch / "wrong.yml", scratch / "data"
        path.write_text(text)
        for command in COMMANDS["listener"], COMMANDS["run"]:
            done = subprocess.run(
                [*command, "--config", path, "--data", data], capture_output=True, text=True, check=False, timeout=60
            )
            words = done.stdout + done.stderr
            if done.returncode != 2 or "Traceback" in words or "wrong.yml:" not in words:
                violations.append(f"{what}: ends with {done.returncode}: {words[-200:]}")
            violations += tokens_in(what, words)
        if marker.exists() or data.exists():
            violations.append(f"{what}: something was done before it was refused")
    return Row(
        "F88 hostile configuration",
        "both daemons",
        2 * len(wrong),
        tuple(violations),
        "refused, exit code 2, with line",
    )


def cardinality_row(scratch: Path, count: int) -> Row:
    """F89: peers under ever new names; neither counters nor what is offered over HTTP may grow with them."""
    http_port = free_port()
    settings = f"{SMALL_MARKS}status: {{port: {http_port}}}\n"
    violations: list[str] = []
    with daemons(scratch / "data", scratch / "logs", extra=settings) as product:
        pid = product.start("listener").pid
        _shake_hands(product.port)
        _shake_hands(product.port, called=b"NOBODY")
        wait_for(lambda: '"associations_rejected' in _told(scratch / "data" / "spool"), 10, "counters are written")
        before = _series(scratch / "data" / "spool", http_port)
        for number in range(count):
            name = b"PHITOKEN%07d" % number
            _shake_hands(product.port, **{("calling", "called", "abstract")[number % 3]: name})
        ended = time.time()
        wait_for(lambda: json.loads(_told(scratch / "data" / "spool"))["updated"] > ended, 10, "counters are written")
        after = _series(scratch / "data" / "spool", http_port)
        violations += [f"others can reach {address}" for address in _open_beyond_loopback(pid)]
        product.stop("listener")
        violations += tokens_in("log of listener", product.log("listener"))
    for what in before.keys() & after.keys():
        violations += tokens_in(what, after[what])
        was, now = len(before[what].splitlines()), len(after[what].splitlines())
        if now > was + 2:
            violations.append(f"{what}: {was} entries before, {now} after {count} names")
    told = ", ".join(f"{what} {len(text.splitlines())} entries" for what, text in sorted(after.items()))
    figure = f"{count} names; {told}"
    return Row("F89 bounded counters", "listener", count, tuple(violations), figure)


def _series(spool: Path, http_port: int) -> dict[str, str]:
    """What is counted, one entry per line: the counters' file, and the metrics where they are offered."""
    told = json.loads(_told(spool))
    found = {"counters": "\n".join([*told["counts"], *told["gauges"]])}
    with (
        contextlib.suppress(OSError),
        urllib.request.urlopen(f"http://127.0.0.1:{http_port}/metrics", timeout=5) as page,
    ):
        found["metrics"] = page.read().decode()
    return found


def _told(spool: Path) -> str:
    path = spool / "listener.json"
    return path.read_text() if path.is_file() else ""


def _open_beyond_loopback(pid: int) -> list[str]:
    """Addresses beyond loopback that a process, or any that descends from it, listens on."""
    import psutil  # type: ignore[import-untyped] # it ships no types

    connections = (one for member in family(pid) for one in psutil.Process(member).net_connections())
    listening = (one.laddr for one in connections if one.status == psutil.CONN_LISTEN)
    return [f"{address.ip}:{address.port}" for address in listening if address.ip not in {"127.0.0.1", "::1"}]


def rows(scratch: Path, scale: Scale) -> Iterator[Row]:
    """Live, backfill, configuration, counters."""
    names = 10_000 if scale.pdus >= 5000 else 300
    for fault, name, measure in (
        ("F80-F83, F87 privacy", "live", live_row),
        ("F80-F83, F87 privacy", "backfill", backfill_row),
        ("F88 hostile configuration", "configuration", configuration_row),
        ("F89 bounded counters", "counters", partial(cardinality_row, count=names)),
    ):
        at = scratch / f"privacy-{name}"
        at.mkdir(parents=True)
        yield attempt(fault, name, partial(measure, at))
