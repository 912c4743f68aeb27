"""The configuration file: what is wrong with it is told at once, with lines, and never with a traceback."""

from __future__ import annotations

import os
import socket
from ipaddress import IPv4Network
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Field, SecretStr

from listener.foundation.configuration import (
    ConfigurationError,
    ConfigurationFault,
    FilePath,
    Section,
    Spelling,
    fault_at,
    load,
    validate,
)
from listener.foundation.yaml_file import MAX_BYTES, read


class Peer(Section):
    host: str
    port: Annotated[int, Field(gt=0, le=65535)] = 104


class Options(Section):
    model_config = Section.model_config | {"extra": "allow"}
    __pydantic_extra__: dict[str, str | int] = Field(init=False)

    pix_fmt: str = "gray"
    table: dict[str, str | int | float] = Field(default_factory=dict)


class Video(Section):
    extension: Annotated[str, Spelling(r"^\.[a-z0-9]+$", "a dot and letters", prefix=".")] = ".mp4"
    mode: Literal["fast", "slow", "now"] = "fast"
    rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 30.0
    options: Options = Options()


class Model(Section):
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    folder: FilePath | None = None
    recursive: bool = True
    password: SecretStr | None = None
    key_number: int = 0
    video: Video = Video()
    peers: tuple[Peer, ...] = ()
    networks: list[IPv4Network] = Field(default_factory=list)


KEYS = "folder, key_number, networks, password, peers, recursive, video, workers"
QUOTES = "did you mean the same in quotes?"
NUMBERS = "a whole number or a number"
COLON = "a colon stands where no key can begin"
SHORTER = "a shorter number, or text in quotes"


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def make(text: str | bytes) -> Path:
        path = tmp_path / "exporter.yml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        return path

    return make


def faults_of(path: Path, **options: Any) -> list[str]:
    """The messages of a file that must be refused, without the file's name."""
    with pytest.raises(ConfigurationError) as caught:
        load(path, Model, **options)
    assert caught.value.exit_code == 2
    lines = str(caught.value).splitlines()
    assert len(lines) == len(caught.value.faults)
    assert all(line.startswith(f"{path}:") for line in lines)
    return [line.removeprefix(f"{path}:").strip() for line in lines]


# -- what loads ------------------------------------------------------------------------------------------------------


def test_an_empty_file_gives_the_defaults(write: Any) -> None:
    assert load(write(""), Model) == Model()
    assert load(write("# only a comment\n"), Model) == Model()
    assert load(write("---\n...\n"), Model) == Model()


def test_a_full_file_gives_its_values(write: Any) -> None:
    path = write(
        "workers: 4\nfolder: in\nrecursive: no\npassword: '123'\n"
        "video:\n  extension: .webm\n  mode: slow\n  rate: 12\n"
        "  options:\n    pix_fmt: rgb24\n    gop_size: 3\n    table: {crf: 17, preset: fast}\n"
        "peers:\n  - host: a\n  - {host: b, port: 11112}\nnetworks: [192.0.2.0/24]\n"
    )
    loaded = load(path, Model)
    assert loaded.workers == 4
    assert loaded.folder == Path("in")
    assert loaded.recursive is False
    assert loaded.password is not None
    assert loaded.password.get_secret_value() == "123"
    assert loaded.video.rate == 12.0
    assert loaded.video.options.table == {"crf": 17, "preset": "fast"}
    assert loaded.video.options.model_extra == {"gop_size": 3}
    assert loaded.peers == (Peer(host="a"), Peer(host="b", port=11112))
    assert loaded.networks == [IPv4Network("192.0.2.0/24")]


def test_a_section_list_or_mapping_left_empty_has_its_defaults(write: Any) -> None:
    assert load(write("video:\npeers:\nnetworks: ~\nfolder:\n"), Model) == Model()
    assert load(write("video:\n  options:\n    table:\n"), Model) == Model()


def test_anchors_aliases_and_merge_keys_mean_what_yaml_says(write: Any) -> None:
    text = "peers:\n  - &a {host: a, port: 1}\n  - <<: *a\n    host: b\n  - *a\n"
    path = write(text)
    assert load(path, Model).peers == (Peer(host="a", port=1), Peer(host="b", port=1), Peer(host="a", port=1))
    assert read(path).data == yaml.safe_load(text)


