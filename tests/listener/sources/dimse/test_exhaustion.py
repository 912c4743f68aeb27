"""What the machine can do to the listener while others send: no descriptors, no threads, a clock that jumps, no port.

The listener is a process of its own here, with limits of its own; a well-behaved sender goes on beside it wherever the
machine leaves room for one.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
import struct
import subprocess
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import psutil  # type: ignore[import-untyped] # it ships no types
import pytest

from tests.listener.process import Process, listening
from tests.listener.requestor import data_set, eventually, pdu, pdv
from tests.listener.well_behaved import WellBehaved

if TYPE_CHECKING:
    from pathlib import Path

FULL = os.environ.get("EXPORTER_TEST_PEERS") == "full"
CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
static long *offset_s;
__attribute__((constructor)) static void look(void) {
    int fd = open(getenv("CLOCK_OFFSET"), O_RDONLY);
    offset_s = mmap(0, sizeof *offset_s, PROT_READ, MAP_SHARED, fd, 0);
}
int clock_gettime(clockid_t which, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(which, now);
    if (!failed && which == CLOCK_REALTIME) now->tv_sec += *offset_s;
    return failed;
}
time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"""
"""A library that shifts the time of day of one process by what a file says; the machine's clock stays as it is."""


def test_f28_a_port_that_is_taken_is_told_in_a_sentence(tmp_path: Path, free_port: int) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", free_port))
        other.listen()
        process = Process(tmp_path, free_port, {}, {})
        assert process.popen.wait(100) == 1
    assert f"port {free_port} on 127.0.0.1 is in use" in process.log
    assert "Traceback" not in process.log


def test_f28_with_sixty_four_descriptors_it_serves_whom_it_can_and_recovers(tmp_path: Path, free_port: int) -> None:
    """Of one process: the limit is set on the listener's own, and whoever is served by another one does not feel it."""
    deadlines = {"request_s": 2.0}
    with listening(tmp_path, free_port, deadlines=deadlines, processes=1) as process, process.requestor() as before:
        assert before.associate()[0] == 2
        process.limit(resource.RLIMIT_NOFILE, 64)
        with ExitStack() as stack:
            for n in range(100):
                stack.enter_context(process.requestor(source=f"127.0.0.{2 + n % 4}")).send(b"\1")
            eventually(lambda: "cannot accept a connection" in process.log, "it says so")
            assert before.echo().status == 0  # who is in is served
        left = time.monotonic()
        with WellBehaved(process.requestor, patience_s=4.0):
            recovered_s = time.monotonic() - left
        print(f"served again {recovered_s:.2f} s after the others left")  # noqa: T201 - a figure
        assert before.store().status in (0, 0xA700)  # its file may have been the one too many
        assert before.echo().status == 0


def test_f28_without_threads_it_turns_away_and_recovers(tmp_path: Path, free_port: int) -> None:
    """A thread that cannot be made looks the same whatever forbids it; here there is no address space for its stack.

    One process: with several, another one that has threads would serve them.
    """
    with listening(tmp_path, free_port, processes=1) as process, process.requestor() as before:
        assert before.associate()[0] == 2
        assert before.store("1.2.1").status == 0
        used = psutil.Process(process.popen.pid).memory_info().vms
        process.limit(resource.RLIMIT_AS, used + (300 << 10))
        answers = []
        with ExitStack() as stack:
            for _ in range(12):
                requestor = stack.enter_context(process.requestor(source="127.0.0.2"))
                answers.append(requestor.associate())
            assert (3, bytes((0, 2, 3, 2))) in answers
            assert before.echo().status == 0
        process.limit(resource.RLIMIT_AS, resource.RLIM_INFINITY)
        with WellBehaved(process.requestor, patience_s=4.0):
            assert before.store("1.2.2").status == 0


@pytest.fixture
def clock(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A file that holds the offset of a process's clock, and the environment that makes a process heed it."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed, to build the library that shifts a process's clock")
    source, library, offset = tmp_path / "clock.c", tmp_path / "clock.so", tmp_path / "offset"
    source.write_text(CLOCK)
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True, capture_output=True)
    offset.write_bytes(struct.pack("l", 0))
    return offset, {"LD_PRELOAD": str(library), "CLOCK_OFFSET": str(offset)}


def test_f27_steps_of_the_clock_by_an_hour_amid_transfers_abort_nothing(
    tmp_path: Path, free_port: int, clock: tuple[Path, dict[str, str]]
) -> None:
    offset, environment = clock
    with listening(tmp_path, free_port, environment) as process, process.requestor(source="127.0.0.2") as slow:
        with WellBehaved(process.requestor):
            assert slow.associate()[0] == 2
            content = data_set("1.77.1", pixels=os.urandom(40_000))
            for turn in range(20 if FULL else 2):
                slow.send(pdu(4, pdv(1, 3, slow.store_command("1.77.1"))))
                for number, hours in enumerate((1, -1, 24, -24, 0)):
                    piece = content[number * 9000 : (number + 1) * 9000]
                    slow.send(pdu(4, pdv(1, 2 if number == 4 else 0, piece)))
                    with offset.open("r+b", buffering=0) as file:
                        file.write(struct.pack("l", hours * 3600))
                    time.sleep(0.1)  # so that the step falls between two PDUs
                assert slow.response().status == 0, turn
            assert slow.release() == 6
        eventually(lambda: len(process.associations) >= 2, "its associations are logged")
        stamps = {json.loads(line)["timestamp"][:10] for line in process.log.splitlines() if line.startswith("{")}
    assert {line["ended"] for line in process.associations} == {"released"}
    assert all(0 <= line["seconds"] < 60 for line in process.associations)
    assert len(stamps) > 1, "the library did not shift the clock"
    names = sorted(p.name for p in (process.spool / "new").iterdir())
    assert len(names) == sum(line["stored"] for line in process.associations)
