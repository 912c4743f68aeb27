"""The help of every command, and what every command says where it is asked for what cannot be.

A sentence says what, where (the file, folder, option or key), and what is permitted or what to do. `test_cli` has more
bad input of some commands, and that nothing changes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from exporter.commands.app import COMMANDS, application, main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import cyclopts

WHAT_TO_DO = re.compile(
    r"; |: (name|give|use)\b|permitted: |Choose from: |[Dd]id you mean|Try `|, or |must be|requires an argument"
)
"""What a hint is made of."""


def applications() -> Iterator[tuple[tuple[str, ...], cyclopts.App]]:
    """Every command with its words, those with commands of their own and these included."""
    top = application()
    for name in COMMANDS:
        app = top[name]
        yield (name,), app
        for nested in app:
            if not nested.startswith("-"):
                yield (name, nested), app[nested]


@pytest.mark.slow
def test_the_help_of_every_command_is_a_sentence_with_every_option_explained(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for words, app in applications():
        assert main([*words, "--help"]) == 0
        captured = capsys.readouterr()
        assert captured.err == "", words
        usage, _, rest = captured.out.partition("\n\n")
        assert usage.startswith(f"Usage: exporter {' '.join(words)}"), words
        paragraph = " ".join(rest.partition("\n\n")[0].split())
        assert re.match(r"[A-Z].+\.$", paragraph), (words, paragraph)
        if app.default_command is None:
            continue
        for argument in app.assemble_argument_collection():
            if not argument.children:
                described = argument.parameter.help
                assert described, (words, argument.name)
                assert described.strip()[-1] in ".)", (words, argument.name, described)


BAD_INPUT: tuple[tuple[str, int, str], ...] = (
    ("conformance --config nowhere.yml", 2, "nowhere.yml"),
    ("conformance --config wrong.yml", 2, "wrong.yml:1: lisener"),
    ("conformance --to nowhere/x.md", 1, "nowhere/x.md"),
    ("conformance x", 2, "x"),
    ("dataset", 2, "OUT"),
    ("dataset nowhere out", 1, "nowhere"),
    ("dataset in out", 1, "in/metadata.jsonl"),
    ("dataset in out --format tar", 2, "--format"),
    ("metadata csv nowhere", 1, "nowhere"),
    ("metadata series nowhere", 1, "nowhere"),
    ("metadata mapping nowhere", 1, "nowhere"),
    ("metadata parquet in", 1, "in/metadata.jsonl"),
    ("pull", 2, "COHORT.csv"),
    ("pull cohort.csv", 2, "--from"),
    ("pull cohort.csv --from pacs", 2, "`pull`"),
    ("pull nowhere.csv --from pacs --config pacs.yml", 2, "nowhere.csv"),
    ("pull wrong.csv --from pacs --config pacs.yml", 2, "wrong.csv"),
    ("privacy check nowhere", 1, "nowhere"),
    ("privacy check in", 1, "in"),
    ("pseudonym 1", 2, "`privacy.key_file`"),
    ("pseudonym --kind x", 2, "--kind"),
    ("install-units --to nowhere/deep", 1, "nowhere/deep"),
    ("install-units --user no/user --print", 2, "--user"),
    ("orthanc-storage", 2, "DIR"),
    ("orthanc-storage nowhere", 2, "nowhere"),
    ("orthanc-storage in", 2, "in"),
    ("page --config wrong.yml", 2, "wrong.yml"),
    ("run --data file", 1, "file/spool"),
    ("reconcile --data broken", 1, "broken/exporter.db"),
    ("reconcile --data nowhere --rebuild", 1, "nowhere"),
    ("failures show x --data data", 2, "x"),
    ("batch plan", 2, "DIR"),
    ("batch commands nowhere", 1, "nowhere"),
    ("config from-niffler nowhere", 2, "nowhere"),
    ("config from-niffler file", 2, "file"),
    ("config from-dme wrong.yml", 2, "wrong.yml"),
    ("config show wrong.yml", 2, "wrong.yml:1: lisener"),
    ("config init file", 2, "file"),
    ("backfill in --niffler-config nowhere", 2, "--niffler-config"),
    ("backfill in --set a=b", 2, "--niffler-config"),
    ("status --json x", 2, "x"),
    ("explain nowhere", 2, "nowhere"),
    ("serve --log-level loud", 2, "--log-level"),
    ("handover nowhere --to cvat", 1, "nowhere"),
    ("handover in --to paper", 2, "--to"),
    ("media get in x", 1, "in"),
    ("media compact nowhere", 1, "nowhere"),
    ("completion csh", 2, "csh"),
    ("notify test --config wrong.yml", 2, "wrong.yml"),
    ("report nowhere", 1, "nowhere"),
    ("report in", 1, "in"),
)
"""Arguments, exit code, and where the fault is, as the sentence must name it."""


@pytest.fixture
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working folder: files, folders and a ledger that are not what a command needs."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "wrong.yml").write_text("lisener: {}\n")
    (tmp_path / "pacs.yml").write_text("pull: {name: pacs, ae_title: A, host: 127.0.0.1}\n")
    (tmp_path / "cohort.csv").write_text("PatientID\n1\n")
    (tmp_path / "wrong.csv").write_text("Nonsense\n1\n")
    (tmp_path / "data/spool").mkdir(parents=True)
    (tmp_path / "in").mkdir()
    (tmp_path / "broken/media").mkdir(parents=True)
    (tmp_path / "broken/exporter.db").write_text("this is no database, but long enough to be taken for one" * 9)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize(("arguments", "code", "where"), BAD_INPUT, ids=[one[0] for one in BAD_INPUT])
def test_bad_input_is_answered_by_a_sentence_that_says_what_where_and_what_to_do(
    capsys: pytest.CaptureFixture[str], arguments: str, code: int, where: str
) -> None:
    assert main(arguments.split()) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    (sentence,) = captured.err.splitlines()
    assert where in sentence
    assert WHAT_TO_DO.search(sentence), sentence
    assert not re.search(r"Traceback|Errno|Error\(|\bNone\b|0x[0-9a-f]{6,}", sentence)


def test_every_command_has_bad_input_here_or_in_test_cli() -> None:
    from tests.exporter.commands import test_cli

    elsewhere = {"backfill", "batch", "config", "explain", "failures", "reconcile", "run", "serve", "status"}
    text = (test_cli.REPOSITORY / "tests/exporter/commands/test_cli.py").read_text()
    assert all(f'(("{name}"' in text for name in elsewhere)
    assert {arguments.split()[0] for arguments, _, _ in BAD_INPUT} | elsewhere == COMMANDS.keys()
