"""Output names: no two instances ever share one, whatever the case rules of the file system.

Contract: `reserve` looks at what committed rows own and at what is under way, in one step. A name under way belongs to
its instance until `release`; the ledger releases it after the commit that makes it a row.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from itertools import chain, count
from typing import TYPE_CHECKING

from exporter.results.ledger.schema import stored
from exporter.results.ledger.transitions import output_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from exporter.results.ledger.transitions import Row


class OutputNames:
    """The output names of one ledger, those under way included."""

    def __init__(self, read: Callable[[str, tuple[object, ...]], list[Row]]) -> None:
        """`read` runs a query on committed rows."""
        self._read = read
        self._lock = threading.Lock()
        self._under_way: dict[str, tuple[str, str, frozenset[str]]] = {}

    def reserve(
        self,
        wanted: str,
        name: str,
        suffixes: Iterable[str],
        alternatives: Iterable[str] | None,
        taken: Callable[[str], bool] | None,
    ) -> str:
        """See `Ledger.reserve_base`."""
        endings = tuple(suffixes)
        others = alternatives if alternatives is not None else _alternatives(wanted)
        with self._lock:
            for base in chain((wanted,), others):
                outputs = {output_key(base + ending): base + ending for ending in endings}
                if self._is_free(base, outputs, name, taken):
                    self._under_way[name] = (base, output_key(base), frozenset(outputs))
                    return base
        raise LookupError("no output name is left among the alternatives")

    def base_of(self, name: str) -> str | None:
        """The base that is reserved for the instance under way."""
        with self._lock:
            reserved = self._under_way.get(name)
        return reserved[0] if reserved is not None else None

    def release(self, name: str) -> None:
        """Forget the reservation of the instance."""
        with self._lock:
            self._under_way.pop(name, None)

    def _is_free(
        self,
        base: str,
        outputs: dict[str, str],
        name: str,
        taken: Callable[[str], bool] | None,
    ) -> bool:
        key = output_key(base)
        owner_id, base_owner = self._read(_OWNERS, (stored(name), stored(key)))[0]
        if base_owner is not None and base_owner != owner_id:
            return False
        for other, (_, other_key, other_outputs) in self._under_way.items():
            if other != name and (other_key == key or _overlap(outputs, other_outputs)):
                return False
        for output, path in outputs.items():
            owners = self._owners_near(output)
            if any(owner != owner_id for owner in owners):
                return False
            if taken is not None and not owners and taken(path):
                return False
        return True

    def _owners_near(self, key: str) -> list[int]:
        """Ids of the instances with an output at `key`, around it or inside it."""
        plain = key.rstrip("/")
        around = [key[:end] for end in range(1, len(plain)) if key[end] == "/"]
        keys = [spelling for path in (plain, *around) for spelling in (path, f"{path}/")]
        # "0" is the character after "/": the range holds every path below the folder and nothing else.
        inside = (stored(f"{plain}/"), stored(f"{plain}0"))
        names = tuple(map(stored, keys))
        return [row[0] for row in self._read(_near(len(keys)), (*names, *names, *inside))]


def _alternatives(wanted: str) -> Iterator[str]:
    """Other names near `wanted`; then, as the folders around it may be outputs themselves, below other folders."""
    near = (f"{wanted}-{number}" for number in range(2, 10))
    return chain(near, (f"~{number}/{wanted}" for number in count(2)))


_OWNERS = """SELECT (SELECT id FROM instance WHERE name = CAST(? AS TEXT)),
    (SELECT id FROM instance WHERE base_key = CAST(? AS TEXT))"""
"""Ids of an instance, by its name, and of the owner of a base, which is unique."""


@lru_cache(maxsize=64)
def _near(number: int) -> str:
    """Statement for the ids of instances with outputs of one of so many keys, or inside one of them."""
    keys = ", ".join(["CAST(? AS TEXT)"] * number)
    return f"""SELECT instance_id FROM medium WHERE path_key IN ({keys})
        UNION ALL SELECT instance_id FROM superseded WHERE path_key IN ({keys})
        UNION ALL SELECT * FROM (SELECT instance_id FROM medium
        WHERE path_key > CAST(? AS TEXT) AND path_key < CAST(? AS TEXT) LIMIT 2)"""  # noqa: S608 - only question marks


def _overlap(outputs: Iterable[str], others: frozenset[str]) -> bool:
    """Whether an output of these is, contains or lies inside another output."""
    folders = [other.rstrip("/") for other in others]
    return any(
        mine == theirs or mine.startswith(f"{theirs}/") or theirs.startswith(f"{mine}/")
        for mine in (output.rstrip("/") for output in outputs)
        for theirs in folders
    )
