"""The rules of the house that a reader relies on: one word for one thing, folders that are floors, no dead names."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import tokenize
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("exporter", "listener")
MOST_MODULES_AT_A_ROOT = 8
LONGEST_SUBJECT = 72
SUBJECTS_SINCE = "2026-11-28T13:00:00+00:00"
"""Commits before the rule existed keep the subjects they have."""


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


@cache
def trees() -> dict[Path, ast.Module]:
    """Every module, parsed where a test asks: not in each process that only looks for tests."""
    return {path: ast.parse(path.read_text()) for path in sources()}


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sources()}


def imported(tree: ast.Module) -> set[str]:
    """Own modules that a file imports anywhere, for types only included."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in MODULES else node.module)
    return found & MODULES.keys()


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components of more than one node (Tarjan)."""
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = lowest[node] = len(index)
        stack.append(node)
        for other in sorted(graph.get(node, ())):
            if other not in index:
                visit(other)
                lowest[node] = min(lowest[node], lowest[other])
            elif other in stack:
                lowest[node] = min(lowest[node], index[other])
        if lowest[node] == index[node]:
            component = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(component) > 1:
                found.append(sorted(component))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def test_public_class_names_are_unique() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(f"{relative(path)}:{node.lineno}")
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_siblings_do_not_import_in_circles() -> None:
    siblings: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for path, tree in trees().items():
        mine = path.relative_to(REPOSITORY).with_suffix("").parts
        for name in imported(tree):
            theirs = MODULES[name].relative_to(REPOSITORY).with_suffix("").parts
            shared = next((i for i, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), None)
            if shared is not None and "__init__" not in {mine[shared], theirs[shared]}:
                siblings["/".join(mine[:shared])][mine[shared]].add(theirs[shared])
    assert {folder: found for folder, graph in siblings.items() if (found := circles(graph))} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_package_roots_are_small(package: str) -> None:
    assert len(list((REPOSITORY / package).glob("*.py"))) <= MOST_MODULES_AT_A_ROOT


def test_every_package_docstring_lists_its_modules() -> None:
    missing = {}
    for path, tree in trees().items():
        if path.name != "__init__.py":
            continue
        text = ast.get_docstring(tree) or ""
        names = {p.stem for p in path.parent.glob("*.py")} | {p.parent.name for p in path.parent.glob("*/__init__.py")}
        unnamed = {name for name in names - {"__init__", "__main__"} if not re.search(rf"\b{name}\b", text)}
        if unnamed:
            missing[relative(path)] = sorted(unnamed)
    assert missing == {}


SPOOL_WORDS = frozenset(("tmp", "new", "active", "done", "quarantine"))
OTHER_MEANINGS = {
    "listener/intake/store_status.py": "where a status puts the bytes",
    "exporter/pull/statuses.py": "how a retrieval ended",
    "exporter/results/ledger/types.py": "states of an instance in the ledger",
    "exporter/commands/status.py": "the same, as words of the report",
    "exporter/page/condition.py": "the same",
    "exporter/page/standing.py": "the same",
    "exporter/page/metrics.py": "the same",
}
"""Modules outside the spool in which one of its folders' names is a word of another kind, and of which."""
OWNERS = {
    "listener.json": "listener/foundation/counters.py",
    "exporter.json": "listener/spool/space.py",
}
LOCK_OWNERS = ("listener/foundation/locks.py", "listener/spool/names.py")


def _texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of every string constant that is no docstring, those between an f-string's values included."""
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.lineno, node.value


def test_nobody_but_the_spool_knows_its_folders() -> None:
    found = []
    for path, tree in trees().items():
        module = relative(path)
        for line, text in _texts(tree):
            folders = SPOOL_WORDS.intersection(text.split("/")) if re.fullmatch(r"[\w./-]+", text) else set()
            is_foreign = not module.startswith("listener/spool/") and module not in OTHER_MEANINGS
            if folders and is_foreign:
                found.append(f"{module}:{line}: {text!r} is a folder of the spool: see listener/spool/view.py")
            if OWNERS.get(text, module) != module or (text.endswith(".lock") and module not in LOCK_OWNERS):
                found.append(f"{module}:{line}: the file {text!r} belongs to another module")
    assert found == []


def test_nobody_but_the_spool_reads_the_time_in_a_name() -> None:
    found = []
    for path, tree in trees().items():
        if relative(path).startswith("listener/spool/"):
            continue
        for node in ast.walk(tree):
            is_conversion = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "int"
            if is_conversion and re.fullmatch(r"int\(.*\[:(20|TIME_DIGITS)\]\)", ast.unparse(node)):
                found.append(f"{relative(path)}:{node.lineno}: {ast.unparse(node)}: see listener/spool/names.py")
    assert found == []


