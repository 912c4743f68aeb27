"""The walls of the house: who may import whom, no circles, and what no file may contain."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("exporter", "listener")
# The only places where any exception at all may be caught (one worker job, one wire reply, one download).
BROAD_EXCEPT = {
    "exporter/work/pipeline.py": "around one instance: a defect becomes `internal`, the worker lives",
    "listener/sources/dimse/acceptor/serving.py": "around one association: a defect must not leave its peer waiting",
    "listener/sources/orthanc/downloads.py": "around one instance: a defect of ours must not stop all the others",
}
MAY_IMPORT_PYNETDICOM = "listener/sources/dimse/acceptor/pynetdicom_engine.py"
WRITERS_MAY_IMPORT = (
    "exporter.dicom.elements",
    "exporter.errors",
    "exporter.machine_conditions",
    "exporter.frames",
    "exporter.dicom.geometry",
    "exporter.dicom.instance",
    "exporter.outcome",
    "exporter.dicom.pixels",
    "exporter.settings.settings",
    "exporter.dicom.timing",
    "exporter.dicom.ultrasound",
    "exporter.writers.volumes",
    "exporter.writers",
    "listener.foundation.disk",
    "listener.foundation.durable",
    "listener.foundation.errors",
    "listener.foundation.text",
)


def sources() -> list[Path]:
    return sorted(p for package in PACKAGES for p in (REPOSITORY / package).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(p): p for p in sources()}


def imports(path: Path, *, at_start_only: bool) -> set[str]:
    """Own modules that a file imports; with `at_start_only` those executed when it is imported."""
    tree = ast.parse(path.read_text())
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if at_start_only and isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                continue
            if at_start_only and isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module:
                for alias in child.names:
                    full = f"{child.module}.{alias.name}"
                    found.add(full if full in MODULES else child.module)
            visit(child)

    visit(tree)
    return {name for name in found if name.split(".")[0] in PACKAGES}


@pytest.mark.parametrize("path", sources(), ids=str)
def test_the_listener_knows_nothing_of_the_exporter(path: Path) -> None:
    if path.relative_to(REPOSITORY).parts[0] == "listener":
        assert not {name for name in imports(path, at_start_only=False) if name.startswith("exporter")}


def test_one_module_of_the_product_imports_pynetdicom() -> None:
    """Where we request, and by default where we accept, the upper layer is ours."""
    found = set()
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.partition(".")[0] == "pynetdicom" for name in names):
                found.add(path.relative_to(REPOSITORY).as_posix())
    assert found == {MAY_IMPORT_PYNETDICOM}


@pytest.mark.parametrize("path", sorted((REPOSITORY / "exporter" / "writers").glob("*.py")), ids=str)
def test_a_writer_imports_only_its_contract_the_instance_the_frames_and_the_errors(path: Path) -> None:
    strangers = {n for n in imports(path, at_start_only=False) if not n.startswith(WRITERS_MAY_IMPORT)}
    assert not strangers


def test_no_module_imports_itself_through_others() -> None:
    graph = {name: imports(path, at_start_only=True) & MODULES.keys() - {name} for name, path in MODULES.items()}
    done: set[str] = set()

    def walk(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name) :], name))
        if name in done:
            return
        for other in sorted(graph[name]):
            walk(other, (*trail, name))
        done.add(name)

    for name in sorted(graph):
        walk(name, ())


@pytest.mark.parametrize("path", sources(), ids=str)
def test_no_file_is_a_drawer_and_none_uses_a_shell_or_pickle(path: Path) -> None:
    assert not {"utils", "helpers", "helper", "misc", "common", "manager"} & {path.stem, path.parent.name}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            for keyword in node.keywords:
                is_shell = keyword.arg == "shell" and not called.endswith(
                    "generate_completion"
                )  # its name, not a program
                assert not is_shell or ast.unparse(keyword.value) == "False", f"line {node.lineno}"
            forbidden = ("os.system", "os.popen", "pickle.loads", "pickle.load", "yaml.load", "eval", "exec")
            assert called not in forbidden, f"line {node.lineno}: {called}"


def test_a_command_that_only_reads_settings_imports_nothing_heavy() -> None:
    program = "import exporter.commands.app, listener.settings.listener, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True, cwd=REPOSITORY)
    heavy = {"av", "imagecodecs", "numpy", "pydicom", "pynetdicom", "sqlite3", "urllib3", "uvicorn"}
    assert heavy & set(done.stdout.split()) == set()


def test_any_exception_at_all_is_caught_only_in_the_places_named() -> None:
    broad: dict[str, list[int]] = {}
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler):
                names = (
                    {"BaseException"}
                    if node.type is None
                    else {ast.unparse(n) for n in (node.type.elts if isinstance(node.type, ast.Tuple) else [node.type])}
                )
                swallows = not isinstance(node.body[-1], ast.Raise)  # raised on, or mapped to an error of ours
                if names & {"Exception", "BaseException"} and swallows:
                    broad.setdefault(path.relative_to(REPOSITORY).as_posix(), []).append(node.lineno)
    assert broad.keys() <= BROAD_EXCEPT.keys(), broad


def test_tracked_files_name_no_machine_and_no_registry() -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=False, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, tracked.stdout.split("\0")):
        path = REPOSITORY / name
        if not path.is_file() or path == Path(__file__):
            continue
        assert path.stat().st_size < 1 << 20, f"{name} is over 1 MiB"
        text = path.read_text(errors="replace")
        for forbidden in ("index-url", "--find-links", "extra-index"):
            assert forbidden not in text or name == "Makefile", f"{name} names {forbidden}"
