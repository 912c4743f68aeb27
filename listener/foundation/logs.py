"""Logs of both daemons: readable on a terminal, one JSON object per line otherwise, always to standard error.

Contract: an event is a few plain words with ``key=value`` pairs. Every value is capped and its control characters are
escaped before it is written, so that no AE title or UID from the wire can forge a line. What libraries say (through
`logging` or `warnings`) and what exceptions say is reduced to names: which library, which line of it, which class,
which ``(gggg,eeee)`` tags; their own sentences quote element values and are never written.

Must never: write patient data, raise into the caller, or stop a daemon because the log's disk is full.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

import orjson

from listener.foundation.configuration import Section
from listener.foundation.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

if "rich" in sys.modules:
    import structlog
else:  # structlog would load it to print tracebacks, which `reduce_exception` takes away: a quarter of a start
    sys.modules["rich"] = None  # type: ignore[assignment]  # the sign of a module that cannot be imported
    import structlog

    del sys.modules["rich"]

Level = Literal["debug", "info", "warning", "error"]
Style = Literal["auto", "console", "json"]

MAX_TEXT = 300
"""Longest value, in characters; what is cut is counted."""
MAX_ITEMS = 32
MAX_NESTING = 3
QUIET_S = 60.0
"""A library that says the same thing from the same line is repeated after this time at the earliest."""

LIBRARIES = (
    "pydicom",
    "pynetdicom",
    "PIL",
    "libav",
    "av",
    "imagecodecs",
    "urllib3",
    "uvicorn",
    "asyncio",
    "watchfiles",
)


class LogSection(Section):
    """Logs of the daemons, on standard error."""

    level: Level = "info"
    """The least that is written; the command line's --log-level wins."""
    format: Style = "auto"
    """`console` for people, `json` for machines; `auto` is `console` on a terminal."""


def configure(level: Level = "info", style: Style = "auto", stream: TextIO | None = None) -> None:
    """Set up structlog, `logging` and `warnings` of this process.

    Args:
        level: The least that is written.
        style: How lines look.
        stream: Where to; default: standard error.
    """
    sink = stream or sys.stderr
    readable = style == "console" or (style == "auto" and sink.isatty())
    render: Callable[[Any, str, MutableMapping[str, Any]], str]
    if readable:
        render = structlog.dev.ConsoleRenderer(colors=sink.isatty(), sort_keys=False, pad_event_to=24)
    else:
        render = _json
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=not readable),
            reduce_exception,
            clean,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Lines(sink),
        cache_logger_on_first_use=False,
    )
    _capture_libraries()


class _Lines:
    """Writes whole lines; a log that cannot be written is dropped, the daemon goes on."""

    def __init__(self, sink: TextIO) -> None:
        self._sink = sink

    def msg(self, line: str) -> None:
        # One write per line, so that lines of several threads and processes do not mix.
        with contextlib.suppress(OSError, ValueError):
            self._sink.write(line + "\n")
            self._sink.flush()

    debug = info = warning = warn = error = critical = exception = fatal = log = msg


