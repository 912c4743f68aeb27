"""Encoders kept from real-time scheduling.

SVT-AV1, where it may (as root, or with CAP_SYS_NICE), schedules its threads and the whole process as SCHED_FIFO at
priority 99, and leaves the process so: it and every child that it starts then keep all other programs from the
processors they run on. Where it may not, it encodes the same bytes at the ordinary priority.

Contract: inside the block the calling thread, and the threads it starts, lack CAP_SYS_NICE (capabilities(7): each
thread has its own); after it the thread has what it had. Where the system has no capabilities, nothing happens.
"""

from __future__ import annotations

import ctypes
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_VERSION_3: Final = 0x20080522
_SYS_NICE: Final = 1 << 23


class _Header(ctypes.Structure):
    """``struct __user_cap_header_struct`` of capget(2); process 0 is the calling thread."""

    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    """``struct __user_cap_data_struct``: 32 capabilities of each set."""

    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


@contextmanager
def ordinary_priority() -> Iterator[None]:
    """Keep what the block calls from raising its own priority."""
    system = ctypes.CDLL(None, use_errno=True)
    header, sets = _Header(_VERSION_3, 0), (_Sets * 2)()
    if not hasattr(system, "capget") or system.capget(ctypes.byref(header), sets) != 0:
        yield
        return
    before = sets[0].effective
    sets[0].effective = before & ~_SYS_NICE
    if sets[0].effective == before or system.capset(ctypes.byref(header), sets) != 0:
        yield
        return
    try:
        yield
    finally:
        sets[0].effective = before
        system.capset(ctypes.byref(header), sets)
