"""What the daemons log: readable or JSON, never a forged line, never a library's or an exception's own words."""

from __future__ import annotations

import errno
import io
import json
import logging
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from listener.foundation import logs
from listener.foundation.configuration import ConfigurationError, load
from listener.settings.listener import ListenerSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECRET = "JOHN^DOE/19511103"
"""A planted patient."""


@pytest.fixture(autouse=True)
def _process_as_before() -> Iterator[None]:
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    levels = {name: logging.getLogger(name).level for name in logs.LIBRARIES}
    with warnings.catch_warnings():
        yield
    root.handlers[:], root.level = before
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def lines() -> Callable[..., list[dict[str, Any]]]:
    """Configures JSON logs when called first; afterwards gives the lines so far."""
    sink = io.StringIO()

    def read(level: Any = None) -> list[dict[str, Any]]:
        if level:
            logs.configure(level, "json", sink)
        return [json.loads(line) for line in sink.getvalue().splitlines()]

    return read


def test_a_line_says_event_level_time_and_what_belongs_to_it(lines: Callable[..., list[dict[str, Any]]]) -> None:
    lines("info")
    structlog.get_logger().info("stored", calling="MODALITY", bytes=512, seconds=0.5, path=Path("a/b"), none=None)
    (line,) = lines()
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "stored",
        "level": "info",
        "calling": "MODALITY",
        "bytes": 512,
        "seconds": 0.5,
        "path": "a/b",
        "none": None,
    }


@pytest.mark.parametrize("style", ["json", "console"])
def test_control_characters_cannot_forge_a_line(style: Any) -> None:
    sink = io.StringIO()
    logs.configure("info", style, sink)
    evil = 'A"}\n{"event":"stored"\r\x1b[31m\x00\x7f\x9b\u2028\u202e{} %s %d'
    structlog.get_logger().info(f"event {evil}", title=evil, nested={evil: [evil]})
    text = sink.getvalue()
    assert text.count("\n") == 1
    assert text.endswith("\n")
    assert all(character.isprintable() for character in text[:-1])
    assert "\\x1b[31m" in text.replace("\\\\", "\\")


def test_values_are_capped_and_objects_are_named_only(lines: Callable[..., list[dict[str, Any]]]) -> None:
    class DataSet:
        def __repr__(self) -> str:
            return SECRET

    lines("info")
    deep = {"a": {"b": {"c": {"d": SECRET}}}}
    structlog.get_logger().info(
        "x", text="y" * 1_000_000, raw=b"abc", set=DataSet(), many=list(range(1000)), deep=deep, big=1 << 70
    )
    (line,) = lines()
    assert len(line["text"]) < 400
    assert line["text"].endswith("(+999700)")
    assert line["raw"] == "<3 bytes>"
    assert line["set"] == "<DataSet>"
    assert len(line["many"]) == logs.MAX_ITEMS
    assert line["deep"] == {"a": {"b": {"c": "<dict>"}}}
    assert line["big"] == "0x400000000000000000"


def test_no_number_makes_a_line_that_is_no_json(lines: Callable[..., list[dict[str, Any]]]) -> None:
    lines("info")
    structlog.get_logger().info("x", nan=float("nan"), infinite=float("-inf"), text="\ud800")
    (line,) = lines()
    assert line["nan"] is None
    assert line["infinite"] is None
    assert line["text"] == "\\ud800"


def test_levels_below_the_one_asked_for_are_silent(lines: Callable[..., list[dict[str, Any]]]) -> None:
    lines("warning")
    log = structlog.get_logger()
    log.debug("a")
    log.info("b")
    log.warning("c")
    log.error("d")
    assert [line["event"] for line in lines()] == ["c", "d"]


def test_exceptions_are_classes_and_places_never_their_words(lines: Callable[..., list[dict[str, Any]]]) -> None:
    lines("info")
    log = structlog.get_logger()
    try:
        try:
            int(SECRET)
        except ValueError as cause:
            raise RuntimeError(SECRET) from cause
    except RuntimeError as error:
        log.exception("defect")
        log.warning("again", error=error)
        log.warning("disk", error=OSError(errno.ENOSPC, "No space left on device", f"/patients/{SECRET}"))
    first, second, third = lines()
    assert first["error"] == "RuntimeError from ValueError"
    assert first["at"][-1].startswith("foundation/test_logs.py:")
    assert second["error"] == "RuntimeError"
    assert third["error"] == "OSError: No space left on device"
    assert SECRET not in json.dumps(lines())


@pytest.mark.parametrize("level", ["debug", "info", "error"])
def test_what_libraries_say_is_reduced_to_who_where_and_which_tags(
    lines: Callable[..., list[dict[str, Any]]], level: Any
) -> None:
    for name in logs.LIBRARIES:
        logging.getLogger(name).setLevel(logging.DEBUG)
    lines(level)
    for name in ("pydicom.config", "pydicom", "PIL.PngImagePlugin", "av", "libav.h264", "urllib3.x", "other"):
        log = logging.getLogger(name)
        log.debug("(0010,0010) PN [%s]", SECRET)
        log.info("%s", SECRET)
        log.error("value %s of (0010,0010) and (0008, 103E)", SECRET)
        log.warning("%d of %s", SECRET)  # noqa: PLE1206 - a library that formats wrongly
    found = lines()
    assert SECRET not in json.dumps(found)
    assert {line["event"] for line in found} == {"library message"}
    errors = [line for line in found if line["level"] == "error"]
    assert len(errors) == 7
    assert all(line["tags"] == ["(0010,0010)", "(0008,103e)"] for line in errors)
    assert len(found) == (7 if level == "error" else 14)


