"""The process `exporter notify run` over a ledger that fails and fails, killed again and again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from exporter.results.ledger import InstanceStatus, Ledger
from tests.exporter.ledger_rows import begin, finish
from tests.exporter.notifications.peers import mail_server, raw_silence, webhook
from tests.ports import free_port
from tests.product.running import run, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("EXPORTER_TEST_KILLS", "0")) or 6
TIMEOUT_S = 100.0


def plant(ledger: Ledger, number: int, start: int) -> None:
    """Fail so many instances."""
    for index in range(start, start + number):
        begin(ledger, f"in/{index}", source="folder")
        finish(ledger, f"in/{index}", state=InstanceStatus.FAILED, reason="timeout")


@contextmanager
def notifying(data: Path, config: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "exporter", "notify", "run", "--data", str(data), "--config", str(config)]
    with (data / "notify.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def written(data: Path, **notify: Any) -> Path:
    config = data / "exporter.yml"
    config.write_text(json.dumps({"notify": notify}))
    return config


def test_every_event_comes_with_one_id_and_no_failure_is_lost_or_counted_twice(tmp_path: Path) -> None:
    chance = random.Random(3)  # noqa: S311 - the same every time
    failed = 0
    with webhook() as hook, mail_server() as box, Ledger.open(tmp_path / "exporter.db") as ledger:
        mail = {"to": ["a@example.org"], "host": "127.0.0.1", "port": box.port, "security": "none"}
        config = written(tmp_path, mail=mail, webhooks=[{"url": hook.url}], failures={"window_s": 2, "count": 1})
        for _ in range(KILLS):
            with notifying(tmp_path, config):
                until((tmp_path / "notify.db.lock").exists, seconds=TIMEOUT_S, describe="it begins")
                ends = time.monotonic() + chance.uniform(0.2, 4)
                while time.monotonic() < ends:
                    plant(ledger, chance.randrange(1, 4), failed)
                    failed = int(ledger.counts().failed)
                    time.sleep(0.1)

        def told() -> int:
            events = {request.event["id"]: request.event for request in list(hook.requests)}
            return sum(event["data"]["failed"] for event in events.values())

        with notifying(tmp_path, config) as last:
            until(lambda: told() >= failed, seconds=TIMEOUT_S, describe=f"all {failed} failures are in digests")
            said = ["notify", "list", "--data", tmp_path]
            until(lambda: "waiting" not in run(*said).stdout, seconds=TIMEOUT_S, describe="all is delivered")
            last.send_signal(signal.SIGTERM)
            assert last.wait(TIMEOUT_S) == 0
    bodies = defaultdict(set)
    for request in hook.requests:
        bodies[request.headers["webhook-id"]].add(request.body)
        assert request.headers["webhook-id"] == request.event["id"]
    assert all(len(found) == 1 for found in bodies.values())
    assert told() == failed
    assert {message["X-Event-ID"] for message in box.messages} == set(bodies)


def test_a_thousand_failures_in_a_minute_are_two_mails(tmp_path: Path) -> None:
    with mail_server() as box, webhook() as hook, Ledger.open(tmp_path / "exporter.db") as ledger:
        mail = {"to": ["a@example.org"], "host": "127.0.0.1", "port": box.port, "security": "none"}
        config = written(tmp_path, mail=mail, webhooks=[{"url": hook.url}], failures={"window_s": 20})
        with notifying(tmp_path, config):
            until((tmp_path / "notify.db.lock").exists, seconds=TIMEOUT_S, describe="it begins")
            for start in range(0, 1000, 50):
                plant(ledger, 50, start)
                time.sleep(0.1)

            def told() -> int:
                return sum(request.event["data"]["failed"] for request in list(hook.requests))

            until(lambda: told() == 1000, seconds=TIMEOUT_S, describe="a thousand failures are in digests")
            until(lambda: len(box.messages) == len(hook.requests), seconds=TIMEOUT_S, describe="the mails are there")
        assert 1 <= len(box.messages) <= 2
    assert hook.requests[-1].event["data"]["need_a_look_by_reason"] == {"timeout": 1000}


def test_a_mail_server_that_hangs_holds_a_backfill_up_for_a_while_only(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    with closing(raw_silence()) as silent:
        port = silent.getsockname()[1]
        config = written(
            tmp_path, mail={"to": ["a@example.org"], "host": "127.0.0.1", "port": port, "security": "none"}
        )
        done = run("backfill", folder, "--output", tmp_path / "out", "--config", config, "--workers", 0)
    assert done.returncode == 0
    assert "1 notifications are not delivered yet" in done.stderr
    assert "waiting" in run("notify", "list", "--data", tmp_path / "out").stdout


def test_serve_starts_it_and_starts_it_again(tmp_path: Path) -> None:
    data, port = tmp_path / "data", free_port()
    config = tmp_path / "exporter.yml"
    with webhook() as hook:
        sections = {"notify": {"webhooks": [{"url": hook.url}]}, "page": {"port": 0}, "listener": {"port": port}}
        config.write_text(json.dumps(sections))
        places = ["--data", str(data), "--config", str(config)]

        def notifier() -> str:
            done = run("status", "--json", *places)
            return str(json.loads(done.stdout)["notifier"]) if done.returncode == 0 else done.stderr

        with (tmp_path / "serve.log").open("wb") as log:
            command = [sys.executable, "-m", "exporter", "serve", *places]
            serve = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            until(lambda: notifier() == "running", seconds=TIMEOUT_S, describe="it runs")
            lock = data / "notify.db.lock"
            first = int(lock.read_text())
            os.kill(first, signal.SIGKILL)
            until(lambda: lock.read_text() not in {"", f"{first}\n"}, seconds=TIMEOUT_S, describe="it runs again")
        finally:
            serve.send_signal(signal.SIGTERM)
            assert serve.wait(TIMEOUT_S) == 0
        assert notifier() == "stopped"
