"""`exporter notify`, the end of a backfill, and what page, status and documentation say of notifications."""

from __future__ import annotations

import json
import re
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from exporter.commands import ExitCode
from exporter.commands.app import main
from exporter.notifications.events import EVENTS
from exporter.notifications.queue import NotificationQueue
from exporter.notifications.watch import FailureNumbers, Watch
from exporter.page.condition import standing_of
from exporter.settings.settings import Settings, load_settings
from listener.foundation.counters import Counters
from listener.spool.space import publish_space
from tests.exporter.notifications.peers import mail_server, webhook
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

DOCUMENT = Path(__file__).parents[3] / "docs/notifications.md"


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """Writes a configuration."""

    def write(**sections: Any) -> Path:
        path = tmp_path / "exporter.yml"
        path.write_text(json.dumps(sections))
        return path

    return write


def called(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, output and errors of a command in this process."""
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err


def mail(port: int, **more: Any) -> dict[str, Any]:
    return {"to": ["ops@example.org"], "host": "127.0.0.1", "port": port, "security": "none"} | more


# -- exporter notify -------------------------------------------------------------------------------------------------


def test_the_test_says_for_each_destination_how_it_went(
    written: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with mail_server() as box, webhook() as hook:
        config = written(notify={"mail": mail(box.port), "webhooks": [{"url": hook.url, "name": "alerts"}]})
        code, text, _ = called(capsys, "notify", "test", "--config", config)
        assert (code, text) == (ExitCode.DONE, "mail ops@example.org: delivered\nwebhook alerts: delivered\n")
        hook.statuses.append(500)
        code, text, _ = called(capsys, "notify", "test", "--config", config)
    assert code == ExitCode.NOT_RUN
    assert (
        text.splitlines()[1] == "webhook alerts: the webhook alerts did not take the event: it answers with status 500"
    )
    assert hook.requests[0].event["type"] == "test"
    assert hook.requests[0].event["id"] == box.messages[0]["X-Event-ID"]


def test_nobody_to_notify_and_a_secret_that_others_can_read_are_wrong_configurations(
    tmp_path: Path, written: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = called(capsys, "notify", "test")
    assert code == ExitCode.USAGE
    assert "there is nobody to notify" in err
    secret = tmp_path / "secret"
    secret.write_text("x" * 40)
    secret.chmod(0o644)
    config = written(notify={"webhooks": [{"url": "https://localhost/", "secret_file": str(secret)}]})
    for command in (("notify", "test"), ("config", "check"), ("notify", "run")):
        code, _, err = called(capsys, *command, "--config", config)
        assert code == ExitCode.USAGE
        assert err.count("\n") == 1
        assert "`notify.webhooks[0].secret_file`: others can read" in err


def test_a_second_process_for_one_folder_is_refused(
    tmp_path: Path, written: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    config = written(notify={"webhooks": [{"url": "http://localhost:1/"}]})
    with closing(NotificationQueue(tmp_path)) as queue, queue.sender():
        code, _, err = called(capsys, "notify", "run", "--config", config, "--data", tmp_path)
    assert code == ExitCode.NOT_RUN
    assert "another process sends them" in err


# -- backfill --------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files that are no DICOM, and a link: two failures and a skip, and no worker."""
    found = tmp_path / "in^JOHN^DOE\r\nBcc: x"
    found.mkdir()
    for name in ("a", "b"):
        (found / name).write_text("JOHN^DOE is no DICOM")
    (found / "link").symlink_to(found / "a")
    return found


def test_a_backfill_says_at_its_end_what_it_did_and_names_nobody(
    tmp_path: Path, folder: Path, written: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with mail_server() as box, webhook() as hook:
        config = written(num_workers=0, notify={"mail": mail(box.port), "webhooks": [{"url": hook.url}]})
        code, _, err = called(capsys, "backfill", folder, "--output", tmp_path / "out", "--config", config)
    assert code == ExitCode.SOME_FAILED
    assert "not delivered" not in err
    (message,), (request,) = box.messages, hook.requests
    assert message["Subject"].endswith("The run is complete: 0 exported, 1 skipped, 2 failed.")
    data = request.event["data"]
    assert (data["exported"], data["skipped"], data["failed"]) == (0, 1, 2)
    assert data["failed_by_reason"] == {"not_dicom": 2}
    assert data["skipped_by_reason"] == {"not_regular": 1}
    assert data["result"] == "complete"
    assert message["X-Event-ID"] == request.event["id"]
    for content in (box.raw[0], request.body):
        assert b"DOE" not in content
        assert str(tmp_path).encode() not in content


def test_a_server_that_is_down_costs_a_sentence_and_the_message_is_sent_later(
    tmp_path: Path, folder: Path, written: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out, port = tmp_path / "out", free_port()
    config = written(num_workers=0, notify={"mail": mail(port)})
    code, _, err = called(capsys, "backfill", folder, "--output", out, "--config", config)
    assert code == ExitCode.SOME_FAILED
    assert "1 notifications are not delivered yet: `exporter notify send" in err
    _, text, _ = called(capsys, "notify", "list", "--data", out)
    assert re.search(r"run_ended .* mail ops@example.org  waiting after 1 attempts: .*Connection refused", text)
    with mail_server(port=port) as box, closing(NotificationQueue(out)) as queue:
        (delivery,) = queue.recent()
        queue.put_off(delivery, time.time(), "as if half a minute had passed")
        assert called(capsys, "notify", "send", "--data", out, "--config", config)[0] == ExitCode.DONE
    (message,) = box.messages
    assert message["X-Event-ID"] == delivery.event.id
    assert "delivered after" in called(capsys, "notify", "list", "--data", out)[1]


def test_what_notifications_keep_is_no_input_of_the_next_run(
    folder: Path, written: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    config = written(num_workers=0, notify={"webhooks": [{"url": f"http://localhost:{free_port()}/"}]})
    for _ in range(2):
        called(capsys, "backfill", folder, "--output", folder, "--config", config)
        assert (folder / "notify.db").is_file()
    status = json.loads(called(capsys, "status", "--json", "--data", folder)[1])
    assert (status["failed"], status["skipped"]) == (2, 1)


def test_a_backfill_in_batches_says_what_it_did_when_it_is_merged(
    tmp_path: Path, folder: Path, written: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with webhook() as hook:
        config = written(num_workers=0, notify={"webhooks": [{"url": hook.url}]})
        for command in (("plan", folder, "--output", out, "--config", config), ("run", out, "1"), ("merge", out)):
            called(capsys, "batch", *command)
    (request,) = hook.requests
    data = request.event["data"]
    assert (data["result"], data["exported"], data["skipped"], data["failed"]) == ("complete", 0, 1, 2)


def test_an_event_that_is_not_wanted_is_not_sent(
    tmp_path: Path, folder: Path, written: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with webhook() as hook:
        config = written(num_workers=0, notify={"webhooks": [{"url": hook.url}], "events": ["failures"]})
        called(capsys, "backfill", folder, "--output", tmp_path / "out", "--config", config)
    assert hook.requests == []


# -- page and status -------------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder without daemons, in which a source fell silent two days ago."""
    found = tmp_path / "data"
    (found / "spool").mkdir(parents=True)
    counters = Counters()
    counters.name_sources(["CT1"])
    counters.arrived("CT1")
    counters.write(found / "spool")
    publish_space(found / "spool", {}, None)
    path = found / "spool" / "listener.json"
    content = json.loads(path.read_text())
    content["sources"]["CT1"]["last"] -= 2 * 86_400
    content["updated"] -= 1000
    path.write_text(json.dumps(content))
    path = found / "spool" / "exporter.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"updated": time.time() - 1000}))
    return found


def test_what_is_wrong_on_the_page_becomes_an_event(data: Path) -> None:
    said = {"expect": {"CT1": {"every": "1h"}}, "room": {"pause_below_bytes": 1 << 60, "resume_above_bytes": 1 << 61}}
    settings = Settings.model_validate_json(json.dumps(said))
    standing = standing_of(data, settings)
    events = Watch(settings.notify.failures).look(standing, FailureNumbers(), {}, 100).events
    assert sorted(event.kind for event in events) == ["daemon_gave_up", "daemon_gave_up", "disk_low", "source_silent"]
    sentences = {problem.what for problem in standing.problems}
    assert {event.what for event in events} <= sentences


def test_status_says_that_nothing_sends_and_hides_what_is_secret(
    data: Path, written: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    hooks = [{"url": "https://chat.example.org/T0123/SECRETPATH"}]
    config = written(notify={"webhooks": hooks, "mail": mail(1, username="hidden-user", password_file="/secret")})
    _, text, _ = called(capsys, "status", "--data", data, "--config", config, "--json")
    found = json.loads(text)
    assert found["notifier"] == "stopped"
    assert "notifier_stopped" in [problem["word"] for problem in found["problems"]]
    _, shown, _ = called(capsys, "config", "show", config)
    for secret in ("SECRETPATH", "hidden-user"):
        assert secret not in text
        assert secret not in shown
    assert yaml.safe_load(shown)["notify"]["webhooks"][0]["url"] == "https://chat.example.org/********"
    with closing(NotificationQueue(data)) as queue, queue.sender():
        _, text, _ = called(capsys, "status", "--data", data, "--config", config, "--json")
    assert json.loads(text)["notifier"] == "running"
    assert "notifier_stopped" not in text


# -- documentation ---------------------------------------------------------------------------------------------------


def test_the_documentation_lists_every_event() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", DOCUMENT.read_text(), re.MULTILINE))
    assert rows == dict(EVENTS)


def test_the_examples_of_the_documentation_are_configurations(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.+?)```", DOCUMENT.read_text(), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        path = tmp_path / "exporter.yml"
        path.write_text(block)
        assert load_settings(path).notify.is_on


def test_the_recipe_of_the_documentation_checks_our_signature(
    tmp_path: Path, written: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (recipe,) = re.findall(r"```python\n(.+?)```", DOCUMENT.read_text(), re.DOTALL)
    found: dict[str, Any] = {}
    exec(recipe, found)  # noqa: S102 - it is what users are to run
    is_ours = found["is_from_exporter"]
    secret = tmp_path / "secret"
    secret.write_text("0123456789abcdef0123456789abcdef\n")
    secret.chmod(0o600)
    with webhook() as hook:
        config = written(notify={"webhooks": [{"url": hook.url, "secret_file": str(secret)}]})
        assert called(capsys, "notify", "test", "--config", config)[0] == ExitCode.DONE
    (request,) = hook.requests
    text = secret.read_text().strip()
    assert is_ours(request.headers, request.body, text)
    assert not is_ours(request.headers, request.body + b" ", text)
    assert not is_ours(request.headers, request.body, text[::-1])
    stamp = int(request.headers["webhook-timestamp"])
    assert not is_ours(request.headers | {"webhook-timestamp": str(stamp + 1)}, request.body, text)
