"""Clients that are slow, silent, gone or hostile: none harms another, and none leaves anything behind."""

from __future__ import annotations

import random
import socket
import ssl
import struct
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.listener.requestor import eventually
from tests.listener.sources.dicomweb.store import (
    BOUNDARY,
    CONTENT_TYPE,
    TOKEN,
    header,
    instance,
    multipart,
    part,
    read_answer,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.listener.sources.dicomweb.store import Store

QUICK = {"header_s": 0.3, "idle_s": 0.3, "min_bytes_per_s": 1_000_000}


def is_closed(sock: socket.socket) -> bool:
    try:
        while sock.recv(65536):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


# -- slow and silent -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [b"", b"P", b"POST /dicom-web/studies HTTP/1.1\r\nHost: x\r\n"])
def test_a_client_that_does_not_finish_its_header_is_cut(serve: Callable[..., Store], said: bytes) -> None:
    store = serve(dicomweb={"deadlines": QUICK})
    with store.connect() as sock:
        sock.sendall(said)
        assert is_closed(sock)
    assert store.counters.get("http_header_too_slow") == 1


def test_a_header_that_drips_is_cut(serve: Callable[..., Store]) -> None:
    store = serve(dicomweb={"deadlines": QUICK})
    began = time.monotonic()
    with store.connect() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nX: ")
        sock.settimeout(0.01)  # the pace of the attack
        while time.monotonic() - began < 5:
            try:
                sock.sendall(b"x")
                if not sock.recv(1):
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
    assert 0.25 < time.monotonic() - began < 5


def test_a_second_header_that_drips_is_cut_too(serve: Callable[..., Store]) -> None:
    store = serve(dicomweb={"deadlines": QUICK})
    body = multipart([part(instance())])
    with store.connect() as sock:
        sock.sendall(header(len(body)) + body)
        assert read_answer(sock).status == 200
        sock.sendall(b"POST /dicom")
        assert is_closed(sock)
    assert store.counters.get("http_header_too_slow") == 1


def test_a_body_that_stops_or_drips_is_cut_and_nothing_is_left(serve: Callable[..., Store]) -> None:
    store = serve(dicomweb={"deadlines": QUICK})
    body = multipart([part(instance("1.2.1")), part(instance("1.2.2"))])
    with store.connect() as sock:
        sock.sendall(header(len(body)) + body[:-100])
        assert read_answer(sock).status == 408
        assert is_closed(sock)
    with store.connect() as sock:
        sock.sendall(header(len(body)))
        try:
            for byte in body:
                sock.sendall(bytes([byte]))
                time.sleep(0.01)  # the pace of the attack
        except ConnectionError:
            pass
        else:
            pytest.fail("it was let go on")
    eventually(lambda: store.partial() == [], "no partial file")
    assert store.contents() == [instance("1.2.1")]


def test_a_fast_beginning_does_not_pay_for_a_slow_end(serve: Callable[..., Store]) -> None:
    store = serve(dicomweb={"deadlines": {"idle_s": 0.5, "min_bytes_per_s": 1000}})
    body = multipart([part(instance(pixels=bytes(1 << 20)))])
    began = time.monotonic()
    with store.connect() as sock:
        sock.sendall(header(len(body)) + body[:-1000])
        sock.settimeout(0.2)  # the pace of the attack
        for byte in body[-1000:]:
            try:
                sock.sendall(bytes([byte]))
                if sock.recv(100):
                    break
            except TimeoutError:
                continue
    assert time.monotonic() - began < 5


def test_a_slow_and_steady_client_is_served(serve: Callable[..., Store]) -> None:
    store = serve(dicomweb={"deadlines": {"idle_s": 0.3, "min_bytes_per_s": 1000}})
    body = multipart([part(instance())])
    with store.connect() as sock:
        sock.sendall(header(len(body)))
        for start in range(0, len(body), 100):
            sock.sendall(body[start : start + 100])
            time.sleep(0.05)  # 2000 bytes per second
        assert read_answer(sock).status == 200


def test_silent_and_dripping_connections_do_not_harm_anybody(serve: Callable[..., Store]) -> None:
    store = serve(dicomweb={"limits": {"max_connections": 40, "max_connections_per_peer": 30}})
    socks = []
    try:
        for number in range(100):
            sock = socket.create_connection(("127.0.0.1", store.port), source_address=(f"127.0.0.{2 + number % 3}", 0))
            if number % 2:
                sock.sendall(b"POST /")
            socks.append(sock)
        for number in range(5):
            began = time.monotonic()
            assert store.store(instance(f"1.2.{number}")).status == 200
            assert time.monotonic() - began < 5
    finally:
        for sock in socks:
            sock.close()


def test_connections_of_ones_own_address_that_fall_silent_make_room(serve: Callable[..., Store]) -> None:
    store = serve(dicomweb={"limits": {"max_connections": 10, "max_connections_per_peer": 10}})
    silent = [store.connect() for _ in range(10)]
    try:
        eventually(lambda: store.counters.get("http_connections") == 10, "all places are taken")

        def is_served() -> bool:
            try:
                return store.store(instance()).status == 200
            except OSError:
                return False

        eventually(is_served, "a speaking client is served", 5)
        assert store.counters.get("http_connections_displaced") >= 1
    finally:
        for sock in silent:
            sock.close()


def test_an_answer_that_nobody_reads_is_given_up(serve: Callable[..., Store], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("listener.network.http_server.UNREAD_ANSWER_S", 0.3)
    monkeypatch.setattr("listener.sources.dicomweb.app.response.encoded", lambda *_: bytes(50 << 20))
    store = serve()
    body = multipart([part(instance())])
    with store.connect() as sock:
        sock.sendall(header(len(body), "Connection: close\r\n") + body)
        eventually(lambda: store.counters.get("http_answer_not_read") == 1, "given up")


# -- gone ------------------------------------------------------------------------------------------------------------


def test_a_client_that_goes_at_any_byte_leaves_nothing_partial(store: Store) -> None:
    file = instance()
    whole = header(len(multipart([part(file)]))) + multipart([part(file)])
    for end in [*range(0, len(whole) - 1, 97), len(whole) - 1]:
        with store.connect() as sock:
            sock.sendall(whole[:end])
            if end % 2:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
    eventually(lambda: store.partial() == [], "no partial file")
    assert all(content == file for content in store.contents())
    assert store.store(file).status == 200


def test_a_client_that_goes_amid_an_instance_is_counted(store: Store) -> None:
    body = multipart([part(instance("1.2.1")), part(instance("1.2.2"))])
    with store.connect() as sock:
        sock.sendall(header(len(body)) + body[:-100])
        eventually(lambda: len(store.contents()) == 1, "the first instance is kept")
    eventually(lambda: store.counters.get("http_broken_off") == 1, "told")
    eventually(lambda: store.partial() == [], "no partial file")


def test_told_to_stop_the_request_under_way_is_answered(store: Store) -> None:
    body = multipart([part(instance())])
    with store.connect() as sock, store.connect() as idle:
        sock.sendall(header(len(body)) + body[:-50])
        eventually(lambda: len(store.partial()) == 1, "it is under way")
        cut_off: list[int] = []
        stopping = threading.Thread(target=lambda: cut_off.append(store.source.stop(10.0)))
        stopping.start()
        assert is_closed(idle)
        sock.sendall(body[-50:])
        assert read_answer(sock).status == 200
        stopping.join(100)
    assert cut_off == [0]
    with pytest.raises(ConnectionRefusedError):
        store.connect()


def test_told_to_stop_at_once_a_request_is_cut_off_and_leaves_nothing(store: Store) -> None:
    body = multipart([part(instance())])
    with store.connect() as sock:
        sock.sendall(header(len(body)) + body[:-50])
        eventually(lambda: len(store.partial()) == 1, "it is under way")
        assert store.source.stop(0.0) == 1
    assert store.partial() == []


# -- hostile ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"\x01\x00\x00\x00\x00\xcd\x00\x01" + bytes(200),
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /dicom-web/studies HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 70_000,
        header(10, "Transfer-Encoding: chunked\r\n") + b"0\r\n\r\n",
        header(10, "Content-Length: 11\r\n") + b"x" * 11,
        header(None, "Transfer-Encoding: gzip\r\n"),
        header(None, "Content-Length: -1\r\n"),
        header(None, "Transfer-Encoding: chunked\r\n") + b"zz\r\n",
        header(None, "Transfer-Encoding: chunked\r\n") + b"5;" + b"x" * 70_000,
        header(5, "A b: c\r\n"),
        b"POST /dicom-web/studies HTTP/1.1\r\n\r\n",
        b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_what_is_no_request_is_answered_400_or_cut(store: Store, said: bytes) -> None:
    with store.connect() as sock:
        try:
            sock.sendall(said)
            sock.shutdown(socket.SHUT_WR)
            answer = sock.recv(65536)
        except ConnectionError:
            answer = b""
    assert answer == b"" or answer.split(b" ")[1][:1] == b"4", answer
    assert store.contents() == []
    assert store.store(instance()).status == 200


@pytest.mark.parametrize("path", ["/dicom-web/studies", "/nowhere"])
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_a_request_of_two_lengths_ends_its_connection_and_nothing_behind_it_is_read(
    store: Store, path: str, version: bytes
) -> None:
    body = multipart([part(instance("1.2.1"))])
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    length = len(chunked) if version == b"1.1" else None
    first = header(length, "Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n", path) + chunked
    smuggled = multipart([part(instance("1.2.2"))])
    with store.connect() as sock:
        sock.sendall(first.replace(b"HTTP/1.1", b"HTTP/" + version) + header(len(smuggled)) + smuggled)
        answers = b""
        with suppress(ConnectionError):
            while piece := sock.recv(65536):
                answers += piece
    assert answers.count(b"HTTP/1.1 ") == 1
    assert answers.startswith(b"HTTP/1.1 400 ")
    assert b"connection: close" in answers.lower()
    assert store.contents() == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no boundary",
        b"--a-boundary--",
        b"--a-boundary\r\n" + b"X: y\r\n" * 5000,
        multipart([part(instance())])[:-10],
        multipart([part(instance())]).replace(b"--a-boundary--", b"--a-boundary\r\n"),
    ],
)
def test_a_body_that_is_malformed_is_answered_400(store: Store, body: bytes) -> None:
    assert store.post(body).status == 400
    eventually(lambda: store.partial() == [], "no partial file")


