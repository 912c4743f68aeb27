"""The page in Chromium: live, usable by keyboard alone and by everybody, and true when something breaks.

The screenshots of the documentation are made here: with ``EXPORTER_SCREENSHOTS=docs/page`` they go there.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from exporter.results.ledger import Ledger
from exporter.services.demo import SAMPLES, main
from listener.foundation.counters import FILE
from listener.spool.spool import Spool
from tests.exporter.page.served import serving
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium")
REPOSITORY = Path(__file__).parents[3]
AXE = REPOSITORY / ".peers/node_modules/axe-core/axe.min.js"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.peer,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
    pytest.mark.xdist_group("browser"),
]
VIDEO = "1.2.840.114340.3.8251017118051.3.20160503.121539.16117.4"
WIDTHS = (320, 1280)
SCHEMES = ("light", "dark")
SOON_MS = 10_000
WAIT_MS = 100_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


class Installation:
    """Listener, exporter and page as processes of their own, on one data folder."""

    def __init__(self, folder: Path, settings: dict[str, Any] | None = None) -> None:
        self.data = folder / "data"
        self.port, page_port = free_port(), free_port()
        self.address = f"http://127.0.0.1:{page_port}"
        told = {"listener": {"port": self.port, "processes": 1}, "page": {"port": page_port}, "num_workers": 1}
        self.config = folder / "exporter.yml"
        self.config.write_text(json.dumps(told | (settings or {})))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        command = {"listener": ["listener"], "exporter": ["exporter", "run"], "page": ["exporter", "page"]}[name]
        options = ["--config", str(self.config), "--data", str(self.data)]
        self.processes[name] = subprocess.Popen(
            [sys.executable, "-m", *command, *options], cwd=REPOSITORY, stderr=subprocess.DEVNULL
        )

    def kill(self, name: str) -> None:
        self.processes[name].send_signal(signal.SIGKILL)
        self.processes.pop(name).wait()

    def receive_garbage(self, count: int) -> None:
        with Spool.open(self.data / "spool") as spool:
            for _ in range(count):
                incoming = spool.receive()
                incoming.write([b"<script>alert(1)</script>" * 20])
                incoming.commit()

    def counts(self) -> dict[str, int]:
        with Ledger.open_read_only(self.data / "exporter.db") as ledger:
            counts = ledger.counts()
        return {"exported": counts.exported, "quarantined": counts.quarantined, "deferred": counts.deferred}

    def stop(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.wait()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation that has received samples, and three files that are no DICOM."""
    installation = Installation(tmp_path_factory.mktemp("running"), {"expect": {"CT1": {"every": "24h"}}})
    try:
        for name in ("listener", "exporter", "page"):
            installation.start(name)
        wait_for((installation.data / "spool" / FILE).is_file)
        assert main("127.0.0.1", installation.port, "EXPORTER") == 0
        installation.receive_garbage(60)
        wait_for((installation.data / "exporter.db").is_file)
        wait_for(lambda: installation.counts()["exported"] == len(SAMPLES))
        wait_for(lambda: installation.counts()["quarantined"] == 60)
        yield installation
    finally:
        installation.stop()


def wait_for(is_so: Any) -> None:
    until = time.monotonic() + WAIT_MS / 1000
    while not is_so():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.1)


def opened(browser: Browser, address: str, *, width: int = 1280, scheme: Any = "light", script: bool = True) -> Page:
    """A page in a window of its own; errors of its console end the test."""
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, java_script_enabled=script
    )
    page = context.new_page()
    faults: list[str] = []
    page.on("console", lambda said: faults.append(f"{said.text} {said.location}") if said.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda asked: faults.append(asked.url) if not asked.url.startswith(address[:20]) else None)
    page.goto(address)
    page.set_default_timeout(WAIT_MS)
    assert faults == []
    return page


