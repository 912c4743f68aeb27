"""The conformance statement is complete by the template of PS3.2 Annex N, and in step with the program."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from exporter.commands.app import main
from tests.exporter.commands.conformance import reading

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parents[4]
ANNEXES = {"9": "A.A", "10": "A.B", "11": "A.C", "12": "A.D", "13": "A.E"}
PLACEHOLDER = re.compile(r"<<|>>|<[A-Za-z][^>`]*>|\b(TBC|TBD|TODO|FIXME|lorem)\b|\[[^\]]*\](?![(\[])")
"""What the template leaves to its author: variables in angle brackets, instructions in square ones."""
SITE = """\
listener:
  ae_title: RESEARCH
  host: 192.0.2.7
  port: 104
  mismatch: accept
  damaged: accept
  peers: [{ae_title: CT1, networks: [192.0.2.0/24]}]
  tls: {certificate: /etc/c.pem, client_ca: /etc/ca.pem, minimum_version: "1.3"}
  users: [{name: anna, passcode_file: /etc/passcode}]
  commitment: {enabled: true, targets: [{ae_title: CT1, host: 192.0.2.8, port: 105}]}
  limits: {max_pdu_bytes: 65536}
dicomweb: {enabled: true, token_file: /etc/token}
pull: [{name: pacs, ae_title: ARCHIVE, host: pacs.example.org, method: get, character_set: ISO_IR 100}]
privacy: {profile: basic, key_file: /etc/key, options: [retain_uids], write_dicom: true}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The statement of a site that has switched everything on."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "exporter.yml").write_text(SITE)
    assert main(["conformance", "--config", str(folder / "exporter.yml"), "--to", str(folder / "out.md")]) == 0
    return (folder / "out.md").read_text()


def template() -> list[tuple[str, str]]:
    """Numbers as a statement has them, and titles, of the template."""
    rows = (Path(__file__).parent / "annex_n.tsv").read_text().splitlines()
    found = []
    for row in rows:
        if not row.startswith("#"):
            number, title = row.split("\t")
            first, dot, rest = number.removeprefix("N.").partition(".")
            found.append((ANNEXES.get(first, first) + dot + rest, title))
    return found


def faults(text: str) -> Iterator[str]:
    """What the checker finds: missing, out of order, left as placeholder, or empty."""
    found = reading.sections(text)
    numbers = [one.number for one in found]
    titles = {one.number: one.title for one in found}
    for number, title in template():
        if number not in titles:
            yield f"{number} {title} is missing"
        elif not all(part in titles[number] for part in title.split("<AE>")):
            yield f"{number} is called {titles[number]}, not {title}"
    in_order = [number for number in numbers if number in dict(template())]
    if in_order != [number for number, _ in template() if number in titles]:
        yield "sections are out of order"
    if len(set(numbers)) < len(numbers):
        yield "a section is there twice"
    for section, following in pairwise([*found, None]):
        assert section is not None
        is_parent = following is not None and following.number.startswith(f"{section.number}.")
        if not section.body and not is_parent:
            yield f"{section.number} {section.title} is empty"
        if section.body.startswith("Not applicable") and not re.match(r"Not applicable: .{12,}", section.body):
            yield f"{section.number} does not say why"
        without_code = re.sub(r"```.*?```|`[^`\n]*`|\[Selection Value 1\]", "", section.body, flags=re.DOTALL)
        if PLACEHOLDER.search(without_code):
            yield f"{section.number} has a placeholder: {PLACEHOLDER.search(without_code)}"


def test_the_committed_statement_is_that_of_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conformance"]) == 0
    assert capsys.readouterr().out == reading.DOCUMENT.read_text(), "run: exporter conformance --to docs/conformance.md"


def test_nothing_of_the_template_is_missing_out_of_order_or_a_placeholder(site: str) -> None:
    assert list(faults(reading.DOCUMENT.read_text())) == []
    assert list(faults(site)) == []


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("#### 7.1.1 General Association Parameters", "", "7.1.1 General Association Parameters is missing"),
        ("### 3.2 Audience", "### 3.9 Audience", "3.2 Audience is missing"),
        ("Not applicable: nothing is printed.", "Not applicable", "does not say why"),
        ("Not applicable: nothing is printed.", "<Product> prints.", "has a placeholder"),
        ("Not applicable: nothing is printed.", "[Describe printing.]", "has a placeholder"),
        ("Not applicable: nothing is printed.", "", "is empty"),
        ("### 3.1 Revision History", "### 3.1 History", "3.1 is called History"),
        ("### 8.1 Introduction", "### 8.2 Introduction", "a section is there twice"),
    ],
)
def test_the_checker_finds_what_is_wrong(old: str, new: str, found: str) -> None:
    text = reading.DOCUMENT.read_text()
    assert old in text
    assert any(found in fault for fault in faults(text.replace(old, new)))


