"""`exporter explain FILE`: what would be done with one instance, and why; nothing is written.

Contract: tells syntax, geometry, writer, timing and rendering from the header and the first frame, read in a process of
its own under the configured limits, as an export would. Names elements and codes; never a value that could be a
patient's.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path  # noqa: TC003 - cyclopts reads the annotations at run time
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

from cyclopts import Parameter

from exporter.commands import CommandError, ExitCode
from exporter.commands.options import ConfigOption, refuse_unusable_privacy, refuse_unusable_writers, settings_of
from exporter.dicom.received import settings_for
from listener.foundation.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from exporter.dicom.instance import Instance
    from exporter.outcome import Rendering
    from exporter.privacy.profile import PrivacyProfile
    from exporter.settings.settings import LimitSettings, Settings

MiB = 1 << 20


def explain(
    file: Annotated[Path, Parameter(name="FILE", help="A DICOM file, of any name.")],
    /,
    *,
    config: ConfigOption = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object.")] = False,
) -> int:
    """Say what would be done with one DICOM file, and why: syntax, pixels, writer, timing, window, warnings."""
    whole = settings_of(config)
    path = file.expanduser()
    if not path.exists():
        raise CommandError(f"there is no file {file}; name a DICOM file", ExitCode.USAGE)
    if path.is_dir():
        raise CommandError(
            f"{file} is a folder; name one file, or use `exporter backfill {file} --dry-run`", ExitCode.USAGE
        )

    refuse_unusable_writers(whole)
    refuse_unusable_privacy(whole)
    title, settings = settings_for(whole, path)
    title = _shown_title(whole, title)

    def tell(facts: dict[str, object]) -> None:
        facts = (
            {"settings": f"of the AE title {title}" if title else "of the top", **facts} if whole.ae_titles else facts
        )
        shown = {key: printable(str(value)) if isinstance(value, str) else value for key, value in facts.items()}
        print(json.dumps(shown) if as_json else _text(shown))

    from exporter.privacy.profile import PrivacyProfile

    profile = PrivacyProfile.load(settings.privacy, None)
    return _apart(lambda: _explain(path, settings, profile, tell), settings.limits, tell)


def _shown_title(settings: Settings, title: str) -> str:
    """Called AE title as lines and logs show it."""
    from exporter.privacy.input_names import InputNames

    return InputNames.of(settings).ae_title(title)


def _apart(work: Callable[[], ExitCode], limits: LimitSettings, tell: Callable[[dict[str, object]], None]) -> int:
    """Run `work` in a child process with the limits of a worker; say so where the child does not survive it."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _be_child(work, limits)
    status = os.waitpid(child, 0)[1]
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status) != _OUT_OF_MEMORY:
        return os.WEXITSTATUS(status)
    if os.WIFSIGNALED(status):
        number = signal.Signals(os.WTERMSIG(status))
        reason = "timeout" if number in {signal.SIGXCPU, signal.SIGKILL} else "decoder_crash"
        verdict = f"{reason}: the process that read it ended by {number.name}"
    else:
        verdict = f"too_large: it needs more than limits.memory_mb permits ({limits.memory_mb} MiB)"
    tell({"verdict": f"would fail: {verdict}"})
    return ExitCode.SOME_FAILED


_OUT_OF_MEMORY = 99


def _be_child(work: Callable[[], ExitCode], limits: LimitSettings) -> NoReturn:
    """Set the limits, do the work, end: never return into what the parent is doing."""
    import resource
    import traceback

    code: int = ExitCode.NOT_RUN
    try:
        size, seconds = limits.memory_mb * MiB, max(1, round(limits.cpu_s))
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        code = work()
        sys.stdout.flush()
    except BrokenPipeError:
        code = ExitCode.PIPE_CLOSED
    except MemoryError:
        code = _OUT_OF_MEMORY
    finally:
        if sys.exc_info()[1] is not None and code == ExitCode.NOT_RUN:
            traceback.print_exc()  # a defect of ours
        os._exit(code)


def _explain(
    path: Path, settings: Settings, profile: PrivacyProfile | None, tell: Callable[[dict[str, object]], None]
) -> ExitCode:
    from exporter.dicom.instance import Instance
    from exporter.errors import ExportError, SkipInstance
    from exporter.work.deidentification import deidentified
    from exporter.writers import choose_all

    facts: dict[str, object] = {}
    code = ExitCode.DONE
    try:
        with Instance.open(path, settings.limits) as instance:
            _describe(instance, facts)
            if profile is not None:
                deidentified(instance, settings.media_settings, profile)
                facts |= _privacy(instance)
            writers = choose_all(instance, settings.media_settings)
            origin = writers.origin_of(writers.main)
            by = f" by {origin.name} of {origin.distribution} {origin.version}" if origin else ""
            facts["writer"] = f"{writers.main.kind}{by}"
            _describe_frames(instance, settings, facts)
            kinds = ", ".join(writer.kind for writer in (writers.main, *writers.further))
            facts["verdict"] = f"would be exported: {kinds}"
            if warnings := [*instance.warnings, *writers.warnings]:
                facts["warnings"] = warnings
    except SkipInstance as skip:
        facts["verdict"] = f"would be skipped: {skip.reason}: {skip}"
    except ExportError as error:
        facts["verdict"] = f"would fail: {error.reason}: {error}"
        code = ExitCode.SOME_FAILED
    except OSError as error:
        facts["verdict"] = f"would fail: unreadable: {error.strerror}"
        code = ExitCode.SOME_FAILED
    tell(facts)
    return code