def clean(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Structlog processor: every value capped and printable."""
    return {_text(str(key)): _plain(value, MAX_NESTING) for key, value in event.items()}


def _plain(value: Any, nesting: int) -> Any:
    """A value as text, a number, or a short tree of them."""
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and value.bit_length() < 64):
        return value
    if isinstance(value, Mapping) and nesting:
        pairs = list(value.items())[:MAX_ITEMS]
        return {_text(str(k)): _plain(v, nesting - 1) for k, v in pairs}
    if isinstance(value, list | tuple | set | frozenset) and nesting:
        return [_plain(v, nesting - 1) for v in list(value)[:MAX_ITEMS]]
    return _scalar(value)


def _scalar(value: Any) -> str:
    match value:
        case str() | Path():
            return _text(str(value))
        case int():
            return _text(hex(value))
        case bytes() | bytearray() | memoryview():
            return f"<{len(value)} bytes>"
        case BaseException():
            return _error(value)
        case _:  # anything else may have a repr that quotes a data set
            return f"<{type(value).__name__}>"


def _text(text: str) -> str:
    # Cut first: escaping a megabyte to throw it away is work that a sender could ask for.
    cut = len(text) - MAX_TEXT
    return printable(text[:MAX_TEXT]) + (f"...(+{cut})" if cut > 0 else "")


def _error(error: BaseException) -> str:
    """The class of an error, and of a system error its code's meaning; never its sentence."""
    name = type(error).__name__
    return f"{name}: {error.strerror}" if isinstance(error, OSError) and error.strerror else name


def reduce_exception(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Structlog processor: `exc_info` as class names and places, without the exception's own words."""
    info = event.pop("exc_info", None)
    error = info if isinstance(info, BaseException) else info[1] if isinstance(info, tuple) else sys.exc_info()[1]
    if not info or error is None:
        return event
    chain, seen = [], set()
    where: BaseException | None = error
    while where is not None and id(where) not in seen:
        seen.add(id(where))
        chain.append(_error(where))
        where = where.__cause__ or (None if where.__suppress_context__ else where.__context__)
    event["error"] = " from ".join(chain)
    frames = traceback.extract_tb(error.__traceback__)[-5:]
    event["at"] = [f"{_short(f.filename)}:{f.lineno} {f.name}" for f in frames]
    return event


def _json(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> str:
    try:
        return orjson.dumps(event).decode()
    except (orjson.JSONEncodeError, ValueError):
        return orjson.dumps({"event": "a log line could not be written", "level": "error"}).decode()


def _short(filename: str) -> str:
    """A source file by its last two parts: where the code is installed is nobody's concern."""
    return "/".join(Path(filename).parts[-2:])


_TAG = re.compile(r"\(?\b([0-9A-Fa-f]{4}),\s?([0-9A-Fa-f]{4})\)?")


def tags_in(text: str) -> list[str]:
    """The DICOM tags that a library's sentence names: all of it that may be repeated."""
    found = (f"({group},{element})".lower() for group, element in _TAG.findall(text[:10_000]))
    return list(dict.fromkeys(found))[:MAX_ITEMS]


class Reduced(logging.Handler):
    """What libraries log and warn, reduced: who, where, which tags; the same place at most once a minute."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[tuple[str, int], tuple[float, int]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record of a library through structlog."""
        held = self._held((record.name, record.lineno))
        if held is None:
            return
        try:
            text = record.getMessage()
        except (TypeError, ValueError, KeyError):  # a library's format string and its arguments do not fit
            text = ""
        extra = _facts(text, held)
        if record.exc_info and record.exc_info[1] is not None:
            extra["exc_info"] = record.exc_info
        log = structlog.get_logger()
        write = log.error if record.levelno >= logging.ERROR else log.warning
        write("library message", library=record.name, line=f"{record.module}:{record.lineno}", **extra)

    def show_warning(  # noqa: PLR0917 - the signature is that of `warnings.showwarning`
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,  # noqa: ARG002 - the same
        line: str | None = None,  # noqa: ARG002 - the same
    ) -> None:
        """Log one Python warning through structlog."""
        with self.lock or contextlib.nullcontext():
            held = self._held((filename, lineno))
        if held is not None:
            where = f"{_short(filename)}:{lineno}"
            extra = _facts(str(message), held)
            structlog.get_logger().warning("library warning", category=category.__name__, line=where, **extra)

    def _held(self, place: tuple[str, int]) -> int | None:
        """How often a place spoke since it was last heard; None where it must still wait."""
        at, held = self._last.get(place, (-QUIET_S, 0))
        now = time.monotonic()
        if now - at < QUIET_S:
            self._last[place] = (at, held + 1)
            return None
        if len(self._last) > 1000:
            self._last.clear()
        self._last[place] = (now, 0)
        return held


def _facts(text: str, held: int) -> dict[str, Any]:
    tags = tags_in(text)
    return ({"tags": tags} if tags else {}) | ({"repeated": held} if held else {})


def _capture_libraries() -> None:
    """Everything of `logging` and `warnings` goes through `Reduced`, whatever handlers a library brings."""
    root = logging.getLogger()
    root.handlers.clear()
    reduced = Reduced()
    root.addHandler(reduced)
    root.setLevel(logging.WARNING)
    for name in LIBRARIES:
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
        # Never below: their debug output dumps data sets, which is work even when nothing of it is written.
        library.setLevel(logging.WARNING)
    warnings.showwarning = reduced.show_warning
    # `Reduced` holds repetitions back; Python's own registry would keep every text that was ever warned of.
    warnings.simplefilter("always")
    for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", category)  # of interest to developers, as in Python's own defaults


def catch_uncaught() -> None:
    """Log what nobody caught, in any thread, without the exception's words; for the main function of a daemon."""

    def log(kind: type[BaseException], error: BaseException | None, place: str) -> None:
        if not issubclass(kind, SystemExit | KeyboardInterrupt):
            structlog.get_logger().error("stopped by a defect", where=place, exc_info=error or kind())

    sys.excepthook = lambda kind, error, _trace: log(kind, error, "main thread")
    threading.excepthook = lambda args: log(
        args.exc_type, args.exc_value, args.thread.name if args.thread else "a thread"
    )
    sys.unraisablehook = lambda args: log(args.exc_type, args.exc_value, "clean-up")