def pages(installation: Installation) -> dict[str, str]:
    """Every kind of page, by its name in the documentation."""
    with Ledger.open_read_only(installation.data / "exporter.db") as ledger:
        names = [entry.name for entry in ledger.entries() if entry.state == "exported"]
        assert names
    return {
        "overview": "/",
        "failures": "/failures",
        "instances": "/instances?before=11",
        "instance": "/instance/1",
        "failed-instance": "/instance/40?explain=1",
        "retry": "/retry?reason=not_dicom",
        "search": "/search?q=1.3",
        "settings": "/settings",
        "nothing-there": "/instance/999",
    }


def violations(page: Page) -> list[str]:
    """Faults that axe finds: WCAG 2.0 to 2.2, A and AA, and best practice."""
    page.evaluate(AXE.read_text())
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    found = page.evaluate("tags => axe.run(document, {runOnly: {type: 'tag', values: tags}})", tags)
    return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found["violations"]]


@pytest.mark.skipif(not AXE.is_file(), reason="axe-core is not installed")
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_page_is_for_everybody(
    browser: Browser, running: Installation, width: int, scheme: str, tmp_path: Path
) -> None:
    shots = Path(os.environ.get("EXPORTER_SCREENSHOTS") or tmp_path)
    shots.mkdir(exist_ok=True)
    page = opened(browser, running.address, width=width, scheme=scheme)
    for name, path in pages(running).items():
        page.goto(running.address + path)
        assert violations(page) == [], name
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        is_shown = (name, width) in {("overview", 320), ("overview", 1280), ("failures", 1280), ("instances", 1280)}
        if is_shown and (scheme == "light" or name == "overview"):
            height = 1400 if name == "overview" else 900
            page.screenshot(
                path=shots / f"{name}-{scheme}-{width}.png",
                clip={"x": 0, "y": 0, "width": width, "height": height},
                full_page=True,
            )
    page.context.close()


@pytest.mark.skipif(not AXE.is_file(), reason="axe-core is not installed")
def test_faults_that_are_planted_are_found(browser: Browser, running: Installation) -> None:
    page = opened(browser, running.address)
    page.evaluate(
        """document.documentElement.removeAttribute('lang');
        document.querySelector('h2').style.color = '#eee';
        document.body.insertAdjacentHTML('beforeend', '<img src="/static/icon.svg">')"""
    )
    found = " ".join(violations(page))
    assert [rule in found for rule in ("html-has-lang", "color-contrast", "image-alt")] == [True] * 3
    page.context.close()


def test_an_instance_is_seen_within_seconds_in_every_one_of_twelve_tabs(
    browser: Browser, running: Installation
) -> None:
    from playwright.sync_api import expect

    tabs = [opened(browser, running.address) for _ in range(12)]
    before = running.counts()["quarantined"]
    running.receive_garbage(1)
    wait_for(lambda: running.counts()["quarantined"] == before + 1)
    for tab in tabs:
        expect(tab.locator("#verdict")).to_contain_text(f"{before + 1} instances failed", timeout=SOON_MS)
    for tab in tabs:
        tab.context.close()


def test_one_failure_and_a_whole_reason_are_tried_again_by_keyboard_alone(
    browser: Browser, running: Installation
) -> None:
    from playwright.sync_api import expect

    running.kill("exporter")  # so that what is tried again stays where it is put
    page = opened(browser, running.address)
    before = running.counts()["quarantined"]

    def follow(name: str) -> None:
        for _ in range(80):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.textContent.trim()").startswith(name):
                with page.expect_navigation(timeout=WAIT_MS):
                    page.keyboard.press("Enter")
                return
        pytest.fail(f"{name} is not reached by the keyboard")

    follow("Failures")
    follow("instance ")
    follow("Try it again")
    expect(page.get_by_role("heading", level=1)).to_have_text("Try 1 instance again?")
    follow("Try 1 instance again")
    expect(page.get_by_text("1 instance will be tried again.")).to_be_visible()
    assert running.counts()["quarantined"] == before - 1
    follow(f"Try all {before - 1} again")
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Try {before - 1} instances again?")
    follow(f"Try {before - 1} instances again")
    expect(page.get_by_text(f"{before - 1} instances will be tried again.")).to_be_visible()
    assert running.counts() | {"exported": 0} == {"exported": 0, "quarantined": 0, "deferred": before}
    page.goto(running.address)
    expect(page.locator("#verdict h1")).to_contain_text("The exporter is not running", timeout=SOON_MS)
    running.start("exporter")
    expect(page.locator("#verdict")).to_contain_text(f"{before} instances failed", timeout=WAIT_MS)
    page.context.close()


