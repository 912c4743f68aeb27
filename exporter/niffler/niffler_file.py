"""Niffler's ``config.json``, read strictly, and the settings that it stands for.

Contract: a `NifflerConfig` exists only if every key of the file is known and has a valid value, and its folders can be
used; `NifflerFileUnusable` lists every fault, one sentence each. Booleans and numbers may be
strings, as on Niffler's command line, and ``"false"`` is false.

Source: the keys of Niffler's png-extraction module and of its earlier versions.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from exporter.niffler.csv_tables import OWN_COLUMNS
from exporter.niffler.keyed_names import LEVELS
from exporter.settings.notify import is_address
from listener.foundation.errors import Unusable
from listener.foundation.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from exporter.niffler.keyed_names import Level
    from exporter.settings.settings import Settings

FEATURES: Final = "featureset.txt"
IMAGES: Final = "extracted-images"
MOST_FILE_BYTES: Final = 1 << 20


class NifflerFileUnusable(Unusable):
    """The configuration cannot be used; the text lists every fault, one per line."""

    exit_code = 2
    names_its_file = True


class _Fault(Exception):
    """Raised for an invalid value; the text says what it must be."""


@dataclass(frozen=True, slots=True)
class NifflerConfig:
    """Configuration of one run of the extractor."""

    dicom_home: Path
    output: Path
    depth: int
    chunks: int
    print_images: bool
    common_only: bool
    public_only: bool
    features: tuple[str, ...] | None
    """Columns to write (`SpecificHeadersOnly`); None for all."""
    processes: float
    """0 for all cores, 0.5 for half of them, else their number."""
    level: Level
    is_16_bit: bool
    email: str | None
    """Recipient of the mail at the end; None for no mail."""

    @property
    def workers(self) -> int:
        """Number of worker processes on this machine."""
        cores = len(os.sched_getaffinity(0))
        wanted = {0.0: cores, 0.5: cores // 2}.get(float(self.processes), int(self.processes))
        return max(1, min(wanted, cores))

    @property
    def images(self) -> Path:
        """Folder of the pictures."""
        return self.output / IMAGES

    def settings(self, base: Settings) -> Settings:
        """Our settings for such a run: PNG of every frame and no other kinds of media, or no media at all."""
        image = base.image.model_copy(
            update={
                "extension": ".png",
                "outputs": ("raw16",) if self.is_16_bit else ("view8",),
                "save_method_kwargs": type(base.image.save_method_kwargs)(),
                "copy_jpeg": False,
            }
        )
        changed = {
            "media": base.media.model_copy(update={"dir": self.images, "enabled": self.print_images}),
            "image": image,
            "frames": base.frames.model_copy(update={"enabled": True}),
            "volume": base.volume.model_copy(update={"enabled": False, "series": False}),
        }
        return type(base)(**{name: getattr(base, name) for name in type(base).model_fields} | changed)


def read_niffler_file(path: Path, changes: Sequence[str] = (), *, needs_folders: bool = True) -> NifflerConfig:
    """Read the configuration in `path`, with some values changed.

    Args:
        path: The file; ``featureset.txt`` lies beside it.
        changes: ``KEY=VALUE`` each.
        needs_folders: Whether the input folder and the list of columns must be on this machine.

    Raises:
        NifflerFileUnusable: It cannot be read, or a key or value is invalid.
    """
    values, faults = _with_changes(_pairs(path), changes)
    found, further = _read_values(values)
    faults += further
    at_fault = {field for key, (field, _) in _KEYS.items() if any(fault.startswith(f"{key}:") for fault in faults)}
    faults += [
        f"{key}: is missing; name the folder"
        for key, field in (("DICOMHome", "dicom_home"), ("OutputDirectory", "output"))
        if field not in found and field not in at_fault
    ]
    found = _DEFAULTS | found
    features: tuple[str, ...] | None = ()
    if needs_folders:
        faults += _folder_faults(found)
        if found["specific_only"]:
            try:
                features = _features(path.parent / FEATURES)
            except _Fault as fault:
                faults.append(f"SpecificHeadersOnly: {fault}")
    specific_only, send_email = found.pop("specific_only"), found.pop("send_email")
    if send_email and not is_address(found["email"]) and "email" not in at_fault:
        faults.append("YourEmail: SendEmail needs one e-mail address (name@host)")
    if faults:
        raise NifflerFileUnusable("\n".join(printable(f"{path}: {fault}") for fault in faults))
    found["features"] = features if specific_only else None
    found["email"] = found["email"] if send_email else None
    return NifflerConfig(**found)


def _read_values(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Read valid values into fields; the invalid ones are listed as faults."""
    found: dict[str, Any] = {}
    faults: list[str] = []
    for key, value in values.items():
        if key not in _KEYS:
            faults.append(f"{key}: no such key (permitted: {', '.join(_KEYS)})")
            continue
        field, read = _KEYS[key]
        if field in found:
            other = next(name for name, (its, _) in _KEYS.items() if its == field and name in values and name != key)
            faults.append(f"{key}: says the same as {other}: name one of them")
            continue
        try:
            found[field] = read(value)
        except _Fault as fault:
            faults.append(f"{key}: {fault}")
    return found, faults


