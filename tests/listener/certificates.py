"""Certificates for tests, made by openssl."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


def make_certificate(folder: Path, name: str, *, days: int = 100, signed_by: Path | None = None) -> Path:
    """A certificate for localhost and 127.0.0.1, with its key in one PEM file; self-signed without `signed_by`."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    key, certificate, both = folder / f"{name}.key", folder / f"{name}.crt", folder / f"{name}.pem"
    arguments = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    arguments += ["-keyout", str(key), "-out", str(certificate), "-days", str(days), "-subj", f"/CN={name}"]
    arguments += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    if signed_by is not None:
        arguments += ["-CA", str(signed_by), "-CAkey", str(signed_by), "-addext", "basicConstraints=critical,CA:FALSE"]
    subprocess.run(arguments, check=True, capture_output=True)
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    return both


_AUTHORITY = """\
[ca]
default_ca = here
[here]
database = {folder}/{name}.index
new_certs_dir = {folder}
default_md = sha256
rand_serial = yes
policy = any
[any]
commonName = supplied
"""


def make_expired_certificate(folder: Path, name: str, *, signed_by: Path | None = None) -> Path:
    """A certificate for localhost that was valid in January 2020 alone, with its key in one PEM file."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    key, request, certificate, both = (folder / f"{name}.{ending}" for ending in ("key", "csr", "crt", "pem"))
    (folder / f"{name}.index").touch()
    (folder / f"{name}.ca").write_text(_AUTHORITY.format(folder=folder, name=name))
    (folder / f"{name}.ext").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    ask = ["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}"]
    sign = ["ca", "-batch", "-config", str(folder / f"{name}.ca"), "-notext"]
    sign += ["-startdate", "20200101000000Z", "-enddate", "20200131000000Z", "-extfile", str(folder / f"{name}.ext")]
    if signed_by is None:
        sign += ["-selfsign", "-keyfile", str(key)]
    else:
        sign += ["-cert", str(signed_by), "-keyfile", str(signed_by)]
    for arguments in (
        [*ask, "-keyout", str(key), "-out", str(request)],
        [*sign, "-in", str(request), "-out", str(certificate)],
    ):
        subprocess.run([openssl, *arguments], check=True, capture_output=True)
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    return both