def test_without_a_script_everything_but_renewal_works(browser: Browser, running: Installation) -> None:
    running.receive_garbage(1)
    wait_for(lambda: running.counts()["quarantined"] > 0)
    page = opened(browser, running.address, script=False)
    page.get_by_role("link", name="Failures", exact=True).click()
    page.get_by_role("link", name="Try all").first.click()
    page.get_by_role("button", name="Try").click()
    assert "will be tried again" in page.content()
    page.get_by_label("Search").fill("1.3.6.1.4.1.5962.1.1.1.1.1.20040119072730.12322")
    page.get_by_role("button", name="Find").click()
    page.get_by_role("link", name="1.3.6.1.4.1.5962.1.1.1.1.1").click()
    assert page.get_by_role("heading", name="History").is_visible()
    assert page.get_by_role("link", name="Open the image").is_visible()
    page.context.close()


def test_a_picture_and_a_video_are_shown_by_the_browser_itself(browser: Browser, running: Installation) -> None:
    page = opened(browser, running.address)
    for uid, kind, is_shown in (
        ("1.3.6.1.4.1.5962.1.1.1.1.1.20040119072730.12322", "image", "document.querySelector('img').naturalWidth"),
        (
            "1.2.840.114340.3.8251017118051.3.20160503.121539.16117.4",
            "video",
            "document.querySelector('video').duration",
        ),
    ):
        page.goto(f"{running.address}/search?q={uid}")
        page.get_by_role("link", name=uid).click()
        page.get_by_role("link", name=f"Open the {kind}").click()
        page.wait_for_load_state("load")
        wait_for(lambda is_shown=is_shown: (page.evaluate(is_shown) or 0) > 0)
    page.context.close()


def test_the_first_sentence_says_that_the_listener_is_gone_and_the_page_that_it_is_out_of_date(
    browser: Browser, running: Installation
) -> None:
    from playwright.sync_api import expect

    page = opened(browser, running.address)
    running.kill("listener")
    expect(page.locator("#verdict h1")).to_contain_text("The listener is not running", timeout=SOON_MS)
    running.kill("page")
    expect(page.locator("#stale")).to_contain_text("Out of date since", timeout=SOON_MS)
    running.start("page")
    expect(page.locator("#stale")).to_be_hidden(timeout=WAIT_MS)
    running.start("listener")
    expect(page.locator("#verdict h1")).not_to_contain_text("listener", timeout=WAIT_MS)
    page.context.close()


def test_the_first_sentence_says_that_the_disk_is_full_and_that_a_source_is_silent(
    browser: Browser, tmp_path: Path
) -> None:
    from playwright.sync_api import expect

    full = {
        "spool": {"reject_below_bytes": 1, "refuse_below_bytes": 1 << 60, "resume_above_bytes": 1 << 60},
        "expect": {"CT1": {"every": "1h"}},
    }
    installation = Installation(tmp_path, full)
    (installation.data / "spool").mkdir(parents=True)
    long_ago = {"number": 1, "last": time.time() - 7300, "slots": []}
    (installation.data / "spool" / FILE).write_text(json.dumps({"sources": {"CT1": long_ago}}))
    with serving(installation.data, json.dumps({"expect": full["expect"]})) as served:
        page = opened(browser, served.address)
        expect(page.locator("#verdict")).to_contain_text("CT1 is silent since", timeout=SOON_MS)
        installation.start("listener")
        try:
            expect(page.locator("#verdict")).to_contain_text("The listener is short of disk space", timeout=WAIT_MS)
            expect(page.locator("#sources")).to_contain_text("silent")  # remembered across its start
        finally:
            installation.stop()
        page.context.close()


# -- the report ------------------------------------------------------------------------------------------------------

