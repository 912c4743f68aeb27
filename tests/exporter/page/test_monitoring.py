"""What monitoring asks: metrics that others can read, labels that no sender can add to, a readiness that is true."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from exporter.page import metrics
from exporter.page.app import Page
from exporter.page.readiness import Readiness
from exporter.page.standing import Problem, SourceStanding, Standing
from exporter.results.ledger import InstanceStatus, Ledger
from exporter.results.ledger.browsing import LedgerBrowser, MinuteNumbers
from exporter.settings.settings import Settings
from listener.daemon import ListenerDaemon
from listener.foundation.counters import Counters
from listener.settings.listener import DataFolder, PeerSection
from listener.spool.space import Free, publish_space
from tests.exporter.ledger_rows import begin, finish
from tests.exporter.page.served import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REPOSITORY = Path(__file__).parents[3]
MONITORING = REPOSITORY / "monitoring"
PROMTOOL = shutil.which("promtool")
HOSTILE = 'x"} 1\nevil{a="\\\x00\u202e<script>'


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder in which two instances were exported and one failed, and whose daemons write their files."""
    data = tmp_path_factory.mktemp("live")
    (data / "spool").mkdir()
    now = time.time_ns()
    with Ledger.open(data / "exporter.db") as ledger:
        for name, state in {"a": "exported", "b": "exported", "c": "quarantined"}.items():
            begin(ledger, name, source="spool", mtime_ns=now - 3_000_000_000)
            finish(ledger, name, state=InstanceStatus(state), reason="timeout")
    counters = Counters()
    counters.name_sources(["CT1", HOSTILE])
    for number in range(10_000):
        counters.arrived(f"AE{number}")
    counters.arrived("CT1", 7)
    counters.write(data / "spool")
    publish_space(data / "spool", {}, None)
    return data


SETTINGS = json.dumps({"expect": {"CT1": {"every": "1h"}, HOSTILE: {"every": "1h"}}})


def test_metrics_are_read_by_prometheus_own_parsers_in_both_formats(live: Path) -> None:
    with serving(live, SETTINGS) as served:
        plain = served.ask("/metrics")
        other = served.ask("/metrics", accept="application/openmetrics-text; version=1.0.0")
    assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert other.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    for found in (
        list(text_string_to_metric_families(plain.text)),
        list(openmetrics.text_string_to_metric_families(other.text)),
    ):
        samples = {(one.name, *one.labels.values()): one.value for family in found for one in family.samples}
        assert samples["dicom_finished_total", "exported"] == 2
        assert samples["dicom_failures", "timeout"] == 0  # its file is not in quarantine
        assert samples["dicom_latency_seconds_bucket", "5.0"] == 3
        assert samples["dicom_arrived_total", "CT1"] == 7
        assert samples["dicom_arrived_total", HOSTILE] == 0
        assert {family.name.removesuffix("_info") for family in found} == metrics.METRICS.keys()


def test_ten_thousand_senders_are_one_label(live: Path) -> None:
    with serving(live, SETTINGS) as served:
        text = served.ask("/metrics").text
    assert 'dicom_arrived_total{source="other"} 10000' in text
    assert len(text.splitlines()) < 200


def test_a_source_that_only_the_counters_name_is_no_label() -> None:
    stranger = SourceStanding("stranger", 1.0, 1, 1, (1,), 1)
    text = metrics.exposition(Standing(sources=(stranger,)), MinuteNumbers(), frozenset({"CT1"}), open_metrics=False)
    assert "stranger" not in text


@pytest.mark.slow
@pytest.mark.peer
@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
def test_promtool_accepts_metrics_and_rules_and_the_rules_fire_where_they_must(live: Path) -> None:
    with serving(live, SETTINGS) as served:
        text = served.ask("/metrics").text
    for arguments, said in (
        (["check", "metrics"], text),
        (["check", "rules", "alerts.yml"], ""),
        (["test", "rules", "alerts.test.yml"], ""),
    ):
        done = subprocess.run(
            [str(PROMTOOL), *arguments], cwd=MONITORING, input=said, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["alerts.yml", "grafana-dashboard.json"])
def test_every_metric_that_a_rule_or_a_panel_names_exists(name: str) -> None:
    text = (MONITORING / name).read_text()
    samples = {"gauge": ("",), "counter": ("_total",), "info": ("_info",), "histogram": ("_bucket", "_count", "_sum")}
    exist = {metric + ending for metric, (kind, _) in metrics.METRICS.items() for ending in samples[kind]}
    named = set(re.findall(r"\bdicom_[a-z_]+", text))
    assert named
    assert named <= exist


def test_every_metric_is_documented() -> None:
    text = (REPOSITORY / "docs/monitoring.md").read_text()
    for name, (kind, meaning) in metrics.METRICS.items():
        assert f"| `{name}` | {kind} | {meaning} |" in text


