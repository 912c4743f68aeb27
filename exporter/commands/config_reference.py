"""Every key of the configuration, from the models: the annotated YAML file, the JSON Schema and the table of the docs.

Contract: the models are the only place where a key, its default and its meaning are written down; what this module
makes of them is committed as `config/exporter.yml`, `config/exporter.schema.json` and the tables of
`docs/configuration.md`, and tests hold the three in step: after a change of the models, run
``python -m exporter.commands.config_reference`` in the repository.
"""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from exporter.settings.settings import Settings
from listener.foundation.configuration import model_inside

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

WIDTH = 110
NAMED = "*"
"""In a path: each of the names that a section holds."""
_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
FIRST = ("num_workers", "dicom", "media", "metadata", "config")
HEAD = """\
# Configuration of the DICOM Media Exporter: every key with its default.
#
# Every key is optional; delete what you do not change. `exporter config check --config FILE` reports every mistake at
# once, with its line. Relative paths are relative to the folder the command is started in; services should name
# absolute ones. Lines that begin with "# " and hold a key show what may stand in a list or an optional section.
"""


@dataclass(frozen=True, slots=True)
class SettingKey:
    """One key of the file."""

    path: tuple[str, ...]
    """Names from the top; ``[]`` stands for each item of a list."""
    meaning: str
    permitted: str
    default: Any
    """Default as plain data; `...` where a value is required."""
    is_section: bool
    """Whether keys follow below it."""
    is_example: bool
    """Whether the key exists only inside an item of a list or a section that is off by default."""

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path[-1]


@cache
def _describe(model: type[BaseModel]) -> None:
    """Give the keys of a model, and of the sections inside it, their docstrings as descriptions."""
    for base in reversed(model.__mro__[: model.__mro__.index(BaseModel)]):
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        body = definition.body if isinstance(definition, ast.ClassDef) else []
        for key, text in pairwise(body):
            match key, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                    if name in model.model_fields:
                        model.model_fields[name].description = inspect.cleandoc(words)
                case _:
                    pass
    for info in model.model_fields.values():
        inside = model_inside(info.annotation)
        if inside is not None:
            _describe(inside)
    model.model_rebuild(force=True)


def every_key() -> Iterator[SettingKey]:
    """Every key in the order of the file; sections before their keys."""
    _describe(Settings)
    yield from _keys(Settings, (), Settings().model_dump(mode="json"), is_example=False)


def _keys(model: type[BaseModel], above: tuple[str, ...], values: Any, *, is_example: bool) -> Iterator[SettingKey]:
    schema = model.model_json_schema()
    for name, info in sorted(model.model_fields.items(), key=lambda item: _rank(item[0], above)):
        inside = model_inside(info.annotation)
        default = values[name] if name in values else _default(info)
        rule = schema["properties"].get(name, {})
        meaning = " ".join((info.description or (inside and inside.__doc__) or "").split())
        is_named = "additionalProperties" in rule and inside is not None
        is_listed = rule.get("type") == "array" or is_named
        is_off = is_listed or default is None
        if above and inside is not None and _says_again(name, inside):
            yield SettingKey((*above, name), meaning, f"keys of `{name}`", None, is_section=True, is_example=is_example)
            continue
        permitted = "" if inside is not None and not is_listed else _permitted(rule)
        shown = None if inside is not None and not is_off else default
        yield SettingKey((*above, name), meaning, permitted, shown, inside is not None, is_example)
        if inside is not None:
            here = (*above, name, NAMED if is_named else "[]") if is_listed else (*above, name)
            below = {} if is_off else default
            yield from _keys(inside, here, below, is_example=is_example or is_off)


def _says_again(name: str, inside: type[BaseModel]) -> bool:
    """Whether a section inside another is also a top-level one: its keys are documented there."""
    top = Settings.model_fields.get(name)
    return top is not None and model_inside(top.annotation) is inside


def _rank(name: str, above: tuple[str, ...]) -> int:
    """The seed's keys first, as its users know them; then the order of the models, as sorting is stable."""
    return FIRST.index(name) if not above and name in FIRST else len(FIRST)


def _default(info: FieldInfo) -> Any:
    default = info.get_default(call_default_factory=True)
    if default is PydanticUndefined:
        return ...
    return default.model_dump(mode="json") if isinstance(default, BaseModel) else default


