"""Names of inputs and of called AE titles as everything beside the data has them: keyed where the profile is `basic`.

Contract: ledger, lines, media names, logs and reports have the name that `InputNames` gives, and no other. Each level
of a path is keyed with all that stands before it: a name says how deep an input lies and which inputs lie together,
and nothing else. The same key gives the same names in every run. `original` finds the input of a name in its folder.

Must never: give one name to two inputs of a folder. The bytes of a name are keyed as they are, without the
normalization of identifiers: a file system may hold two names that differ in it alone.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Self

from exporter.privacy.key import key_of
from exporter.privacy.pseudonyms import Pseudonyms

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from exporter.settings.settings import Settings

INPUT: Final = "input"
"""Word of the pseudonyms of input names."""
TIME: Final = "time"
"""Word of the numbers that stand for times of change."""
AE_TITLE: Final = "ae_title"
"""Word of the pseudonyms of called AE titles."""
_TITLE_DIGITS: Final = 16


class KeyedName(str):
    """A name that is keyed already."""

    __slots__ = ()


class InputNames:
    """Names of inputs and AE titles under one configuration; as they are where nothing is keyed."""

    def __init__(
        self, pseudonyms: Pseudonyms | None = None, *, keys_paths: bool = True, titles: AbstractSet[str] = frozenset()
    ) -> None:
        """Make names.

        Args:
            pseudonyms: Under the key; None where nothing is keyed.
            keys_paths: Whether names of inputs are keyed.
            titles: Called AE titles that are keyed.
        """
        self._pseudonyms = pseudonyms
        self._keys_paths = keys_paths and pseudonyms is not None
        self._titles = titles
        self._listing = lru_cache(maxsize=16)(self._listed)

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Names under these settings.

        Raises:
            KeyUnusable: The key file cannot be used.
        """
        if not settings.deidentifies:
            return cls()
        pseudonyms = Pseudonyms(key_of(settings.privacy))
        titles = {title for title, own in settings.by_ae_title.items() if own.privacy.profile != "none"}
        return cls(pseudonyms, keys_paths=settings.privacy.profile != "none", titles=titles)

    @property
    def is_keyed(self) -> bool:
        """Whether names of inputs are keyed."""
        return self._keys_paths

    def ae_title(self, title: str) -> str:
        """Name of a called AE title; it also stands for the settings of that title."""
        return self.pseudonym_of_title(title) if title in self._titles else title

    def pseudonym_of_title(self, title: str) -> str:
        """Pseudonym of an AE title, or the title where there is no key."""
        return title if self._pseudonyms is None else self._pseudonyms.of(AE_TITLE, title, _TITLE_DIGITS)

    def name(self, path: str) -> str:
        """Name of the input at a path, as `exporter.inputs.contract` forms it; its separators stay."""
        if self._pseudonyms is None or not self._keys_paths or isinstance(path, KeyedName):
            return path
        end, parts = 0, []
        for part in path.split("/"):
            end += len(part)
            parts.append(self._pseudonyms.of(INPUT, os.fsencode(path[:end]).hex()) if part else "")
            end += 1
        return KeyedName("/".join(parts))

    def uid(self, uid: str) -> str:
        """UID that stands for another one, unless `retain_uids` keeps it; the UID where there is no key."""
        return uid if self._pseudonyms is None else self._pseudonyms.uid(uid)

    def time(self, mtime_ns: int) -> int:
        """Number that stands for the time of change of an input, which may be the day of the examination."""
        if self._pseudonyms is None or not self._keys_paths:
            return mtime_ns
        return int(self._pseudonyms.of(TIME, str(mtime_ns), 15), 16)

    def original(self, folder: Path, name: str) -> str | None:
        """Path, relative to a folder, of the input of that name; None if it is not there, or inside a container."""
        if not self._keys_paths:
            return name
        path = ""
        for part in name.rstrip("/").split("/"):
            found = self._listing(folder, path).get(part)
            if found is None:
                return None
            path = f"{path}/{found}" if path else found
        return f"{path}/" if name.endswith("/") else path

    def among(self, paths: Iterable[str], names: Iterable[str]) -> Iterator[str]:
        """Those of the paths whose names are wanted."""
        wanted = set(names)
        return (path for path in paths if self.name(path) in wanted)

    def _listed(self, folder: Path, path: str) -> dict[str, str]:
        """Entries of a folder below `folder`, by the last level of their names."""
        try:
            with os.scandir(folder / path) as entries:
                found = [entry.name for entry in entries]
        except OSError:
            return {}
        return {self.name(f"{path}/{one}" if path else one).rpartition("/")[2]: one for one in found}
