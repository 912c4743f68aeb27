"""Verdicts: the class of an error says why an instance failed and whether another attempt can succeed."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from exporter import errors
from exporter.errors import ExportError, OutOfSpace, Reason, StorageUnavailable
from exporter.machine_conditions import out_of_space, storage_error
from exporter.outcome import Failed, InstanceIdentity

if TYPE_CHECKING:
    from collections.abc import Iterator

MAY_PASS = {
    "SourceUnread",
    "SourceGone",
    "DecoderCrash",
    "ExportTimeout",
    "EncodeFailed",
    "VerifyFailed",
    "InternalError",
    "MemoryShort",
}


def kinds(of: type[ExportError]) -> Iterator[type[ExportError]]:
    for kind in of.__subclasses__():
        yield kind
        yield from kinds(kind)


def test_another_attempt_is_made_where_the_machine_may_be_to_blame() -> None:
    import exporter.dicom.bytesource  # noqa: F401 - it has errors of its own

    product = [kind for kind in kinds(ExportError) if kind.__module__.startswith("exporter.")]
    assert {kind.__name__ for kind in product if kind.may_pass} == MAY_PASS
    assert {kind.reason for kind in product} == set(Reason)


def test_an_outcome_says_what_its_error_says() -> None:
    identity = InstanceIdentity("1", "2", "3", "4", "5")
    failed = Failed.of(errors.ProcessorTimeSpent("took too long"), identity, "hash")
    assert failed == Failed(Reason.TIMEOUT, "took too long", may_pass=False, identity=identity, source_sha256="hash")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_takes_no_more_is_out_of_space(number: int) -> None:
    error = storage_error("media folder", OSError(number, os.strerror(number)))
    assert (type(error), str(error)) == (OutOfSpace, f"media folder: {os.strerror(number)}")


@pytest.mark.parametrize("number", [errno.EIO, errno.EFBIG, errno.ENOENT, errno.ESTALE])
def test_any_other_trouble_of_a_folder_of_ours_is_no_verdict_either(number: int) -> None:
    error = OSError(number, os.strerror(number))
    assert out_of_space("media folder", error) is None
    assert type(storage_error("media folder", error)) is StorageUnavailable
