"""Errors of the file system: which say that the disk is full, that a folder is gone, or that a file is too large."""

from __future__ import annotations

import errno
import os

import pytest

from listener.foundation import disk

FULL = {errno.ENOSPC, errno.EDQUOT}
NETWORK = {errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN, errno.ETIMEDOUT}
MEANINGS = {
    disk.is_full: FULL,
    disk.is_out_of_space: FULL | {errno.EROFS},
    disk.is_too_large: {errno.EFBIG},
    disk.is_gone: {errno.ENOENT, errno.ENOTDIR, errno.ENFILE} | NETWORK,
}


@pytest.mark.parametrize("ask", MEANINGS)
def test_an_error_means_one_thing(ask: object) -> None:
    assert callable(ask)
    said = {number for number in errno.errorcode if ask(OSError(number, os.strerror(number)))}
    assert said == MEANINGS[ask]


def test_an_error_without_a_number_means_nothing() -> None:
    assert not any(ask(OSError("something else")) for ask in MEANINGS)


def test_an_error_is_raised_as_what_it_means() -> None:
    cause = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(LookupError, match="full") as raised, disk.mapped(lambda error: LookupError(f"full: {error}")):
        raise cause
    assert raised.value.__cause__ is cause


def test_other_errors_pass_unchanged() -> None:
    with pytest.raises(ValueError, match="mine"), disk.mapped(lambda _: LookupError()):
        raise ValueError("mine")
