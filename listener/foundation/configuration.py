"""Loading the configuration file into a model, with every fault at once.

Contract: `load` either returns a valid model or raises one `ConfigurationError` that lists every fault of the file,
each as ``file:line: key.path: what is wrong (permitted: ...; did you mean ...?)``. Values mean what they say: ``"4"``
in quotes is no number and ``yes`` in quotes is no boolean. A section, list or mapping that is left empty has its
defaults. Must never: repeat a secret's value, quote a library's text, or give a traceback for any file.

Relative paths in the file are relative to the folder the command is started in, as on the command line; ``~`` is the
home folder. A service should name absolute paths.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import AddressValueError, NetmaskValueError
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError, core_schema

from listener.foundation.errors import Unusable
from listener.foundation.yaml_file import ConfigurationFault, Document, KeyPath, read, spelled

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler

__all__ = [
    "ConfigurationError",
    "ConfigurationFault",
    "FilePath",
    "Section",
    "Spelling",
    "fault_at",
    "load",
    "model_inside",
    "validate",
]

ModelT = TypeVar("ModelT", bound=BaseModel)

LIKENESS_OF_A_TYPO = 0.8
"""Of two keys by `difflib`: `listner` and `listener` have 0.93, `dicom` and `dicomweb`, which both exist, 0.77."""


class Section(BaseModel):
    """A section of the file: unknown keys are faults, values never change, docstrings are the documentation.

    The docstrings of its keys are read where documentation is made (`exporter.commands.config_reference`), since that
    takes as long as all else that a start does with the models; a validator is made at its first use.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, defer_build=True, hide_input_in_errors=True, validate_default=True
    )


@dataclass(frozen=True, slots=True)
class Spelling:
    """Annotation of text that must match a pattern, with words for what is permitted."""

    pattern: str
    permitted: str
    prefix: str = ""
    """What is missing most often at the front."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return handler(schema) | {"pattern": self.pattern}

    def _check(self, value: str) -> str:
        if re.search(self.pattern, value):
            return value
        context = {"permitted": self.permitted}
        if self.prefix and re.search(self.pattern, self.prefix + value):
            context["guess"] = self.prefix + value
        raise PydanticCustomError("spelling", "is not spelled as it must be", context)


class ConfigurationError(Unusable):
    """The configuration cannot be used; the text lists every fault, one per line."""

    exit_code = 2
    names_its_file = True

    def __init__(self, source: str, faults: Sequence[ConfigurationFault]) -> None:
        self.source = source
        self.faults = tuple(sorted(set(faults)))
        super().__init__("\n".join(fault.sentence(source) for fault in self.faults))


def load(path: Path, model: type[ModelT], *, is_shared: bool = False) -> ModelT:
    """The file as a model.

    Args:
        path: The YAML file.
        model: What it must be.
        is_shared: Whether another program reads other sections of the file: a top-level key that is not the model's
            is then a fault only where it is a slip for one of the model's.

    Raises:
        ConfigurationError: The file cannot be read, is no YAML, or is not what the model permits.
    """
    document = read(path)
    loaded, faults = validate(document, model, is_shared=is_shared)
    if loaded is None:
        raise ConfigurationError(str(path), faults)
    return loaded


def validate(
    document: Document, model: type[ModelT], *, is_shared: bool = False
) -> tuple[ModelT | None, tuple[ConfigurationFault, ...]]:
    """The model of a file that has been read, or its faults.

    Args:
        document: The file.
        model: What it must be.
        is_shared: See `load`.

    Returns:
        The model and no faults, or None and every fault.
    """
    data = {key: value for key, value in document.data.items() if not is_shared or _concerns(key, value, model)}
    faults = list(document.faults)
    loaded = None
    try:
        # As JSON, so that types are strict and yet a list may become a tuple and text a path.
        loaded = model.model_validate_json(json.dumps(_fill(data, model)), strict=True)
    except ValidationError as cause:
        reported = {fault.key_path for fault in document.faults}
        if document.lines or not faults:
            faults += [fault for fault in _faults(cause, document, model) if fault.key_path not in reported]
    return (None if faults else loaded), tuple(faults)


def fault_at(
    document: Document, key_path: str, problem: str, permitted: str = "", guess: str = ""
) -> ConfigurationFault:
    """A fault that a later check found in a value, at the line where the file gives the value."""
    path = tuple(int(part) if part.isdecimal() else part for part in re.findall(r"[^.\[\]]+", key_path))
    return ConfigurationFault(document.line(path), key_path, problem, permitted, guess)


def _path(value: Path) -> Path:
    text = str(value)
    if text.startswith("<") and text.endswith(">"):
        raise PydanticCustomError(
            "placeholder", "still holds the placeholder of the documentation", {"permitted": "a path"}
        )
    try:
        return value.expanduser()
    except RuntimeError:
        raise PydanticCustomError(
            "no_home", "names a home folder that does not exist", {"permitted": "a path"}
        ) from None


def _path_text(value: Any) -> Any:
    """Refuse what `Path` would take for the current folder, or the system for another file."""
    if isinstance(value, str) and (not value.strip() or not value.isprintable()):
        raise PydanticCustomError("bad_path", "is empty or holds a control character", {"permitted": "a path"})
    return value


FilePath = Annotated[Path, BeforeValidator(_path_text), AfterValidator(_path)]
"""A path of the file; relative ones are relative to the working folder."""


def _fill(value: Any, kind: Any) -> Any:
    """An empty section, mapping or list of the file as an empty one of its type, everywhere in the tree."""
    model = model_inside(kind)
    if model is not None and isinstance(value, dict):
        fields = model.model_fields
        return {k: _fill(v, fields[k].annotation) if k in fields else v for k, v in value.items()}
    if isinstance(value, list):
        return [_fill(item, kind) for item in value]
    if value is not None or type(None) in get_args(kind):
        return value
    if _holds(kind, Sequence):
        return []
    return {} if model is not None or _holds(kind, Mapping) else None


def _holds(kind: Any, base: type) -> bool:
    """Whether an annotation is a mapping or a sequence (text is neither)."""
    origin = get_origin(kind) or kind
    if origin is Annotated:
        return _holds(get_args(kind)[0], base)
    return isinstance(origin, type) and issubclass(origin, base) and not issubclass(origin, str | bytes)


def model_inside(kind: Any) -> type[BaseModel] | None:
    """The model inside an annotation: itself, or of an optional, a list, a mapping."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    return next((found for part in get_args(kind) if (found := model_inside(part)) is not None), None)


