"""The bill of materials of an installed product (CycloneDX 1.6, JSON): distributions, and native libraries in wheels.

    python packages/sbom.py PYTHON > sbom.json

`PYTHON` is the interpreter of the environment that holds the product and nothing else. cyclonedx-py lists the
distributions; no tool lists the libraries that wheels carry, so that part is ours. Versions are those of the file names
(libtool's, not always the release's); licences stand in `LICENCES`, and only where a library restricts more than the
distribution that carries it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

SPEC: Final = "1.6"
FFMPEG: Final = {"avcodec", "avdevice", "avfilter", "avformat", "avutil", "swresample", "swscale"}
LICENCES: Final = {
    # What each library says of itself, FFmpeg by avcodec_license(); it is linked with x264 and x265: docs/licences.md.
    **dict.fromkeys(FFMPEG, "LGPL-3.0-or-later"),
    "x264": "GPL-2.0-or-later",
    "x265": "GPL-2.0-or-later",
    "gmp": "LGPL-3.0-or-later OR GPL-2.0-or-later",
    "gnutls": "LGPL-2.1-or-later",
    "nettle": "LGPL-3.0-or-later OR GPL-2.0-or-later",
    "hogweed": "LGPL-3.0-or-later OR GPL-2.0-or-later",
    "unistring": "LGPL-3.0-or-later OR GPL-2.0-or-later",
    "mp3lame": "LGPL-2.0-or-later",
    "asound": "LGPL-2.1-or-later",
    "gomp": "GPL-3.0-or-later WITH GCC-exception-3.1",
}
_LIBRARY: Final = re.compile(r"lib(?P<name>.+?)(?:-[0-9a-f]{8})?\.so(?:\.(?P<version>[0-9.]+))?")


def bundled_libraries(site_packages: Path) -> dict[str, list[tuple[str, str]]]:
    """Name and version of the native libraries that wheels brought along, by the distribution that carries them.

    auditwheel puts them into a folder beside the package: ``av.libs`` (PEP 600 wheels).
    """
    found: dict[str, list[tuple[str, str]]] = {}
    for folder in sorted(site_packages.glob("*.libs")):
        for path in sorted(folder.iterdir()):
            match = _LIBRARY.fullmatch(path.name)
            if match is not None:
                found.setdefault(folder.stem, []).append((match["name"], match["version"] or ""))
    return found


def bill_of_materials(python: Path) -> dict[str, Any]:
    """The whole bill for the environment of an interpreter.

    Raises:
        subprocess.CalledProcessError: The interpreter or cyclonedx-py failed; standard error says why.
    """
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site_packages = Path(
        subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    )
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "distributions.json"
        tool = [Path(sys.executable).parent / "cyclonedx-py", "environment", "--of", "JSON", "--sv", SPEC]
        subprocess.run([*tool, "--output-reproducible", "-o", listed, python], check=True)
        bill: dict[str, Any] = json.loads(listed.read_text(encoding="utf-8"))
    distributions = {component["name"].lower(): component for component in bill["components"]}
    for carrier, libraries in bundled_libraries(site_packages).items():
        component = distributions[carrier.lower()]
        component["components"] = [_library(carrier, name, version) for name, version in libraries]
    return bill


def _library(carrier: str, name: str, version: str) -> dict[str, Any]:
    component: dict[str, Any] = {"type": "library", "bom-ref": f"{carrier}/lib{name}", "name": f"lib{name}"}
    if version:
        component["version"] = version
    if name in FFMPEG:
        component["group"] = "FFmpeg"
    if name in LICENCES:
        component["licenses"] = [{"expression": LICENCES[name]}]
    return component


if __name__ == "__main__":
    print(json.dumps(bill_of_materials(Path(sys.argv[1])), indent=1, sort_keys=True))
