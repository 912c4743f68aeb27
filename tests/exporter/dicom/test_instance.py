"""What an instance is: recognised by content, its header bounded, its pixels located."""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from pydicom.data import get_testdata_file

from exporter.dicom.instance import Instance
from exporter.errors import BadGeometry, NotDicom, SkipInstance, SkipReason, TooLarge, Unreadable
from exporter.settings.settings import LimitSettings

LIMITS = LimitSettings()
EXPLICIT_LE = b"1.2.840.10008.1.2.1"
UNDEFINED = 0xFFFFFFFF
NOISE = np.random.default_rng(1).bytes(5 << 20)


def sample(name: str) -> Path:
    found = get_testdata_file(name)
    assert isinstance(found, str)
    return Path(found)


def element(group: int, number: int, vr: str, value: bytes, length: int | None = None) -> bytes:
    """One element in explicit VR little endian."""
    size = len(value) if length is None else length
    if vr in {"OB", "OW", "SQ", "UN", "UT"}:
        return struct.pack("<HH2s2xI", group, number, vr.encode(), size) + value
    return struct.pack("<HH2sH", group, number, vr.encode(), size) + value


def part10(data_set: bytes, syntax: bytes = EXPLICIT_LE) -> bytes:
    padded = syntax + b"\0" * (len(syntax) % 2)
    return bytes(128) + b"DICM" + element(2, 0x10, "UI", padded) + data_set


def bare(**uids: str) -> bytes:
    names = {"sop_class": (8, 0x16), "instance": (8, 0x18), "study": (0x20, 0xD), "series": (0x20, 0xE)}
    parts = []
    for key, (group, number) in names.items():
        value = uids.get(key, "1.2.3").encode()
        parts.append(element(group, number, "UI", value + b"\0" * (len(value) % 2)))
    return b"".join(parts)


@pytest.fixture
def make(tmp_path: Path) -> Any:
    def write(content: bytes) -> Path:
        path = tmp_path / "instance"
        path.write_bytes(content)
        return path

    return write


