"""The queue and its deliveries: nothing lost, one id for each event, no destination delayed by another."""

from __future__ import annotations

import stat
import threading
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from exporter.notifications.destinations import destinations_of
from exporter.notifications.events import Event
from exporter.notifications.queue import KEPT_S, NotificationQueue, QueueUnusable
from exporter.notifications.schedule import GIVEN_UP_AFTER_S
from exporter.notifications.sending import Sender
from exporter.settings.notify import NotifySection
from listener.foundation.locks import LockBusy
from listener.settings.listener import DataFolder
from tests.exporter.notifications.peers import mail_server, raw_silence, webhook

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def section(**said: Any) -> NotifySection:
    return NotifySection.model_validate(said, strict=False)


@contextmanager
def sending(data: Path, found: NotifySection) -> Iterator[tuple[NotificationQueue, Sender, list[str]]]:
    """A queue and its sender, whose threads are not started."""
    destinations = destinations_of(found, "1.0")
    with closing(NotificationQueue(data)) as queue:
        sender = Sender(queue, destinations)
        try:
            yield queue, sender, [one.name for one in destinations]
        finally:
            sender.stop()


def waited_for(what: Any) -> bool:
    until = time.monotonic() + 100
    while not what() and time.monotonic() < until:
        threading.Event().wait(0.02)
    return bool(what())


def test_the_queue_is_private_and_outlives_its_process(tmp_path: Path) -> None:
    event = Event.now("test", "A test.", number=1)
    with closing(NotificationQueue(tmp_path)) as queue:
        queue.record([event], ["a", "b"], {"mark": "1", "gone": None})
    assert stat.S_IMODE(DataFolder(tmp_path).notifications.stat().st_mode) == 0o600
    with closing(NotificationQueue(tmp_path)) as queue:
        assert queue.marks() == {"mark": "1"}
        delivery = queue.next_due("a", event.at)
        assert delivery is not None
        assert delivery.event == event
        queue.delivered(delivery)
        assert queue.next_due("a", event.at) is None
        assert queue.waiting() == 1
        queue.forget_old(time.time() + KEPT_S + 1)
        assert [one.destination for one in queue.recent()] == ["b"]


def test_an_event_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    event = Event.now("test", "A test.")
    with closing(NotificationQueue(tmp_path)) as queue:
        queue.record([event], ["a"])
        with pytest.raises(QueueUnusable):
            queue.record([Event.now("test", "Another."), event], ["a"], {"mark": "1"})
        assert queue.marks() == {}
        assert queue.waiting() == 1


def test_a_damaged_database_and_another_program_s_are_sentences(tmp_path: Path) -> None:
    DataFolder(tmp_path).notifications.write_bytes(b"no database" * 1000)
    with pytest.raises(QueueUnusable, match=r"notifications .*notify\.db: .*not an SQLite database; move it away"):
        NotificationQueue(tmp_path)


def test_one_process_at_a_time_sends(tmp_path: Path) -> None:
    with closing(NotificationQueue(tmp_path)) as one, closing(NotificationQueue(tmp_path)) as other:
        with one.sender(), pytest.raises(LockBusy), other.sender():
            pass
        with other.sender():
            pass


def test_a_destination_that_hangs_delays_no_other(tmp_path: Path) -> None:
    with closing(raw_silence()) as silent, webhook() as hook:
        mail = {"to": ["a@example.org"], "host": "127.0.0.1", "port": silent.getsockname()[1], "security": "none"}
        with sending(tmp_path, section(mail=mail, webhooks=[{"url": hook.url}])) as (queue, sender, names):
            queue.record([Event.now("test", "One."), Event.now("test", "Two.")], names)
            sender.start()
            assert waited_for(lambda: len(hook.requests) == 2)
            assert waited_for(lambda: queue.waiting() == 2)
            assert sender.is_alive
        with closing(NotificationQueue(tmp_path)) as queue:
            states = {(one.destination, one.state) for one in queue.recent()}
    assert states == {("mail a@example.org", "waiting"), (f"webhook localhost:{hook.port}", "delivered")}


def test_a_mail_that_is_put_off_comes_later_with_the_same_id(tmp_path: Path) -> None:
    with mail_server() as box:
        mail = {"to": ["a@example.org"], "host": "127.0.0.1", "port": box.port, "security": "none"}
        found = section(mail=mail)
        (destination,) = destinations_of(found, "1.0")
        event = Event.now("test", "A test.")
        box.answers += ["451 later", "451 later"]
        with sending(tmp_path, found) as (queue, sender, names):
            queue.record([event], names)
            now = event.at
            assert sender.attempt(destination, now)
            assert not sender.attempt(destination, now + 29)
            assert sender.attempt(destination, now + 31)
        with sending(tmp_path, found) as (queue, sender, _):  # another process
            assert sender.attempt(destination, now + 200)
            (delivery,) = queue.recent()
    (message,) = box.messages
    assert message["X-Event-ID"] == event.id
    assert (delivery.state, delivery.attempts, delivery.problem) == ("delivered", 3, "")


def test_a_webhook_that_answers_500_for_a_day_is_given_up_and_that_is_recorded(tmp_path: Path) -> None:
    event = Event.now("test", "A test.")
    with webhook() as hook:
        hook.statuses += [500] * 100
        found = section(webhooks=[{"url": hook.url}])
        (destination,) = destinations_of(found, "1.0")
        with sending(tmp_path, found) as (queue, sender, names):
            queue.record([event], names)
            for step in range(2 * int(GIVEN_UP_AFTER_S) // 900):
                sender.attempt(destination, event.at + step * 900)
            (delivery,) = queue.recent()
    assert delivery.state == "given_up"
    assert "status 500" in delivery.problem
    assert 20 < delivery.attempts == len(hook.requests) < 40
    assert {request.event["id"] for request in hook.requests} == {event.id}
    assert {request.body for request in hook.requests} == {hook.requests[0].body}


def test_later_events_pass_one_that_waits(tmp_path: Path) -> None:
    first, second = Event.now("test", "One."), Event.now("test", "Two.")
    with webhook() as hook:
        hook.statuses.append(503)
        found = section(webhooks=[{"url": hook.url}])
        (destination,) = destinations_of(found, "1.0")
        with sending(tmp_path, found) as (queue, sender, names):
            queue.record([first, second], names)
            assert [sender.attempt(destination, first.at + 1) for _ in range(3)] == [True, True, False]
    assert [request.event["id"] for request in hook.requests] == [first.id, second.id]


def test_a_destination_that_is_no_longer_named_is_given_up(tmp_path: Path) -> None:
    with closing(NotificationQueue(tmp_path)) as queue:
        queue.record([Event.now("test", "A test.")], ["mail old@example.org", "mail new@example.org"])
        assert queue.give_up_all_but(["mail new@example.org"]) == 1
        (newest, oldest) = queue.recent()
    assert (newest.state, oldest.state) == ("waiting", "given_up")
    assert "does not name" in oldest.problem
