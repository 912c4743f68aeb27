"""Honest archives give every member, hostile ones cost nothing but themselves, and every member has one outcome."""

from __future__ import annotations

import gzip
import io
import os
import random
import struct
import tarfile
import time
import zipfile
import zlib
from typing import TYPE_CHECKING

import pytest

from exporter.dicom.bytesource import MemoryBytes
from exporter.inputs.archives import member as member_module
from exporter.inputs.archives.found import is_archive
from exporter.inputs.archives.member import ArchiveMember, MemberKind
from exporter.inputs.archives.members import ArchiveLimits
from exporter.inputs.archives.names import path_of
from exporter.outcome import Failed, Skipped
from tests.exporter.inputs.making import CT, EVERY_KIND, LIMITS, MR, STUDY, header, read, tarred, zipped

if TYPE_CHECKING:
    from pathlib import Path

    from exporter.inputs.scratch import Scratch

END = bytes(1024)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "archive"


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_every_member_is_read_whatever_the_kind(kind: str, place: Path, scratch: Scratch) -> None:
    files = [*STUDY, ("deep/" * 30 + "Jürgen", MR)]
    content = EVERY_KIND[kind](files)
    assert is_archive(MemoryBytes(content))
    place.write_bytes(content)
    found, outcome = read(place, scratch)
    assert found == {name: data if data != b"no DICOM" else "not_dicom" for name, data in files}
    assert isinstance(outcome, Skipped)
    assert outcome.reason == "archive"


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_an_archive_that_was_cut_gives_what_stands_before_the_cut(kind: str, place: Path, scratch: Scratch) -> None:
    noise = random.Random(1)  # noqa: S311 - the same in every run
    files = [(f"{number}.dcm", CT + noise.randbytes(30_000)) for number in range(12)]
    content = EVERY_KIND[kind](files)
    for part in (0.3, 0.6, 0.95):
        place.write_bytes(content[: int(len(content) * part)])
        found, outcome = read(place, scratch)
        whole = [name for name, data in found.items() if isinstance(data, bytes)]
        assert all(found[name] == data for name, data in files if name in whole)
        lost = 1_000_000 / 70_000 if "bz2" in kind else 2  # bzip2 has blocks of 900 kB
        assert len(whole) >= int(12 * part) - lost
        assert isinstance(outcome, Failed)
        assert outcome.reason == "unreadable"
        assert "cut" in outcome.message or "missing" in outcome.message or "damaged" in outcome.message


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_any_damage_ends_in_outcomes_and_in_no_time(kind: str, place: Path, scratch: Scratch) -> None:
    chance = random.Random(kind)  # noqa: S311 - the same in every run
    seed = EVERY_KIND[kind]([("a/1", CT[:3000]), ("a/" * 40 + "ü", CT[:3000]), ("b", CT[:3000])])
    for _ in range(60):
        content = bytearray(seed)
        for _ in range(chance.choice((1, 1, 3, 12))):
            at = chance.randrange(len(content))
            match chance.randrange(5):
                case 0:
                    del content[at : at + chance.randrange(1, 600)]
                case 1:
                    content[at:at] = content[chance.randrange(len(content)) :][: chance.randrange(600)]
                case 2:
                    content[at : at + 4] = chance.choice((b"\xff" * 4, b"\0" * 4, b"PK\1\2", b"PK\5\6"))
                case _:
                    content[at] = chance.randrange(256)
            content = content or bytearray(b"x")
        place.write_bytes(content)
        started = time.monotonic()
        read(place, scratch)
        assert time.monotonic() - started < 5


# -- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "from_windows", "path"),
    [
        (b"a/b.dcm", False, "a/b.dcm"),
        (b"a\\b.dcm", True, "a/b.dcm"),
        (b"a\\b.dcm", False, "a\\b.dcm"),
        (b"/etc/passwd", False, "etc/passwd"),
        (b"//host/share", False, "host/share"),
        (b"../../x", False, "_/_/x"),
        (b"a/../../x", False, "a/_/_/x"),
        (b"..\\..\\x", True, "_/_/x"),
        (b"C:\\studies\\1", True, "C/studies/1"),
        (b"C:1", True, "C/1"),
        (b"c:/x", False, "c:/x"),
        (b"./a/./b//c/", False, "a/b/c"),
        (b"a\0b", False, "a_b"),
        (b"", False, "_"),
        (b"/", False, "_"),
        (b"..", False, "_"),
        (b"J\xfcrgen", False, "J\udcfcrgen"),
    ],
)
def test_a_name_says_where_a_member_stands_and_leads_nowhere(raw: bytes, from_windows: bool, path: str) -> None:
    assert path_of(ArchiveMember(raw, from_windows, 0, MemberKind.FILE)) == path