def _describe(instance: Instance, facts: dict[str, object]) -> None:
    """Class, syntax and pixels by the header."""
    facts["bytes"] = instance.size_bytes
    facts["class"] = _uid(instance.sop_class_uid)
    facts["syntax"] = _uid(instance.transfer_syntax)
    if (pixels := instance.pixels) is None:
        facts["pixels"] = "none"
        return
    facts["pixels"] = (
        f"{pixels.rows} rows x {pixels.columns} columns, {pixels.frames} frame(s), {pixels.samples} sample(s) "
        f"{pixels.photometric}, {pixels.bits_stored} of {pixels.bits_allocated} bits, "
        f"{'signed' if pixels.signed else 'unsigned'}, {'encapsulated' if pixels.encapsulated else 'native'} "
        f"{pixels.keyword}"
    )


def _privacy(instance: Instance) -> dict[str, object]:
    """What de-identification does: the step of the ladder for its pixels, and the attributes that no rule names."""
    done: Mapping[str, Any] = instance.deidentification or {}
    pixels: Mapping[str, Any] | None = done["pixels"]
    if pixels is None:
        ladder = "no pixels"
    else:
        ladder = f"step {pixels['step']}: {pixels['reason']}; {pixels['kept_share']:.1%} of the picture is kept"
        masks = ", ".join(pixels["device_masks"])
        ladder += f"; device masks: {masks}" if masks else ""
    facts: dict[str, object] = {"profile": ", ".join((done["profile"], *done["options"])), "pixels_kept": ladder}
    if done["dropped"]:
        facts["dropped"] = " ".join(done["dropped"])
    return facts


def _uid(text: str) -> str:
    """A UID with its name; other text may be anything and is not shown."""
    from pydicom.uid import UID

    if not re.fullmatch(r"[0-9.]{1,64}", text):
        return "not a UID" if text else "not told"
    name = UID(text).name
    return text if name == text else f"{name} ({text})"


def _describe_frames(instance: Instance, settings: Settings, facts: dict[str, object]) -> None:
    """Times of the frames, and the rendering of the first frame."""
    from exporter.dicom.timing import default_rate_warning, schedule_of
    from exporter.frames import open_frames
    from exporter.writers.pictures.cine import has_times, is_video_stream
    from exporter.writers.pictures.display_frames import still_pictures

    if (pixels := instance.pixels) is None:
        return
    streams = is_video_stream(instance)
    count = pixels.frames
    if not streams:
        frames = open_frames(instance, settings.limits)
        count = frames.count
    if count > 1:
        schedule = schedule_of(instance.header, count, default_rate_hz=settings.video.default_rate_hz)
        timing, warnings = schedule.timing, list(schedule.warnings)
        if has_times(instance, schedule):
            rate = "variable" if timing.variable else f"{timing.rate_hz:g} frames per second"
            facts["timing"] = f"{timing.source}: {rate}, {float(schedule.duration):g} s in all"
            warnings += default_rate_warning(schedule)
        else:
            facts["timing"] = "none: a set of pictures, not a cine"
        if warnings:
            facts["timing_warnings"] = warnings
    if streams:
        copied = instance.mask is None
        facts["rendering"] = "none: the stream is copied as it is" if copied else "the stream is encoded anew"
        return
    if facts["writer"] not in {"image", "video", "frames"}:
        return
    next(still_pictures(frames, settings.display), None)
    facts["rendering"] = _rendering(frames.rendering)


def _rendering(rendering: Rendering | None) -> str:
    """The way from stored to display values in words."""
    if rendering is None:
        return "as stored"
    parts = []
    if rendering.modality:
        parts.append(f"modality by {rendering.modality}")
    if rendering.window:
        parts.append(f"window centre {rendering.window[0]:g} width {rendering.window[1]:g}")
    if rendering.voi:
        parts.append(f"VOI {rendering.voi}")
    if rendering.inside_window is not None:
        parts.append(f"{rendering.inside_window:.2%} of the values inside the window")
    if rendering.inverted:
        parts.append("inverted")
    if rendering.colour:
        parts.append(f"colour {rendering.colour}")
    return "; ".join([*parts, *rendering.notes]) or "as stored"


def _text(facts: dict[str, object]) -> str:
    lines = []
    for key, value in facts.items():
        shown = [str(item) for item in value] if isinstance(value, list) else [str(value)]
        lines += [f"{key.replace('_', ' '):<16}{printable(one)}" for one in shown]
    return "\n".join(lines)
