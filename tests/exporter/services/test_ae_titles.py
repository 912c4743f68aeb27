"""Settings by AE title: what an entry inherits, which files it counts for, and a ledger from before there were any."""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING

import pytest
from pydicom import examples

from exporter.dicom.received import called_ae_title, settings_for
from exporter.errors import SkipReason
from exporter.outcome import InstanceIdentity, Skipped
from exporter.results.ledger import InstanceStatus, Ledger, LedgerUnusable
from exporter.results.line import line
from exporter.results.output_names import ae_title_component
from exporter.results.rebuild import rebuild
from exporter.results.reconcile import Folders
from exporter.settings.settings import Settings, load_settings
from listener.foundation.configuration import ConfigurationError
from listener.intake.file_meta import AssociationParties, FileMeta
from tests.exporter.ledger_rows import begin, finish

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CT, EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"


@pytest.fixture
def loaded(tmp_path: Path) -> Callable[[str], Settings]:
    def load_text(text: str) -> Settings:
        path = tmp_path / "exporter.yml"
        path.write_text(text)
        return load_settings(path)

    return load_text


def test_what_an_entry_does_not_say_is_as_at_the_top(loaded: Callable[[str], Settings]) -> None:
    found = loaded("""\
listener: {more_ae_titles: [A, B]}
media: {overwrite: true}
video:
  psnr_floor_db: 20
  save_method_kwargs: {encoding_format: hevc, encoding_args: {gop_size: 12, options: {crf: 20, preset: slow}}}
image: {framing: {size: [100, 100], zoom: 0.1}}
metadata: {append: true}
volume: {series: true}
ae_titles:
  - ae_title: A
    media: {layout: "a/{SOPInstanceUID}"}
    video: {save_method_kwargs: {encoding_args: {options: {crf: 30}}}}
    image: {framing: {size: null}}
    metadata: {private: false}
    display:
  - ae_title: B
""")
    top_hash = found.settings_sha256
    own = found.by_ae_title
    assert own["B"].media_settings == found.media_settings
    assert own["B"].settings_sha256 == top_hash
    a = own["A"]
    assert (a.media.layout, a.media.overwrite) == ("a/{SOPInstanceUID}", True)
    assert a.video.psnr_floor_db == 20
    encoding = a.video.save_method_kwargs
    assert encoding.encoding_format == "hevc"
    assert encoding.encoding_args.model_extra == {"gop_size": 12}
    assert encoding.encoding_args.options == {"crf": 30}  # options of an encoder belong together
    assert (a.image.framing.size, a.image.framing.zoom) == (None, 0.1)
    assert a.volume.series
    assert (a.metadata.append, a.metadata.private, found.metadata.private) == (True, False, True)
    assert a.settings_sha256 != top_hash
    assert a.limits == found.limits


def test_only_the_content_of_media_decides_the_hash(loaded: Callable[[str], Settings]) -> None:
    found = loaded("ae_titles: [{ae_title: EXPORTER, media: {layout: 'x/{SOPInstanceUID}'}}]")
    assert found.by_ae_title["EXPORTER"].settings_sha256 == Settings().settings_sha256 == found.settings_sha256


