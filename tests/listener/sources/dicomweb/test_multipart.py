"""The multipart parser: what it finds does not depend on how the body is cut, and nothing that is none passes."""

from __future__ import annotations

from email import message_from_bytes, policy
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from listener.sources.dicomweb.multipart import LONGEST_HEADER, Malformed, Multipart, media_type
from tests.listener.sources.dicomweb.store import BOUNDARY, multipart, part

if TYPE_CHECKING:
    from collections.abc import Mapping


class Collected:
    """Parts as they are told."""

    def __init__(self) -> None:
        self.parts: list[tuple[dict[str, str], bytes]] = []
        self.open: tuple[dict[str, str], bytearray] | None = None
        self.largest = 0

    def begin_part(self, header: Mapping[str, str]) -> None:
        assert self.open is None
        self.open = dict(header), bytearray()

    def data(self, piece: memoryview) -> None:
        assert self.open is not None
        self.open[1].extend(piece)

    def end_part(self) -> None:
        assert self.open is not None
        self.parts.append((self.open[0], bytes(self.open[1])))
        self.open = None


def parse(body: bytes, cuts: list[int] | None = None, boundary: str = BOUNDARY) -> list[tuple[dict[str, str], bytes]]:
    found = Collected()
    parser = Multipart(boundary, found)
    at = 0
    for cut in [*sorted(cuts or []), len(body)]:
        parser.feed(body[at:cut])
        at = max(at, cut)
        assert len(parser._held) <= LONGEST_HEADER + 400
    parser.finish()
    assert found.open is None
    return found.parts


TRICKY = st.lists(
    st.sampled_from([b"\r\n", b"\r", b"\n", b"-", b"--", b"a-boundary", b"\r\n--a-boundar", b"\r\n-", b"x", b"\0"]),
    max_size=12,
).map(b"".join)


@settings(max_examples=300, deadline=None)
@given(st.lists(TRICKY, max_size=4), st.data())
def test_parts_are_found_however_the_body_is_cut(contents: list[bytes], data: st.DataObject) -> None:
    contents = [c for c in contents if b"\r\n--a-boundary" not in b"\r\n" + c]
    body = data.draw(st.sampled_from([b"", b"preamble\r\n", b"\r\n"])) + multipart(part(c) for c in contents)
    body += data.draw(st.sampled_from([b"", b"epilogue", b"\r\n--a-boundary\r\n\r\nno part"]))
    cuts = data.draw(st.lists(st.integers(0, len(body)), max_size=20))
    wanted = [({"content-type": "application/dicom"}, c) for c in contents]
    assert parse(body, cuts) == wanted
    assert parse(body, list(range(len(body)))) == wanted


def test_an_independent_parser_finds_the_same() -> None:
    contents = [b"one\r\n", b"--a-boundarx", b"\r\n\r\n", bytes(range(256)).replace(b"\r", b"")]
    body = multipart(part(c) for c in contents)
    message = message_from_bytes(
        b'Content-Type: multipart/related; boundary="a-boundary"\r\n\r\n' + body, policy=policy.HTTP
    )
    theirs = [p.get_payload(decode=True) for p in message.iter_parts()]
    assert [content for _, content in parse(body)] == contents
    assert theirs[1:3] == contents[1:3]


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        (b"--a-boundary  \t \r\n\r\nx\r\n--a-boundary--", [({}, b"x")]),
        (b"--a-boundary\r\n\r\n\r\n--a-boundary--", [({}, b"")]),
        (b"--a-boundary\r\nA: b\r\n\tc\r\nD:e\r\n\r\nx\r\n--a-boundary--junk", [({"a": "b c", "d": "e"}, b"x")]),
        (b"text --a-boundary\r\n--a-boundary--\r\n", []),
    ],
)
def test_what_rfc_2046_permits_is_taken(body: bytes, parts: list[tuple[dict[str, str], bytes]]) -> None:
    assert parse(body) == parts
    assert parse(body, list(range(len(body)))) == parts


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no boundary at all",
        b"--a-boundary",
        b"--a-boundary\r\n",
        b"--a-boundary\r\n\r\nx",
        b"--a-boundary\r\n\r\nx\r\n--a-boundary",
        b"--a-boundary\r\n\r\nx\r\n--a-boundary-",
        b"--a-boundary\r\n\r\nx\r\n--a-boundaryjunk\r\n\r\n\r\n--a-boundary--",
        b"--a-boundary\n\nx\n--a-boundary--\n",
        b"--a-boundary" + b" " * 500 + b"\r\n\r\n",
        b"--a-boundary\r\nno field\r\n\r\nx\r\n--a-boundary--",
        b"--a-boundary\r\nA: 1\r\na: 2\r\n\r\nx\r\n--a-boundary--",
        b"--a-boundary\r\nContent-Type: x\r\n--a-boundary--\r\n",
        b"--a-boundary\r\nA: " + b"x" * 9000 + b"\r\n\r\nx\r\n--a-boundary--",
        b"--a-boundary\r\n" + b"x" * 100_000,
    ],
)
def test_what_is_no_multipart_body_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        parse(body)
    with pytest.raises(Malformed):
        parse(body, list(range(min(len(body), 12_000))))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=8))
def test_any_bytes_at_all_are_parsed_or_malformed(noise: bytes, cuts: list[int]) -> None:
    body = multipart([part(b"x")])
    for mixed in (noise, body[:20] + noise, body + noise, noise + b"\r\n" + body):
        try:
            parse(mixed, [c for c in cuts if c <= len(mixed)])
        except Malformed:
            continue


@pytest.mark.parametrize(
    ("value", "name", "parameters"),
    [
        ("a/b", "a/b", {}),
        (' A/B ; X="y\\"z" ;t=q/r;', "a/b", {"x": 'y"z', "t": "q/r"}),
        (
            'multipart/related; type="application/dicom";boundary==_=x',
            "multipart/related",
            {"type": "application/dicom", "boundary": "=_=x"},
        ),
    ],
)
def test_media_types_are_read(value: str, name: str, parameters: dict[str, str]) -> None:
    found = media_type(value)
    assert found.name == name
    assert found.parameters == parameters


@pytest.mark.parametrize("value", ["", "a", "a/b; c", 'a/b; c="d', "a/b; c=d; C=e", "a/b" + ";" * 2000, "a b/c"])
def test_what_is_no_media_type_is_malformed(value: str) -> None:
    with pytest.raises(Malformed):
        media_type(value)
