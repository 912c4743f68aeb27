"""`exporter backfill --niffler-config`: a run of Niffler's PNG extractor, with its configuration, tables and folders.

Contract: as every command that exports; then the tables, the failures and, where the configuration asks for one, the
e-mail. What is wrong with the configuration is one sentence each, and nothing has been changed.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from exporter.commands import CommandError, ExitCode
from exporter.commands.options import in_words
from listener.foundation.errors import Unusable
from listener.foundation.text import printable

if TYPE_CHECKING:
    from pathlib import Path

    from exporter.niffler.extraction import ExtractionReport
    from exporter.niffler.niffler_file import NifflerConfig
    from exporter.settings.settings import Settings


@dataclass(frozen=True, slots=True)
class NifflerRun:
    """What the command line says beside the configuration of Niffler."""

    file: Path
    changes: tuple[str, ...]
    settings: Settings
    """What our own configuration says of everything that Niffler has no key for."""
    workers: int | None
    take_over: bool
    mail_server: str | None = None
    """``host`` or ``host:port``; None for the server of `notify.mail`, or this machine's."""

    def __call__(self) -> int:
        """Run it to its end."""
        if self.settings.deidentifies:
            raise CommandError(
                "--niffler-config makes tables of headers as they are, which `privacy.profile: basic` does not permit;"
                " export without it, and make tables with `exporter metadata csv`",
                ExitCode.USAGE,
            )
        config = niffler_config(self.file, self.changes)
        try:
            code, report = self._extract(config)
        except Unusable:
            self._mail(config, None)
            raise
        if code != ExitCode.INTERRUPTED:
            self._mail(config, report)
        return code

    def _extract(self, config: NifflerConfig) -> tuple[int, ExtractionReport | None]:
        with in_words():
            from exporter.commands.progress import run
            from exporter.inputs.backfill import export
            from exporter.niffler.extraction import Extraction
            from exporter.niffler.row_store import TooManyColumns

            settings = config.settings(self.settings)
            with Extraction(config, settings, self.workers) as extraction:
                code = run(partial(export, extraction.files), extraction.target(take_over=self.take_over))
                if code == ExitCode.INTERRUPTED:
                    return code, None
                try:
                    report = extraction.finish()
                except TooManyColumns as error:
                    raise CommandError(str(error)) from error
        for sentence in report.sentences(config):
            print(printable(sentence))
        return (ExitCode.SOME_FAILED if report.failures else code), report

    def _mail(self, config: NifflerConfig, report: ExtractionReport | None) -> None:
        """Send the e-mail that the configuration asks for; a server that does not take it costs a sentence."""
        if config.email is None:
            return
        from exporter.niffler.notice import failure_notice, send_notice, success_notice
        from exporter.notifications.mail import Undelivered

        mail = self.settings.notify.mail
        sender = None if mail is None else mail.sender
        if report is None:
            why = "the command and ImageExtractor.out say why"
            message = failure_notice(config.email, 0, {}, ended_early=why, sender=sender)
        elif report.failures:
            message = failure_notice(config.email, report.converted, report.failures, sender=sender)
        else:
            message = success_notice(config.email, sender=sender)
        try:
            send_notice(message, self.mail_server, mail)
        except (Undelivered, Unusable) as error:
            print(f"exporter: the e-mail of this run is not sent: {printable(str(error))}", file=sys.stderr)


def niffler_config(file: Path, changes: tuple[str, ...], *, needs_folders: bool = True) -> NifflerConfig:
    """The configuration of Niffler in a file; with `needs_folders` its folders and lists must be here.

    Raises:
        NifflerFileUnusable: It cannot be used; one sentence for each fault.
    """
    from exporter.niffler.niffler_file import read_niffler_file

    return read_niffler_file(file, changes, needs_folders=needs_folders)
