"""Measure which planted phrases the text search finds, by size and kind, and its alarms on clean pictures.

    python bench/text_recall.py [CORPUS]

Phrases are drawn with Pillow's own font in white, yellow and gray, over black, over speckle and over a light picture;
a phrase counts as found when the picture is denied. Clean pictures are ultrasound images of the corpus after the mask.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from exporter.dicom.elements import text_of
from exporter.dicom.instance import Instance
from exporter.errors import ExportError, SkipInstance
from exporter.frames import open_frames
from exporter.privacy.pixels import MaskedReader, decide
from exporter.privacy.pixels.ladder import LadderStep
from exporter.privacy.pixels.text_search import Tesseract, text_that_denies
from exporter.settings.settings import LimitSettings

SIZES = (9, 12, 18)
PHRASES = {
    "name": ["HAMILTON, ANN", "Okonkwo Jane", "MUELLER^KARL"],
    "number": ["00079241539", "MRN 4711-8830", "ACC 20443187"],
    "date": ["17 Oct 2016", "08/29/1951", "2024-03-11"],
}
IDENTIFIERS = ["HAMILTON^ANN", "OKONKWO^JANE", "MUELLER^KARL", "00079241539", "4711-8830", "20443187"]
COLOURS = {"white": (255, 255, 255), "yellow": (240, 220, 40), "gray": (150, 150, 150)}
PLACES = ("black", "speckle", "light")
LIMITS = LimitSettings()


def ground(place: str) -> np.ndarray:
    noise = np.random.default_rng(1)
    if place == "speckle":
        return np.clip(noise.rayleigh(35, (240, 480)), 0, 255).astype(np.uint8)
    return np.full((240, 480), 0 if place == "black" else 90, np.uint8)


def drawn(text: str, size: int, colour: tuple[int, int, int], place: str) -> np.ndarray:
    canvas = Image.fromarray(ground(place)).convert("RGB")
    ImageDraw.Draw(canvas).text((60, 90), text, colour, ImageFont.load_default(size))
    return np.asarray(canvas)


def planted(finder: Tesseract) -> None:
    found: Counter[tuple[int, str]] = Counter()
    by_kind: Counter[tuple[int, str]] = Counter()
    for size in SIZES:
        for kind, phrases in PHRASES.items():
            for text in phrases:
                for colour in COLOURS.values():
                    for place in PLACES:
                        hit = text_that_denies([drawn(text, size, colour, place)], finder, IDENTIFIERS) is not None
                        found[size, place] += hit
                        by_kind[size, kind] += hit
    print("| size | " + " | ".join((*PLACES, *PHRASES)) + " |\n|---|" + "---|" * (len(PLACES) + len(PHRASES)))
    for size in SIZES:
        cells = [*(found[size, place] for place in PLACES), *(by_kind[size, kind] for kind in PHRASES)]
        print(f"| {size} px | " + " | ".join(f"{cell} of 27" for cell in cells) + " |")


def clean(finder: Tesseract, corpus: Path) -> None:
    alarms, looked = [], 0
    for line in (corpus / "catalog.jsonl").read_text().splitlines():
        entry = json.loads(line)
        try:
            with Instance.open(corpus / entry["file"], LIMITS) as instance:
                pixels = instance.pixels
                if pixels is None:
                    continue
                decision = decide(instance.header, pixels, instance.transfer_syntax)
                if decision.is_refused or decision.step is not LadderStep.ULTRASOUND_REGIONS:
                    continue
                frames = open_frames(instance, LIMITS)
                assert frames._reader is not None  # noqa: SLF001 - until the export has the mask
                frames._reader = MaskedReader(frames._reader, instance, pixels, decision)  # noqa: SLF001
                keys = ("PatientName", "PatientID", "AccessionNumber", "StudyDate", "PatientBirthDate")
                identifiers = [value for key in keys if (value := text_of(instance.header, key))]
                looked += 1
                said = text_that_denies([next(frames.display())], finder, identifiers)
                if said:
                    alarms.append(f"{entry['file']}: {said}")
        except (ExportError, SkipInstance):
            continue
    print(f"\nFirst frames of {looked} masked ultrasound images: {len(alarms)} denied", *alarms, sep="\n- ")


def main() -> None:
    finder = Tesseract.installed()
    if finder is None:
        sys.exit("tesseract is not installed")
    planted(finder)
    if len(sys.argv) > 1:
        clean(finder, Path(sys.argv[1]))


if __name__ == "__main__":
    main()
