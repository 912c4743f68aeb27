"""An output keeps the key and the profiles that it was begun with, or a run does not start."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from exporter.privacy.key import KeyChanged
from exporter.results.deidentification import DeidentificationChanged, fingerprint_of, keep_to
from exporter.results.ledger import Ledger
from tests.exporter.ledger_rows import begin

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ONE, OTHER = "f123456789abcdef", "0123456789abcdef"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path / "exporter.db") as opened:
        yield opened


def test_a_new_output_remembers_its_key_and_takes_it_again(ledger: Ledger) -> None:
    keep_to(ledger, ONE, {"": True})
    begin(ledger, "1")
    keep_to(ledger, ONE, {"": True})
    assert fingerprint_of(ledger) == ONE


@pytest.mark.parametrize("fingerprint", [OTHER, None])
def test_another_key_or_none_is_refused_as_a_fault_of_the_configuration(
    ledger: Ledger, fingerprint: str | None
) -> None:
    keep_to(ledger, ONE, {"": True})
    with pytest.raises(KeyChanged, match="was begun with") as refused:
        keep_to(ledger, fingerprint, {"": fingerprint is not None})
    assert refused.value.exit_code == 2
    assert "\n" not in str(refused.value)


def test_an_output_that_holds_originals_is_never_gone_on_with_under_a_profile(ledger: Ledger) -> None:
    begin(ledger, "1")
    with pytest.raises(DeidentificationChanged, match=r"begun with `privacy\.profile: none`") as refused:
        keep_to(ledger, ONE, {"": True})
    assert refused.value.exit_code == 2
    assert fingerprint_of(ledger) is None


def test_an_ae_title_keeps_its_profile_and_a_new_one_may_have_any(ledger: Ledger) -> None:
    begin(ledger, "1")
    keep_to(ledger, ONE, {"": False, "a1": True})
    keep_to(ledger, ONE, {"": False, "a1": True, "b2": True})
    with pytest.raises(DeidentificationChanged, match="one of the AE titles"):
        keep_to(ledger, ONE, {"": False, "b2": True})  # a1 falls back to the top level
    with pytest.raises(DeidentificationChanged):
        keep_to(ledger, ONE, {"": True, "a1": True, "b2": True})


def test_an_output_without_de_identification_is_none_of_its_business(ledger: Ledger) -> None:
    begin(ledger, "1")
    keep_to(ledger, None, {"": False})
    assert fingerprint_of(ledger) is None
