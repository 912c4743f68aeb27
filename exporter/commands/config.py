"""`exporter config check|show|schema|init|from-niffler|from-dme`: the configuration before anything runs with it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import cyclopts
from cyclopts import Parameter

from exporter.commands import CommandError, ExitCode
from exporter.commands.options import (
    ConfigOption,
    refuse_unusable_notify,
    refuse_unusable_privacy,
    refuse_unusable_writers,
    settings_of,
)
from listener.foundation.durable import make_private_folders

if TYPE_CHECKING:
    from exporter.settings.settings import Settings

FileArgument = Annotated[Path | None, Parameter(name="FILE", help="Configuration file (YAML); the same as --config.")]

application = cyclopts.App(name="config", help="Check, show or write the configuration.")


@application.command
def check(file: FileArgument = None, /, *, config: ConfigOption = None) -> int:
    """Report every fault of a configuration file at once; try its encoders on a small picture."""
    path = _only(file, config)
    settings = settings_of(path)
    refuse_untried(settings, path)
    refuse_unusable_notify(settings)
    print(f"{path or 'the default configuration'}: all well")
    return ExitCode.DONE


@application.command
def show(file: FileArgument = None, /, *, config: ConfigOption = None) -> int:
    """Print the configuration in force, defaults included, as YAML; secrets are masked."""
    import yaml

    from exporter.page.condition import masked

    settings = settings_of(_only(file, config))
    print(yaml.safe_dump(masked(settings.model_dump(mode="json")), sort_keys=False, allow_unicode=True), end="")
    return ExitCode.DONE


@application.command
def schema() -> int:
    """Print the JSON Schema of the configuration, for editors that complete and check."""
    from exporter.commands.config_reference import json_schema

    print(json_schema(), end="")
    return ExitCode.DONE


@application.command
def init(
    file: Annotated[Path | None, Parameter(name="FILE", help="File to write; without it, standard output.")] = None, /
) -> int:
    """Write a configuration with every key, annotated, at its default. Never replaces a file."""
    from exporter.commands.config_reference import annotated_yaml

    text = annotated_yaml()
    if file is None:
        print(text, end="")
        return ExitCode.DONE
    try:
        descriptor = os.open(file.expanduser(), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
    except FileExistsError:
        raise CommandError(
            f"{file} exists and is not replaced; choose another name, or move it away", ExitCode.USAGE
        ) from None
    except OSError as error:
        raise CommandError(f"{file} cannot be written: {error.strerror}; choose another folder") from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as target:
        target.write(text)
    print(f"wrote {file}; change what you need, then: exporter config check {file}")
    return ExitCode.DONE


@application.command(name="from-niffler")
def from_niffler(file: Annotated[Path, Parameter(name="FILE", help="config.json of Niffler.")], /) -> int:
    """Print our configuration for one of Niffler's PNG extractor; comments say what has no key here."""
    from exporter.commands.niffler import niffler_config
    from exporter.niffler import our_settings

    print(our_settings.from_niffler(niffler_config(file, (), needs_folders=False)), end="")
    return ExitCode.DONE


@application.command(name="from-dme")
def from_dme(file: Annotated[Path, Parameter(name="FILE", help="config.yml of the DICOM Media Exporter.")], /) -> int:
    """Print our configuration for one of the DICOM Media Exporter, of its last or its first form."""
    from exporter.niffler import our_settings

    print(our_settings.from_dme(file), end="")
    return ExitCode.DONE


def refuse_untried(settings: Settings, path: Path | None) -> None:
    """Load installed writers and key, and try the encoders that are not the default ones: no run starts in vain.

    Raises:
        ConfigurationError: One sentence for each fault.
        Unusable: A writer, or the key of de-identification, cannot be used.
    """
    from exporter.commands.encoder_check import faults_of
    from listener.foundation.configuration import ConfigurationError, fault_at
    from listener.foundation.yaml_file import read

    refuse_unusable_writers(settings)
    refuse_unusable_privacy(settings)
    found = faults_of(settings)
    for number, entry in enumerate(settings.ae_titles):
        own = settings.by_ae_title[entry.ae_title]
        if (own.video, own.image) != (settings.video, settings.image):
            found += [(f"ae_titles[{number}].{key_path}", problem) for key_path, problem in faults_of(own)]
    if found and path is not None:
        document = read(path)
        faults = [fault_at(document, key_path, problem) for key_path, problem in found]
        raise ConfigurationError(str(path), faults)


def keep_copy(settings: Settings, path: Path | None) -> None:
    """Copy the configuration file to `config.file`, byte by byte, whole or not at all.

    Where instances are de-identified, the copy has the settings that decide what media and lines hold, and no others:
    paths, hosts and AE titles may identify.

    Raises:
        CommandError: It cannot be written.
    """
    target = settings.config.file
    if path is None or target is None:
        return
    content = _without_places(settings) if settings.deidentifies else path.read_bytes()
    try:
        if target.exists() and (target.samefile(path) or target.read_bytes() == content):
            return
        make_private_folders(target.parent)
        beside = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(beside, flags, 0o600), "wb") as file:
                file.write(content)
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise CommandError(
            f"config.file {target} cannot be written: {error.strerror}; choose another place for the copy"
        ) from error


def _without_places(settings: Settings) -> bytes:
    """The settings that decide what media and lines hold, as YAML without a path, a host or an AE title."""
    import yaml

    from exporter.settings.settings import ProfileSection

    said = settings.media_settings.model_dump(mode="json", exclude={"writers"})
    said["privacy"] = {name: said["privacy"][name] for name in ProfileSection.model_fields}
    said["metadata"] = {name: said["metadata"][name] for name in ("private", "record")}
    said["media"] = {"enabled": settings.media.enabled}
    head = "# Settings in force, without those that may identify: paths, hosts, AE titles.\n"
    return f"{head}{yaml.safe_dump(said, sort_keys=False)}".encode()


def _only(file: Path | None, config: Path | None) -> Path | None:
    if file is not None and config is not None and file != config:
        raise CommandError("two configuration files are named; name one", ExitCode.USAGE)
    return file or config