def _faults(cause: ValidationError, document: Document, model: type[BaseModel]) -> list[ConfigurationFault]:
    """One fault per place: the branches of a union that were all refused make one sentence."""
    by_place: dict[KeyPath, list[ErrorDetails]] = {}
    for error in cause.errors(include_url=False):
        by_place.setdefault(_place(error, document.data), []).append(error)
    return [_fault(place, errors, document, model) for place, errors in by_place.items()]


def _place(error: ErrorDetails, data: Any) -> KeyPath:
    """Where in the file an error is: pydantic's location without the names of union branches and validators."""
    place: KeyPath = ()
    for part in error["loc"]:
        known = part in data if isinstance(data, dict) else isinstance(data, list) and part in range(len(data))
        if known:
            data = data[part]
            place = (*place, part)
    return (*place, error["loc"][-1]) if error["type"] == "missing" else place


def _fault(
    place: KeyPath, errors: list[ErrorDetails], document: Document, model: type[BaseModel]
) -> ConfigurationFault:
    make = partial(ConfigurationFault, document.line(place), spelled(place))
    error = next((e for e in errors if not _is_no_address(e)), errors[0])
    if error["type"] == "extra_forbidden":
        known = _known_keys(model, place[:-1])
        guess = _guess(str(place[-1]), known, model)
        return make("unknown key", ", ".join(sorted(known)), guess)
    if error["type"] == "missing":
        return make("is missing", "a value")
    wanted = list(dict.fromkeys(_wanted(e) for e in errors))
    problem = _found(error, place)
    guess = (error.get("ctx") or {}).get("guess") or _quoting(error) or _nearest(error, errors)
    return make(problem or error["msg"], " or ".join(w for w in wanted if w), guess)


def _known_keys(model: type[BaseModel], place: KeyPath) -> list[str]:
    """The keys that the model has at a place."""
    kind: Any = model
    for part in place:
        found = model_inside(kind)
        if found is None or (isinstance(part, str) and part not in found.model_fields):
            return []
        kind = found.model_fields[part].annotation if isinstance(part, str) else kind
    found = model_inside(kind)
    return list(found.model_fields) if found is not None else []


def _concerns(key: str, value: Any, model: type[BaseModel]) -> bool:
    """Whether a top-level key is one of the model's, or a slip for one: a typo, or a plain value of a section."""
    if difflib.get_close_matches(key.casefold(), model.model_fields, 1, LIKENESS_OF_A_TYPO):
        return True
    is_plain = not isinstance(value, dict | list | None)
    return is_plain and bool(_sections_with(key, model))


