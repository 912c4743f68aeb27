"""Words that a peer chose are shown only where they are no news; others as a hash that stays the same."""

from __future__ import annotations

import re
import stat
from typing import TYPE_CHECKING

import pytest

from listener.settings.listener import ListenerSection, PeerSection
from listener.sources.dimse.upper_layer.peer_pseudonyms import KEY, KEY_BYTES, PeerPseudonyms, key_of

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = ListenerSection(ae_title="OURS", more_ae_titles=("ALSO",), peers=(PeerSection(ae_title="CT1"),))
NAMES = PeerPseudonyms(SETTINGS, bytes(KEY_BYTES))


@pytest.mark.parametrize("title", ["OURS", "ALSO", "ANY-SCP", "CT1", ""])
def test_an_ae_title_that_the_configuration_names_is_shown(title: str) -> None:
    assert NAMES.ae_title(title) == title


@pytest.mark.parametrize("title", ["DOE^JOHN", "ct1", "CT1 ", "A\nB", "\udcff"])
def test_any_other_ae_title_is_a_hash_that_stays_the_same_and_needs_the_key(title: str) -> None:
    shown = NAMES.ae_title(title)
    assert re.fullmatch(r"ae:[0-9a-f]{8}", shown)
    assert shown == PeerPseudonyms(SETTINGS, bytes(KEY_BYTES)).ae_title(title)
    assert shown != PeerPseudonyms(SETTINGS, b"1" * KEY_BYTES).ae_title(title)


@pytest.mark.parametrize("name", ["OFFIS_DCMTK_367", "PYNETDICOM_304", "dcm4che-2.0", ""])
def test_a_widely_used_implementation_is_shown(name: str) -> None:
    assert NAMES.implementation(name) == name


@pytest.mark.parametrize("name", ["DOE^JOHN", "OFFIS_DCMTK_JOHN", "PYNETDICOM 19511103"])
def test_any_other_implementation_is_a_hash(name: str) -> None:
    assert re.fullmatch(r"implementation:[0-9a-f]{8}", NAMES.implementation(name))


def test_the_key_is_kept_private_and_made_anew_only_where_it_is_damaged(tmp_path: Path) -> None:
    key = key_of(tmp_path)
    assert len(key) == KEY_BYTES
    assert key_of(tmp_path) == key
    assert stat.S_IMODE((tmp_path / KEY).stat().st_mode) == 0o600
    (tmp_path / KEY).write_bytes(b"short")
    assert key_of(tmp_path) not in {key, b"short"}
    assert len(key_of(tmp_path / "not there")) == KEY_BYTES
