"""`python -m tests.fidelity [CORPUS]`: measure, and write docs/fidelity.md. Exit code 1 if anything is not as promised.

Takes some minutes. Deterministic but for the date. `--check` measures and writes nothing.
"""

from __future__ import annotations

import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from tests.fidelity import cines, damaged, decoders, page
from tests.fidelity.page import PAGE, REPOSITORY
from tests.fidelity.survey import export, survey


def main(arguments: list[str]) -> int:
    """Measure and report."""
    given = [argument for argument in arguments if not argument.startswith("-")]
    corpus = Path(given[0]) if given else REPOSITORY.parent / "shared" / "corpus"
    if not corpus.is_dir():
        sys.stderr.write(f"there is no corpus at {corpus}\n")
        return 2
    with tempfile.TemporaryDirectory() as folder:
        findings = survey(export(corpus, Path(folder)))
    timings = [
        (cines.timed_cine(name, given_, times), element) for name, element, given_, times in cines.timing_cases()
    ]
    streams = []
    for name in cines.STREAMS:
        with tempfile.TemporaryDirectory() as folder:
            streams.append(cines.copied_stream(name, Path(folder)))
    copied = [*cines.corpus_streams(corpus), *(s for s in streams if s is not None)]
    bad = [v for v in map(damaged.verdict, damaged.CASES) if v is not None]
    wrong = [f"{f.file}: {judge} differs by {found:g}" for f, judge, found, why in page.beyond(findings) if not why]
    wrong += [
        f"{t.name}: {t.source}, {t.worst_ms} ms" for t, element in timings if t.worst_ms > 1 or t.source != element
    ]
    wrong += [f"{s.name}: {s}" for s in copied if s.worst_ms > 1 or not s.same or not s.plays]
    wrong += [f"{v.name}: silent or not repeatable" for v in bad if v.silent or not v.told or not v.same]
    if "--check" not in arguments:
        lines = [
            page.INTRODUCTION,
            f"{len(findings)} files with pixels: {sum(not f.refused for f in findings)} exported,",
            f"{sum(bool(f.refused) for f in findings)} refused. Measured {datetime.now(tz=UTC):%Y-%m-%d} with",
            f"{', '.join(decoders.versions())}.\n",
            *page.table(findings),
            "\n## Refused, and what others make of it\n",
            *page.refusals(findings),
            "\n## Differences beyond the tolerance\n",
            *page.differences(findings),
            "\n## Times of synthetic cines\n",
            *page.timed(t for t, _ in timings),
            "\n## Video streams: copied, not re-encoded\n",
            "Packets: NAL units (MPEG-2: the elementary stream) of the copy and of the encapsulated stream.",
            "Plays: FFmpeg decodes the copy without complaint to the original's pictures.",
            "Streams with sound keep their own times (`stream`).\n",
            *page.timed(copied),
            "\n## Bad input\n",
            *page.verdicts(bad),
            "\n## Volumes\n",
            f"Series and enhanced instances against dcm2niix {cines.dcm2niix_version()}: voxels identical, affine",
            "within 1e-4 mm, in `tests/exporter/writers/test_volume.py`: oblique, gaps, time, echoes, tilt, PET,",
            "enhanced multi-frames.",
            "\n## Every file\n",
            *page.files(findings),
            "",
        ]
        PAGE.write_text("\n".join(lines))
    for line in wrong:
        sys.stderr.write(f"{line}\n")
    judged = f"{len(findings)} files, {len(timings)} cines, {len(copied)} streams, {len(bad)} bad inputs"
    sys.stdout.write(f"{judged}: {len(wrong)} not as promised\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
