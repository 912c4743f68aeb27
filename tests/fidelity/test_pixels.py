"""Exported pixels against independent decoders: one real file, the smallest, of every kind the corpus has.

`python -m tests.fidelity` does the same with every file, and writes docs/fidelity.md.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from tests.fidelity import decoders, page
from tests.fidelity.survey import Finding, export, survey

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAMED = {
    "12-bit JPEG Extended": "1.2.840.10008.1.2.4.51",
    "JPEG spectral selection": "1.2.840.10008.1.2.4.53",
    "JPEG progressive": "1.2.840.10008.1.2.4.55",
    "HTJ2K lossless": "1.2.840.10008.1.2.4.201",
    "HTJ2K lossless RPCL": "1.2.840.10008.1.2.4.202",
    "HTJ2K": "1.2.840.10008.1.2.4.203",
}
LARGEST = 1 << 20


def kinds(rows: list[dict[str, Any]]) -> list[str]:
    """The smallest file of every transfer syntax, photometric interpretation, depth and sign; one or several frames."""
    smallest: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        if not row.get("has_pixeldata") or row["bytes"] > LARGEST or "synthetic-video" in row["file"]:
            continue
        several = len(row.get("shape") or ()) - (row.get("samples") == 3) > 2
        kind = tuple(row.get(key) for key in ("ts_uid", "photometric", "bits_allocated", "bits_stored", "samples"))
        kind = (*kind, several, str(row.get("dtype"))[:3])
        if kind not in smallest or row["bytes"] < smallest[kind]["bytes"]:
            smallest[kind] = row
    return sorted(row["file"] for row in smallest.values())


@pytest.fixture(scope="module")
def findings(
    corpus: Path,
    corpus_catalog: list[dict[str, Any]],
    peer: Callable[[str], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> list[Finding]:
    for program in ("dcmj2pnm", "dcmdjpeg", "ffmpeg"):
        peer(program)
    folder = tmp_path_factory.mktemp("fidelity")
    for name in kinds(corpus_catalog):
        target = folder / "in" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(corpus / name, target)
    return survey(export(folder / "in", folder / "out"))


@pytest.mark.slow
def test_no_judge_differs_without_a_known_reason(findings: list[Finding]) -> None:
    """Raw values exact (lossy: 3), float64 and DCMTK 1 of 255, a second decoder 3, colour means 2, times 1 ms."""
    assert [(f.file, judge, found) for f, judge, found, why in page.beyond(findings) if not why] == []


@pytest.mark.slow
def test_every_judge_had_its_say(findings: list[Finding]) -> None:
    """A judge that never speaks never disagrees."""
    said = {judge: sum(getattr(f, judge) is not None for f in findings) for judge in page.TOLERANCE}
    assert len(findings) > 60
    assert said["raw"] > 35
    assert said["formula"] > 45
    assert said["dcmtk"] > 45
    assert min(said["second"], said["means"]) > 5
    assert said["video_means"] > 5


@pytest.mark.slow
def test_every_gray_file_that_is_exported_has_raw_values_that_a_judge_confirms(findings: list[Finding]) -> None:
    gray = [f for f in findings if f.photometric.startswith("MONOCHROME") and not f.refused]
    assert len(gray) > 35
    assert [f.file for f in gray if f.raw is None] == []


@pytest.mark.slow
def test_what_is_refused_is_refused_by_pydicom_too(findings: list[Finding]) -> None:
    for finding in findings:
        if finding.refused:
            assert "pydicom: fails" in finding.confirmed, finding


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMED)
def test_rare_codecs_are_exported(findings: list[Finding], name: str) -> None:
    found = [f for f in findings if f.syntax == NAMED[name]]
    assert found
    assert not any(f.refused for f in found)
    if name.startswith("12-bit"):
        assert any(f.bits.startswith("12") and f.raw is not None for f in found)


@pytest.mark.slow
def test_a_bare_htj2k_codestream_equals_its_encapsulated_original(
    corpus: Path, tmp_path: Path, peer: Callable[[str], str]
) -> None:
    peer("ffmpeg")
    (tmp_path / "in").mkdir()
    shutil.copy(corpus / "chafey__DICOMHTJ2K" / "XA1_JPH", tmp_path / "in" / "bare")
    (finding,) = survey(export(tmp_path / "in", tmp_path / "out"))
    assert finding.raw == 0
    assert finding.raw_judge == "OpenJPH"
    assert "the codestream is not encapsulated in fragments" in finding.warnings
    assert finding.syntax in decoders.HTJ2K


@pytest.mark.slow
def test_the_page_of_the_documentation_is_what_this_command_writes() -> None:
    """Every difference on the page is explained; it was made from the whole corpus."""
    text = (page.PAGE).read_text()
    assert text.startswith(page.INTRODUCTION)
    assert "not explained" not in text
    assert "**no**" not in text
    assert "**nothing**" not in text