def test_a_key_of_the_mapping_itself_wins_over_a_merged_one_wherever_it_stands(write: Any) -> None:
    path = write("peers:\n  - &a {host: a, port: x}\n  - host: b\n    port: 7\n    <<: *a\n")
    document = read(path)
    assert document.data["peers"][1] == {"host": "b", "port": 7}
    assert document.line(("peers", 1, "port")) == 4


def test_dates_and_times_stay_text_and_exponents_are_numbers(write: Any) -> None:
    document = read(write("a: 2020-01-01\nb: 12:30:45\nc: 1e3\nd: 1.5e3\ne: '1e3'\nf: 1_000\non: yes\n1: 2\n"))
    assert document.data == {
        "a": "2020-01-01",
        "b": "12:30:45",
        "c": 1000,
        "d": 1500.0,
        "e": "1e3",
        "f": 1000,
        "on": True,
        "1": 2,
    }


def test_byte_order_marks_of_other_systems_are_understood(write: Any) -> None:
    for encoding in ("utf-8-sig", "utf-16"):
        assert load(write("folder: Gerät\r\n".encode(encoding)), Model).folder == Path("Gerät")


def test_the_home_folder_is_understood(write: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load(write("folder: ~/dicom\n"), Model).folder == tmp_path / "dicom"


def test_top_level_keys_of_another_program_are_left_alone(write: Any) -> None:
    path = write("workers: 1\nimage: {rate: 3}\nrate: {per: 1}\noptions:\n")
    assert load(path, Model, is_shared=True).workers == 1
    assert [fault.partition(" (")[0] for fault in faults_of(path)] == [
        "2: image: unknown key",
        "3: rate: unknown key",
        "4: options: unknown key",
    ]


@pytest.mark.parametrize(
    ("text", "guess"),
    [
        ("worker: 1\n", "workers"),
        ("Video: {rate: 1}\n", "video"),
        ("vidoe: {rate: 1}\n", "video"),
        ("rate: 3\n", "video.rate"),
    ],
)
def test_a_slip_is_a_fault_also_where_another_program_reads_the_file(write: Any, text: str, guess: str) -> None:
    key = text.partition(":")[0]
    with pytest.raises(ConfigurationError) as caught:
        load(write(text), Model, is_shared=True)
    (fault,) = caught.value.faults
    assert fault.sentence("") == f":1: {key}: unknown key (permitted: {KEYS}; did you mean {guess}?)"


# -- what is refused -------------------------------------------------------------------------------------------------


def test_every_fault_is_told_at_once_with_line_key_path_permitted_values_and_a_guess(write: Any) -> None:
    path = write(
        "worker: 3\n"
        "workers: many\n"
        "video:\n"
        "  extension: mp4\n"
        "  mode: fasst\n"
        "  rate: 0\n"
        "  options:\n"
        "    gop_size: [1]\n"
        "    table: {crf: true}\n"
        "peers:\n"
        "  - host: 3\n"
        "  - port: 70000\n"
        "    hots: x\n"
        "networks: [192.0.2.1/24, here]\n"
        "rate: 3\n"
    )
    assert faults_of(path) == [
        f"1: worker: unknown key (permitted: {KEYS}; did you mean workers?)",
        "2: workers: is the text 'many' (permitted: a whole number or auto)",
        "4: video.extension: is not spelled as it must be (permitted: a dot and letters; did you mean .mp4?)",
        "5: video.mode: is the text 'fasst' (permitted: fast, slow or now; did you mean fast?)",
        "6: video.rate: is the number 0 (permitted: above 0)",
        "8: video.options.gop_size: is a list (permitted: text or a whole number)",
        f"9: video.options.table.crf: is the truth value true (permitted: text or {NUMBERS}; {QUOTES})",
        "11: peers[0].host: is the number 3 (permitted: text; did you mean the same in quotes?)",
        "12: peers[1].host: is missing (permitted: a value)",
        "12: peers[1].port: is the number 70000 (permitted: at most 65535)",
        "13: peers[1].hots: unknown key (permitted: host, port; did you mean host?)",
        "14: networks[0]: 192.0.2.1/24 has host bits set",
        "14: networks[1]: is the text 'here' (permitted: an IP address or network)",
        f"15: rate: unknown key (permitted: {KEYS}; did you mean video.rate?)",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "workers: '4'",
            "workers: is the text '4' (permitted: a whole number or auto; did you mean 4 without quotes?)",
        ),
        ("workers: true", "workers: is the truth value true (permitted: a whole number or auto)"),
        ("workers: 1.5", "workers: is the number 1.5 (permitted: a whole number or auto)"),
        ("recursive: 'no'", "recursive: is the text 'no' (permitted: true or false; did you mean no without quotes?)"),
        ("recursive: 1", "recursive: is the number 1 (permitted: true or false)"),
        ("video: {rate: .nan}", "video.rate: is the number nan (permitted: a finite number)"),
        ("video: {rate: -.inf}", "video.rate: is the number -inf (permitted: a finite number)"),
        ("video: {rate: }", "video.rate: has no value (permitted: a number)"),
        ("video: 3", "video: is the number 3 (permitted: keys with values)"),
        ("peers: {host: a}", "peers: holds keys with values (permitted: a list)"),
        ("folder: ''", "folder: is empty or holds a control character (permitted: a path)"),
        ("folder: <path>", "folder: still holds the placeholder of the documentation (permitted: a path)"),
        ("password: 123", f"password: is a number that is not permitted (permitted: text; {QUOTES})"),
        ("key_number: hunter2", "key_number: is a text that is not permitted (permitted: a whole number)"),
        ("- a", "holds a list instead of keys (permitted: lines such as `num_workers: 4`)"),
        ("just text", "holds plain text instead of keys (permitted: lines such as `num_workers: 4`)"),
        ("a: b: c", f"{COLON} (permitted: one key per line; text with a colon in quotes)"),
        ("folder: *x", "an alias names no anchor (permitted: text that begins with * in quotes)"),
        ("folder: &a [*a]", "an alias contains itself"),
        ("? [a]\n: b", "a key is not plain text (permitted: a word and a colon)"),
        ("{" * 40, "is nested more than 32 levels deep"),
        ("[" * 20_000, "is nested more than 32 levels deep"),
        ("folder: 'x", "is not YAML: found unexpected end of stream"),
        ("workers: " + "9" * 5000, f"workers: is not a value of the type int (permitted: {SHORTER})"),
        ("workers: !!int x", f"workers: is not a value of the type int (permitted: {SHORTER})"),
        ("<<: 3", "<< merges something that holds no keys (permitted: an alias of a mapping)"),
    ],
)
def test_each_mistake_has_its_sentence(write: Any, text: str, message: str) -> None:
    assert faults_of(write(text)) == [f"1: {message}"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("workers: 1\nworkers: 2", "workers: is given twice, first in line 1 (permitted: each key once)"),
        ("workers: 1\n\tfolder: x", "a tab character is used for layout (permitted: spaces)"),
        ("a: 1\n---\nb: 2", "starts a second document (permitted: one document per file, without a second ---)"),
        ("workers: 1\nfolder: \x01", "holds a control character (permitted: printable text)"),
    ],
)
def test_mistakes_of_the_second_line_are_told_with_it(write: Any, text: str, message: str) -> None:
    assert faults_of(write(text)) == [f"2: {message}"]