class TestRecognition:
    def test_a_part_10_file_tells_who_it_is(self, make: Any) -> None:
        content = part10(bare(instance="1.2.3.4", study="1.2", series="1.2.9"))
        with Instance.open(make(content), LIMITS) as instance:
            identity = instance.identity
            assert identity.sop_instance_uid == "1.2.3.4"
            assert identity.study_instance_uid == "1.2"
            assert identity.series_instance_uid == "1.2.9"
            assert instance.source_sha256 == hashlib.sha256(content).hexdigest()

    def test_the_content_hash_is_over_the_data_set_alone(self, make: Any) -> None:
        data_set = bare()
        first = Instance.open(make(part10(data_set)), LIMITS).identity.content_sha256
        sent_by_another = bytes(128) + b"DICM" + element(2, 0x10, "UI", EXPLICIT_LE + b"\0")
        sent_by_another += element(2, 0x16, "AE", b"OTHER ") + data_set
        assert Instance.open(make(sent_by_another), LIMITS).identity.content_sha256 == first
        assert first == hashlib.sha256(data_set).hexdigest()

    @pytest.mark.parametrize("prefix", [b"", bytes(128) + b"DICM", b"DICM"])
    def test_preamble_and_meta_information_may_be_missing(self, make: Any, prefix: bytes) -> None:
        instance = Instance.open(make(prefix + bare(instance="1.2.3.4")), LIMITS)
        assert instance.identity.sop_instance_uid == "1.2.3.4"
        assert instance.transfer_syntax == EXPLICIT_LE.decode()
        assert instance.warnings

    @pytest.mark.parametrize("name", ["ExplVR_BigEndNoMeta.dcm", "ExplVR_LitEndNoMeta.dcm", "rtstruct.dcm"])
    def test_bare_data_sets_of_every_encoding_are_read(self, name: str) -> None:
        assert Instance.open(sample(name), LIMITS).identity.sop_instance_uid

    def test_a_data_set_in_another_encoding_than_stated_is_read_as_its_bytes_are(self, make: Any) -> None:
        implicit = b"1.2.840.10008.1.2\0"
        instance = Instance.open(make(part10(bare(instance="1.2.3.4"), implicit)), LIMITS)
        assert instance.identity.sop_instance_uid == "1.2.3.4"
        assert any("read as its bytes are" in warning for warning in instance.warnings)

    def test_a_transfer_syntax_that_is_no_uid_is_told_nowhere(self, make: Any) -> None:
        instance = Instance.open(make(part10(bare(instance="1.2.3.4"), b"Doe^John 1970\0")), LIMITS)
        assert instance.identity.sop_instance_uid == "1.2.3.4"
        assert instance.transfer_syntax == EXPLICIT_LE.decode()
        assert "Doe" not in f"{instance!r}{instance.warnings}"
        assert instance.warnings

    @pytest.mark.parametrize(
        "content",
        [
            pytest.param(b"", id="empty"),
            pytest.param(b"\x7fELF" + bytes(2000), id="elf"),
            pytest.param(b"%PDF-1.7\n" + b"x" * 500, id="pdf"),
            pytest.param(b"PK\x03\x04" + bytes(300), id="zip"),
            pytest.param(b"\0", id="one byte"),
            pytest.param(b"DIC", id="three bytes"),
            pytest.param(bytes(4096), id="zeros"),
            pytest.param(b"\xff" * 4096, id="ones"),
            pytest.param(NOISE[:100_000], id="random"),
            pytest.param(b'{"file": "x.dcm"}\n' * 50, id="json"),
            pytest.param(bytes(128) + b"DICX" + bytes(90), id="almost"),
        ],
    )
    def test_what_is_not_dicom_is_refused(self, make: Any, content: bytes) -> None:
        with pytest.raises(NotDicom):
            Instance.open(make(content), LIMITS)

    def test_a_sparse_terabyte_is_refused_at_once(self, tmp_path: Path) -> None:
        path = tmp_path / "sparse"
        with path.open("wb") as file:
            file.truncate(1 << 40)
        started = time.monotonic()
        with pytest.raises(TooLarge):
            Instance.open(path, LIMITS)
        assert time.monotonic() - started < 1

    def test_a_directory_of_instances_is_skipped(self) -> None:
        with pytest.raises(SkipInstance) as caught:
            Instance.open(sample("DICOMDIR-bigEnd"), LIMITS)
        assert caught.value.reason is SkipReason.DICOMDIR

    def test_links_folders_and_pipes_are_not_opened(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(sample("CT_small.dcm"))
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "folder").mkdir()
        for name in ("link", "pipe", "folder"):
            with pytest.raises(SkipInstance) as caught:
                Instance.open(tmp_path / name, LIMITS)
            assert caught.value.reason is SkipReason.NOT_REGULAR

    def test_a_file_that_is_not_there_is_unreadable(self, tmp_path: Path) -> None:
        with pytest.raises(Unreadable):
            Instance.open(tmp_path / "none", LIMITS)