GROUP_2_OWNER = "listener/intake/"
GROUP_2_NAMES = frozenset({"FileMetaDataset", "file_meta_dataset", "read_file_meta_info", "write_file_meta_info"})
"""What pydicom calls its means of reading and writing group 0002."""
GROUP_2_WORDS = frozenset({"DICM", "TransferSyntaxUID", "ImplementationClassUID"})
MAY_MAKE_GROUP_2 = {"exporter/privacy/deidentify.py", "exporter/dicom/instance.py", "exporter/writers/dicom_file.py"}
"""A de-identified data set gets new file meta information (made, carried, written): pydicom writes both."""


def group_2(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of whatever reads or writes group 0002 beside `listener.intake.file_meta`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name in GROUP_2_NAMES)
        elif isinstance(node, ast.Attribute):
            if node.attr in GROUP_2_NAMES | GROUP_2_WORDS or node.attr.startswith("MediaStorageSOP"):
                yield node.lineno, node.attr
        elif isinstance(node, ast.Constant):
            value = node.value.decode("latin-1") if isinstance(node.value, bytes) else node.value
            if isinstance(value, str):
                if value in GROUP_2_WORDS or re.fullmatch(r"MediaStorageSOP\w+UID|\x02\0.*", value, re.DOTALL):
                    yield node.lineno, repr(value)
            elif isinstance(value, int) and 0x00020000 < value < 0x00020104:
                yield node.lineno, f"{value:#010x}"


def test_nobody_but_the_intake_reads_or_writes_group_0002() -> None:
    found = [
        f"{relative(path)}:{line}: {what}: see listener/intake/file_meta.py"
        for path, tree in trees().items()
        if not relative(path).startswith(GROUP_2_OWNER) and relative(path) not in MAY_MAKE_GROUP_2
        for line, what in group_2(tree)
    ]
    assert found == []


PLAIN_ENGLISH_IN = ("listener", "exporter")
RIDDLES = re.compile(r"; (how many|whether|what)\b|\btold\b|\bwhoever\b|(?<!there )\bis none\b", re.IGNORECASE)
"""What a summary must not say: a returned value as an appendix (it goes into `Returns:`), and words for nobody."""


def test_summaries_of_docstrings_are_plain() -> None:
    found = []
    for path, tree in trees().items():
        if not relative(path).startswith(PLAIN_ENGLISH_IN):
            continue
        for node in ast.walk(tree):
            if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            is_public = isinstance(node, ast.Module) or not node.name.startswith("_") or node.name.endswith("__")
            summary = " ".join((ast.get_docstring(node) or "").partition("\n\n")[0].split())
            if is_public and RIDDLES.search(summary):
                found.append(f"{relative(path)}:{node.body[0].lineno}: {summary}")
    assert found == []


def test_commit_subjects_are_short() -> None:
    git = ["git", "log", f"--since={SUBJECTS_SINCE}", "--no-merges", "--format=%s"]
    done = subprocess.run(git, cwd=REPOSITORY, capture_output=True, check=False, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    assert [subject for subject in done.stdout.splitlines() if len(subject) > LONGEST_SUBJECT] == []


def _names_defined(tree: ast.Module) -> set[str]:
    """Module-level and class-level functions, classes and constants without a decorator that registers them."""
    found = set()
    for holder in [tree, *(n for n in ast.walk(tree) if isinstance(n, ast.ClassDef))]:
        for node in holder.body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                kinds = {ast.unparse(d).partition("(")[0] for d in node.decorator_list}
                if kinds <= {
                    "staticmethod",
                    "classmethod",
                    "property",
                    "dataclass",
                    "cached_property",
                    "contextmanager",
                }:
                    found.add(node.name)
            elif holder is tree and isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in found if not (name.startswith("__") and name.endswith("__"))}


CALLED_FROM_OUTSIDE = {
    "readinto": "FFmpeg reads a stream by it",
    "seekable": "FFmpeg asks it",
    "emit": "logging calls it",
    "options_of": "writers of other distributions call it",
    "STORE_TABLE": "made into a table of docs/receiving.md by its test",
    "UPLOAD_TABLE": "made into a table of docs/dicomweb.md by its test",
}
"""Names that no code of ours mentions a second time, and who uses them."""


def test_no_name_is_dead() -> None:
    mentions: Counter[str] = Counter()
    for path in trees():
        for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
            if token.type == tokenize.NAME:
                mentions[token.string] += 1
            elif token.type == tokenize.STRING and not token.string.startswith(('"""', 'r"""')):
                mentions.update(re.findall(r"\w+", token.string))
    dead = {
        f"{relative(path)}: {name}"
        for path, tree in trees().items()
        for name in _names_defined(tree)
        if mentions[name] < 2 and name not in CALLED_FROM_OUTSIDE
    }
    assert dead == set()