CINE = "examples_ybr_color.dcm"
STILLS = (
    "CT_small.dcm",
    "MR_small_RLE.dcm",
    "examples_palette.dcm",
    "examples_jpeg2k.dcm",
    "examples_overlay.dcm",
    "examples_rgb_color.dcm",
    "JPEG-lossy.dcm",
    "SC_rgb_small_odd_jpeg.dcm",
    "test-SR.dcm",
    "waveform_ecg.dcm",
)
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\u202e"


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports of an output with failures, of one in which all is well, and of one in which nothing was done."""
    import pydicom

    samples = Path(pydicom.__file__).parent / "data/test_files"
    found = {}
    for name in ("report", "well", "empty"):
        folder = tmp_path_factory.mktemp(name)
        (folder / "in").mkdir()
        if name == "empty":
            Ledger.open(folder / "exporter.db").close()
            command = ["report", str(folder), "--to", str(folder / "out.html")]
            found[name] = folder / "out.html"
        else:
            for sample in (CINE, *STILLS) if name == "report" else STILLS[:3]:
                shutil.copy(samples / sample, folder / "in" / sample)
            if name == "report":
                (folder / "in" / f"{HOSTILE.replace('/', '')}.dcm").write_bytes(b"no DICOM" * 100)
                (folder / "in/cut.dcm").write_bytes((samples / "CT_small.dcm").read_bytes()[:20_000])
            command = ["backfill", str(folder / "in"), "--output", str(folder / "out"), "--workers", "1"]
            found[name] = folder / "out/report.html"
        subprocess.run([sys.executable, "-m", "exporter", *command], cwd=REPOSITORY, check=False, capture_output=True)
        assert found[name].is_file()
    return found


@pytest.mark.skipif(not AXE.is_file(), reason="axe-core is not installed")
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_report_is_for_everybody_and_asks_nobody_for_anything(
    browser: Browser, reports: dict[str, Path], width: int, scheme: Any, tmp_path: Path
) -> None:
    shots = Path(os.environ.get("EXPORTER_SCREENSHOTS") or tmp_path)
    shots.mkdir(exist_ok=True)
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    asked, faults = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda said: faults.append(said.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("dialog", lambda dialog: faults.append(dialog.message))
    for name, path in reports.items():
        asked.clear()
        page.goto(path.as_uri())
        for summary in page.locator("summary").all():
            summary.click()
        assert violations(page) == [], name
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        assert [one[:100] for one in asked if not one.startswith("data:")] == [path.as_uri()], name
        if name == "report" and (width, scheme) in {(320, "dark"), (1280, "light")}:
            for summary in page.locator("summary").all():
                summary.click()
            page.screenshot(
                path=shots / f"report-{scheme}-{width}.png",
                clip={"x": 0, "y": 0, "width": width, "height": 1450},
                full_page=True,
            )
            if width == WIDTHS[-1]:
                page.locator("#sheets").screenshot(path=shots / f"report-sheets-{scheme}-{width}.png")
    assert faults == []
    context.close()


def test_previews_of_cines_play_in_a_report(browser: Browser, reports: dict[str, Path]) -> None:
    page = browser.new_context().new_page()
    page.goto(reports["report"].as_uri())
    cines = page.locator("video")
    assert cines.count() == 1
    cines.first.evaluate("video => video.play()")
    wait_for(lambda: cines.first.evaluate("video => video.currentTime") > 0)
    assert page.locator("main img").count() >= 5
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    page.context.close()


def test_nothing_in_a_report_can_be_run_or_fetched(browser: Browser, reports: dict[str, Path], tmp_path: Path) -> None:
    """What somebody plants in the file is stopped by its own policy."""
    planted = tmp_path / "planted.html"
    evil = (
        "<script>document.title = 'run'</script><img src='https://example.org/a.png' onerror=\"document.title='run'\">"
    )
    planted.write_text(reports["report"].read_text().replace('<main id="main"', f'{evil}<main id="main"'))
    page = browser.new_context().new_page()
    asked: list[str] = []
    page.on("requestfinished", lambda request: asked.append(request.url))
    page.goto(planted.as_uri())
    assert page.title().startswith("Report:")
    assert [one for one in asked if one.startswith("http")] == []
    page.context.close()