def _guess(name: str, known: Sequence[str], model: type[BaseModel]) -> str:
    """A key of that very name in a section, or else the key that is spelled most like it."""
    inside = [f"{section}.{name}" for section in _sections_with(name, model)]
    return " or ".join(inside or difflib.get_close_matches(name, known, 1, 0.6))


def _sections_with(name: str, model: type[BaseModel]) -> list[str]:
    """The sections of a model that have a key of this name."""
    return [
        section
        for section, info in model.model_fields.items()
        if (found := model_inside(info.annotation)) is not None
        and not _holds(info.annotation, Sequence)
        and name in found.model_fields
    ]


_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "path": "a path",
    "dict": "keys with values",
    "mapping": "keys with values",
    "model": "keys with values",
    "list": "a list",
    "tuple": "a list",
    "set": "a list",
    "frozen_set": "a list",
    "ip": "an IP address or network",
    "finite": "a finite number",
}
_BOUNDS = {
    "greater_than": ("gt", "above {}"),
    "greater_than_equal": ("ge", "at least {}"),
    "less_than": ("lt", "below {}"),
    "less_than_equal": ("le", "at most {}"),
    "too_short": ("min_length", "at least {} items"),
    "too_long": ("max_length", "at most {} items"),
    "string_too_short": ("min_length", "at least {} characters"),
    "string_too_long": ("max_length", "at most {} characters"),
    "string_pattern_mismatch": ("pattern", "text that matches {}"),
    "literal_error": ("expected", "{}"),
    "enum": ("expected", "{}"),
    "multiple_of": ("multiple_of", "a multiple of {}"),
}


def _wanted(error: ErrorDetails) -> str:
    """What would have been permitted, in words."""
    context = error.get("ctx") or {}
    if "permitted" in context:
        return str(context["permitted"])
    if error["type"] in _BOUNDS:
        key, words = _BOUNDS[error["type"]]
        bound = f"{context[key]:g}" if isinstance(context[key], float) else context[key]
        return words.format(bound).replace("'", "")
    if _is_no_address(error):
        return _KINDS["ip"]
    kind = re.sub(r"_(type|parsing|parsing_size|from_float|number|any_.*|v[46]_.*)$", "", error["type"])
    return "nothing" if kind == "none_required" else _KINDS.get(kind, "")


_INSTEAD: dict[type, str] = {
    type(None): "has no value",
    list: "is a list",
    dict: "holds keys with values",
}
MAX_SHOWN = 60
"""Longest value that a message repeats."""
_SECRET = re.compile(r"passw|passc|secret|token|key", re.IGNORECASE)


def _found(error: ErrorDetails, place: KeyPath) -> str:
    """What is there instead; never the value of something that may be a secret."""
    context = error.get("ctx") or {}
    if "permitted" in context:
        return error["msg"]
    if error["type"] in {"value_error", "assertion_error"} and not _is_no_address(error):
        return str(context.get("error", error["msg"]))
    value = error.get("input")
    if isinstance(value, bool):
        return f"is the truth value {str(value).lower()}"
    for kinds, words in _INSTEAD.items():
        if isinstance(value, kinds):
            return words
    kind, shown = ("text", repr(value)) if isinstance(value, str) else ("number", str(value))
    secret = any(isinstance(part, str) and _SECRET.search(part) for part in place)
    return f"is the {kind} {shown}" if len(shown) <= MAX_SHOWN and not secret else f"is a {kind} that is not permitted"


def _is_no_address(error: ErrorDetails) -> bool:
    """Whether the standard library's own reading of addresses refused it; its sentence would not say what for."""
    cause = (error.get("ctx") or {}).get("error")
    return isinstance(cause, AddressValueError | NetmaskValueError)


def _quoting(error: ErrorDetails) -> str:
    """The commonest slip in YAML: a value whose type changes with quotes."""
    value = error.get("input")
    if error["type"] == "string_type" and isinstance(value, bool | int | float):
        return "the same in quotes"
    if isinstance(value, str) and error["type"] in {"int_type", "float_type", "bool_type"}:
        plain = value.strip()
        if re.fullmatch(r"[-+]?[0-9.]+", plain) or plain.lower() in {"true", "false", "yes", "no", "on", "off"}:
            return f"{plain} without quotes"
    return ""


def _nearest(error: ErrorDetails, errors: list[ErrorDetails]) -> str:
    """The permitted word that is spelled most like the one given."""
    value = error.get("input")
    words = [w for e in errors for w in re.findall(r"'([^']*)'", str((e.get("ctx") or {}).get("expected", "")))]
    near = difflib.get_close_matches(value, words, 1, 0.5) if isinstance(value, str) else []
    return near[0] if near else ""