class TestDeflated:
    SYNTAX = b"1.2.840.10008.1.2.1.99"

    @staticmethod
    def deflate(raw: bytes, *, window: int = -15) -> bytes:
        packer = zlib.compressobj(9, zlib.DEFLATED, window)
        return packer.compress(raw) + packer.flush()

    @pytest.mark.parametrize("window", [-15, 15], ids=["raw", "with a zlib header"])
    def test_a_deflated_data_set_is_inflated(self, make: Any, window: int) -> None:
        packed = self.deflate(bare(instance="1.2.3.4"), window=window)
        assert Instance.open(make(part10(packed, self.SYNTAX)), LIMITS).identity.sop_instance_uid == "1.2.3.4"

    def test_a_large_one_is_read_from_a_file_without_a_name(self, make: Any, tmp_path: Path) -> None:
        pixels = NOISE * 4
        header = bare() + element(0x28, 0x10, "US", b"\x10\0") + element(0x28, 0x11, "US", b"\x10\0")
        header += element(0x28, 0x100, "US", b"\x08\0") + element(0x7FE0, 0x10, "OB", pixels)
        path = make(part10(self.deflate(header), self.SYNTAX))
        instance = Instance.open(path, LIMITS)
        assert instance.pixels is not None
        assert instance.data.read_at(instance.pixels.offset, 16) == pixels[:16]
        assert [p.name for p in tmp_path.iterdir()] == [path.name]

    def test_one_that_passes_the_largest_file_of_a_worker_is_too_large(self, make: Any) -> None:
        path = make(part10(self.deflate(bare() + element(0x7FE0, 0x10, "OB", NOISE * 4)), self.SYNTAX))
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
        try:
            with pytest.raises(TooLarge, match="largest size that a worker may write"):
                Instance.open(path, LIMITS)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    def test_a_bomb_is_refused_in_little_memory(self, make: Any) -> None:
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(256)) + packer.flush()
        path = make(part10(bomb, self.SYNTAX))
        before = psutil.Process().memory_info().rss
        with pytest.raises(TooLarge):
            Instance.open(path, LimitSettings(max_inflated_bytes=64 << 20))
        assert psutil.Process().memory_info().rss - before < 64 << 20

    @pytest.mark.parametrize(("tail", "told"), [(b"", 0), (b"\0", 0), (b"\0more", 1)])
    def test_bytes_behind_the_stream_are_told(self, make: Any, tail: bytes, told: int) -> None:
        instance = Instance.open(make(part10(self.deflate(bare()) + tail, self.SYNTAX)), LIMITS)
        warned = [warning for warning in instance.warnings if "5 bytes behind the deflated data set" in warning]
        assert len(warned) == told

    def test_the_end_of_a_gzip_member_is_nothing_odd(self, make: Any) -> None:
        trailer = struct.pack("<II", zlib.crc32(bare()), len(bare()))
        instance = Instance.open(make(part10(self.deflate(bare()) + trailer + b"\0", self.SYNTAX)), LIMITS)
        assert instance.warnings == []

    @pytest.mark.parametrize("damage", ["cut", "garbled"])
    def test_a_damaged_stream_is_unreadable(self, make: Any, damage: str) -> None:
        packed = self.deflate(bare() * 50)
        packed = packed[: len(packed) // 2] if damage == "cut" else b"\xff" * 50 + packed[50:]
        with pytest.raises(Unreadable):
            Instance.open(make(part10(packed, self.SYNTAX)), LIMITS)


class TestHostileHeaders:
    def nested(self, depth: int, *, undefined: bool) -> bytes:
        inner = b""
        for _ in range(depth):
            if undefined:
                item = struct.pack("<HHI", 0xFFFE, 0xE000, UNDEFINED) + inner + struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
                inner = element(0x40, 0xA730, "SQ", item + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0), UNDEFINED)
            else:
                item = struct.pack("<HHI", 0xFFFE, 0xE000, len(inner)) + inner
                inner = element(0x40, 0xA730, "SQ", item)
        return inner

    @pytest.mark.parametrize("undefined", [False, True], ids=["defined lengths", "undefined lengths"])
    @pytest.mark.parametrize("depth", [65, 100, 300, 20_000])
    def test_sequences_nested_too_deep_are_refused(self, make: Any, depth: int, undefined: bool) -> None:
        if not undefined and depth > 1000:
            pytest.skip("the innermost length would not fit")
        with pytest.raises(TooLarge):
            Instance.open(make(part10(bare() + self.nested(depth, undefined=undefined))), LIMITS)

    @pytest.mark.parametrize("undefined", [False, True], ids=["defined lengths", "undefined lengths"])
    def test_sequences_as_deep_as_permitted_are_read(self, make: Any, undefined: bool) -> None:
        instance = Instance.open(make(part10(bare() + self.nested(64, undefined=undefined))), LIMITS)
        assert instance.header[0x0040A730].value[0]

    def test_a_million_empty_items_are_refused_quickly(self, make: Any) -> None:
        items = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 1_000_000
        path = make(part10(bare() + element(0x40, 0xA730, "SQ", items)))
        started, before = time.process_time(), psutil.Process().memory_info().rss
        with pytest.raises(TooLarge):
            Instance.open(path, LimitSettings(max_elements=200_000))
        assert time.process_time() - started < 3
        assert psutil.Process().memory_info().rss - before < 64 << 20

    def test_a_header_of_too_many_bytes_is_refused(self, make: Any) -> None:
        path = make(part10(bare() + element(0x42, 0x11, "OB", bytes(3 << 20))))
        with pytest.raises(TooLarge):
            Instance.open(path, LimitSettings(max_header_bytes=1 << 20))

    @pytest.mark.parametrize("length", [0x7FFFFFFE, 0xFFFFFFFE])
    def test_a_length_beyond_the_file_is_unreadable(self, make: Any, length: int) -> None:
        path = make(part10(bare() + element(0x42, 0x11, "OB", b"abcd", length)))
        with pytest.raises(Unreadable, match=r"\(0042,0011\)"):
            Instance.open(path, LIMITS)

    def test_every_truncation_of_a_file_ends_in_a_named_reason(self, make: Any) -> None:
        content = sample("CT_small.dcm").read_bytes()
        for length in range(0, 6000, 37):
            with contextlib.suppress(NotDicom, Unreadable, BadGeometry):
                instance = Instance.open(make(content[:length]), LIMITS)
                assert instance.identity
                assert instance.pixels is None

    def test_messages_hold_no_values(self, make: Any) -> None:
        secret = b"DOE^JANE^1951"
        data_set = bare() + element(0x10, 0x10, "PN", secret + b"\0") + element(0x28, 0x8, "IS", secret + b"\0")
        data_set += element(0x28, 0x10, "US", b"\x10\0") + element(0x28, 0x11, "US", b"\x10\0")
        data_set += element(0x28, 0x100, "US", b"\x08\0") + element(0x7FE0, 0x10, "OB", bytes(256))
        instance = Instance.open(make(part10(data_set)), LIMITS)
        with pytest.raises(BadGeometry) as caught:
            _ = instance.pixels
        assert "Number of Frames" in str(caught.value)
        assert "DOE" not in f"{caught.value}{instance!r}{instance.warnings}"

    def test_a_header_whose_nesting_makes_no_sense_is_read_to_a_limit(self, make: Any) -> None:
        no_item = element(0x40, 0xA730, "SQ", b"abcdefgh")
        items = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 600_000 + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
        path = make(part10(bare() + no_item + element(0x40, 0xA731, "SQ", items, UNDEFINED)))
        with pytest.raises(Unreadable):
            _ = Instance.open(path, LimitSettings(max_header_bytes=1 << 20)).identity