def test_mutants_of_a_request_are_answered_and_harm_nobody(store: Store) -> None:
    chance = random.Random(11)  # noqa: S311 - the same mutants each time
    files = [instance(f"1.2.{n}", pixels=bytes(300)) for n in range(3)]
    body = multipart(part(file) for file in files)
    seen = set()
    for _ in range(150):
        mutant = bytearray(body)
        for _ in range(chance.randrange(1, 6)):
            at = chance.randrange(len(mutant))
            match chance.randrange(4):
                case 0:
                    mutant[at] = chance.randrange(256)
                case 1:
                    del mutant[at : at + chance.randrange(1, 200)]
                case 2:
                    mutant[at:at] = mutant[chance.randrange(len(mutant)) :][: chance.randrange(1, 300)]
                case _:
                    mutant[at : at + 4] = struct.pack("<I", chance.getrandbits(32))
        seen.add(store.post(bytes(mutant)).status)
    assert seen <= {200, 202, 400, 409}
    assert {200, 202, 400} <= seen
    assert store.store(*files).stored() == ["1.2.0", "1.2.1", "1.2.2"]
    eventually(lambda: store.partial() == [], "no partial file")


def test_more_requests_at_once_than_are_permitted_are_told_to_come_again(serve: Callable[..., Store]) -> None:
    store = serve(dicomweb={"limits": {"max_requests": 2}})
    body = multipart([part(instance())])
    with store.connect() as one, store.connect() as other:
        for sock in (one, other):
            sock.sendall(header(len(body)) + body[:-20])
        eventually(lambda: len(store.partial()) == 2, "two are under way")
        answer = store.store(instance())
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        for sock in (one, other):
            sock.sendall(body[-20:])
            assert read_answer(sock).status == 200
    assert store.store(instance()).status == 200


