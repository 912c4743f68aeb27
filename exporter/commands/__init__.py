"""The commands of `exporter`, one module each, imported only when its command runs.

Contract: a command is a function that returns an `ExitCode` and prints its result to standard output. What is expected
to go wrong is raised as `CommandError` or another `Unusable`: one clear sentence that says what, which file or key, and
what to do; `main` of `exporter.commands.app` prints it to standard error and ends with the error's exit code. This
module and those of light commands (status, failures) import nothing heavy, so that they answer at once.

    app               the command `exporter`, and which commands there are
    backfill          `exporter backfill`
    batch             `exporter batch plan|run|merge|commands`
    batches           `exporter backfill --engine`, `exporter backfill status|resume|cancel`
    completion        `exporter completion`
    config            `exporter config check|show|schema|init|from-niffler|from-dme`
    conformance       `exporter conformance`
    daemons           `exporter serve` and `exporter run`
    dataset           `exporter dataset`
    encoder_check     encoders of the settings tried before a run
    explain           `exporter explain`
    failures          `exporter failures list|show|retry`
    handover          `exporter handover`
    install_units     `exporter install-units`
    media             `exporter media get|compact`
    metadata          `exporter metadata csv|parquet|series|mapping|combine`
    niffler           `exporter backfill --niffler-config`
    notify            `exporter notify run|test|send|list`
    options           options that commands share
    orthanc_storage   `exporter orthanc-storage`
    page              `exporter page`
    progress          progress, plan and summary of a run
    privacy           `exporter privacy check`
    pseudonym         `exporter pseudonym`
    pull              `exporter pull`
    reconcile         `exporter reconcile`
    report            `exporter report`, and the report after every run
    config_reference  documentation made from the settings
    reference_pages   documentation made from reasons and metrics
    status            `exporter status`
"""

from __future__ import annotations

from enum import IntEnum
from typing import Self

from listener.foundation.errors import Unusable


class ExitCode(IntEnum):
    """Exit codes, the same for every command."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> Self:
        """A code and its meaning."""
        code = int.__new__(cls, value)
        code._value_ = value
        code.meaning = meaning
        return code

    DONE = 0, "all well"
    NOT_RUN = 1, "could not run, or what was checked is not as it must be; nothing else was changed"
    USAGE = 2, "wrong usage or configuration; nothing was changed"
    SOME_FAILED = 3, "ran, but some instances failed: `exporter failures` lists them"
    INTERRUPTED = 130, "stopped by Ctrl-C; the same command goes on where it stopped"
    PIPE_CLOSED = 141, "the reader of standard output went away"


class CommandError(Unusable):
    """Something expected that keeps a command from its work: one sentence, or one per fault, and the code."""

    def __init__(self, sentence: str, code: int = ExitCode.NOT_RUN) -> None:
        super().__init__(sentence)
        self.exit_code = code
