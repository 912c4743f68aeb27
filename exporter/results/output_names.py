"""Names of outputs: what an input's or an instance's media are called, harmless on every file system.

Contract: names depend on the input's path or the instance's UIDs only, and are the same on every machine.
"""

from __future__ import annotations

import hashlib
import os
import re
from functools import lru_cache
from typing import Final

EXTENSIONS: Final = frozenset({".dcm", ".dicom", ".dic", ".dicm", ".ima", ".acr"})
"""Extensions that say DICOM and nothing else: they are left out of output names."""


COMPONENT_BYTES: Final = 180
"""Longest name of one level: leaves room for suffixes within the 255 bytes of common file systems."""


BASE_BYTES: Final = 2000
"""Longest output name in all: leaves room for the output folder within the 4,096 bytes of a path."""


PARTIAL: Final = ".partial"
"""Folder of partial files below the media folder."""


RESERVED: Final = frozenset({PARTIAL, "shards"})
"""Names at the top of the media folder that no output has: partial files, and shards (`media.store`)."""


COPIES_OUTSIDE: Final = "exporter-copies-"
"""Prefix of folders of temporary copies that must not lie among what is de-identified."""


_WINDOWS_REFUSES: Final = re.compile(r'[<>:"|?*\\]')


_DEVICES: Final = frozenset(
    {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in "0123456789¹²³")}
)
"""Names that are devices on Windows, with any extension (Microsoft, "Naming Files, Paths, and Namespaces")."""


@lru_cache(maxsize=1024)  # asked for when the order of inputs is decided, and when the output gets its name
def output_bases(name: str) -> tuple[str, str]:
    """Output names for an input: without its DICOM extension, and with it for when another input has the first.

    Both mirror the input's place; a level that is too long, not UTF-8, not printable, or no name on Windows and exFAT
    is replaced by what is harmless of it and a hash, the same on every machine.

    Args:
        name: Path relative to the input folder, as `os.fsdecode` gives it.
    """
    *folders, file = name.split("/")
    stem, dot, extension = file.rpartition(".")
    bare = stem if stem and f"{dot}{extension}".lower() in EXTENSIONS else file
    above = [_hashed(folder) if folder.endswith((".", " ")) else _component(folder) for folder in folders]
    if above and above[0].casefold() in RESERVED:
        above[0] = _hashed(folders[0])
    return _whole(name, [*above, _component(bare)]), _whole(name, [*above, _component(file)])


def _whole(name: str, components: list[str]) -> str:
    base = "/".join(components)
    if len(base.encode()) <= BASE_BYTES:
        return base
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()
    return f"~deep/{digest[:2]}/{digest[:32]}"


def _component(text: str) -> str:
    is_harmless = text.isprintable() and not _WINDOWS_REFUSES.search(text) and not _is_device(text)
    return text if is_harmless and len(os.fsencode(text)) <= COMPONENT_BYTES else _hashed(text)


def _is_device(text: str) -> bool:
    return text.partition(".")[0].rstrip(" ").casefold() in _DEVICES


def _hashed(text: str) -> str:
    digest = hashlib.sha256(os.fsencode(text)).hexdigest()
    shown = "".join(character if character.isprintable() else "_" for character in _WINDOWS_REFUSES.sub("_", text))
    if _is_device(text):
        shown = f"_{shown}"
    return f"{shown.encode()[: COMPONENT_BYTES - 24].decode(errors='ignore')}~{digest[:16]}"


def identity_base(layout: str, uids: dict[str, str]) -> str:
    """Output name of a received instance: the layout with its fields filled in, each as `uid_component` makes it."""
    filled = [re.sub(r"\{(\w+)\}", lambda field: uid_component(uids[field[1]]), part) for part in layout.split("/")]
    first, *others = map(_component, filled)
    return "/".join([_hashed(first) if first.casefold() in RESERVED else first, *others])


def uid_component(value: str) -> str:
    """A UID as a file name; other text (PS3.5 9.1) by its hash: nothing from the wire becomes a path."""
    if re.fullmatch(r"[0-9][0-9.]{0,63}", value):
        return value
    return f"h{hashlib.sha256(value.encode(errors='surrogateescape')).hexdigest()[:32]}"


def ae_title_component(value: str) -> str:
    """An AE title as part of a file name; a title with other characters by its hash, so that no two share a name."""
    if re.fullmatch(r"[A-Z0-9_-]{1,16}", value):
        return value
    return f"{re.sub(r'[^A-Za-z0-9_-]', '_', value)}-{hashlib.sha256(value.encode()).hexdigest()[:8]}"
