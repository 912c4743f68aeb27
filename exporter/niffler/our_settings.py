"""Converts configurations of Niffler and of the DICOM Media Exporter to ours.

Contract: the result can be loaded and means the same, as far as there are keys for it; settings without a key of ours
are listed in a comment, never dropped silently.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import yaml

from listener.foundation.configuration import ConfigurationError, ConfigurationFault, validate
from listener.foundation.yaml_file import Document, read, spelled

if TYPE_CHECKING:
    from pathlib import Path

    from exporter.niffler.niffler_file import NifflerConfig

_EARLIER_KEYS: Final[dict[tuple[str, ...], tuple[str, ...]]] = {
    ("input", "dir"): ("dicom", "dir"),
    ("output", "dir"): ("media", "dir"),
    ("output", "metadata_file"): ("metadata", "file"),
    ("output", "stream_format"): ("video", "save_method_kwargs", "encoding_format"),
    ("output", "stream_args"): ("video", "save_method_kwargs", "encoding_args"),
    ("num_workers",): ("num_workers",),
}
"""Keys of the exporter's first version, and their present names."""


def from_niffler(config: NifflerConfig) -> str:
    """Our configuration for a run of the extractor, as YAML."""
    from exporter.settings.settings import Settings

    settings = config.settings(Settings())
    content = {
        "num_workers": "auto" if config.processes == 0 else config.workers,
        "dicom": {"dir": str(config.dicom_home), "recursive": config.depth > 0},
        **settings.model_dump(mode="json", exclude_defaults=True, exclude={"ae_titles"}),
    }
    notes = [
        "# From a configuration of Niffler. Media are as there, under names that mirror the input folder.",
        f"# exporter backfill --config THIS_FILE --output {str(config.output)!r}",
        "# Without a key here, and kept by `exporter backfill --niffler-config`:",
        f"#   Depth ({config.depth}), FlattenedToLevel ({config.level}), SplitIntoChunks ({config.chunks})",
        "#   PublicHeadersOnly, CommonHeadersOnly, SpecificHeadersOnly, PrintImages, SendEmail, YourEmail",
    ]
    return "\n".join([*notes, yaml.safe_dump(content, sort_keys=False, allow_unicode=True)])


def from_dme(path: Path) -> str:
    """Our configuration for one of the DICOM Media Exporter, of its last or its first form, as YAML.

    Raises:
        ConfigurationError: It is neither.
    """
    from exporter.settings.settings import Settings

    document = read(path)
    if {"input", "output"} & document.data.keys():
        document = _renamed(document)
    settings, faults = validate(document, Settings)
    if settings is None:
        raise ConfigurationError(str(path), faults)
    content = settings.model_dump(mode="json", exclude_unset=True)
    return "# From a configuration of the DICOM Media Exporter.\n" + yaml.safe_dump(content, sort_keys=False)


def _renamed(document: Document) -> Document:
    """Configuration of the exporter's first version under the present keys."""
    data: dict[str, Any] = {}
    faults = [*document.faults]
    for section, values in document.data.items():
        inside = values.items() if section in {"input", "output"} and isinstance(values, dict) else [(None, values)]
        for key, value in inside:
            path = (section, key) if key is not None else (section,)
            if path not in _EARLIER_KEYS:
                permitted = ", ".join(map(spelled, _EARLIER_KEYS))
                faults.append(ConfigurationFault(document.line(path), spelled(path), "unknown key", permitted))
                continue
            *above, last = _EARLIER_KEYS[path]
            place = data
            for name in above:
                place = place.setdefault(name, {})
            place[last] = value
    return Document(data, {(): 0}, tuple(faults))
