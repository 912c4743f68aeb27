"""Two listeners behind a balancer, each in a network of its own, over one shared media folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pydicom
import pytest
from pydicom.data import get_testdata_file

from tests.ports import free_port
from tests.product.running import answers, run, until

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PORT = 11112
INSTANCES = 24
pytestmark = pytest.mark.slow


class Network:
    """Two network namespaces, joined to ours, and a balancer of the example's configuration before them."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.spaces = {}
        number = os.getpid() % 200
        for place, name in enumerate(("a", "b")):
            space, link = f"exp{os.getpid()}{name}", f"e{os.getpid()}{name}"
            ours, theirs = (f"10.{201 + place}.{number}.{end}" for end in (1, 2))
            self._ip("netns", "add", space)
            stack.callback(self._ip, "netns", "del", space)  # the link goes with it
            self._ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
            self._ip("addr", "add", f"{ours}/24", "dev", link)
            self._ip("link", "set", link, "up")
            self._ip("-n", space, "addr", "add", f"{theirs}/24", "dev", "eth0")
            self._ip("-n", space, "link", "set", "eth0", "up")
            self._ip("-n", space, "link", "set", "lo", "up")
            self.spaces[name] = (space, theirs)
        self.port = free_port()
        text = (ROOT / "config" / "haproxy.cfg").read_text().replace("bind :11112", f"bind 127.0.0.1:{self.port}")
        for place, (_, address) in enumerate(self.spaces.values(), 1):
            text = text.replace(f"10.0.0.{place}:", f"{address}:")
        (folder / "haproxy.cfg").write_text(text)

    def start(self, stack: ExitStack, name: str, *command: str) -> subprocess.Popen[bytes]:
        """Start a program in a namespace; it is killed at the end."""
        space, _ = self.spaces[name]
        process = subprocess.Popen(
            ["ip", "netns", "exec", space, *command], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        stack.enter_context(process)
        stack.callback(process.kill)
        return process

    @staticmethod
    def _ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def network(tmp_path: Path) -> Iterator[tuple[Network, ExitStack]]:
    missing = [program for program in ("ip", "haproxy", "storescu") if shutil.which(program) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root, iproute2, haproxy and dcmtk (missing: {', '.join(missing) or 'root'})")
    with ExitStack() as stack:
        try:
            made = Network(stack, tmp_path)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
        yield made, stack


def make_instances(folder: Path) -> list[Path]:
    folder.mkdir()
    plane = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
    for number in range(INSTANCES):
        plane.SOPInstanceUID = plane.file_meta.MediaStorageSOPInstanceUID = f"1.2.77.{number}"
        plane.save_as(folder / f"{number:02}.dcm")
    return sorted(folder.iterdir())


def is_sent(file: Path, address: str, port: int) -> bool:
    """Send one instance; whether it was acknowledged."""
    command = ["storescu", "--aetitle", "SENDER", "--call", "EXPORTER", address, str(port), str(file)]
    return subprocess.run(command, capture_output=True, check=False, timeout=100).returncode == 0


def is_accepted(network: Network, name: str) -> bool:
    """Whether somebody accepts connections at the address of a namespace."""
    command = [sys.executable, "-c", f"import socket; socket.create_connection({(network.spaces[name][1], PORT)}, 1)"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_a_spool_that_comes_up_elsewhere_leaves_one_record_of_every_acknowledged_instance(
    network: tuple[Network, ExitStack], tmp_path: Path
) -> None:
    net, stack = network
    files, shared = make_instances(tmp_path / "in"), tmp_path / "shared"
    daemons: dict[tuple[str, str], subprocess.Popen[bytes]] = {}
    for name in ("a", "b"):
        config = tmp_path / f"{name}.yml"
        config.write_text(
            f"listener: {{host: 0.0.0.0, port: {PORT}, allow_any: true}}\n"
            f"media: {{dir: {shared / name}}}\nnum_workers: 1\n"
        )
        options = ("--config", str(config), "--data", str(tmp_path / name))
        for role, module in (("listener", ("listener",)), ("exporter", ("exporter", "run"))):
            if (name, role) != ("a", "exporter"):  # that of the host that is lost has a backlog, and then none
                daemons[name, role] = net.start(stack, name, sys.executable, "-m", *module, *options)
        until(lambda name=name: is_accepted(net, name), seconds=100, describe="the listener answers")
    balancer = subprocess.Popen(["haproxy", "-db", "-f", str(tmp_path / "haproxy.cfg")], stderr=subprocess.DEVNULL)
    stack.enter_context(balancer)
    stack.callback(balancer.kill)
    until(lambda: answers(net.port), seconds=100, describe="the balancer answers")

    half = INSTANCES // 2
    for file in files[:half]:
        until(lambda file=file: is_sent(file, "127.0.0.1", net.port), seconds=100, describe="acknowledged")
    waiting = [path for path in (tmp_path / "a" / "spool" / "new").iterdir() if path.is_file()]
    assert 0 < len(waiting) < half, "both have some"
    daemons["a", "listener"].kill()  # `ip netns exec` becomes the program
    for file in files[half:]:
        until(lambda file=file: is_sent(file, "127.0.0.1", net.port), seconds=100, describe="acknowledged by the other")
    for file in files[:2]:  # an acknowledgement that did not arrive: the sender repeats, to the other one
        assert is_sent(file, net.spaces["b"][1], PORT)

    elsewhere = ("--config", str(tmp_path / "a.yml"), "--data", str(tmp_path / "a"))
    net.start(stack, "b", sys.executable, "-m", "exporter", "run", "--take-over", *elsewhere)
    for name in ("a", "b"):

        def is_settled(name: str = name) -> bool:
            said = json.loads(run("status", "--json", "--data", tmp_path / name).stdout)
            return bool(said["exported"]) and not said["pending"] and not said["active"]

        until(is_settled, seconds=100, describe="all is exported")
    done = run("metadata", "combine", f"a={tmp_path / 'a'}", f"b={tmp_path / 'b'}", "--to", shared / "all.jsonl")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (shared / "all.jsonl").read_text().splitlines()]
    assert sorted(line["SOP Instance UID"] for line in lines) == sorted(f"1.2.77.{one}" for one in range(INSTANCES))
    assert all((shared / line["media_file"]).is_file() for line in lines)
    assert {line["dicom_file"].partition("/")[0] for line in lines} == {"a", "b"}
    assert "0 duplicates" not in done.stdout
    for name in ("a", "b"):
        sound = run("reconcile", "--deep", "--data", tmp_path / name, "--config", tmp_path / f"{name}.yml")
        assert sound.returncode == 0, sound.stdout + sound.stderr
