"""HTML elements as text: whatever is not `Html` already is escaped, so that nobody can forget to.

Contract: text of any origin becomes text: entities for marks, escapes for control and direction characters, and no
more than `LONGEST_TEXT` characters of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from listener.foundation.text import xml_text

if TYPE_CHECKING:
    from collections.abc import Iterable

LONGEST_TEXT: Final = 1000
_VOID: Final = frozenset({"img", "meta", "link", "br"})


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def text(value: str) -> Html:
    """Text of any origin as HTML."""
    if isinstance(value, Html):
        return value
    return Html(xml_text(value if len(value) <= LONGEST_TEXT else f"{value[:LONGEST_TEXT]} ..."))


def joined(parts: Iterable[str]) -> Html:
    """Elements and texts one after another."""
    return Html("".join(map(text, parts)))


def element(name: str, /, *content: str, **attributes: str | int | bool | None) -> Html:
    """One element.

    Args:
        name: Of the element.
        content: Elements and texts.
        attributes: By name, with `_` for `-` and `class_` for `class`; True is an attribute without a value, None and
            False are none.
    """
    said = ""
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        said += f" {key.rstrip('_').replace('_', '-')}"
        if value is not True:
            said += f'="{_value(value)}"'
    end = "" if name in _VOID else f"{joined(content)}</{name}>"
    return Html(f"<{name}{said}>{end}")


def _value(value: str | int) -> str:
    """The value of an attribute; `Html`, such as the data of a picture, is taken as it is."""
    return value if isinstance(value, Html) else text(str(value))


def coded(sentence: str) -> Html:
    """A sentence of ours, with what stands between backticks as code."""
    parts = xml_text(sentence).split("`")
    return Html("".join(f"<code>{part}</code>" if at % 2 else part for at, part in enumerate(parts)))