# -- readiness -------------------------------------------------------------------------------------------------------


class Site:
    """An installation of which anything can be broken."""

    def __init__(self, data: Path) -> None:
        self.settings = Settings.model_validate_json('{"listener": {"port": 0, "processes": 1}}')
        self.data = DataFolder(data)
        self.daemon = ListenerDaemon(self.settings.listener_settings, self.data)
        self.daemon.start()
        self.listener = self.settings.listener.model_copy(update={"port": self.daemon.port})
        Ledger.open(self.data.ledger).close()
        self.change: Callable[[Standing], Standing] = _as_it_is
        self.publish()

    def listen(self, **changes: object) -> None:
        self.listener = self.listener.model_copy(update=changes)

    def use_a_file_for_a_spool(self, folder: Path) -> None:
        (folder / "spool").touch()
        shutil.copy(self.data.ledger, folder)
        self.data = DataFolder(folder)

    def publish(self, paused: str | None = None) -> None:
        publish_space(self.data.spool, {"output": Free(1 << 50, None)}, paused)

    def unready(self) -> list[str]:
        settings = self.settings.model_copy(update={"listener": self.listener})
        look = Page(settings, self.data).standing
        checks = Readiness(settings, self.data, lambda: self.change(look())).checks()
        return [name for name, problem in checks.items() if problem]


@pytest.fixture(scope="module")
def one_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"))
    yield site
    site.daemon.stop()


@pytest.fixture
def site(one_site: Site) -> Iterator[Site]:
    whole, data, ledger = one_site.listener, one_site.data, one_site.data.ledger.read_bytes()
    one_site.publish()
    yield one_site
    one_site.listener, one_site.data, one_site.change = whole, data, _as_it_is
    one_site.data.ledger.write_bytes(ledger)


def _as_it_is(standing: Standing) -> Standing:
    return standing


def _silent(standing: Standing) -> Standing:
    what = Problem("silent", "fault", "CT1 is silent.", "Check it.")
    return replace(standing, problems=(*standing.problems, what))


def _stopped(standing: Standing) -> Standing:
    return replace(standing, daemons={**standing.daemons, "exporter": "stopped"})


def _hung(standing: Standing) -> Standing:
    return replace(standing, daemons={**standing.daemons, "exporter": "hung"})


PLANTED: dict[str, tuple[Callable[[Site, Path], object], list[str]]] = {
    "nothing is wrong": (lambda _site, _tmp: None, []),
    "nobody listens": (lambda site, _: site.listen(port=1), ["listener"]),
    "it is another AE title": (lambda site, _: site.listen(ae_title="ANOTHER"), ["listener"]),
    "it is another AE title, and peers are named": (
        lambda site, _: site.listen(ae_title="ANOTHER", peers=(PeerSection(ae_title="CT1"),)),
        [],
    ),
    "the exporter is stopped": (lambda site, _: setattr(site, "change", _stopped), ["exporter"]),
    "the exporter hangs": (lambda site, _: setattr(site, "change", _hung), ["exporter"]),
    "the exporter pauses": (lambda site, _: site.publish("too little room for output"), ["disk"]),
    "there is no data folder": (
        lambda site, tmp: setattr(site, "data", DataFolder(tmp / "gone")),
        ["exporter", "spool", "ledger"],
    ),
    "the ledger is damaged": (lambda site, _: site.data.ledger.write_bytes(b"no database" * 99), ["ledger"]),
    "the ledger is empty": (lambda site, _: site.data.ledger.write_bytes(b""), ["ledger"]),
    "the ledger is gone": (lambda site, _: site.data.ledger.unlink(), ["ledger"]),
    "the spool is a file": (lambda site, tmp: site.use_a_file_for_a_spool(tmp), ["exporter", "spool"]),
    "a source is silent, which hinders nothing": (lambda site, _: setattr(site, "change", _silent), []),
}


@pytest.mark.parametrize("name", PLANTED)
def test_readiness_is_true_whatever_is_broken(site: Site, tmp_path: Path, name: str) -> None:
    plant, wanted = PLANTED[name]
    plant(site, tmp_path)
    assert site.unready() == wanted


