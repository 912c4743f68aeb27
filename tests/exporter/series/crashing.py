"""A program that publishes a series and ends at the n-th change of a file name, for n = 1, 2, ..., as if it was killed.

Run in a process of its own: it forks, which a test with threads may not. It ends with an exception where a crash left
something half visible.
"""

from __future__ import annotations

import os
import sys
import traceback
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson

from exporter.outcome import Exported, MediaType
from exporter.results.reconcile import reconcile
from exporter.series.folder import SeriesKey, open_series_folder, series_folders
from exporter.settings.settings import Settings
from exporter.writers.durable_write import media_file, write_new

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.outcome import Outcome

KEY: Final = SeriesKey("1.2", "1.3")
STEPS: Final = frozenset({"open", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.mkdir"})
FILES: Final = {
    1: {".nii.gz": b"one" * 99, ".series.json": b"{}"},
    2: {".1.nii.gz": b"two" * 99, ".2.nii.gz": b"three" * 99, ".series.json": b"[]"},
}
"""Files of an early and of a later version of the series, by suffix."""


def publish(output: Path, version: int) -> None:
    with open_series_folder(output, Settings(), "1") as series:

        def make(folder: Path, _: str) -> Outcome:
            media = []
            for number, (suffix, content) in enumerate(FILES[version].items()):
                path = folder / f"{number}.part"
                kind = MediaType.REPORT if suffix == ".series.json" else MediaType.VOLUME
                media.append(media_file(path, kind, suffix, "test", write_new(path, (content,))))
            return Exported(KEY.identity(str(version)), tuple(media), "{}", str(version), "s")

        series.publish(KEY, str(version), make)


def in_child(run: Callable[[], None]) -> int:
    pid = os.fork()
    if not pid:
        try:
            run()
        except BaseException:  # noqa: BLE001 - the child ends here, whatever it is
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def ended_at(number: int, run: Callable[[], None]) -> None:
    """Run, and end the process without any clean-up at its n-th change of a name."""
    left = number

    def hook(event: str, _: tuple[object, ...]) -> None:
        nonlocal left
        if event in STEPS:
            left -= 1
            if left < 0:
                os._exit(9)

    sys.addaudithook(hook)
    run()


def visible(output: Path) -> dict[str, bytes]:
    folder = output / "series" / "1.2"
    return {path.name.removeprefix("1.3"): path.read_bytes() for path in folder.iterdir()} if folder.is_dir() else {}


def lines(output: Path) -> list[list[str]]:
    """The media of every line."""
    path = output / "series.jsonl"
    text = path.read_bytes().splitlines() if path.exists() else []
    return [[one["path"] for one in orjson.loads(line)["export"]["media"]] for line in text]


def check(output: Path, number: int) -> None:
    """Check what a crash at one point left, start again, and check that nothing of it is left."""
    complete = [one for files in FILES.values() for one in files.items()]
    assert all(one in complete for one in visible(output).items()), f"{number}: a file is incomplete"

    def start_again() -> None:
        with open_series_folder(output, Settings(), "1") as folder:
            is_new = folder.is_current(KEY, "2", Settings().settings_sha256)
        # A name that both versions have may hold either: until it is made again, the series counts as pending.
        assert visible(output) == FILES[2] if is_new else set(visible(output)) <= set(FILES[1])
        assert reconcile(series_folders(output)).is_sound
        publish(output, 2)
        assert visible(output) == FILES[2]
        assert lines(output) == [[f"1.2/1.3{suffix}" for suffix in files] for files in FILES.values()]
        assert reconcile(series_folders(output), deep=True).is_sound

    assert in_child(start_again) == 0, f"{number}: it is not as it was before, nor as it is after"


def main(scratch: Path) -> int:
    """Crash at every point of the publication of a later version; the number of points."""
    for number in range(1, 200):
        output = scratch / str(number)
        output.mkdir()
        assert in_child(partial(publish, output, 1)) == 0
        code = in_child(partial(ended_at, number, partial(publish, output, 2)))
        assert code in {0, 9}
        check(output, number)
        if code == 0:
            return number - 1
    raise AssertionError("it does not come to an end")


if __name__ == "__main__":
    sys.stdout.write(str(main(Path(sys.argv[1]))))