def test_the_checker_finds_sections_out_of_order() -> None:
    head, mark, rest = reading.DOCUMENT.read_text().partition("## 8 Security")
    overview, there, tail = rest.partition("## A.A Information")
    assert "sections are out of order" in list(faults(f"{head}{there}{tail}{mark}{overview}"))


def test_the_level_of_a_heading_is_that_of_its_number() -> None:
    for one in reading.sections(reading.DOCUMENT.read_text()):
        assert one.level == len(one.number.removeprefix("A.").split(".")) + 1, one.number


def test_a_site_s_statement_says_its_own_settings(site: str) -> None:
    bodies = {one.number: one.body for one in reading.sections(site)}
    for number, *words in (
        ("1.2.2", "| Storage Commitment Push Model | `1.2.840.10008.1.20.1` | ALL (Table 1-2) | N | Y |"),
        ("1.2.4", "(`1.2.840.10008.1.2`) | Y | N |", "(`1.2.840.10008.1.2`) | OFF | N |"),
        ("1.6", "| Retain UIDs Option | Y | Y |", "| Clean Descriptors Option | Y | N |"),
        ("5.2.5.2", "kept, answered 0xB007"),
        ("5.2.6.2", "`CT1` at 192.0.2.8:105"),
        ("5.2.7", "| pacs | `ARCHIVE` | pacs.example.org:104 | C-GET | study |"),
        ("5.7", "pacs: `ISO_IR 100`"),
        ("6.1", "| `listener.limits.max_pdu_bytes` | SERVICE | `131072` | `65536` |"),
        ("6.2.7", '| pacs | `method` | `"get"` |'),
        ("7.2.1", "`RESEARCH`", "192.0.2.7:104"),
        ("7.2.1.2", "| Maximum PDU length received | 65536 bytes (64 KiB) |"),
        ("7.2.1.4", "CT1 from 192.0.2.0/24"),
        ("7.3.2.6.3", "| Failure | 0213 |"),
        ("8.3", "| PULL | DIMSE | out | 104 | pacs.example.org |", "| LISTENER | DIMSE over TLS | in | 104 |"),
        ("8.4.2", "on, TLS 1.3 or newer; clients must show a certificate"),
        ("8.5.2", "1 configured (user name and passcode)"),
        ("A.A.2", "(here: on)"),
        ("A.C.2.6", "| SOP Instance UID | (0008,0018) | U | K | N |"),
    ):
        for words_of in words:
            assert words_of in bodies[number], number
    assert "the settings of one site" in site


def test_it_replaces_its_file_and_says_where_it_cannot_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "statement.md"
    target.write_text("old")
    assert main(["conformance", "--to", str(target)]) == 0
    assert target.read_text() == reading.DOCUMENT.read_text()
    assert main(["conformance", "--to", str(tmp_path / "nowhere" / "x.md")]) == 1
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.endswith("x.md cannot be written: No such file or directory; choose another place with --to")


def test_every_table_row_has_the_cells_of_its_head() -> None:
    for block in re.findall(r"(?:^\|.*\|\n)+", reading.DOCUMENT.read_text(), re.MULTILINE):
        lines = [re.sub(r"\\\|", "", line) for line in block.splitlines()]
        assert len({line.count("|") for line in lines}) == 1, lines[0]


def test_every_key_of_communication_is_in_the_statement() -> None:
    text = reading.DOCUMENT.read_text()
    schema = json.loads((REPOSITORY / "config" / "exporter.schema.json").read_text())["$defs"]
    for section, prefix in (
        ("ListenerSection", "listener"),
        ("DicomwebSection", "dicomweb"),
        ("StatusSection", "status"),
    ):
        for key in schema[section]["properties"]:
            assert f"`{prefix}.{key}" in text, (prefix, key)


@pytest.mark.slow
def test_the_statement_is_the_same_whatever_else_is_loaded() -> None:
    """pynetdicom adds UIDs to pydicom's dictionary when it is imported."""
    program = "from exporter.commands.app import main; main(['conformance'])"
    done = subprocess.run(
        [sys.executable, "-c", f"import pynetdicom; {program}"], capture_output=True, text=True, check=True
    )
    assert done.stdout == reading.DOCUMENT.read_text()