def test_a_quoted_control_character_is_refused(write: Any) -> None:
    assert faults_of(write('folder: "a\\0b"')) == ["1: folder: holds a control character (permitted: printable text)"]


def test_text_that_is_no_unicode_is_refused(write: Any) -> None:
    assert faults_of(write(b"workers: 1\nfolder: \xff\xfe\n")) == [
        "2: byte 19 is not UTF-8 text (permitted: a file saved as UTF-8)"
    ]
    assert len(faults_of(write('folder: "\\ud800"'))) == 1
    assert len(faults_of(write('folder: "\\UFFFFFFFF"'))) == 1


@pytest.mark.parametrize(
    "tag",
    ["!!python/object/apply:os.system [id]", "!!python/name:os.system ''", "!!binary YQ==", "!!set {a}", "!mine x"],
)
def test_tags_that_could_build_objects_are_refused(write: Any, tag: str) -> None:
    (message,) = faults_of(write(f"folder: {tag}"))
    assert message.startswith("1: folder: the tag !")
    assert message.endswith("is not permitted (permitted: plain values without a tag)")


def test_an_alias_bomb_is_refused_quickly(write: Any) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert "unfolds to too many values" in faults_of(write("\n".join(lines)))[-1]


def test_a_chain_of_aliases_that_nests_deeper_than_the_file_is_refused(write: Any) -> None:
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 100))]
    assert "unfolds to too many values" in faults_of(write("\n".join(lines)))[-1]


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.yml: there is no such file"):
        load(tmp_path / "nowhere.yml", Model)


