"""Section 6 of the statement: every parameter that decides how the product communicates, with default and value."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from exporter.commands.config_reference import NAMED, every_key
from exporter.commands.conformance.markdown import not_applicable, paragraphs, table
from exporter.commands.conformance.overview import NO_PRINT, NO_WEB, NO_WORKFLOW

if TYPE_CHECKING:
    from exporter.commands.config_reference import SettingKey
    from exporter.settings.settings import Settings

_HEAD: Final = ("Parameter", "Configurable", "Default value", "Value in force", "Meaning")


def bodies(settings: Settings) -> dict[str, str]:
    """Bodies by section number."""
    in_force = settings.model_dump(mode="json")
    general = ("listener.deadlines", "listener.limits", "spool")
    own = ("listener.commitment", *general)
    return {
        "6": "One YAML file (`--config FILE`), which the administrator edits; `exporter config check` reports every "
        "mistake, `exporter config show` what is in force. *SERVICE*: configurable by the administrator. Lists and "
        "optional sections are shown as they are; their keys are in [configuration.md](configuration.md).",
        "6.1": _parameters(in_force, *general),
        "6.2": "",
        **{f"6.2.{number}": not_applicable(NO_WORKFLOW) for number in (1, 2, 3)},
        "6.2.4": not_applicable("nobody is notified of instances."),
        "6.2.5": _parameters(in_force, "listener", without=own),
        "6.2.6": _parameters(in_force, "listener.commitment"),
        "6.2.7": paragraphs(
            "One entry for each PACS, without a limit to their number; no entry by default. Each has these parameters.",
            _of_peers(),
            _peers(in_force),
        ),
        "6.2.8": not_applicable(NO_PRINT),
        "6.3": _parameters(in_force, "status"),
        "6.3.1": not_applicable(NO_WEB),
        "6.3.2": _parameters(in_force, "dicomweb"),
        **{f"6.3.{number}": not_applicable(NO_WEB) for number in range(3, 8)},
        "6.4": not_applicable("reading DICOM media has no parameters of communication."),
        "6.5": not_applicable("there is no Real-Time Video service."),
        "6.6": not_applicable("no audit trail messages are sent; `log` configures the product's own log."),
    }


@cache
def _keys() -> tuple[SettingKey, ...]:
    """Every key of the configuration; the models take a while to say them."""
    return tuple(every_key())


def _parameters(in_force: dict[str, Any], *sections: str, without: tuple[str, ...] = ()) -> str:
    """A row for each parameter of these sections."""
    rows = []
    for key in _keys():
        name = ".".join(key.path)
        if not _is_in(name, sections) or _is_in(name, without) or key.is_example:
            continue
        if key.is_section and isinstance(_value(in_force, key.path), dict):
            continue
        rows.append((f"`{name}`", "SERVICE", _shown(key.default), _shown(_value(in_force, key.path)), _plain(key)))
    return table(_HEAD, rows)


def _of_peers() -> str:
    """A row for each parameter of a peer, with its default."""
    keys = [key for key in _keys() if key.path[:2] == ("pull", "[]") and not key.is_section]
    return table(
        ("Parameter", "Configurable", "Default value", "Meaning"),
        [(f"`{'.'.join(key.path[2:])}`", "SERVICE", _default(key), _plain(key)) for key in keys],
    )


def _default(key: SettingKey) -> str:
    return "required" if key.default is ... else _shown(key.default)


def _peers(in_force: dict[str, Any]) -> str:
    """Values of the peers that are configured, where they are not the defaults."""
    keys = {".".join(key.path[2:]): key.default for key in _keys() if key.path[:2] == ("pull", "[]")}
    return table(
        ("Peer", "Parameter", "Value in force"),
        [
            (peer["name"], f"`{name}`", _shown(found))
            for peer in in_force["pull"]
            for name, default in keys.items()
            if not isinstance(found := _value(peer, tuple(name.split("."))), dict) and found not in (None, default)
        ]
        or [("none", "-", "-")],
    )


def _is_in(name: str, sections: tuple[str, ...]) -> bool:
    return any(name == section or name.startswith(f"{section}.") for section in sections)


def _value(values: Any, path: tuple[str, ...]) -> Any:
    """The value at a path of plain data; None where a section above it is off."""
    for part in path:
        if part in {"[]", NAMED} or not isinstance(values, dict):
            return None
        values = values.get(part)
    return values


def _shown(value: Any) -> str:
    return "none" if value is None or value == [] else f"`{json.dumps(value, ensure_ascii=False)}`"


def _plain(key: SettingKey) -> str:
    return key.meaning.replace("``", "`")