def test_long_names_are_short_and_stay_different() -> None:
    names = {path_of(ArchiveMember(b"x/" * 30_000 + end, False, 0, MemberKind.FILE)) for end in (b"1", b"2")}
    assert len(names) == 2
    assert all(len(os.fsencode(name)) <= 4096 and "//" not in name for name in names)


def test_equal_names_are_told_apart(place: Path, scratch: Scratch) -> None:
    place.write_bytes(zipped([("a", CT), ("./a", MR), ("A", MR), ("/a", CT), ("a//2", MR)]))
    found, _ = read(place, scratch)
    assert found == {"a": CT, "a//2": MR, "A": MR, "a//3": CT, "a/2": MR}


# -- what is no file -------------------------------------------------------------------------------------------------


def test_links_and_devices_are_named_and_never_followed(place: Path, scratch: Scratch) -> None:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE):
            about = tarfile.TarInfo(kind.decode())
            about.type, about.linkname = kind, "/etc/passwd"
            archive.addfile(about)
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        last = tarfile.TarInfo("last")
        last.size = len(CT)
        archive.addfile(last, io.BytesIO(CT))
    place.write_bytes(target.getvalue())
    found, _ = read(place, scratch)
    assert found == {**dict.fromkeys("12634", "not_regular"), "last": CT}
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive_zip:
        link = zipfile.ZipInfo("link")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive_zip.writestr(link, "/etc/passwd")
        archive_zip.writestr("folder/", "")
    place.write_bytes(target.getvalue())
    assert read(place, scratch)[0] == {"link": "not_regular"}


def test_an_archive_in_an_archive_is_said_to_be_one(place: Path, scratch: Scratch) -> None:
    inner = {kind: make(STUDY) for kind, make in EVERY_KIND.items()}
    inner |= {"a.7z": b"7z\xbc\xaf\x27\x1c" + bytes(100), "a.rar": b"Rar!\x1a\x07\x01" + bytes(99)}
    for make in (zipped, tarred):
        place.write_bytes(make([*inner.items(), ("last", CT)]))
        found, _ = read(place, scratch)
        assert found == {**dict.fromkeys(inner, "not_dicom"), "last": CT}


def test_what_macs_and_windows_leave_in_archives_is_no_dicom(place: Path, scratch: Scratch) -> None:
    odd = [
        ("__MACOSX/._1.dcm", b"\0\5\26\7" + bytes(4000)),
        ("Thumbs.db", b"\xd0\xcf\x11\xe0" + bytes(4000)),
        ("e", b""),
    ]
    place.write_bytes(zipped([*odd, ("1.dcm", CT)]))
    found, _ = read(place, scratch)
    assert found == {**{name: "not_dicom" for name, _ in odd}, "1.dcm": CT}


@pytest.mark.parametrize(
    "content",
    [b"", b"PK", b"\x1f\x8b", gzip.compress(b"x" * 10_000), bytes(2048), CT, b"BZh9" + CT],
    ids=["nothing", "PK", "start of gzip", "gzip of no tar", "zeros", "an instance", "bzip2 in name"],
)
def test_what_is_no_archive_is_taken_for_none(content: bytes) -> None:
    assert not is_archive(MemoryBytes(content))


def test_a_dicom_file_that_is_an_archive_too_is_a_dicom_file() -> None:
    assert not is_archive(MemoryBytes((b"PK\3\4" + CT[4:]) + zipped(STUDY)))


# -- encryption and methods ------------------------------------------------------------------------------------------


def test_an_encrypted_member_fails_and_says_so(place: Path, scratch: Scratch) -> None:
    content = bytearray(zipped([("1", CT), ("2", MR)]))
    directory = content.index(b"PK\1\2")
    content[directory + 8] |= 1
    place.write_bytes(content)
    found, outcome = read(place, scratch)
    assert found == {"1": "unreadable", "2": MR}
    assert outcome.reason == "archive"


@pytest.mark.parametrize("method", [9, 14, 93, 95, 1000])
def test_a_member_compressed_in_another_way_fails_and_says_so(place: Path, scratch: Scratch, method: int) -> None:
    content = bytearray(zipped([("1", CT), ("2", MR)]))
    struct.pack_into("<H", content, content.index(b"PK\1\2") + 10, method)
    place.write_bytes(content)
    assert read(place, scratch)[0] == {"1": "unsupported_syntax", "2": MR}


def test_a_sparse_file_fails_and_the_rest_is_read(place: Path, scratch: Scratch) -> None:
    old = bytearray(header(b"sparse", 512, b"S"))
    old[482] = 1
    old[148:156] = b" " * 8
    old[148:156] = b"%06o\0 " % sum(old)
    more = bytes(504) + b"\0" * 8
    place.write_bytes(bytes(old) + more + bytes(512) + tarred([("1", CT)]))
    assert read(place, scratch)[0] == {"sparse": "unsupported_syntax", "1": CT}