def item(content: bytes, *, order: str = "<", undefined: bool = False) -> bytes:
    length = UNDEFINED if undefined else len(content)
    end = struct.pack(f"{order}HHI", 0xFFFE, 0xE00D, 0) if undefined else b""
    return struct.pack(f"{order}HHI", 0xFFFE, 0xE000, length) + content + end


def image(*, rows: int = 4, columns: int = 4) -> bytes:
    """The elements of an image of 16 bits, without its pixels."""
    numbers = {2: 1, 0x10: rows, 0x11: columns, 0x100: 16, 0x101: 16, 0x102: 15, 0x103: 0}
    parts = {number: element(0x28, number, "US", struct.pack("<H", value)) for number, value in numbers.items()}
    parts[4] = element(0x28, 4, "CS", b"MONOCHROME2 ")
    return b"".join(parts[number] for number in sorted(parts))


NATIVE = element(0x7FE0, 0x10, "OW", bytes(32))
FRAGMENTS = element(0x7FE0, 0x10, "OB", item(b"") + item(bytes(40)) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0), UNDEFINED)
SEQUENCE_END = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


class TestBehindPixelData:
    SIGNATURES = element(0xFFFA, 0xFFFA, "SQ", item(element(0x400, 5, "US", b"\1\0")))
    BEHIND = element(0x7FE1, 0x10, "LO", b"GEMS") + element(0x7FE1, 0x1001, "LO", b"told") + SIGNATURES
    PADDING = element(0xFFFC, 0xFFFC, "OB", bytes(10))

    @pytest.mark.parametrize("pixels", [NATIVE, FRAGMENTS], ids=["native", "encapsulated"])
    def test_elements_behind_pixel_data_are_part_of_the_header(self, make: Any, pixels: bytes) -> None:
        instance = Instance.open(make(part10(bare() + image() + pixels + self.BEHIND + self.PADDING)), LIMITS)
        assert instance.header[0x7FE11001].value == "told"
        assert instance.header[0xFFFAFFFA].value[0][0x04000005].value == 1
        assert 0xFFFCFFFC in instance.header
        assert instance.warnings == []
        assert instance.pixels is not None
        assert instance.pixels.offset < instance.size_bytes - len(self.BEHIND)

    def test_they_are_found_without_reading_the_pixels(self, tmp_path: Path) -> None:
        path, size = tmp_path / "huge", 5 << 30
        head = part10(bare() + image()) + struct.pack("<HH2s2xI", 0x7FE0, 0x10, b"OW", 0xFFFFFFF0)
        with path.open("wb") as file:
            file.write(head)
            file.truncate(len(head) + 0xFFFFFFF0)
            file.seek(0, os.SEEK_END)
            file.write(self.BEHIND)
        assert path.stat().st_size > size - (2 << 30)
        started, before = time.process_time(), psutil.Process().memory_info().rss
        with Instance.open(path, LIMITS) as instance:
            assert instance.header[0x7FE11001].value == "told"
        assert time.process_time() - started < 1
        assert psutil.Process().memory_info().rss - before < 16 << 20

    @pytest.mark.parametrize(
        ("tail", "says"),
        [
            (b"\0" * 5, "padding follows"),
            (b"\0" * 4096, "padding follows"),
            (b"\0" * 8 + b"x" * 100, "100 bytes behind the pixel data are left out"),
            (b"\0\0\0\0\x10\0\0\0zz", "10 bytes behind the pixel data are left out"),
            (b"no elements at all!!", "20 bytes behind the pixel data are left out"),
            (element(0x7FE1, 0x10, "LO", b"GEMS", 500), "12 bytes behind the pixel data are left out"),
        ],
        ids=["few zeros", "zeros", "zeros and more", "tag 0", "garbage", "a cut element"],
    )
    def test_what_is_damaged_there_is_told_and_costs_no_picture(self, make: Any, tail: bytes, says: str) -> None:
        further = element(0x7FE1, 0x11, "LO", b"OTHER ")
        for behind in (b"", further):
            instance = Instance.open(make(part10(bare() + image() + NATIVE + behind + tail)), LIMITS)
            assert any(warning.startswith(says) for warning in instance.warnings)
            assert instance.pixels is not None
            assert instance.pixels.length == 32
            assert (0x7FE10011 in instance.header) == bool(behind)
            assert "Group Length" not in str(instance.header)

    def test_limits_hold_behind_pixel_data_too(self, make: Any) -> None:
        tail = element(0x7FE1, 0x1001, "OB", bytes(5000)) + element(0x7FE1, 0x1002, "OB", bytes(5000))
        limits = LimitSettings(max_header_bytes=8000)
        instance = Instance.open(make(part10(bare() + image() + NATIVE + tail)), limits)
        assert 0x7FE11001 in instance.header
        assert 0x7FE11002 not in instance.header
        assert any("limits.max_header_bytes" in warning for warning in instance.warnings)

    def test_a_second_pixel_data_element_is_told(self, make: Any) -> None:
        second = element(0x7FE0, 0x10, "OW", bytes(64)) + self.BEHIND
        instance = Instance.open(make(part10(bare() + image() + NATIVE + second)), LIMITS)
        assert instance.pixels is not None
        assert instance.pixels.length == 32
        assert any("pixel data more than once" in warning for warning in instance.warnings)
        empty = element(0x7FE0, 0x10, "OW", b"")
        instance = Instance.open(make(part10(bare() + image() + empty + NATIVE + self.BEHIND)), LIMITS)
        assert instance.pixels is not None
        assert instance.pixels.length == 32
        assert instance.header[0x7FE11001].value == "told"


