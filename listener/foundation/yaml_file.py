"""A YAML file read into plain data, with the line of every key: the meaning of `yaml.safe_load`, without its surprises.

Contract: the result holds dicts with text keys, lists, text, numbers, booleans and None, nothing else. Differences from
`yaml.safe_load`, each because a configuration would otherwise mean something its author did not write: a key given
twice, a tag that is not one of YAML's plain types and a control character are faults; keys stay text (``on:`` is the
key ``on``), dates and ``12:30`` stay text, ``1e3`` is a number. Anchors, aliases and merge keys work, but the file may
not unfold to more than a bounded number of values.

Must never: run code, build objects, read anything but the one regular file, or give a traceback for any content.
"""

from __future__ import annotations

import codecs
import os
import re
import stat
import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from listener.foundation.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MAX_BYTES = 256 * 1024
MAX_VALUES = 20_000
MAX_DEPTH = 32

KeyPath = tuple[str | int, ...]

_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = frozenset(
    _TAG + name for name in ("str", "int", "float", "bool", "null", "timestamp", "merge", "value", "map", "seq")
)
_EXPONENT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+\Z")


@dataclass(frozen=True, slots=True, order=True)
class ConfigurationFault:
    """One thing that is wrong in a configuration file, and what would be right."""

    line: int
    """Counted from 1; 0 where the fault has no line (the file is missing)."""
    key_path: str
    problem: str
    permitted: str = ""
    guess: str = ""

    def sentence(self, source: str) -> str:
        """``file:line: key.path: problem (permitted: ...; did you mean ...?)``."""
        place = f"{source}:{self.line}: " if self.line else f"{source}: "
        subject = f"{self.key_path}: " if self.key_path else ""
        hints = [f"permitted: {self.permitted}"] if self.permitted else []
        hints += [f"did you mean {self.guess}?"] if self.guess else []
        return printable(f"{place}{subject}{self.problem}" + (f" ({'; '.join(hints)})" if hints else ""))


@dataclass(frozen=True, slots=True)
class Document:
    """What a file says, and where."""

    data: dict[str, Any]
    lines: dict[KeyPath, int]
    """Line of every key and list item, counted from 1; of the whole under the empty path."""
    faults: tuple[ConfigurationFault, ...]

    def line(self, path: KeyPath) -> int:
        """Line of a key, or of the nearest key above it that the file holds."""
        while path not in self.lines and path:
            path = path[:-1]
        return self.lines.get(path, 0)


def spelled(path: KeyPath) -> str:
    """A key path as people write it: ``listener.allow[2].host``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def read(path: Path) -> Document:
    """Read one configuration file; whatever is wrong with it is in `Document.faults`."""
    reader = _Reader()
    try:
        data = reader.top(_compose(_text(path)))
    except _Unusable as stop:
        return Document({}, {}, (*reader.faults, stop.fault))
    return Document(data, reader.lines, tuple(reader.faults))


def _unprintable(text: str) -> bool:
    return any(unicodedata.category(c) in {"Cc", "Cs"} and c not in "\n\t" for c in text)


class _Unusable(Exception):
    """Nothing after this fault can be judged; never leaves this module."""

    def __init__(self, line: int, problem: str, permitted: str = "", guess: str = "") -> None:
        super().__init__(problem)
        self.fault = ConfigurationFault(line, "", problem, permitted, guess)


def _text(path: Path) -> str:
    """The file's text; refuses what is no regular file before opening could block on it."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - one call, and the errors below
            raise _Unusable(0, "is not a regular file", "a YAML file")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise _Unusable(0, "there is no such file", guess="another folder; `exporter config init` writes one") from None
    except (OSError, ValueError) as cause:
        raise _Unusable(0, f"cannot be read: {getattr(cause, 'strerror', None) or 'bad file name'}") from None
    if len(raw) > MAX_BYTES:
        raise _Unusable(0, f"is larger than {MAX_BYTES} bytes", "a configuration file")
    encoding = "utf-16" if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as cause:
        line = raw[: cause.start].count(b"\n") + 1
        raise _Unusable(
            line, f"byte {cause.start} is not {encoding.removesuffix('-sig').upper()} text", "a file saved as UTF-8"
        ) from None


def _compose(text: str) -> yaml.Node | None:
    """The node tree of the only document in the text."""
    try:
        depth = documents = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            # Depth first from the events, whose parser does not recurse; the composer below does.
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            documents += isinstance(event, yaml.DocumentStartEvent)
            line = event.start_mark.line + 1 if event.start_mark else 0
            if depth > MAX_DEPTH:
                raise _Unusable(line, f"is nested more than {MAX_DEPTH} levels deep")
            if documents > 1:
                raise _Unusable(line, "starts a second document", "one document per file, without a second ---")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.reader.ReaderError as cause:
        line = text[: cause.position].count("\n") + 1
        raise _Unusable(line, "holds a control character", "printable text") from None
    except yaml.MarkedYAMLError as cause:
        raise _syntax(cause, text) from None
    except (ValueError, OverflowError):  # PyYAML hands a \U escape to chr(), and the digits of %YAML to int()
        raise _Unusable(0, "is not YAML: an escape in quoted text names no character") from None
    return node