def test_what_is_no_regular_file_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(tmp_path / "socket"))
        for path in (tmp_path, pipe, tmp_path / "socket", Path("/dev/zero")):
            with pytest.raises(ConfigurationError, match="is not a regular file"):
                load(path, Model)


def test_a_huge_file_is_refused(write: Any) -> None:
    with pytest.raises(ConfigurationError, match="is larger than"):
        load(write(b"#" * (MAX_BYTES + 1)), Model)


def test_a_name_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load(Path("a\0b"), Model)


def test_messages_never_carry_a_control_character(write: Any) -> None:
    path = write('"wor\\u202ekers": 1\nfolder: <x>\n')
    with pytest.raises(ConfigurationError) as caught:
        load(path, Model)
    assert "\\u202e" in str(caught.value)
    assert all(character.isprintable() for character in str(caught.value).replace("\n", ""))


def test_a_later_check_finds_the_line_of_a_value(write: Any) -> None:
    document = read(write("video:\n  mode: slow\npeers:\n  - host: a\n"))
    assert fault_at(document, "video.mode", "x") == ConfigurationFault(2, "video.mode", "x")
    assert fault_at(document, "peers[0].host", "x").line == 4
    assert fault_at(document, "video.rate", "x").line == 1
    assert fault_at(document, "workers", "x").line == 1


# -- whatever is written ---------------------------------------------------------------------------------------------

_WORDS = st.sampled_from(
    [
        "workers",
        "video",
        "mode",
        "peers",
        "host",
        "options",
        "table",
        "folder",
        "<<",
        "on",
        "1",
        "~",
        "*a",
        "&a",
        "!!int",
    ]
)
_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | _WORDS
_TREES = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_WORDS | st.text(max_size=6), inner, max_size=4),
)


def _load_or_refuse(path: Path) -> None:
    """Load; anything but a model or a `ConfigurationError` fails the test."""
    try:
        loaded = load(path, Model)
    except ConfigurationError as error:
        told = str(error)
    else:
        assert isinstance(loaded, Model)
        return
    assert told
    assert all(line.startswith(f"{path}:") for line in told.split("\n"))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=_TREES, flow=st.booleans())
def test_any_tree_of_values_loads_or_is_refused(tmp_path: Path, data: Any, flow: bool) -> None:
    path = tmp_path / "any.yml"
    path.write_bytes(yaml.safe_dump(data, default_flow_style=flow, allow_unicode=True).encode("utf-8", "surrogatepass"))
    _load_or_refuse(path)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(st.sampled_from("ab:- \n\t#&*!|>'\"%@`{}[],?<~0123456789.e_x\\u\0é\u2028\ud800\ufeff"), max_size=60)
)
def test_any_text_loads_or_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "any.yml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    _load_or_refuse(path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=80))
def test_any_bytes_load_or_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.yml"
    path.write_bytes(content)
    _load_or_refuse(path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.dictionaries(st.text("abc", min_size=1), st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text("abc é", max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3)),
    max_size=4))  # fmt: skip
def test_what_yaml_itself_writes_is_read_as_yaml_reads_it(tmp_path: Path, data: dict[str, Any]) -> None:
    path = tmp_path / "any.yml"
    path.write_text(yaml.safe_dump(data, allow_unicode=True))
    document = read(path)
    assert document.faults == ()
    assert document.data == yaml.safe_load(path.read_text())


def test_validation_of_a_document_with_faults_still_reports_the_others(write: Any) -> None:
    document = read(write("workers: 1\nworkers: 2\nvideo: {mode: x}\n"))
    loaded, faults = validate(document, Model)
    assert loaded is None
    assert [fault.line for fault in faults] == [2, 3]
