"""The section `display` decides what pictures look like, in whatever kind of media."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from exporter.dicom.instance import Instance
from exporter.settings.settings import DisplaySettings, MediaSettings
from exporter.writers import choose
from exporter.writers.contract import WriterTask


def picture(folder: Path, display: DisplaySettings) -> np.ndarray:
    path = get_testdata_file("examples_overlay.dcm")
    assert isinstance(path, str)
    settings = MediaSettings(display=display)
    folder.mkdir()
    with Instance.open(Path(path), settings.limits) as instance:
        written = choose(instance, settings).write(WriterTask(instance, folder, settings))
    with Image.open(folder / written.media[0].file) as image:
        return np.asarray(image)


def test_overlays_are_drawn_only_where_the_settings_say_so(tmp_path: Path) -> None:
    plain = picture(tmp_path / "plain", DisplaySettings())
    drawn = picture(tmp_path / "drawn", DisplaySettings(overlays=True))
    changed = plain != drawn
    assert changed.any()
    assert (drawn[changed] == 255).all()


@pytest.mark.parametrize(("centre", "value"), [(-100_000.0, 255), (100_000.0, 0)])
def test_a_window_of_the_settings_wins(tmp_path: Path, centre: float, value: int) -> None:
    assert (picture(tmp_path / "out", DisplaySettings(window=(centre, 10.0))) == value).all()


def test_an_automatic_window_instead_of_the_instances_is_one_of_the_settings(tmp_path: Path) -> None:
    own = picture(tmp_path / "own", DisplaySettings())
    always = picture(tmp_path / "always", DisplaySettings(automatic="always"))
    robust = picture(tmp_path / "robust", DisplaySettings(automatic="always", automatic_percentiles=(1, 99)))
    assert (own != always).any()
    assert robust.mean() > always.mean()  # a few bright pixels no longer hold the others down


@pytest.mark.parametrize("percentiles", [(99, 1), (50, 50), (-1, 99), (1, 101)])
def test_percentiles_out_of_order_are_refused(percentiles: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="percentiles"):
        DisplaySettings(automatic_percentiles=percentiles)
