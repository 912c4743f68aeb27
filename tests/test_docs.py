"""The documentation as a whole: links lead somewhere, code is code, commands and options exist, guides are complete."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
import yaml

from exporter.commands import reference_pages
from exporter.commands.app import COMMANDS, application
from exporter.errors import Reason
from exporter.page.failures import REMEDIES
from exporter.settings.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    import cyclopts

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])
GUIDES = sorted((REPOSITORY / "docs" / "guides").glob("*.md"))
LANGUAGES = {"", "sh", "yaml", "yml", "python", "json", "nginx", "ini", "toml"}
BLOCK = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!\\)\]\(([^)\s]+)\)")
OURS = re.compile(r"(?:^|[\s/])(exporter|listener) (?=[a-z-])")


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(REPOSITORY)}: {self.text.splitlines()[0] if self.text else ''}"


@cache
def blocks() -> list[Block]:
    return [Block(page, language, text) for page in PAGES for _, language, text in BLOCK.findall(page.read_text())]


@cache
def anchors(page: Path) -> frozenset[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    text = BLOCK.sub("", page.read_text())
    found: list[str] = []
    for heading in re.findall(r"^#{1,6} (.+)$", text, re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", re.sub(r"\]\([^)]*\)", "", heading).lower()).replace(" ", "-")
        found.append(words if words not in found else f"{words}-{found.count(words)}")
    return frozenset(found)


def test_every_link_leads_to_a_file_and_a_heading_that_exist() -> None:
    broken = []
    for page in PAGES:
        text = re.sub(r"`[^`\n]*`", "", BLOCK.sub("", page.read_text()))
        for target in LINK.findall(text):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            there = (page.parent / path).resolve() if path else page
            if not there.exists() or (anchor and there.suffix == ".md" and anchor not in anchors(there)):
                broken.append(f"{page.relative_to(REPOSITORY)}: {target}")
    assert broken == []


def test_every_page_is_linked_from_another() -> None:
    linked = {
        (page.parent / target.partition("#")[0]).resolve()
        for page in PAGES
        for target in LINK.findall(page.read_text())
    }
    assert [page.name for page in PAGES if page.parent != REPOSITORY and page not in linked] == []


def test_every_block_is_of_a_language_that_is_checked() -> None:
    assert {one.language for one in blocks()} <= LANGUAGES


def test_every_block_of_python_json_and_yaml_can_be_parsed() -> None:
    for one in blocks():
        if one.language == "python":
            compile(one.text, one.name, "exec")
        elif one.language == "json":
            json.loads(one.text)
        elif one.language in {"yaml", "yml"}:
            yaml.safe_load(one.text)


def test_every_configuration_of_the_guides_is_valid(tmp_path: Path) -> None:
    found = [one for one in blocks() if one.page in GUIDES and one.language == "yaml"]
    assert len(found) > 8
    for one in found:
        (tmp_path / "exporter.yml").write_text(one.text)
        assert isinstance(load_settings(tmp_path / "exporter.yml"), Settings), one.name


def test_every_shell_block_is_shell() -> None:
    for one in blocks():
        if one.language == "sh":
            text = re.sub(r"<[^<>|\n]+>", "PLACE", one.text)
            done = subprocess.run(["sh", "-n"], input=text, capture_output=True, text=True, check=False)
            assert done.returncode == 0, (one.name, done.stderr)


def commands_of(text: str) -> Iterator[list[str]]:
    """The words of each `exporter ...` in a shell block."""
    for line in text.replace("\\\n", " ").splitlines():
        code = line.partition("#")[0] if " #" in line or line.startswith("#") else line
        found = OURS.search(code)
        if found is not None and found[1] == "exporter":
            yield shlex.split(re.split(r"[|>;)']|&&", code[found.end() :])[0])


def test_every_command_and_option_of_a_shell_block_exists() -> None:
    top = application()
    unknown = []
    seen = set()
    for one in blocks():
        if one.language != "sh":
            continue
        for words in commands_of(one.text):
            name = words[0]
            if name not in COMMANDS:
                unknown.append((one.name, name))
                continue
            seen.add(name)
            app = top[name]
            if len(words) > 1 and not words[1].startswith("-") and words[1] in list(app):
                app = app[words[1]]
            known = {"--help", "--version", *options_of(app)}
            unknown += [
                (one.name, word) for word in words if word.startswith("--") and word.partition("=")[0] not in known
            ]
    assert unknown == []
    assert {"backfill", "status", "pull", "metadata", "reconcile", "install-units"} <= seen


def options_of(app: cyclopts.App) -> frozenset[str]:
    """Options of a command; of one with commands of its own, those of its default command."""
    if app.default_command is None:
        return frozenset()
    return frozenset(name for argument in app.assemble_argument_collection() for name in argument.names)


# -- generated pages -------------------------------------------------------------------------------------------------

UPDATE = "run: python -m exporter.commands.reference_pages"


def test_the_page_of_reasons_is_in_step_with_the_classes() -> None:
    assert (REPOSITORY / "docs" / "reasons.md").read_text() == reference_pages.reasons(), UPDATE


def test_every_error_class_is_in_the_page_of_reasons() -> None:
    """Also those that a module of their own defines: it has to be imported by what makes the page."""
    text = (REPOSITORY / "docs" / "reasons.md").read_text()
    families = (
        "ExportError|NotDicom|Unreadable|SourceUnread|BadGeometry|TooLarge|DecoderCrash|ExportTimeout|InternalError"
    )
    found = 0
    for path in (REPOSITORY / "exporter").rglob("*.py"):
        for told in re.findall(
            rf'^class \w+\((?:{families})\):\n    """(.+?)(?:"""|\n)', path.read_text(), re.MULTILINE
        ):
            assert told in text, (path, told)
            found += 1
    assert found > 15


def test_the_table_of_metrics_is_in_step_with_the_metrics() -> None:
    text = (REPOSITORY / "docs" / "monitoring.md").read_text()
    begin, end = reference_pages.MARKS
    assert text.partition(begin)[2].partition(end)[0] == reference_pages.metrics(), UPDATE


# -- the runbook -----------------------------------------------------------------------------------------------------


def entries() -> set[str]:
    """Words in the headings of the runbook."""
    text = (REPOSITORY / "docs" / "guides" / "operator.md").read_text()
    return {
        word for heading in re.findall(r"^### (.+)$", text, re.MULTILINE) for word in re.findall(r"`(\w+)`", heading)
    }


def test_the_runbook_has_an_entry_for_every_reason_of_failure() -> None:
    assert {str(reason) for reason in Reason} == REMEDIES.keys()
    assert {str(reason) for reason in Reason} <= entries()


def test_the_runbook_has_an_entry_for_every_alert() -> None:
    rules = yaml.safe_load((REPOSITORY / "monitoring" / "alerts.yml").read_text())
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    assert alerts
    assert alerts <= entries()
    assert {word for word in entries() if word.startswith("Dicom")} == alerts


def test_the_runbook_has_an_entry_for_every_problem_that_the_page_names() -> None:
    code = "\n".join(path.read_text() for path in (REPOSITORY / "exporter" / "page").glob("*.py"))
    named = set(re.findall(r'Problem\(\s*"(\w+)"', code))
    assert {f"{daemon}_{state}" for daemon in ("listener", "exporter") for state in ("stopped", "hung")} <= entries()
    assert {"paused", "silent", "failures"} <= named <= entries()


def test_every_entry_of_the_runbook_says_what_to_do() -> None:
    text = (REPOSITORY / "docs" / "guides" / "operator.md").read_text()
    for entry in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        heading, _, body = entry.partition("\n")
        assert len(body.split("\n## ")[0].strip()) > 20, heading


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_a_guide_is_short(page: Path) -> None:
    assert len(page.read_text().splitlines()) <= 220