# -- bombs and lies --------------------------------------------------------------------------------------------------


def directory_of(content: bytes) -> tuple[int, bytes]:
    start = content.index(b"PK\1\2")
    return start, content[start : content.rindex(b"PK\5\6")]


def with_directory(content: bytes, directory: bytes, members: int) -> bytes:
    """A zip archive with another directory behind its members."""
    start, _ = directory_of(content)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, members & 0xFFFF, members & 0xFFFF, len(directory), start, 0)
    return content[:start] + directory + end


def test_members_that_lie_over_each_other_end_early(place: Path, scratch: Scratch) -> None:
    content = zipped([("1", CT)])
    _, directory = directory_of(content)
    place.write_bytes(with_directory(content, directory * 5000, 5000))
    found, outcome = read(place, scratch)
    assert found == {"1": CT}
    assert isinstance(outcome, Failed)
    assert "over each other" in outcome.message


def test_what_holds_too_many_times_its_size_ends_early(
    place: Path, scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member_module, "RATIO_FLOOR_BYTES", 1 << 20)
    big = CT[:3000] + bytes(900_000)
    for content in (
        zipped([(str(number), big) for number in range(100)]),
        tarred([(str(number), big) for number in range(100)], "w:gz"),
        tarred([(str(number), b"x" * 900_000) for number in range(100)], "w:xz"),
    ):
        place.write_bytes(content)
        found, outcome = read(place, scratch)
        assert len(found) < 100
        assert isinstance(outcome, Failed)
        assert outcome.reason == "too_large"
        assert "archives.max_ratio" in outcome.message


def test_an_endless_stream_of_nothing_ends(place: Path, scratch: Scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member_module, "RATIO_FLOOR_BYTES", 1 << 20)
    place.write_bytes(gzip.compress(header(b"1", len(CT)) + CT + bytes(-len(CT) % 512) + bytes(200 << 20)))
    found, outcome = read(place, scratch)
    assert found == {"1": CT}
    assert outcome.reason == "too_large"
    place.write_bytes(header(b"x") * 5000)
    found, outcome = read(place, scratch)
    assert len(found) == 1000
    assert isinstance(outcome, Failed)
    assert "archives.max_members" in outcome.message


def test_a_declared_size_is_not_believed(place: Path, scratch: Scratch) -> None:
    content = bytearray(zipped([("1", CT), ("2", MR)]))
    start, _ = directory_of(bytes(content))
    for size, reason in (
        (1 << 30, "too_large"),
        (len(CT) + 1, "unreadable"),
        (len(CT) - 1, "unreadable"),
        (0, "unreadable"),
    ):
        struct.pack_into("<L", content, start + 24, size)
        place.write_bytes(content)
        assert read(place, scratch)[0] == {"1": reason, "2": MR}
    for size in (1 << 62, 8 << 30):
        field = b"\x80" + size.to_bytes(11, "big")
        place.write_bytes(header(b"1") + header(b"2", size_field=field) + END)
        found, outcome = read(place, scratch)
        assert found["2"] == "too_large"
        assert isinstance(outcome, Failed)
    for field in (b"\xff" * 12, b"99999999999\0", b"\x80" + b"\xff" * 11):
        place.write_bytes(header(b"1", size_field=field) + END)
        assert isinstance(read(place, scratch)[1], Failed)


def test_sizes_of_64_bits_are_read_and_not_believed(place: Path, scratch: Scratch) -> None:
    content = zipped([("1", CT)], zipfile.ZIP_STORED)
    start, directory = directory_of(content)
    for size, reason in ((len(CT), CT), (1 << 60, "unreadable"), ((1 << 64) - 1, "unreadable")):
        extra = struct.pack("<2H3Q", 1, 24, size, size, 0)
        head = bytearray(directory[:46])
        struct.pack_into("<2L", head, 20, 0xFFFFFFFF, 0xFFFFFFFF)
        struct.pack_into("<L", head, 42, 0xFFFFFFFF)
        struct.pack_into("<H", head, 30, len(extra))
        listed = bytes(head) + b"1" + extra
        end64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, len(listed), start)
        locator = struct.pack("<4sLQL", b"PK\6\7", 0, start + len(listed), 1)
        end = struct.pack("<4s4H2LH", b"PK\5\6", 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
        place.write_bytes(content[:start] + listed + end64 + locator + end)
        found, outcome = read(place, scratch)
        if isinstance(reason, bytes):
            assert found == {"1": reason}
        else:
            assert found.get("1", reason) in {reason, "too_large"}
            assert isinstance(outcome, Failed) or found["1"] == "too_large"


def test_a_directory_that_lies_is_damage(place: Path, scratch: Scratch) -> None:
    content = zipped(STUDY)
    start, directory = directory_of(content)
    shifted = bytearray(directory)
    struct.pack_into("<L", shifted, 42, 7)
    for listed, members in ((directory, 9), (directory[:-3], 4), (b"XX" + directory[2:], 4)):
        place.write_bytes(with_directory(content, listed, members))
        assert isinstance(read(place, scratch)[1], Failed)
    place.write_bytes(with_directory(content, bytes(shifted), 4))
    found, _ = read(place, scratch)
    assert found["study/1.dcm"] == "unreadable"
    assert found["study/2"] == MR
    place.write_bytes(content[:start] + directory + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 4, 4, 1 << 31, 0, 0))
    assert isinstance(read(place, scratch)[1], Failed)


