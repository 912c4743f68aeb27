"""What the listener takes from pynetdicom and pydicom: one module, documented names, one attribute that is private."""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
from pathlib import Path
from typing import TYPE_CHECKING

import listener

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(listener.__file__).parent
DIMSE = ROOT / "sources" / "dimse"
BOUNDARY = {DIMSE / "requesting.py"}
FOREIGN = ("pynetdicom", "pydicom")
RELIED_ON = {
    ("pynetdicom", "AE"),
    ("pynetdicom.association", "Association"),
}


def imports(path: Path) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


def test_one_module_touches_the_dicom_libraries_and_only_these_names() -> None:
    taken = {
        (path, module, name)
        for path in ROOT.rglob("*.py")
        for module, name in imports(path)
        if module.partition(".")[0] in FOREIGN
    }
    assert {path for path, _, _ in taken} == BOUNDARY
    assert {(module, name) for _, module, name in taken} == RELIED_ON


def test_the_listener_never_imports_the_exporter() -> None:
    for path in ROOT.rglob("*.py"):
        assert not [module for module, _ in imports(path) if module.partition(".")[0] == "exporter"], path


def test_no_shell_and_no_name_lookup_is_anywhere_in_the_listener() -> None:
    for path in ROOT.rglob("*.py"):
        text = path.read_text()
        for word in ("shell=True", "os.system", "gethostbyaddr", "getnameinfo", "getfqdn"):
            assert word not in text, f"{word} in {path}"


def test_pynetdicom_is_the_version_whose_behaviour_was_measured() -> None:
    assert importlib.metadata.version("pynetdicom") == "3.0.4"


def test_what_is_relied_on_is_called_as_it_is_defined() -> None:
    from pynetdicom import AE, build_role
    from pynetdicom.association import Association
    from pynetdicom.dsutils import decode, encode

    assert list(inspect.signature(decode).parameters)[:3] == ["bytestring", "is_implicit_vr", "is_little_endian"]
    assert list(inspect.signature(encode).parameters)[:3] == ["ds", "is_implicit_vr", "is_little_endian"]
    assert {"uid", "scp_role"} <= set(inspect.signature(build_role).parameters)
    assert {"addr", "port", "ae_title", "ext_neg", "tls_args"} <= set(inspect.signature(AE.associate).parameters)
    names = list(inspect.signature(Association.send_n_event_report).parameters)
    assert names[1:5] == ["dataset", "event_type", "class_uid", "instance_uid"]