def test_warnings_of_libraries_are_reduced_too(lines: Callable[..., list[dict[str, Any]]]) -> None:
    lines("info")
    warnings.warn(f"Invalid value for VR UI: '{SECRET}' in (0008,0018)", stacklevel=1)
    (line,) = lines()
    assert line["event"] == "library warning"
    assert line["category"] == "UserWarning"
    assert line["tags"] == ["(0008,0018)"]
    assert SECRET not in json.dumps(line)


def test_real_warnings_of_pydicom_do_not_reach_the_log(
    lines: Callable[..., list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import pydicom

    # The setting belongs to the process: whatever another test has done to it, here pydicom shall warn.
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.WARN)
    lines("debug")
    data = pydicom.Dataset()
    data.SOPInstanceUID = SECRET
    data.PatientBirthDate = SECRET
    found = lines()
    assert found
    assert SECRET not in json.dumps(found)


def test_a_library_that_repeats_itself_is_held_back_and_counted(
    lines: Callable[..., list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines("info")
    for now in (1000.0, 1001.0, 1002.0, 1061.0):
        monkeypatch.setattr(time, "monotonic", lambda now=now: now)
        logging.getLogger("pydicom").warning("again")
    first, second = lines()
    assert "repeated" not in first
    assert second["repeated"] == 2


def test_configuring_twice_does_not_double_lines(lines: Callable[..., list[dict[str, Any]]]) -> None:
    lines("info")
    lines("info")
    logging.getLogger("pydicom").warning("x")
    structlog.get_logger().info("y")
    assert len(lines()) == 2


def test_handlers_that_a_library_brings_are_removed(
    lines: Callable[..., list[dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    handler = logging.StreamHandler(sys.stderr)
    logging.getLogger("pydicom").addHandler(handler)
    lines("info")
    logging.getLogger("pydicom").error(SECRET)
    assert len(lines()) == 1
    assert capsys.readouterr().err == ""


def test_a_log_that_cannot_be_written_does_not_stop_the_daemon() -> None:
    full = Path("/dev/full").open("w")  # noqa: SIM115 - closing it fails, as it must
    logs.configure("info", "json", full)
    structlog.get_logger().info("stored", x=1)
    with pytest.raises(OSError, match="No space left"):
        full.close()
    closed = io.StringIO()
    closed.close()
    logs.configure("info", "json", closed)
    structlog.get_logger().info("stored", x=1)


def test_lines_of_many_threads_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("w") as sink:
        logs.configure("info", "json", sink)

        def write(number: int) -> None:
            for index in range(100):
                structlog.get_logger().info("stored", thread=number, index=index, text="z" * 200)

        threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(found) == 800
    assert {(line["thread"], line["index"]) for line in found} == {(n, i) for n in range(8) for i in range(100)}


def _run(program: str, *, style: str = "json") -> str:
    """Standard error of a process that logs; it must end well enough to have written all."""
    head = "from listener.foundation import logs; import structlog\n"
    head += f"logs.configure('info', {style!r}); logs.catch_uncaught()\n"
    done = subprocess.run(
        [sys.executable, "-c", head + program], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.stdout == ""
    return done.stderr


def test_what_nobody_caught_is_logged_without_its_words() -> None:
    program = f"""
import threading
def fail(): raise ValueError({SECRET!r})
thread = threading.Thread(target=fail, name="association 7"); thread.start(); thread.join()
class Late:
    def __del__(self): raise KeyError({SECRET!r})
Late()
fail()
"""
    text = _run(program)
    found = [json.loads(line) for line in text.splitlines()]
    assert [(line["where"], line["error"]) for line in found] == [
        ("association 7", "ValueError"),
        ("clean-up", "KeyError"),
        ("main thread", "ValueError"),
    ]
    assert SECRET not in text


def test_a_pipe_gets_json_and_the_console_style_is_for_people() -> None:
    assert json.loads(_run("structlog.get_logger().info('stored', n=1)", style="auto"))["n"] == 1
    line = _run("structlog.get_logger().info('stored', n=1)", style="console")
    assert "[info     ] stored" in line
    assert line.endswith("n=1\n")


def test_level_and_format_come_from_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "exporter.yml"
    path.write_text("log:\n  level: debug\n  format: json\n")
    section = load(path, ListenerSettings).log
    assert (section.level, section.format) == ("debug", "json")
    path.write_text("log:\n  level: loud\n")
    with pytest.raises(ConfigurationError, match="permitted: debug, info, warning or error"):
        load(path, ListenerSettings)