def _syntax(cause: yaml.MarkedYAMLError, text: str) -> _Unusable:
    """What PyYAML says of the syntax, without a quotation from the file."""
    mark = cause.problem_mark or cause.context_mark
    line = 0 if mark is None else mark.line + 1
    written = text[text.rfind("\n", 0, mark.index) + 1 :] if mark else ""
    problem = printable(cause.problem or "the syntax is wrong")
    if "\t" in written[: len(written) - len(written.lstrip(" \t"))] or "'\\t'" in problem:
        return _Unusable(line, "a tab character is used for layout", "spaces")
    if "mapping values are not allowed" in problem:
        return _Unusable(line, "a colon stands where no key can begin", "one key per line; text with a colon in quotes")
    if "undefined alias" in problem:
        return _Unusable(line, "an alias names no anchor", "text that begins with * in quotes")
    return _Unusable(line, f"is not YAML: {problem}")


@dataclass(slots=True)
class _Reader:
    """Turns nodes into data, collecting lines and faults."""

    lines: dict[KeyPath, int] = field(default_factory=dict)
    faults: list[ConfigurationFault] = field(default_factory=list)
    values: int = 0
    scalars: yaml.constructor.SafeConstructor = field(default_factory=yaml.constructor.SafeConstructor)

    def top(self, node: yaml.Node | None) -> dict[str, Any]:
        """The file's mapping; an empty file is an empty mapping."""
        if node is None or (isinstance(node, yaml.ScalarNode) and node.tag == _TAG + "null"):
            return {}
        self.lines[()] = node.start_mark.line + 1
        if not isinstance(node, yaml.MappingNode):
            kind = "a list" if isinstance(node, yaml.SequenceNode) else "plain text"
            raise _Unusable(node.start_mark.line + 1, f"holds {kind} instead of keys", "lines such as `num_workers: 4`")
        return self._mapping(node, (), ())

    def _fault(self, node: yaml.Node, path: KeyPath, problem: str, permitted: str = "", guess: str = "") -> None:
        self.faults.append(ConfigurationFault(node.start_mark.line + 1, spelled(path), problem, permitted, guess))

    def _value(self, node: yaml.Node, path: KeyPath, above: tuple[yaml.Node, ...]) -> Any:
        self.values += 1
        if self.values > MAX_VALUES or len(above) > MAX_DEPTH:
            raise _Unusable(node.start_mark.line + 1, "unfolds to too many values", f"at most {MAX_VALUES} values")
        if any(node is outer for outer in above):
            raise _Unusable(node.start_mark.line + 1, "an alias contains itself")
        if node.tag not in _PLAIN_TAGS:
            tag = node.tag.replace(_TAG, "!!")
            self._fault(node, path, f"the tag {tag[:60]} is not permitted", "plain values without a tag")
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, above)
        if isinstance(node, yaml.SequenceNode):
            items = []
            for index, item in enumerate(node.value):
                self.lines[(*path, index)] = item.start_mark.line + 1
                items.append(self._value(item, (*path, index), (*above, node)))
            return items
        return self._scalar(node, path) if isinstance(node, yaml.ScalarNode) else None

    def _mapping(self, node: yaml.MappingNode, path: KeyPath, above: tuple[yaml.Node, ...]) -> dict[str, Any]:
        data: dict[str, Any] = {}
        merges: list[yaml.Node] = []
        for key, value in node.value:
            self.values += 1
            if key.tag == _TAG + "merge":
                merges.append(value)
                continue
            if not isinstance(key, yaml.ScalarNode) or _unprintable(key.value) or key.tag not in _PLAIN_TAGS:
                self._fault(key, path, "a key is not plain text", "a word and a colon")
                continue
            name: str = key.value
            here = (*path, name)
            if name in data:
                self._fault(key, here, f"is given twice, first in line {self.lines[here]}", "each key once")
                continue
            self.lines[here] = key.start_mark.line + 1
            data[name] = self._value(value, here, (*above, node))
        own_lines = {(*path, name): self.lines[*path, name] for name in data}
        for value in merges:
            data = self._merge(value, path, (*above, node)) | data
        self.lines |= own_lines
        return data

    def _merge(self, node: yaml.Node, path: KeyPath, above: tuple[yaml.Node, ...]) -> dict[str, Any]:
        """The keys that ``<<: *anchor`` or ``<<: [*a, *b]`` brings; the first of several wins, as in YAML."""
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        data: dict[str, Any] = {}
        for source in sources:
            if isinstance(source, yaml.MappingNode):
                data = self._value(source, path, above) | data
            else:
                self._fault(node, path, "<< merges something that holds no keys", "an alias of a mapping")
        return data

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        """The value of plain or quoted text; a fault and None where it has none."""
        text: str = node.value
        if _unprintable(text):
            self._fault(node, path, "holds a control character", "printable text")
            return None
        kind = node.tag.removeprefix(_TAG)
        make = self._constructor(kind, node)
        try:
            return make(node) if make else text
        except (ValueError, KeyError, IndexError):
            self._fault(node, path, f"is not a value of the type {kind}", "a shorter number, or text in quotes")
            return None

    def _constructor(self, kind: str, node: yaml.ScalarNode) -> Callable[[yaml.ScalarNode], Any] | None:
        """What makes the value of plain text of a kind; None where the text is the value."""
        plain = ":" not in node.value  # 12:30 would be a number to the base of 60
        match kind:
            case "null":
                return self.scalars.construct_yaml_null
            case "bool":
                return self.scalars.construct_yaml_bool
            case "int" if plain:
                return self.scalars.construct_yaml_int
            case "float" if plain:
                return self.scalars.construct_yaml_float
            case "str" if node.style is None and _EXPONENT.match(node.value):
                return _exponent
        return None


def _exponent(node: yaml.ScalarNode) -> int | float:
    """``1e3``, which YAML 1.1 takes for text."""
    value = float(node.value)
    return int(value) if value.is_integer() and "." not in node.value else value
