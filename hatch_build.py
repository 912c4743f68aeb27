"""Build hook of the wheel: which commit it was made from goes into it, so that `exporter --version` can say so.

The time is that of the commit, not of the build: the same commit gives the same bytes. `SOURCE_COMMIT` and
`SOURCE_DATE_EPOCH` (reproducible-builds.org) are taken where there is no git checkout, as in a source archive.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CommitHook(BuildHookInterface[Any]):
    """Adds `exporter/build.json` to the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the file beside the build and have it included; nothing for an editable install."""
        if version == "editable":
            return
        commit, seconds = _commit(Path(self.root))
        when = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if seconds else ""
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name) / "build.json"
        path.write_text(json.dumps({"commit": commit, "time": when}) + "\n", encoding="utf-8")
        path.chmod(0o644)
        build_data["force_include"][str(path)] = "exporter/build.json"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002 - hatchling's
        """Remove the file again."""
        if version != "editable":
            self._folder.cleanup()


def _commit(root: Path) -> tuple[str, int]:
    commit, seconds = os.environ.get("SOURCE_COMMIT", ""), int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    if commit or not (root / ".git").exists():
        return commit, seconds
    command = ["git", "-C", str(root), "log", "-1", "--format=%H %ct"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    parts = done.stdout.split()
    if len(parts) != 2:
        return "", seconds
    changed = subprocess.run(
        ["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"],
        capture_output=True,
        text=True,
        check=False,
    )
    return parts[0] + ("+changes" if changed.stdout.strip() else ""), seconds or int(parts[1])