def test_an_archive_behind_other_bytes_and_one_with_a_comment_are_read(place: Path, scratch: Scratch) -> None:
    content = zipped(STUDY)
    with_comment = content[:-2] + struct.pack("<H", 5) + b"PK\5\6!"
    for one in (content, with_comment):
        place.write_bytes(b"PK\3\4" + bytes(2000) + one)
        found, outcome = read(place, scratch)
        assert found["study/1.dcm"] == CT
        assert isinstance(outcome, Skipped)


def test_texts_that_extend_a_header_are_bounded(place: Path, scratch: Scratch) -> None:
    for size, kind in ((1 << 40, b"x"), (2 << 20, b"L")):
        place.write_bytes(header(b"long", size_field=b"\x80" + size.to_bytes(11, "big"), kind=kind) + bytes(4 << 20))
        assert read(place, scratch)[1].reason == "too_large"
    place.write_bytes(header(b"x", 0, b"x") * 100 + END)
    assert read(place, scratch)[1].reason == "too_large"
    for records in (b"99999 path=x\n", b"0 path=x\n", b"-5 path=x\n", b"x", b"6 path\n", b"20 size=9999999999999\n"):
        padded = records + bytes(-len(records) % 512)
        place.write_bytes(header(b"x", len(records), b"x") + padded + header(b"1", len(CT)) + CT + END)
        read(place, scratch)


def test_archives_one_behind_the_other_are_all_read(place: Path, scratch: Scratch) -> None:
    place.write_bytes(tarred([("1", CT)]) + tarred([("2", MR)]))
    assert read(place, scratch)[0] == {"1": CT, "2": MR}
    whole = tarred([("1", CT), ("2", MR)])
    place.write_bytes(gzip.compress(whole[:700]) + gzip.compress(whole[700:]) + bytes(100))
    found, outcome = read(place, scratch)
    assert found == {"1": CT, "2": MR}
    assert isinstance(outcome, Skipped)


def test_a_tar_without_its_end_mark_is_damage(place: Path, scratch: Scratch) -> None:
    place.write_bytes(header(b"1", len(CT)) + CT + bytes(-len(CT) % 512))
    found, outcome = read(place, scratch)
    assert found == {"1": CT}
    assert isinstance(outcome, Failed)
    assert "end mark" in outcome.message


def test_an_archive_that_changes_meanwhile_is_damage(place: Path, scratch: Scratch) -> None:
    from exporter.inputs.archives.members import ArchiveMembers
    from tests.exporter.inputs.making import Nothing

    place.write_bytes(zipped(STUDY))
    entries = ArchiveMembers("a", place, LIMITS).entries(Nothing(), scratch)
    next(entries)
    os.utime(place, ns=(0, 0))
    *_, last = entries
    assert isinstance(last.decided, Failed)
    assert "changed" in last.decided.message


def test_a_member_beyond_the_limit_of_instances_fails_alone(place: Path, scratch: Scratch) -> None:
    limits = ArchiveLimits(1000, 20_000, 50)
    for content in (zipped([("1", CT), ("2", CT[:9000])]), tarred([("1", CT), ("2", CT[:9000])], "w:gz")):
        place.write_bytes(content)
        found, outcome = read(place, scratch, limits)
        assert found == {"1": "too_large", "2": CT[:9000]}
        assert isinstance(outcome, Skipped)


def test_xz_that_wants_much_memory_is_refused(place: Path, scratch: Scratch) -> None:
    content = bytearray(tarred([("1", CT)], "w:xz"))
    # The block header (RFC-less: "The .xz File Format" 3.1): size, flags, filter LZMA2, one byte for the dictionary.
    assert content[12:16] == b"\x02\x00\x21\x01"
    content[16] = 40  # 4 GiB
    content[20:24] = struct.pack("<L", zlib.crc32(content[12:20]))
    place.write_bytes(content)
    assert not is_archive(MemoryBytes(bytes(content)))
    _, outcome = read(place, scratch)
    assert isinstance(outcome, Failed)
    assert "memory" in outcome.message
