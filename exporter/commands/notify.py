"""`exporter notify run|test|send|list`: notifications by e-mail and webhook.

Contract: `test` sends one event to every destination, at once and past the queue, and says for each how that ended.
"""

from __future__ import annotations

import signal
from contextlib import closing
from typing import TYPE_CHECKING

import cyclopts

from exporter.commands import CommandError, ExitCode
from exporter.commands.daemons import LogLevelOption, ready
from exporter.commands.options import ConfigOption, DataOptions, existing, in_words, settings_of
from listener.foundation.processes import end_with_parent
from listener.foundation.text import printable

if TYPE_CHECKING:
    from exporter.settings.settings import Settings

application = cyclopts.App(name="notify", help="Notify people and programs of what needs them.")


@application.command
def run(places: DataOptions | None = None, *, log_level: LogLevelOption = None) -> int:
    """Watch a data folder and send what happens to every destination of `notify`, until SIGTERM or Ctrl-C."""
    end_with_parent(signal.SIGTERM)
    places = places or DataOptions()
    settings = _with_destinations(ready(places, log_level))
    with in_words():
        from exporter.notifications.service import run as run_notifier

        return run_notifier(settings, places.folder())


@application.command(name="test")
def send_test(*, config: ConfigOption = None) -> int:
    """Send a test to every destination of `notify`, and say how it went. Exit code 1 where one did not take it."""
    settings = _with_destinations(settings_of(config))
    from exporter.notifications.destinations import destinations_of
    from exporter.notifications.events import Event
    from exporter.notifications.mail import Undelivered
    from exporter.services.context import own_version
    from listener.network.deadlines import Deadlines

    event = Event.now("test", "This is a test of the notifications.", "Nothing is to be done.")
    deadlines, code = Deadlines("notification-deadlines"), ExitCode.DONE
    deadlines.start()
    try:
        for destination in destinations_of(settings.notify, own_version()):
            try:
                destination.check()
                destination.deliver(event, deadlines)
            except Undelivered as error:
                print(f"{destination.name}: {printable(str(error))}", flush=True)
                code = ExitCode.NOT_RUN
            else:
                print(f"{destination.name}: delivered", flush=True)
    finally:
        deadlines.stop()
    return code


@application.command
def send(places: DataOptions | None = None) -> int:
    """Deliver what a backfill has left in its output folder; each message is tried for a day."""
    places = places or DataOptions()
    settings = _with_destinations(ready(places, None))
    with in_words():
        from exporter.notifications.schedule import GIVEN_UP_AFTER_S
        from exporter.notifications.service import send_waiting

        left = send_waiting(settings, existing(places.data), within_s=2 * GIVEN_UP_AFTER_S)
    return ExitCode.NOT_RUN if left else ExitCode.DONE


@application.command(name="list")
def list_(places: DataOptions | None = None) -> int:
    """List the newest messages of a data or output folder, and whether they were delivered."""
    places = places or DataOptions()
    from exporter.notifications.events import utc
    from exporter.notifications.queue import NotificationQueue

    folder = places.folder()
    if not folder.notifications.is_file():
        print("no messages")
        return ExitCode.DONE
    with closing(NotificationQueue(folder.root)) as queue:
        found = queue.recent()
    if not found:
        print("no messages")
    for one in found:
        problem = f": {one.problem}" if one.problem else ""
        how = f"{one.state.replace('_', ' ')} after {one.attempts} attempts" if one.attempts else one.state
        line = f"{utc(one.event.at)}  {one.event.kind:<14}  {one.event.id}  {one.destination}  {how}{problem}"
        print(printable(line))
    return ExitCode.DONE


def _with_destinations(settings: Settings) -> Settings:
    if not settings.notify.is_on:
        raise CommandError(
            "there is nobody to notify: name a mail server and addresses under `notify.mail`, or an address under"
            " `notify.webhooks`, in the file that --config names",
            ExitCode.USAGE,
        )
    return settings