def test_a_refused_client_reads_why_also_amid_a_long_body(store: Store) -> None:
    body = multipart([part(instance(pixels=bytes(4 << 20)))])
    assert store.post(body, headers={"Authorization": "Bearer wrong"}).status == 401
    assert store.post(body, headers={"Content-Encoding": "gzip"}).status == 415


def test_a_client_that_waits_for_our_word_is_refused_before_it_sends(store: Store) -> None:
    with store.connect() as sock:
        sock.sendall(header(1 << 40, "Expect: 100-continue\r\n"))
        assert read_answer(sock).status == 413
    body = multipart([part(instance())])
    with store.connect() as sock:
        sock.sendall(header(len(body), "Expect: 100-continue\r\n"))
        assert sock.recv(100).startswith(b"HTTP/1.1 100 ")
        sock.sendall(body)
        assert read_answer(sock).status == 200


def test_chunks_of_one_byte_and_requests_in_one_go_are_served(store: Store) -> None:
    body = multipart([part(instance("1.2.1"))])
    chunked = b"".join(b"1;x=y\r\n%c\r\n" % byte for byte in body) + b"0\r\nTrailer: x\r\n\r\n"
    second = multipart([part(instance("1.2.2"))])
    with store.connect() as sock:
        sock.sendall(header(None, "Transfer-Encoding: chunked\r\n") + chunked + header(len(second)) + second)
        answers = b""
        while answers.count(b"1.2.2") < 1:
            answers += sock.recv(65536)
    assert answers.count(b"HTTP/1.1 200 ") == 2
    assert store.contents() == [instance("1.2.1"), instance("1.2.2")]