class TestNoElementIsPassedOver:
    """An element counts or is told; an instance without media has no bytes that nobody has read."""

    PIXELS = image(rows=256, columns=256) + element(0x7FE0, 0x10, "OW", bytes(131_072))
    UID = element(8, 0x1150, "UI", b"1.2\0")

    @pytest.mark.parametrize(
        "open_sequence",
        [
            element(8, 0x1140, "SQ", item(UID), 12),
            element(8, 0x1140, "SQ", item(UID, undefined=True), UNDEFINED),
            element(8, 0x1140, "SQ", item(UID)[:4] + b"\xff\xff\xff\xff" + UID, UNDEFINED),
            element(8, 0x1140, "SQ", b"", UNDEFINED),
        ],
        ids=["too short", "without its end", "an item without its end", "nothing"],
    )
    def test_pixel_data_behind_a_sequence_that_is_not_closed_are_never_missed(
        self, make: Any, open_sequence: bytes
    ) -> None:
        with pytest.raises(Unreadable):
            _ = Instance.open(make(part10(bare() + open_sequence + self.PIXELS)), LIMITS).header

    @pytest.mark.parametrize("tail", [b"\0\0\0\0\x10\0\0\0zz", b"\0" * 8 + b"x" * 100], ids=["tag 0", "zeros and more"])
    def test_bytes_that_are_no_elements_are_no_harmless_end(self, make: Any, tail: bytes) -> None:
        with pytest.raises(Unreadable, match=r"not elements follow|ends inside"):
            Instance.open(make(part10(bare() + tail)), LIMITS)

    def test_an_element_of_group_0000_is_one_where_it_has_a_representation(self, make: Any) -> None:
        odd = element(0, 0x60, "CS", b"CT")
        instance = Instance.open(make(part10(bare() + odd + image() + NATIVE)), LIMITS)
        assert instance.pixels is not None
        assert instance.header[0x00000060].value == "CT"
        assert any("ascending order" in warning for warning in instance.warnings)

    def test_zeros_between_elements_hide_none_of_them(self, make: Any) -> None:
        instance = Instance.open(make(part10(bare() + bytes(8) + image() + bytes(16) + NATIVE)), LIMITS)
        assert instance.pixels is not None
        assert len(instance.header) == 12
        assert instance.warnings == ["zeros lie between elements: left out"]

    def test_very_many_zeros_are_passed_over_once(self, make: Any) -> None:
        started = time.process_time()
        with pytest.raises((Unreadable, TooLarge)):
            Instance.open(make(part10(bare() + bytes(100 << 20) + b"x" * 100)), LIMITS)
        assert time.process_time() - started < 3

    def test_pixel_data_of_an_impossible_representation_are_found(self, make: Any) -> None:
        odd = struct.pack("<HH", 0x7FE0, 0x10) + b"O\xf0" + struct.pack("<H", 32) + bytes(32)
        instance = Instance.open(make(part10(bare() + image() + odd)), LIMITS)
        assert instance.pixels is not None
        assert instance.pixels.length == 32

    def test_zeros_at_the_end_make_no_element(self, make: Any) -> None:
        instance = Instance.open(make(part10(bare() + bytes(4096))), LIMITS)
        assert len(instance.header) == 4
        assert instance.warnings == ["padding follows the last element"]

    def test_of_elements_that_occur_twice_the_first_counts_and_it_is_told(self, make: Any) -> None:
        twice = bare() + image() + element(0x28, 0x10, "US", b"\x09\0") + NATIVE + element(0x28, 0x11, "US", b"\7\0")
        instance = Instance.open(make(part10(twice)), LIMITS)
        assert (instance.header.Rows, instance.header.Columns) == (4, 4)
        assert sum("occurs more than once" in warning for warning in instance.warnings) == 2

    def test_a_data_set_in_pieces_without_number_is_refused_quickly(self, make: Any) -> None:
        stray = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
        pieces = b"".join(element(0x8001, 0x1000 + number, "CS", b"CT") + stray for number in range(50_000))
        started = time.process_time()
        with pytest.raises(Unreadable, match="out of place"):
            Instance.open(make(part10(bare() + pieces)), LIMITS)
        instance = Instance.open(make(part10(bare() + image() + NATIVE + pieces)), LIMITS)
        assert instance.header[0x80011000].value == "CT"
        assert any("out of place" in warning for warning in instance.warnings)
        assert time.process_time() - started < 3

    def test_an_order_in_items_that_may_cost_elements_is_told(self, make: Any) -> None:
        for inner, told in ((self.UID + self.UID, True), (self.UID, False)):
            nested = element(8, 0x1140, "SQ", item(inner) + item(inner))
            warnings = Instance.open(make(part10(nested)), LIMITS).warnings
            assert any("sequence item are not in ascending order" in warning for warning in warnings) == told

    def test_pixel_data_that_declare_more_than_is_there_are_told(self, make: Any) -> None:
        longer = element(0x7FE0, 0x10, "OW", bytes(32), 40)
        instance = Instance.open(make(part10(bare() + image() + longer)), LIMITS)
        assert instance.pixels is not None
        assert any("40 bytes declared, 32 there" in warning for warning in instance.warnings)

    def test_elements_behind_a_delimiter_that_belongs_to_nothing_are_read(self, make: Any) -> None:
        stray = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
        instance = Instance.open(make(part10(bare() + stray + image() + NATIVE)), LIMITS)
        assert instance.pixels is not None
        assert any("delimiter" in warning for warning in instance.warnings)

    def test_an_image_that_its_meta_information_calls_a_dicomdir_is_read(self, make: Any) -> None:
        directory = element(2, 2, "UI", b"1.2.840.10008.1.3.10") + element(2, 0x10, "UI", EXPLICIT_LE + b"\0")
        content = bytes(128) + b"DICM" + directory + bare() + image() + NATIVE
        instance = Instance.open(make(content), LIMITS)
        assert instance.pixels is not None
        assert any("DICOMDIR" in warning for warning in instance.warnings)

    @pytest.mark.parametrize("order", ["<", ">"], ids=["little endian items", "big endian items"])
    def test_un_sequences_of_undefined_length_in_big_endian_are_read(self, make: Any, order: str) -> None:
        def big(group: int, number: int, vr: str, value: bytes, length: int | None = None) -> bytes:
            head = element(group, number, vr, value, length)
            order_of = ">HH2s2xI" if vr in {"UN", "SQ", "OW"} else ">HH2sH"
            return (
                struct.pack(order_of, group, number, vr.encode(), len(value) if length is None else length)
                + head[len(head) - len(value) :]
            )

        rows = struct.pack(f"{order}HHIH", 0x28, 0x10, 2, 7)
        delimiter = struct.pack(f"{order}HHI", 0xFFFE, 0xE0DD, 0)
        unknown = big(9, 0x1001, "UN", item(rows, order=order, undefined=True) + delimiter, UNDEFINED)
        nested = big(9, 0x1140, "SQ", item(unknown, order=">"))
        content = big(8, 0x18, "UI", b"1.2.3\0") + big(9, 0x10, "LO", b"ACME") + unknown + nested
        content += big(0x28, 0x10, "US", b"\0\4") + big(0x7FE0, 0x10, "OW", bytes(32))
        instance = Instance.open(make(part10(content, b"1.2.840.10008.1.2.2")), LIMITS)
        assert instance.header.Rows == 4
        assert instance.header[0x00091001].value[0].Rows == 7
        assert 0x00091001 in instance.header[0x00091140].value[0]


