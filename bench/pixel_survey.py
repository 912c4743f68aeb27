"""Print what the pixel ladder makes of every ultrasound image of a corpus, as the table of docs/privacy-pixels.md.

python bench/pixel_survey.py CORPUS
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

from exporter.dicom.elements import readable_value_of, text_of
from exporter.dicom.instance import Instance
from exporter.errors import ExportError, PrivacyUnknown, SkipInstance
from exporter.frames.reader import open_reader
from exporter.frames.transfer_syntaxes import Family, family_of
from exporter.privacy.pixels import MaskedReader, decide
from exporter.privacy.pixels.rules import ladder_rules
from exporter.settings.settings import LimitSettings

LIMITS = LimitSettings()


def stated(instance: Instance) -> list[tuple[int, ...]]:
    items = readable_value_of(instance.header, "SequenceOfUltrasoundRegions") or ()
    edges = ("MinX0", "MinY0", "MaxX1", "MaxY1")
    return [tuple(int(readable_value_of(item, f"RegionLocation{edge}")) for edge in edges) for item in items]


def kind_of(instance: Instance) -> str:
    pixels, regions = instance.pixels, stated(instance)
    assert pixels is not None
    if not regions:
        return "none"
    outside = any(right >= pixels.columns or bottom >= pixels.rows for _, _, right, bottom in regions)
    return "outside" if outside else "inside"


def row_of(name: str, instance: Instance) -> str:
    pixels = instance.pixels
    assert pixels is not None
    decision = decide(instance.header, pixels, instance.transfer_syntax)
    boxes = "; ".join("{},{} - {},{}".format(*box) for box in stated(instance)) or "none"
    exact = "refused"
    if not decision.is_refused and family_of(instance.transfer_syntax) is not Family.VIDEO:
        reader = MaskedReader(open_reader(instance, pixels, LIMITS, []), instance, pixels, decision)
        try:
            reader.samples(0, to_rgb=False)
            exact = f"{reader.area(0).share():.1%}"
        except PrivacyUnknown as refused:
            decision = decision.__class__(decision.step, str(refused), decision.policy, None)
    kept = "refused" if decision.area is None else f"{decision.area.share():.1%}"
    why = "; ".join((decision.reason, *(note for note in decision.notes if note != decision.reason)))
    size = f"{pixels.columns} x {pixels.rows}"
    masks = len(decision.masks)
    return f"| `{name}` | {size} | {boxes} | {masks} | `{decision.step}` | {kept} | {exact} | {why} |"


def main() -> None:
    corpus = Path(sys.argv[1])
    kinds: Counter[str] = Counter()
    rows = []
    for line in (corpus / "catalog.jsonl").read_text().splitlines():
        entry = json.loads(line)
        try:
            with Instance.open(corpus / entry["file"], LIMITS) as instance:
                is_ultrasound = text_of(instance.header, "SOPClassUID") in ladder_rules().ultrasound.sop_classes
                if instance.pixels is None or not (is_ultrasound or text_of(instance.header, "Modality") == "US"):
                    continue
                is_stream = family_of(instance.transfer_syntax) is Family.VIDEO
                kinds["stream" if is_stream else kind_of(instance)] += 1
                rows.append(row_of(entry["file"], instance))
        except (ExportError, SkipInstance):
            continue
    print(
        f"Of {kinds.total() - kinds['stream']} ultrasound images {kinds['inside']} have regions inside the picture, "
        f"{kinds['outside']} have regions that reach outside, {kinds['none']} have none; {kinds['stream']} more are "
        "video streams."
    )
    print(
        "\n| file | columns x rows | regions (left, top - right, bottom) | device masks | step | kept | exact | why |"
    )
    print("|---|---|---|---|---|---|---|---|")
    print(*rows, sep="\n")


if __name__ == "__main__":
    main()