def _permitted(rule: dict[str, Any]) -> str:
    """Permitted values of a key, in words, from its JSON Schema."""
    if "anyOf" in rule:
        return " or ".join(_permitted(branch) for branch in rule["anyOf"] if branch.get("type") != "null")
    if "enum" in rule or "const" in rule:
        return " or ".join(f"`{word}`" for word in rule.get("enum", [rule.get("const")]))
    kind = "keys" if "$ref" in rule else rule.get("type", "any")
    bounds = (("exclusiveMinimum", "above"), ("minimum", "from"), ("maximum", "to"))
    words = [f"{word} {rule[key]}" for key, word in bounds if key in rule]
    items = " and ".join(map(_permitted, rule.get("prefixItems", [rule["items"]] if "items" in rule else [])))
    return " ".join([_TYPES.get(rule.get("format", kind), kind), items, *words]).replace("  ", " ").strip()


_TYPES = {
    "array": "list of",
    "any": "any value",
    "boolean": "`true` or `false`",
    "integer": "whole number",
    "ipv4network": "IPv4 network",
    "ipv6network": "IPv6 network",
    "object": "names with values",
    "path": "path",
    "string": "text",
}


def annotated_yaml() -> str:
    """`config/exporter.yml`: every key, its meaning and its default."""
    lines = [HEAD]
    for key in every_key():
        depth = len([part for part in key.path if part not in {"[]", NAMED}]) - 1
        indent = "  " * depth
        mark = "# " if key.is_example else ""
        if depth == 0:
            lines.append("")
        note = _sentence(key.meaning, key.permitted)
        lines += [f"{indent}# {line}" for line in textwrap.wrap(note, WIDTH - len(indent))]
        lines.append(f"{indent}{mark}{key.name}:{_value(key)}")
    return "\n".join(lines).replace("\n\n\n", "\n\n") + "\n"


def _sentence(meaning: str, permitted: str) -> str:
    meaning = meaning.replace("``", "`")
    return f"{meaning} [{permitted.replace('`', '')}]" if permitted else meaning


def _value(key: SettingKey) -> str:
    """The text behind the colon."""
    if key.default is ... or (key.is_section and key.default is None):
        return ""
    if key.default is None:
        return ""
    text = yaml.safe_dump(key.default, default_flow_style=True, width=1 << 20, sort_keys=False)
    text = text.removesuffix("\n").removesuffix("\n...")
    return f" {text}{_size(key)}"


def _size(key: SettingKey) -> str:
    """A large number of bytes as people read it."""
    if key.name.endswith("_bytes") and isinstance(key.default, int):
        for unit, name in _UNITS:
            if key.default >= unit and key.default % unit == 0:
                return f"  # {key.default // unit} {name}"
    return ""


def json_schema() -> str:
    """`config/exporter.schema.json`, for editors that complete and check."""
    _describe(Settings)
    schema = Settings.model_json_schema() | {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps(schema, indent=2, ensure_ascii=False, sort_keys=True) + "\n"


def markdown() -> str:
    """The tables of `docs/configuration.md`: one per top-level key that is a section, one for the rest."""
    tables: dict[str, list[str]] = {}
    titles: dict[str, str] = {}
    for key in every_key():
        top = key.path[0]
        if key.is_section and len(key.path) == 1:
            titles[top] = key.meaning
            continue
        spelled = ".".join(key.path).replace(".[]", "[]")
        default = "" if key.default is None or key.default is ... else _json(key)
        cells = (f"`{spelled}`", default or ("required" if key.default is ... else ""), key.permitted, key.meaning)
        tables.setdefault(top, []).append(
            "| " + " | ".join(c.replace("``", "`").replace("|", "\\|") for c in cells) + " |"
        )
    text = []
    for top, rows in tables.items():
        text += [
            f"### `{top}`",
            "",
            titles.get(top, ""),
            "",
            "| key | default | permitted | meaning |",
            "|---|---|---|---|",
        ]
        text += [*rows, ""]
    return "\n".join(text).replace("\n\n\n", "\n\n").rstrip() + "\n"


def _json(key: SettingKey) -> str:
    return f"`{json.dumps(key.default, ensure_ascii=False)}`{_size(key).replace('  # ', ' = ')}"


MARK = "<!-- made from the models: `python -m exporter.commands.config_reference` brings it up to date -->\n\n"
"""In `docs/configuration.md`, before the tables."""


def rewrite(repository: Path) -> None:
    """Bring the three files of a checkout up to date with the models."""
    (repository / "config/exporter.yml").write_text(annotated_yaml())
    (repository / "config/exporter.schema.json").write_text(json_schema())
    document = repository / "docs/configuration.md"
    head, mark, _ = document.read_text().partition(MARK)
    document.write_text(head + mark + markdown())


if __name__ == "__main__":
    rewrite(Path(__file__).resolve().parents[2])