def test_a_long_boundary_may_lie_across_any_pieces(store: Store) -> None:
    boundary = "=_" + "b" * 66
    kind = CONTENT_TYPE.replace(BOUNDARY, f'"{boundary}"')
    file = instance(pixels=b"\r\n--" + boundary[:-1].encode() + b"\r\n-")
    body = multipart([part(file)], boundary)
    head = header(len(body)).replace(CONTENT_TYPE.encode(), kind.encode())
    for size in (1, 67, 70, 71, 4096):
        with store.connect() as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(head)
            for start in range(0, len(body), size):
                sock.sendall(body[start : start + size])
            assert read_answer(sock).status == 200
    assert store.contents() == [file] * 5


def test_many_clients_at_once_are_all_served(store: Store) -> None:
    answers: list[int] = []

    def send(number: int) -> None:
        for turn in range(5):
            answer = store.store(instance(f"1.2.{number}.{turn}"))
            while answer.status == 503:
                answer = store.store(instance(f"1.2.{number}.{turn}"))
            answers.append(answer.status)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert answers == [200] * 60
    assert len(store.contents()) == 60


def test_the_token_is_not_in_the_answer(store: Store) -> None:
    with store.connect() as sock:
        sock.sendall(header(5).replace(b"POST", b"TRACE") + b"hello")
        assert TOKEN.encode() not in sock.recv(65536)


def test_a_silent_or_plain_client_of_the_tls_port_harms_nobody(serve: Callable[..., Store], certificate: Path) -> None:
    tls = {"certificate": str(certificate), "handshake_s": 0.3}
    store = serve(status={"tls": tls}, dicomweb={"deadlines": QUICK})
    context = ssl.create_default_context(cafile=str(certificate))
    with store.connect() as silent, store.connect() as plain, store.connect() as half:
        plain.sendall(header(5) + b"hello")
        half.sendall(b"\x16\x03\x01\x02\x00\x01")
        for sock in (silent, plain, half):
            assert is_closed(sock)
    eventually(lambda: store.counters.get("http_handshake_failed") == 3, "told")
    with store.connect() as sock, context.wrap_socket(sock, server_hostname="localhost") as secured:
        assert is_closed(secured)  # silent after the handshake
    body = multipart([part(instance())])
    with store.connect() as sock, context.wrap_socket(sock, server_hostname="localhost") as secured:
        secured.sendall(header(len(body)) + body)
        assert read_answer(secured).status == 200


def test_nothing_is_left_open_after_many_clients_of_all_kinds(store: Store) -> None:
    body = multipart([part(instance())])
    store.store(instance())
    threads, descriptors = threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))
    for number in range(200):
        with store.connect() as sock:
            sock.sendall(
                [b"", b"GET", header(len(body)) + body[:-5], header(len(body)) + body, b"\x16\x03"][number % 5]
            )
    eventually(lambda: store.partial() == [], "no partial file")
    eventually(lambda: len(list(Path("/proc/self/fd").iterdir())) <= descriptors, "no descriptor more")
    assert threading.active_count() <= threads + 8
    assert store.store(instance()).status == 200
