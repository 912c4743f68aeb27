"""What the listener takes from outside: a DICOM library in one module, nothing of the exporter, no shell."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import exporter
import listener

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(listener.__file__).parent


def imports(path: Path) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


SECOND_ENGINE = ROOT / "sources" / "dimse" / "acceptor" / "pynetdicom_engine.py"


def test_the_listener_decodes_with_no_library_and_only_the_second_engine_speaks_dicom_with_one() -> None:
    """pydicom decodes for the exporter alone; the second engine is what pynetdicom's own requirements are there for."""
    for root, foreign in ((ROOT, {"pynetdicom", "pydicom"}), (Path(exporter.__file__).parent, {"pynetdicom"})):
        for path in set(root.rglob("*.py")) - {SECOND_ENGINE}:
            assert not {module.partition(".")[0] for module, _ in imports(path)} & foreign, path


def test_a_listener_on_its_own_engine_loads_no_dicom_library() -> None:
    program = "import listener.daemon, listener.sources.dimse.processes.child, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    assert {"pynetdicom", "pydicom"} & set(done.stdout.split()) == set()


def test_the_listener_never_imports_the_exporter() -> None:
    for path in ROOT.rglob("*.py"):
        assert not [module for module, _ in imports(path) if module.partition(".")[0] == "exporter"], path


def test_no_shell_and_no_name_lookup_is_anywhere_in_the_listener() -> None:
    for path in ROOT.rglob("*.py"):
        text = path.read_text()
        for word in ("shell=True", "os.system", "gethostbyaddr", "getnameinfo", "getfqdn"):
            assert word not in text, f"{word} in {path}"
