"""Pictures, settings and readings that the tests of images and videos share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.settings.settings import MediaSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


def waves(frames: int, rows: int, columns: int, *, gray: bool) -> Iterator[NDArray[np.uint8]]:
    """A moving picture with smooth structure and colours of every kind."""
    y, x = np.mgrid[0:rows, 0:columns]
    for i in range(frames):
        first = (127 + 80 * np.sin(x / 9 + i / 3) * np.cos(y / 7 - i / 5)).astype(np.uint8)
        ramp = (x * 255 // max(1, columns - 1)).astype(np.uint8)
        yield first if gray else np.stack([first, 255 - first // 2, ramp], axis=-1)


def video_settings(**video: Any) -> MediaSettings:
    return MediaSettings.model_validate({"video": video})


def encoding(encoder: str, pix_fmt: str = "yuv420p", **options: Any) -> dict[str, Any]:
    return {"encoding_format": encoder, "encoding_args": {"pix_fmt": pix_fmt, "options": options}}


def presentation_times(probed: dict[str, Any], kind: str = "video") -> list[float]:
    """Presentation times of the packets of one kind, in seconds, in order of display."""
    return sorted(float(p["pts_time"]) for p in probed["packets"] if p["codec_type"] == kind)