def _pairs(path: Path) -> dict[str, Any]:
    """Keys and values of the file.

    Raises:
        NifflerFileUnusable: It cannot be read, is no JSON object, or has a key twice.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_FILE_BYTES + 1)
        text = raw.decode("utf-8-sig")
    except OSError as error:
        raise NifflerFileUnusable(
            f"{path}: cannot be read: {error.strerror}; name the config.json of Niffler"
        ) from None
    except UnicodeDecodeError:
        raise NifflerFileUnusable(
            f"{path}: is no JSON text: it is not UTF-8; name the config.json of Niffler"
        ) from None
    if len(raw) > MOST_FILE_BYTES:
        raise NifflerFileUnusable(
            f"{path}: is larger than any configuration ({MOST_FILE_BYTES} bytes); name the config.json of Niffler"
        )
    try:
        pairs = json.loads(text, object_pairs_hook=list)
    except (json.JSONDecodeError, RecursionError) as error:
        pairs = _flat_pairs(text)
        if pairs is None:
            where = "it is nested too deep"
            if isinstance(error, json.JSONDecodeError):
                where = f"line {error.lineno}: {error.msg}"
            raise NifflerFileUnusable(
                f"{path}: is no JSON: {where}; mend it, or name the config.json of Niffler"
            ) from None
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
        raise NifflerFileUnusable(f"{path}: is no JSON object of keys and values; name the config.json of Niffler")
    keys = [key for key, _ in pairs]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise NifflerFileUnusable(f"{path}: {twice[0]}: is there more than once; name it once")
    return dict(pairs)


_PAIR: Final = re.compile(r'\s*("(?:[^"\\\n]|\\.)*")\s*:\s*("(?:[^"\\\n]|\\.)*"|true|false|null|-?\d+(?:\.\d+)?)\s*,?')


def _flat_pairs(text: str) -> list[tuple[str, Any]] | None:
    """Keys and values of a JSON object with missing or surplus commas, as in a file that Niffler ships.

    Returns:
        The pairs; None if more than the commas is wrong.
    """
    text = text.strip()
    if not (text.startswith("{") and text.endswith("}")):
        return None
    at, end, pairs = 1, len(text) - 1, []
    while match := _PAIR.match(text, at, end):
        try:
            pairs.append((json.loads(match[1]), json.loads(match[2])))
        except json.JSONDecodeError:
            return None
        at = match.end()
    return pairs if pairs and not text[at:end].strip() else None


def _with_changes(values: dict[str, Any], changes: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Apply changes to the values; invalid changes are listed as faults."""
    faults = []
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals or not key:
            faults.append(f"--set {change}: is not KEY=VALUE")
            continue
        field = _KEYS[key][0] if key in _KEYS else None
        values = {k: v for k, v in values.items() if k == key or k not in _KEYS or _KEYS[k][0] != field}
        values[key] = value
    return values, faults


def _folder_faults(found: Mapping[str, Any]) -> list[str]:
    faults = []
    home, output = found.get("dicom_home"), found.get("output")
    if home is not None and not os.path.isdir(home):  # noqa: PTH112 - False where it cannot be looked at
        faults.append(f"DICOMHome: there is no folder {home}")
    if output is not None and os.path.exists(output) and not os.path.isdir(output):  # noqa: PTH110, PTH112
        faults.append(f"OutputDirectory: {output} is no folder")
    return faults