def test_a_shown_configuration_says_what_the_file_said(loaded: Callable[[str], Settings]) -> None:
    import yaml

    text = (
        "listener: {more_ae_titles: [A]}\nvideo: {preset: small}\nae_titles: [{ae_title: A, image: {extension: .jpg}}]"
    )
    found = loaded(text)
    again = loaded(yaml.safe_dump(found.model_dump(mode="json")))
    assert again.by_ae_title["A"].video.preset == "small"
    assert again.by_ae_title["A"] == found.by_ae_title["A"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "ae_titles:\n  - ae_title: NOBODY\n",
            ":2: ae_titles[0]: unknown AE title 'NOBODY' (permitted: ANY-SCP, EXPORTER",
        ),
        ("ae_titles:\n  - image: {}\n", ":2: ae_titles[0].ae_title: is missing"),
        ("ae_titles:\n  - ae_title: EXPORTER\n    vdeo: {}\n", ":3: ae_titles[0].vdeo: unknown key"),
        ("ae_titles:\n  - ae_title: EXPORTER\n    limits: {}\n", ":3: ae_titles[0].limits: unknown key"),
        ("ae_titles:\n  - ae_title: EXPORTER\n    image: {extension: png}\n", ":3: ae_titles[0].image.extension"),
        ("ae_titles:\n  - ae_title: EXPORTER\n    media: {layout: x}\n", "gives every instance the same name"),
        ("ae_titles: [{ae_title: EXPORTER}, {ae_title: ' EXPORTER'}]", "two entries for 'EXPORTER'"),
    ],
)
def test_faults_are_told_with_their_line(loaded: Callable[[str], Settings], text: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        loaded(text)
    assert message in str(caught.value)


def received(path: Path, title: str) -> Path:
    meta = FileMeta(CT, EXPLICIT, AssociationParties("SENDER", title, "dicom://192.0.2.1:104", "dicom://192.0.2.2:104"))
    path.write_bytes(meta.encode(b"1.2.3") + b"data set")
    return path


@pytest.mark.parametrize("title", ["A", "A WARD", "SIXTEEN_LETTERS_", "odd"])
def test_the_title_that_the_listener_wrote_is_read_back(tmp_path: Path, title: str) -> None:
    path = received(tmp_path / "x.dcm", title)
    assert called_ae_title(path, {title}) == title
    assert called_ae_title(path, {"OTHER"}) == ""
    assert called_ae_title(path, set()) == ""


def test_files_that_came_another_way_take_the_settings_of_the_top(tmp_path: Path) -> None:
    dataset = examples.ct
    dataset.file_meta.ReceivingApplicationEntityTitle = "A"
    dataset.save_as(tmp_path / "foreign.dcm")
    whole = received(tmp_path / "x.dcm", "A").read_bytes()
    for number, end in enumerate((0, 1, 131, 132, 140, 170, 250, 300)):
        (tmp_path / f"cut{number}").write_bytes(whole[:end])
    (tmp_path / "link").symlink_to(tmp_path / "x.dcm")
    others = [path for path in tmp_path.iterdir() if path.name != "x.dcm"]
    assert len(others) == 10
    assert {called_ae_title(path, {"A"}) for path in (*others, tmp_path)} == {""}


def test_the_settings_of_a_file_that_cannot_be_read_are_not_guessed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        called_ae_title(tmp_path / "absent", {"A"})


def test_folders_of_two_ae_titles_are_two_whatever_the_file_system() -> None:
    titles = ["A", "a", "A B", "A_B", "../x", "..", ".", "A/B", "A.B"]
    names = [ae_title_component(title) for title in titles]
    assert len({name.casefold() for name in names}) == len(titles)
    assert names[0] == "A"
    assert not any({"/", "."} & set(name) for name in names)


def identity(content: str) -> InstanceIdentity:
    return InstanceIdentity(CT, "1.2.3", "1.2", "1.1", content)


def test_duplicates_are_within_an_ae_title_and_conflicts_anywhere(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "exporter.db") as ledger:
        arrivals = [("1", "", "x"), ("2", "A", "x"), ("3", "A", "x"), ("4", "B", "y"), ("5", "", "x")]
        under_way = {}
        for name, title, content in arrivals:
            begin(ledger, name, size_bytes=1, mtime_ns=1, source="spool", ae_title=title)
            under_way[name] = ledger.identify(name, identity(content), title)
        for name, _, content in arrivals:
            relation = under_way[name]
            finish(
                ledger,
                name,
                state=InstanceStatus.SKIPPED,
                reason="no_media",
                identity=identity(content),
                duplicate_of=relation.duplicate_of,
                conflict=relation.conflict_with,
            )
        assert {name: one.duplicate_of for name, one in under_way.items()} == {
            "1": None, "2": None, "3": "2", "4": None, "5": "1",
        }  # fmt: skip
        assert under_way["4"].conflict_with is not None
        assert under_way["2"].conflict_with is None
        finished = ledger.identify("6", identity("x"), "A")
        assert (finished.duplicate_of, finished.conflict_with) == ("2", "4")
        entry = ledger.entry("3")
        assert entry is not None
        assert entry.ae_title == "A"


def test_a_ledger_that_is_rebuilt_from_its_lines_knows_the_titles(tmp_path: Path) -> None:
    """So that what comes after a loss is compared with what was exported for the same title, and no other."""
    spool = tmp_path / "spool"
    folders = Folders(tmp_path / "exporter.db", tmp_path / "media", tmp_path / "metadata.jsonl", spool)
    record = json.dumps({"SOP Class UID": CT, "SOP Instance UID": "1.2.3"})
    text = b""
    for number, title in enumerate(("", "A")):
        name = f"{number:020d}-{number:016x}.dcm"
        skipped = Skipped(SkipReason.NO_MEDIA, "", identity("x"), record=record, source_sha256="s", settings_sha256="t")
        text += line(skipped, dicom_file=name, version="1", ae_title=title)
    folders.metadata.write_bytes(text)
    assert rebuild(folders).lines == 2
    with Ledger.open(folders.ledger) as ledger:
        assert [entry.ae_title for entry in ledger.entries()] == ["", "A"]
        assert ledger.identify("new", identity("x"), "B").duplicate_of is None
        found = ledger.identify("newer", identity("x"), "A").duplicate_of
        assert found is not None
        assert found.startswith("00000000000000000001")


def test_what_counts_for_a_file_is_found_from_the_file(tmp_path: Path, loaded: Callable[[str], Settings]) -> None:
    found = loaded("listener: {more_ae_titles: [A]}\nae_titles: [{ae_title: A, image: {extension: .jpg}}]\n")
    title, own = settings_for(found, received(tmp_path / "x.dcm", "A"))
    assert (title, own.image.extension) == ("A", ".jpg")
    title, own = settings_for(found, examples.get_path("ct"))
    assert (title, own.image.extension) == ("", ".png")


def test_a_ledger_of_the_first_schema_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "exporter.db"
    with Ledger.open(path) as ledger:
        begin(ledger, "1", size_bytes=1, mtime_ns=1, source="spool")
    with sqlite3.connect(path) as connection:
        connection.execute("DROP INDEX instance_title")
        connection.execute("ALTER TABLE instance DROP COLUMN ae_title")
        connection.execute("PRAGMA user_version=1")
    connection.close()
    with pytest.raises(LedgerUnusable, match="brought up to date"):
        Ledger.open_read_only(path)
    with Ledger.open(path) as ledger:
        entry = ledger.entry("1")
        assert entry is not None
        assert entry.ae_title == ""
    with Ledger.open_read_only(path) as ledger:
        assert ledger.entry("1") is not None