def test_readyz_answers_503_with_a_line_for_each_check(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        answer = served.ask("/readyz")
        assert answer.status == 503
        assert "exporter: the exporter is stopped" in answer.text.splitlines()
        assert served.ask("/healthz").status == 200


def probes() -> dict[str, list[str]]:
    """Commands by which a container runtime asks the page, by what they ask."""
    containerfile = (REPOSITORY / "packages/Containerfile").read_text()
    (check,) = re.findall(r"(?m)^HEALTHCHECK [^\[]*CMD (\[.*\])$", containerfile)
    manifests = yaml.safe_load_all((REPOSITORY / "packages/kubernetes/deployment.yaml").read_text())
    (deployment,) = (one for one in manifests if one["kind"] == "Deployment")
    containers = {one["name"]: one for one in deployment["spec"]["template"]["spec"]["containers"]}
    page = containers["page"]
    return {
        "health": json.loads(check),
        "liveness": page["livenessProbe"]["exec"]["command"],
        "readiness": page["readinessProbe"]["exec"]["command"],
    }


@pytest.mark.parametrize(("name", "is_well"), [("health", False), ("liveness", True), ("readiness", False)])
def test_container_runtimes_learn_from_the_page_whether_it_lives_and_is_ready(
    tmp_path: Path, name: str, is_well: bool
) -> None:
    port = Settings().page.port
    with serving(tmp_path) as served:
        _, *arguments = (part.replace(f":{port}/", f":{served.port}/") for part in probes()[name])
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == is_well
    assert is_well or "HTTP Error 503" in done.stderr


# -- a disk that does not answer -------------------------------------------------------------------------------------


@pytest.fixture
def silent_disk(tmp_path: Path) -> Iterator[Path]:
    """A mounted file system that answers no question: its server does not read them (fuse(4))."""
    import ctypes

    folder = tmp_path / "silent"
    folder.mkdir()
    kernel = ctypes.CDLL(None, use_errno=True)
    try:
        server = os.open("/dev/fuse", os.O_RDWR)
    except OSError:
        pytest.skip("there is no FUSE here")
    options = f"fd={server},rootmode=40000,user_id=0,group_id=0".encode()
    try:
        if kernel.mount(b"silent", os.fsencode(folder), b"fuse", 0, options) != 0:
            pytest.skip("nothing can be mounted here")
        yield folder
    finally:
        os.close(server)  # ends what waits
        kernel.umount2(os.fsencode(folder), 2)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["media", "data"])
def test_a_disk_that_does_not_answer_is_named_and_holds_up_nothing(
    what: str, silent_disk: Path, tmp_path: Path
) -> None:
    data = silent_disk if what == "data" else tmp_path
    settings = json.dumps({"media": {"dir": str(silent_disk)}} if what == "media" else {})
    if what == "media":
        Ledger.open(data / "exporter.db").close()
    with serving(data, settings) as served:
        for path in ("/", "/metrics", "/healthz", "/settings"):
            answer = served.ask(path)
            assert answer.status == 200, path
        places = "media" if what == "media" else "spool and media and metadata and ledger"
        assert f"The disk of {places} does not answer." in served.ask("/").text
        assert served.ask("/failures").status == (200 if what == "media" else 503)
        ready = served.ask("/readyz").text.splitlines()
        assert f"disk: The disk of {places} does not answer." in ready
        assert ("ledger: its disk does not answer" in ready) == (what == "data")


# -- a million rows --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_million_rows_are_looked_at_as_fast_as_none(tmp_path: Path) -> None:
    """Three times the time of an empty ledger at most, by medians, or a quarter of the 200 ms that a page may take."""
    import sqlite3
    from contextlib import closing
    from statistics import median

    folders = {"empty": tmp_path / "empty", "full": tmp_path / "full"}
    for folder in folders.values():
        folder.mkdir()
        Ledger.open(folder / "exporter.db").close()
    with closing(sqlite3.connect(folders["full"] / "exporter.db")) as connection:
        connection.execute(
            """INSERT INTO instance (name, source, size_bytes, mtime_ns, state, reason, attempts, updated_ns,
            sop_instance_uid, study_instance_uid, series_instance_uid)
            WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < 1000000)
            SELECT printf('%07d.dcm', n), 'folder', 1, 1, iif(n % 33, 'exported', 'failed'),
            iif(n % 33, NULL, iif(n % 2, 'timeout', 'corrupt_pixels')), 1, n, '1.2.' || n, '1.3.' || (n / 1000), '1.4'
            FROM number"""
        )
        now = int(time.time()) // 60
        rows = [(now - back, state, 5, 3, 1.0, 9) for back in range(1440) for state in ("exported", "failed")]
        connection.executemany("INSERT INTO minute VALUES (?, ?, ?, ?, ?, ?)", rows)
        connection.commit()
    paths = ("/", "/failures", "/failures?reason=timeout&before=500000", "/instances", "/search?q=1.3.77", "/metrics")
    took: dict[str, dict[str, float]] = {}
    for name, folder in folders.items():
        with serving(folder) as served:
            for path in paths:
                served.ask(path)
                times = []
                for _ in range(9):
                    began = time.process_time()
                    served.ask(path)
                    times.append(time.process_time() - began)
                took.setdefault(path, {})[name] = median(times)
    for path, times_of in took.items():
        assert times_of["full"] <= max(3 * times_of["empty"], 0.05), (path, took)
    with closing(LedgerBrowser(folders["full"] / "exporter.db")) as ledger:
        counts = ledger.counts()
        assert (counts.exported + counts.failed, counts.failed) == (1_000_000, 30_303)