def _features(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise _Fault(f"{path} cannot be read: {error.strerror}; it lists the wanted columns, one a line") from None
    except UnicodeDecodeError:
        raise _Fault(f"{path} is no text in UTF-8") from None
    names = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not any(map(_may_be_column, names)):
        raise _Fault(f"{path} names no column; list keywords such as PatientID, one a line")
    return names


def _may_be_column(name: str) -> bool:
    """Whether a table can have a column of that name: a keyword, a path that ends in one, a private element, ours."""
    from pydicom.datadict import tag_for_keyword

    is_private = " " in name or name.startswith("[")
    return is_private or name in OWN_COLUMNS or tag_for_keyword(name.rpartition("_")[2]) is not None


# -- values ----------------------------------------------------------------------------------------------------------


def _boolean(value: Any) -> bool:
    word = value.strip().lower() if isinstance(value, str) else value
    for meaning, words in ((True, (True, "true", "1")), (False, (False, "false", "0"))):
        if any(word == one and isinstance(word, bool | int | str) for one in words):
            return meaning
    raise _Fault(f"{_shown(value)} is neither true nor false")


def _number(value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    is_text = isinstance(value, str) and re.fullmatch(r"\s*\d{1,9}(\.\d{1,9})?\s*", value)
    number = float(value) if is_number or is_text else -1.0
    if not 0 <= number < 1e9:
        raise _Fault(f"{_shown(value)} is no number from 0")
    return number


def _whole(least: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        number = _number(value)
        if number < least or not number.is_integer():
            raise _Fault(f"{_shown(value)} is no whole number from {least}")
        return int(number)

    return read


def _processes(value: Any) -> float:
    number = _number(value)
    if number != 0.5 and not number.is_integer():
        raise _Fault(f"{_shown(value)} is neither 0 (all cores) nor 0.5 (half of them) nor a number of cores")
    return number


def _level(value: Any) -> Level:
    for level in LEVELS:
        if isinstance(value, str) and value.strip() == level:
            return level
    raise _Fault(f"{_shown(value)} is no level (permitted: {', '.join(LEVELS)})")


def _folder(value: Any) -> Path:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise _Fault(f"{_shown(value)} is no path of a folder")
    return Path(value).expanduser()


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise _Fault(f"{_shown(value)} is no text")
    return value.strip()


def _shown(value: Any) -> str:
    """Value for a message, shortened."""
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


_KEYS: Final[Mapping[str, tuple[str, Callable[[Any], Any]]]] = {
    "DICOMHome": ("dicom_home", _folder),
    "OutputDirectory": ("output", _folder),
    "Depth": ("depth", _whole(0)),
    "SplitIntoChunks": ("chunks", _whole(1)),
    "PrintImages": ("print_images", _boolean),
    "CommonHeadersOnly": ("common_only", _boolean),
    "PublicHeadersOnly": ("public_only", _boolean),
    "SpecificHeadersOnly": ("specific_only", _boolean),
    "UseProcesses": ("processes", _processes),
    "FlattenedToLevel": ("level", _level),
    "is16Bit": ("is_16_bit", _boolean),
    "SendEmail": ("send_email", _boolean),
    "YourEmail": ("email", _string),
    # Earlier versions:
    "UseProcessors": ("processes", _processes),
    "UseHalfOfTheProcessorsOnly": ("processes", lambda value: 0.5 if _boolean(value) else 0.0),
    "FlattenedToPatientLevel": ("level", lambda value: "patient" if _boolean(value) else "series"),
}
"""Field and reading of every key."""
_DEFAULTS: Final[dict[str, Any]] = {
    "depth": 0,
    "chunks": 1,
    "print_images": True,
    "common_only": False,
    "public_only": True,
    "specific_only": False,
    "processes": 0.0,
    "level": "patient",
    "is_16_bit": True,
    "send_email": False,
    "email": "",
}
"""Values of missing keys (earlier versions lack some): the defaults of Niffler's documentation, except that no mail is
sent to an address that was not named."""
