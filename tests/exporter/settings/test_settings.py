"""The settings: what the file may say, where that is written down, and that something acts on it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.commands import config_reference
from exporter.privacy.rules import PrivacyOption
from exporter.settings.settings import MediaSettings, PrivacyOptionName, PrivacySettings, Settings, load_settings
from listener.foundation.configuration import ConfigurationError, load
from listener.foundation.yaml_file import read
from listener.settings.listener import DataFolder, ListenerSettings

if TYPE_CHECKING:
    from collections.abc import Callable

REPOSITORY = Path(__file__).resolve().parents[3]
UPDATE = "after a change of the models: python -m exporter.commands.config_reference"
SEED = """\
num_workers: 4
dicom:
  dir: in
  recursive: true
media:
  dir: out/media
  overwrite: false
metadata:
  file: out/metadata.jsonl
  append: false
config:
  file: out/config.yml
video:
  extension: ".mp4"
  save_method_kwargs:
    encoding_format: "h264"
    encoding_args:
      pix_fmt: "yuv420p"
      options:
        crf: "17"
image:
  extension: ".png"
  save_method_kwargs:
    pil_writer_params: {}
"""
"""The file that users of the DICOM Media Exporter have."""


@pytest.fixture
def loaded(tmp_path: Path) -> Callable[[str], Settings]:
    def load_text(text: str) -> Settings:
        path = tmp_path / "exporter.yml"
        path.write_text(text)
        return load_settings(path)

    return load_text


# -- one place for every key -----------------------------------------------------------------------------------------


def test_the_annotated_file_is_in_step_with_the_models() -> None:
    text = (REPOSITORY / "config/exporter.yml").read_text()
    assert text == config_reference.annotated_yaml(), UPDATE


def test_the_annotated_file_loads_as_the_defaults() -> None:
    assert load_settings(REPOSITORY / "config/exporter.yml") == Settings()
    assert load(REPOSITORY / "config/exporter.yml", ListenerSettings, is_shared=True) == ListenerSettings()


def test_the_annotated_file_has_every_key_of_the_models() -> None:
    text = (REPOSITORY / "config/exporter.yml").read_text()
    data = read(REPOSITORY / "config/exporter.yml").data
    for key in config_reference.every_key():
        if key.is_example:
            assert re.search(rf"^ *# {key.name}:", text, re.MULTILINE), key.path
            continue
        found: Any = data
        for part in key.path:
            assert part in found, key.path
            found = found[part]
    assert {key.path[0] for key in config_reference.every_key()} == set(Settings.model_fields)


def test_the_json_schema_is_in_step_with_the_models() -> None:
    text = (REPOSITORY / "config/exporter.schema.json").read_text()
    assert text == config_reference.json_schema(), UPDATE
    assert json.loads(text)["additionalProperties"] is False


def test_the_documentation_has_every_key_with_default_and_meaning() -> None:
    text = (REPOSITORY / "docs/configuration.md").read_text()
    _, _, tables = text.partition(config_reference.MARK)
    assert tables == config_reference.markdown(), UPDATE


def test_every_key_has_a_meaning() -> None:
    assert [key.path for key in config_reference.every_key() if not key.meaning.endswith(".")] == []


def test_something_acts_on_every_key() -> None:
    """A key that nothing reads would be ignored in silence."""
    files = [*REPOSITORY.glob("exporter/**/*.py"), *REPOSITORY.glob("listener/**/*.py")]
    code = "\n".join(path.read_text() for path in files if path.name != "reference.py")
    unread = [".".join(key.path) for key in config_reference.every_key() if not re.search(rf"\w\.{key.name}\b", code)]
    assert unread == []


def test_the_listener_takes_no_section_of_the_exporter_for_a_slip(tmp_path: Path) -> None:
    assert set(ListenerSettings.model_fields) <= set(Settings.model_fields)
    path = tmp_path / "exporter.yml"
    for name in set(Settings.model_fields) - set(ListenerSettings.model_fields):
        default = Settings.model_fields[name].default
        value = default if isinstance(default, bool | int | float | str) else {"anything": 1}
        path.write_text(f"{name}: {json.dumps(value)}\n")
        assert load(path, ListenerSettings, is_shared=True) == ListenerSettings()


def test_both_programs_have_the_same_defaults_for_what_both_read() -> None:
    assert Settings().listener_settings == ListenerSettings()


# -- what loads ------------------------------------------------------------------------------------------------------


def test_the_seeds_file_works_unchanged(loaded: Callable[[str], Settings]) -> None:
    found = loaded(SEED)
    assert found.workers == 4
    assert (found.dicom.dir, found.dicom.recursive) == (Path("in"), True)
    assert (found.media.dir, found.media.overwrite) == (Path("out/media"), False)
    assert (found.metadata.file, found.metadata.append) == (Path("out/metadata.jsonl"), False)
    assert found.config.file == Path("out/config.yml")
    assert found.media_settings == Settings().media_settings
    data = DataFolder(Path("data"))
    assert found.media_folder(data) == Path("out/media")
    assert found.metadata_file(data) == Path("out/metadata.jsonl")


def test_an_unquoted_crf_and_further_stream_attributes_are_understood(loaded: Callable[[str], Settings]) -> None:
    found = loaded(SEED.replace('crf: "17"', "crf: 17").replace('pix_fmt: "yuv420p"', "gop_size: 12"))
    arguments = found.video.save_method_kwargs.encoding_args
    assert arguments.options == {"crf": 17}
    assert arguments.model_extra == {"gop_size": 12}


def test_without_a_file_every_default_holds_and_places_are_below_the_data_folder() -> None:
    found, data = load_settings(None), DataFolder(Path("data"))
    assert found == Settings()
    assert found.media_folder(data) == Path("data/media")
    assert found.metadata_file(data) == Path("data/metadata.jsonl")
    assert found.workers >= 1


@pytest.mark.parametrize(
    "layout",
    [
        "{SOPInstanceUID}",
        "all/{StudyInstanceUID}_{SOPInstanceUID}",
        "{SOPClassUID}/{SeriesInstanceUID}/{SOPInstanceUID}",
    ],
)
def test_layouts_of_uids_and_plain_text_are_permitted(loaded: Callable[[str], Settings], layout: str) -> None:
    assert loaded(f"media: {{layout: '{layout}'}}").media.layout == layout


@pytest.mark.parametrize(
    "layout",
    [
        *("", "fixed", "../{SOPInstanceUID}", "/{SOPInstanceUID}", "{SOPInstanceUID}/", "a//{SOPInstanceUID}"),
        *("./{SOPInstanceUID}", "a b/{SOPInstanceUID}", "{PatientID}", "{SOPInstanceUID!r}", "{SOPInstanceUID:>9}"),
        *("{0}", "{SOPInstanceUID", "{SOPInstanceUID.__class__}"),
    ],
)
def test_layouts_that_could_leave_the_folder_or_name_patients_are_refused(
    loaded: Callable[[str], Settings], layout: str
) -> None:
    with pytest.raises(ConfigurationError, match=r"1: media\.layout: "):
        loaded(f"media: {{layout: '{layout}'}}")


# -- what is refused -------------------------------------------------------------------------------------------------


def test_a_privacy_profile_that_does_not_exist_is_refused(loaded: Callable[[str], Settings]) -> None:
    with pytest.raises(ConfigurationError, match=r"privacy\.profile: is the text 'full'"):
        loaded("privacy: {profile: full}")


def test_a_profile_needs_a_key(loaded: Callable[[str], Settings]) -> None:
    with pytest.raises(ConfigurationError, match=r"1: privacy: `profile: basic` needs a key"):
        loaded("privacy: {profile: basic}")
    own = "ae_titles: [{ae_title: EXPORTER, privacy: {profile: basic}}]"
    with pytest.raises(ConfigurationError, match=r"1: ae_titles: .* of EXPORTER needs a key"):
        loaded(own)
    settings = loaded(f"privacy: {{key_file: /k, pixels: blank}}\n{own}")
    assert settings.deidentifies
    assert settings.privacy.profile == "none"
    assert settings.by_ae_title["EXPORTER"].privacy == PrivacySettings(
        profile="basic", key_file=Path("/k"), pixels="blank"
    )


def test_options_of_a_profile_that_contradict_each_other_are_refused(loaded: Callable[[str], Settings]) -> None:
    dates = "retain_longitudinal_full_dates, retain_longitudinal_modified_dates"
    with pytest.raises(ConfigurationError, match=r"privacy\.options: names retain_long.*leave one of them out"):
        loaded(f"privacy: {{options: [{dates}]}}")
    with pytest.raises(ConfigurationError, match=r"privacy\.options: names retain_uids twice"):
        loaded("privacy: {options: [retain_uids, retain_uids]}")
    assert list(get_args(PrivacyOptionName)) == [option.value for option in PrivacyOption]


def test_what_is_deidentified_is_part_of_the_hash_and_where_its_key_lies_is_not(
    loaded: Callable[[str], Settings],
) -> None:
    plain = loaded("privacy: {key_file: /k}").settings_sha256
    basic = [
        loaded(f"privacy: {{profile: basic, key_file: {rest}}}").settings_sha256
        for rest in (
            "/k",
            "/other",
            "/k, pixels: blank",
            "/k, options: [retain_uids, clean_graphics]",
            "/k, options: [clean_graphics, retain_uids]",
        )
    ]
    assert plain == Settings().settings_sha256
    assert basic[0] == basic[1]
    assert basic[3] == basic[4]
    assert len({plain, *basic}) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_workers: -1", "num_workers: is the number -1 (permitted: at least 0 or auto)"),
        ("num_workers: 300", "num_workers: is the number 300 (permitted: at most 256 or auto)"),
        ("num_workers: four", "num_workers: is the text 'four' (permitted: a whole number or auto"),
        ("video: {extension: mp4}", "video.extension: is not spelled as it must be (permitted: a dot"),
        ("limits: {wall_s: 0}", "limits.wall_s: is the number 0 (permitted: above 0)"),
        ("listener: {host: 0.0.0.0}", "listener: `host: 0.0.0.0` can be reached by others"),
        ("listener: {ae_title: 'ABCDEFGHIJKLMNOPQ'}", "listener.ae_title: is not spelled as it must be"),
        ("listener: {port: 70000}", "listener.port: is the number 70000 (permitted: at most 65535)"),
        ("port: 11112", "did you mean listener.port"),
        ("ae_title: X", "did you mean listener.ae_title?"),
    ],
)
def test_wrong_values_are_told_with_what_is_permitted(
    loaded: Callable[[str], Settings], text: str, message: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        loaded(text)
    assert message in str(caught.value)


# -- the hash --------------------------------------------------------------------------------------------------------


def test_the_hash_changes_with_what_decides_media_and_with_nothing_else(loaded: Callable[[str], Settings]) -> None:
    default = Settings().settings_sha256
    same = [
        "limits: {wall_s: 5}",
        "num_workers: 1",
        "media: {dir: x, overwrite: true}",
        "metadata: {file: x, append: true}",
        "listener: {port: 1}",
        "log: {level: debug}",
        SEED,
    ]
    other = [
        "video: {save_method_kwargs: {encoding_args: {options: {crf: 18}}}}",
        "video: {save_method_kwargs: {encoding_args: {gop_size: 1}}}",
        "video: {default_rate_hz: 25}",
        "image: {extension: .jpg}",
        "metadata: {private: false}",
        "image: {save_method_kwargs: {pil_writer_params: {quality: 3}}}",
    ]
    assert {loaded(text).settings_sha256 for text in same} == {default}
    hashes = [loaded(text).settings_sha256 for text in other]
    assert len({default, *hashes}) == 1 + len(other)


def test_the_hash_is_the_same_in_every_process_and_in_a_worker() -> None:
    own = Settings().settings_sha256
    program = "from exporter.settings.settings import Settings; print(Settings().settings_sha256)"
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    assert there == own
    whole = Settings.model_validate({"metadata": {"file": "lines.jsonl", "private": False}})
    for one in (Settings(), whole):
        travelled = MediaSettings.model_validate(one.media_settings.model_dump(mode="json"))
        assert travelled.settings_sha256 == one.settings_sha256
        assert travelled.metadata.private == one.metadata.private


def test_settings_never_change() -> None:
    found = Settings()
    with pytest.raises(ValueError, match="frozen"):
        found.video.default_rate_hz = 3


# -- whatever is written ---------------------------------------------------------------------------------------------


@cache
def _names() -> list[str]:
    return sorted(
        {key.name for key in config_reference.every_key()} | {"x", "profile", "[]"} | set(Settings.model_fields)
    )


_KEYS = st.deferred(lambda: st.sampled_from(_names()))


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 10**9) | st.floats() | st.text(max_size=8)
    | st.sampled_from([".mp4", "auto", "basic", "127.0.0.1", "0.0.0.0", "info", "a/b", "~x", "<x>"]),  # noqa: S104
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.dictionaries(_KEYS, _VALUES, max_size=6))
def test_any_values_under_real_keys_load_or_are_refused(tmp_path: Path, data: dict[str, Any]) -> None:
    path = tmp_path / "exporter.yml"
    path.write_bytes(yaml.safe_dump(data, allow_unicode=True).encode("utf-8", "surrogatepass"))
    try:
        found = load_settings(path)
    except ConfigurationError as error:
        told = str(error)
    else:
        assert len(found.settings_sha256) == 64
        return
    assert all(line.startswith(f"{path}:") for line in told.split("\n"))


def test_every_yaml_example_of_the_documentation_is_valid(tmp_path: Path) -> None:
    examples = [
        (path.name, text)
        for path in [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
        for text in re.findall(r"^```yaml\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)
    ]
    assert examples
    for name, text in examples:
        example = tmp_path / f"{name}.yml"
        example.write_text(text)
        assert isinstance(load_settings(example), Settings)
