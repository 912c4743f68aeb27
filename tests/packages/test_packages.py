"""What is passed on works where nothing else is: wheel, Debian package, image, bill of materials."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.packages.conftest import REPOSITORY, BareRoot

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("packages")]

VENV = "/usr/lib/dicom-media-exporter"


def serves_its_demo(root: BareRoot, program: str, user: str) -> None:
    """Run `serve --demo` until its sample instances have lines, then stop it: it ends well."""
    data = root.path / "srv" / "demo"
    data.mkdir(parents=True)
    numbers = [int(number) for number in user.split(":")]
    shutil.chown(data, *numbers)
    running = subprocess.Popen(
        root.command(program, "serve", "--demo", "--data", "/srv/demo/data", user=user),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        lines = data / "data" / "metadata.jsonl"
        deadline = time.monotonic() + 100
        while not (lines.exists() and lines.read_text().count("\n") >= 3):
            assert running.poll() is None, running.communicate()[0]
            assert time.monotonic() < deadline, "the sample instances are exported"
            time.sleep(0.1)
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=100)
    finally:
        running.kill()
        running.communicate()
    assert any((data / "data" / "media").rglob("*.png"))
    assert not list((data / "data" / "spool" / "quarantine").rglob("*.dcm"))


def test_the_wheel_is_the_same_from_another_folder_and_umask(wheel: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    subprocess.run(["git", "clone", "--quiet", REPOSITORY, copy], check=True)
    if subprocess.run(["git", "status", "--porcelain"], cwd=REPOSITORY, capture_output=True, check=True).stdout:
        pytest.skip("the tree has changes that a clone has not")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path, copy]
    subprocess.run(build, check=True, umask=0o027)
    assert hashlib.sha256((tmp_path / wheel.name).read_bytes()).digest() == hashlib.sha256(wheel.read_bytes()).digest()


def test_the_wheel_knows_its_commit(wheel: Path) -> None:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if commit.returncode:
        pytest.skip("not a git checkout")
    with zipfile.ZipFile(wheel) as archive:
        build = json.loads(archive.read("exporter/build.json"))
    assert build["commit"].removesuffix("+changes") == commit.stdout.strip()


def test_pip_installs_the_wheel_on_a_bare_debian_and_it_serves(root: BareRoot, wheels: Path) -> None:
    shutil.copytree(wheels, root.path / "wheels")
    assert root.run("python3", "-m", "venv", "/opt/venv").returncode == 0
    pip = ["/opt/venv/bin/pip", "install", "--quiet", "--no-index", "-f", "/wheels", "dicom-media-exporter"]
    done = root.run(*pip)
    assert done.returncode == 0, done.stderr
    assert "commit" in root.run("/opt/venv/bin/exporter", "--version").stdout
    missing = root.run("/opt/venv/bin/exporter", "metadata", "parquet", "/srv")
    assert missing.returncode != 0
    assert "Traceback" not in missing.stderr
    serves_its_demo(root, "/opt/venv/bin/exporter", "12345:0")


def test_uv_installs_the_wheel_as_a_tool_on_a_bare_debian(root: BareRoot, wheels: Path) -> None:
    shutil.copytree(wheels, root.path / "wheels")
    shutil.copy(Path(sys.executable).parent / "uv", root.path / "usr/bin/uv")
    places = ["env", "UV_TOOL_DIR=/opt/tools", "UV_TOOL_BIN_DIR=/opt/bin", "UV_CACHE_DIR=/tmp/cache"]
    options = ["--quiet", "--offline", "--no-index", "-f", "/wheels", "--python", "/usr/bin/python3"]
    done = root.run(*places, "uv", "tool", "install", *options, "dicom-media-exporter")
    assert done.returncode == 0, done.stderr
    serves_its_demo(root, "/opt/bin/exporter", "12345:0")


def test_pipx_installs_the_wheel_on_a_bare_debian(root: BareRoot, wheels: Path, wheel: Path) -> None:
    shutil.copytree(wheels, root.path / "wheels")
    download = [sys.executable, "-m", "pip", "--quiet", "download", "-d", root.path / "wheels", "pipx", "pip"]
    subprocess.run(download, check=True)
    assert root.run("python3", "-m", "venv", "/opt/pipx-itself").returncode == 0
    pip = ["/opt/pipx-itself/bin/pip", "install", "--quiet", "--no-index", "-f", "/wheels", "pipx"]
    assert root.run(*pip).returncode == 0
    places = ["env", "PIPX_HOME=/opt/pipx", "PIPX_BIN_DIR=/opt/bin", "PIP_NO_INDEX=1", "PIP_FIND_LINKS=/wheels"]
    done = root.run(*places, "/opt/pipx-itself/bin/pipx", "install", f"/wheels/{wheel.name}")
    assert done.returncode == 0, done.stderr
    serves_its_demo(root, "/opt/bin/exporter", "12345:0")


def test_the_bill_of_materials_is_valid_and_names_what_is_installed(tmp_path: Path, wheel: Path) -> None:
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    uv = [Path(sys.executable).parent / "uv", "pip", "install", "--quiet", "--python", venv / "bin/python"]
    subprocess.run([*uv, "--require-hashes", "-r", REPOSITORY / "requirements.txt"], check=True)
    subprocess.run([*uv, "--no-deps", wheel], check=True)
    command = [sys.executable, REPOSITORY / "packages/sbom.py", venv / "bin/python"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    components = {
        component["name"].lower().replace("_", "-"): component for component in json.loads(text)["components"]
    }
    (site_packages,) = venv.glob("lib/python*/site-packages")
    installed = {path.name.split("-")[0].lower().replace("_", "-") for path in site_packages.glob("*.dist-info")}
    assert installed <= components.keys()
    for folder in site_packages.glob("*.libs"):
        assert len(components[folder.stem]["components"]) == len(list(folder.iterdir()))
    licences = {part["name"]: part.get("licenses") for part in components["av"]["components"]}
    assert licences["libx264"] == licences["libx265"] == [{"expression": "GPL-2.0-or-later"}]


def test_lintian_finds_no_error_in_the_debian_package(deb: Path, peer: Callable[[str], str]) -> None:
    uncompressed = "uses-no-compression-for-control-tarball,uses-no-compression-for-data-tarball"
    command = [peer("lintian"), "--fail-on", "error", "--suppress-tags", uncompressed, str(deb)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, [line for line in done.stdout.splitlines() if line.startswith("E:")]


def test_the_debian_package_installs_serves_upgrades_and_leaves_data_when_it_is_purged(
    root: BareRoot, deb: Path
) -> None:
    shutil.copy(deb, root.path / "package.deb")
    installed = root.run("dpkg", "-i", "/package.deb")
    assert installed.returncode == 0, installed.stderr
    user = root.run("sh", "-c", 'echo "$(id -u dicom-media):$(id -g dicom-media)"').stdout.strip()
    assert root.run("stat", "-c", "%U %a", "/var/lib/dicom-media").stdout == "dicom-media 750\n"
    serves_its_demo(root, "/usr/bin/exporter", user)

    configuration = root.path / "etc/dicom-media/exporter.yml"
    configuration.write_text("listener:\n  port: 11113\n")
    assert root.run("dpkg", "-i", "/package.deb").returncode == 0  # the same version once more is an upgrade to dpkg
    assert configuration.read_text() == "listener:\n  port: 11113\n"
    (root.path / "var/lib/dicom-media/kept").write_text("an instance")
    assert root.run("dpkg", "-r", "dicom-media-exporter").returncode == 0
    assert configuration.exists()
    assert not (root.path / VENV[1:]).exists()
    purged = root.run("dpkg", "-P", "dicom-media-exporter")
    assert purged.returncode == 0, purged.stderr
    assert "/var/lib/dicom-media" in purged.stdout
    assert not configuration.exists()
    assert (root.path / "var/lib/dicom-media/kept").exists()


def test_the_image_runs_as_any_user_without_capabilities_on_a_read_only_root(
    debian: Path, wheels: Path, tmp_path: Path, peer: Callable[[str], str]
) -> None:
    buildah = [peer("buildah"), "--root", str(tmp_path / "storage"), "--runroot", str(tmp_path / "run")]
    buildah += ["--storage-driver", "vfs"]

    def built(*arguments: str) -> str:
        done = subprocess.run([*buildah, *arguments], capture_output=True, text=True, check=False, cwd=REPOSITORY)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout.strip().rpartition("\n")[2]

    base = built("from", "scratch")
    built("copy", "--quiet", base, str(debian), "/")
    built("copy", "--quiet", base, str(wheels), "/wheels")
    built("commit", "--quiet", base, "bare")
    options = "--no-index -f /wheels"
    arguments = ["--build-arg", "BASE=localhost/bare", "--build-arg", f"PIP_OPTIONS={options}"]
    built(
        "build",
        "--quiet",
        "--isolation",
        "chroot",
        "--pull-never",
        *arguments,
        "-f",
        "packages/Containerfile",
        "-t",
        "p",
        ".",
    )
    container = built("from", "--pull-never", "p")
    mounted = Path(built("mount", container))
    try:
        image = json.loads(
            subprocess.run([*buildah, "inspect", "--type", "image", "p"], capture_output=True, check=True).stdout
        )["OCIv1"]["config"]
        assert image["User"] == "65532:0"
        assert image["StopSignal"] == "SIGTERM"
        assert image["Entrypoint"] == ["exporter"]
        read_only = tmp_path / "read-only"
        read_only.mkdir()
        subprocess.run(["mount", "--bind", mounted, read_only], check=True)
        try:
            subprocess.run(["mount", "-o", "remount,ro,bind", read_only], check=True)
            subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", read_only / "srv"], check=True)
            serves_its_demo(BareRoot(read_only), "/opt/dicom-media-exporter/bin/exporter", "12345:0")
        finally:
            subprocess.run(["umount", "--recursive", read_only], check=True)
    finally:
        built("umount", container)


def test_judges_find_nothing_wrong_with_containerfile_and_manifests() -> None:
    programs = Path(sys.executable).parent
    subprocess.run([programs / "hadolint", REPOSITORY / "packages/Containerfile"], check=True)
    for manifest in sorted((REPOSITORY / "packages/kubernetes").glob("*.yaml")):
        done = subprocess.run(
            [programs / "kubernetes-validate", "--strict", manifest], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
