"""The commands of `exporter`, one module each, imported only when its command runs.

Contract: a command is a function that returns an `ExitCode` and prints its result to standard output. What is expected
to go wrong is raised as `CommandError`: one clear sentence that says what, which file or key, and what to do; `main` of
`exporter.commands.app` prints it to standard error. This module and those of light commands (status, failures) import
nothing heavy, so that they answer at once.

    app               the command `exporter`, and which commands there are
    backfill          `exporter backfill`
    config            `exporter config check|show|schema|init`
    daemons           `exporter serve` and `exporter run`
    dataset           `exporter dataset`
    encoder_check     encoders of the settings tried before a run
    explain           `exporter explain`
    failures          `exporter failures list|show|retry`
    metadata          `exporter metadata csv|parquet|series|mapping`
    options           options that commands share
    orthanc_storage   `exporter orthanc-storage`
    progress          progress, plan and summary of a run
    pull              `exporter pull`
    reconcile         `exporter reconcile`
    config_reference  documentation made from the settings
    signals           a first and a second Ctrl-C
    status            `exporter status`
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar, Self


class ExitCode(IntEnum):
    """What a command tells its caller; the same for every command."""

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


class CommandError(Exception):
    """Something expected that keeps a command from its work: one sentence, or one per fault, and the code."""

    speaker: ClassVar[str] = "exporter: "
    """What stands before each sentence."""

    def __init__(self, sentence: str, code: ExitCode = ExitCode.NOT_RUN) -> None:
        super().__init__(sentence)
        self.code = code

    @property
    def lines(self) -> list[str]:
        """One sentence per line."""
        return str(self).splitlines()


class ConfigurationRefused(CommandError):
    """Faults of a configuration file: each sentence begins with file and line, so that editors find it."""

    speaker: ClassVar[str] = ""

    def __init__(self, sentences: str) -> None:
        super().__init__(sentences, ExitCode.USAGE)
