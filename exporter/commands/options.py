"""Configuration and folder of a command, and the sentences for their faults."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, validators

from exporter.commands import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exporter.settings.settings import Settings
    from exporter.tables.output_folder import ExportedFolder
    from listener.settings.listener import DataFolder

DEFAULT_DATA = Path("dicom-media")

ConfigOption = Annotated[
    Path | None, Parameter(name="--config", help="Configuration file (YAML); without it, every default.")
]
DataOption = Annotated[
    Path, Parameter(name="--data", help="Data folder: spool/, media/, metadata.jsonl and exporter.db.")
]
OutputOption = Annotated[
    Path | None,
    Parameter(help="Folder for media/, metadata.jsonl and exporter.db; default: `media.dir`, or ./dicom-media."),
]
WorkersOption = Annotated[
    int | None,
    Parameter(
        validator=validators.Number(gte=0, lte=256),
        help="Instances at once; default: `num_workers`. 0: in this process, without limits on memory and time.",
    ),
]
TakeOverOption = Annotated[
    bool,
    Parameter(
        name="--take-over",
        negative="",
        help="Take the media folder over from an exporter of another host that is dead, without waiting.",
    ),
]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """`--config` and `--data`, as most commands take them."""

    config: ConfigOption = None
    data: DataOption = DEFAULT_DATA

    def settings(self) -> Settings:
        """The settings in force."""
        return settings_of(self.config)

    def folder(self) -> DataFolder:
        """The data folder, which need not exist."""
        from listener.settings.listener import DataFolder

        return DataFolder(self.data.expanduser())

    def media(self) -> Path:
        """Folder of media: `media.dir` where the configuration names it; cheap without a configuration."""
        if self.config is not None and (found := self.settings().media.dir) is not None:
            return found
        return self.data.expanduser() / "media"


def settings_of(config: Path | None) -> Settings:
    """The settings of a file, or the defaults.

    Raises:
        ConfigurationError: The file cannot be used; one sentence for each fault.
    """
    from exporter.settings.settings import load_settings

    return load_settings(config)


def existing(data: Path) -> Path:
    """A data or output folder in which something ran.

    Raises:
        CommandError: There is no such folder.
    """
    data = data.expanduser()
    hint = "name the folder of a running exporter or of a backfill with --data DIR"
    if not data.is_dir():
        raise CommandError(f"there is no data folder {data}; {hint}")
    if not (data / "spool").is_dir() and not (data / "exporter.db").is_file():
        raise CommandError(f"{data} is no data folder: it has neither spool/ nor exporter.db; {hint}")
    return data


@contextmanager
def in_words() -> Iterator[None]:
    """Turn a condition of the machine that keeps a command from its work into a sentence of the command."""
    from exporter.errors import MachineCondition, OutOfSpace

    try:
        yield
    except OutOfSpace as error:
        raise CommandError(f"the disk is full: {error}; free some space and start again") from error
    except MachineCondition as error:
        raise CommandError(f"{error}; nothing is judged for that, and the same command goes on from here") from error
    except PermissionError as error:
        raise CommandError(f"{error.filename}: permission denied; run as the user that owns the data folder") from error


def refuse_unusable_writers(settings: Settings) -> None:
    """Load the writers that other distributions add, before anything runs with them.

    Raises:
        WriterUnusable: One of them cannot be used, or the settings name one that is not installed.
    """
    from exporter.writers.discovery import enabled_writers

    enabled_writers(settings.writers)


def refuse_unusable_privacy(settings: Settings) -> None:
    """Load the key and the lists, and look for the programs of de-identification, before anything runs without them.

    Raises:
        Unusable: The key file or a list cannot be used, or a program is not there.
    """
    if settings.privacy.exclude is not None or settings.privacy.pseudonyms is not None:
        from exporter.privacy.lists import PatientLists

        PatientLists.of(settings.privacy)
    from exporter.work.supervisor import key_fingerprint_of

    key_fingerprint_of(settings)


def refuse_unusable_notify(settings: Settings) -> None:
    """Read the passwords, secrets and certificates of notifications, before anything runs that sends any.

    Raises:
        SecretUnusable: One of the files cannot be used.
    """
    if settings.notify.is_on:
        from exporter.notifications.service import ready_destinations

        ready_destinations(settings)


def exported_folder(out: Path, config: Path | None) -> ExportedFolder:
    """What tables and data sets are made of.

    Raises:
        TableError: There is nothing, or the configuration cannot be used.
    """
    from exporter.tables.output_folder import ExportedFolder

    settings = settings_of(config) if config is not None else None
    with in_words():
        return ExportedFolder.at(
            out,
            metadata=settings.metadata.file if settings is not None else None,
            media=settings.media.dir if settings is not None else None,
        )
