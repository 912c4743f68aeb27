"""Real peers beyond storing: C-ECHO. What they store is compared byte for byte in `test_byte_identity`."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.listener.requestor import Receiver


def test_an_echo_of_dcmtk_is_answered_whatever_title_it_calls_by_default(
    receiver: Receiver, peer: Callable[[str], str]
) -> None:
    done = subprocess.run([peer("echoscu"), "127.0.0.1", str(receiver.port)], timeout=30, check=False)
    assert done.returncode == 0