class TestPixelDescription:
    def described(self, make: Any, **values: Any) -> Any:
        numbers = {"rows": (0x10, 4), "columns": (0x11, 4), "allocated": (0x100, 16), "stored": (0x101, 12)}
        parts = [bare(), element(0x28, 2, "US", struct.pack("<H", values.pop("samples", 1)))]
        if "frames" in values:
            text = str(values.pop("frames")).encode()
            parts.append(element(0x28, 8, "IS", text + b" " * (len(text) % 2)))
        for name, (number, default) in numbers.items():
            value = values.pop(name, default)
            if value is not None:
                parts.append(element(0x28, number, "US", struct.pack("<H", value)))
        parts.append(element(0x7FE0, 0x10, "OW", bytes(32)))
        limits = values.pop("limits", LIMITS)
        assert not values
        return Instance.open(make(part10(b"".join(parts))), limits).pixels

    def test_pixels_are_described_and_located(self, make: Any) -> None:
        pixels = self.described(make)
        assert (pixels.rows, pixels.columns, pixels.frames, pixels.bits_stored, pixels.high_bit) == (4, 4, 1, 12, 11)
        assert (pixels.length, pixels.encapsulated, pixels.keyword) == (32, False, "PixelData")

    @pytest.mark.parametrize(
        "values",
        [
            {"rows": 0},
            {"columns": 0},
            {"rows": None},
            {"allocated": None},
            {"allocated": 11},
            {"allocated": 24},
            {"stored": 17},
            {"frames": "-1"},
            {"frames": "1A"},
            {"frames": "1.5"},
            {"frames": "1\\2"},
        ],
        ids=str,
    )
    def test_impossible_descriptions_are_refused(self, make: Any, values: dict[str, Any]) -> None:
        with pytest.raises(BadGeometry):
            self.described(make, **values)

    @pytest.mark.parametrize("values", [{"rows": 65535, "columns": 65535}, {"frames": 2**31 - 1}], ids=str)
    def test_claims_beyond_the_limits_are_refused_before_anything_is_allocated(self, make: Any, values: Any) -> None:
        with pytest.raises(TooLarge):
            self.described(make, **values)

    def test_no_frames_means_one(self, make: Any) -> None:
        assert self.described(make, frames="0").frames == 1


@pytest.mark.corpus
def test_every_file_of_the_corpus_opens_or_has_a_reason(corpus: Path) -> None:
    reasons: dict[str, str] = {}
    for path in sorted(p for p in corpus.rglob("*") if p.is_file()):
        try:
            with Instance.open(path, LIMITS) as instance:
                assert instance.identity.content_sha256
                _ = instance.pixels
        except (NotDicom, Unreadable, BadGeometry, SkipInstance) as error:
            reasons[path.name] = error.reason.value
    assert reasons == {
        "catalog.jsonl": "not_dicom",
        "remove_all.dicom": "not_dicom",
        "no_meta.dcm": "not_dicom",
        "DICOMDIR-bigEnd": "dicomdir",
        "DICOMDIR-empty.dcm": "dicomdir",
        "DICOMDIR-implicit": "dicomdir",
        "DICOMDIR-nooffset": "dicomdir",
        "badVR.dcm": "bad_geometry",
        "meta_missing_tsyntax.dcm": "bad_geometry",
        "nested_priv_SQ.dcm": "bad_geometry",
        "rtplan_truncated.dcm": "unreadable",
    }
