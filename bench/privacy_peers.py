"""Tokens that de-identification leaves, ours and that of others: `python -m bench.privacy_peers`.

Twelve kinds of instance with a token in every attribute that can hold one, in private elements and around the data set,
are given to each program with the options that its documentation names for the Basic Profile. Peers from the package
index are installed into throw-away environments; those that are not there, or fail to start, are named. A token counts
as left if its bytes are in any file that the program wrote. Printed is one table, by kind of attribute, with the files
that were refused, the elements of the CT image that research needs and that were lost or changed, and the references
to it that no longer hold. A program that refuses every instance gets them once more without the tokens in bytes (OB,
OW, ...); its row says so.

Must never: change an environment that is not its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import venv
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Final

from pydicom import Dataset, dcmread
from pydicom.datadict import dictionary_VR, tag_for_keyword

from tests.exporter.privacy.kinds import KINDS, STORAGE, planted_file
from tests.exporter.work.test_deidentification import KEPT_ELEMENTS
from tests.orthanc_server import OrthancRefused, OrthancServer

if TYPE_CHECKING:
    from collections.abc import Callable

LONGEST_S: Final = 300
COLUMNS: Final = ("names", "texts", "dates", "UIDs", "words", "bytes", "around")
_BY_VR: Final = {
    **dict.fromkeys(("PN",), "names"),
    **dict.fromkeys(("LO", "LT", "SH", "ST", "UC", "UT"), "texts"),
    **dict.fromkeys(("DA", "DT", "TM"), "dates"),
    **dict.fromkeys(("UI",), "UIDs"),
    **dict.fromkeys(("AE", "AS", "CS", "UR"), "words"),
}
DEID: Final = """
import sys
from pathlib import Path
from deid.dicom import get_files, replace_identifiers
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        replace_identifiers(dicom_files=[str(path)], output_folder=sys.argv[2], save=True, remove_private=True)
    except Exception as error:
        print(type(error).__name__)
"""


DCMANON: Final = """
import sys
from pathlib import Path
from dcmanon import Anonymizer
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        (Path(sys.argv[2]) / path.name).write_bytes(Anonymizer().anonymize(str(path)))
    except Exception as error:
        print(type(error).__name__)
"""
OWN: Final = {
    "PatientID": "TOKPATIENTQ",
    "StudyInstanceUID": "1.2.826.0.1.999997.1",
    "SeriesInstanceUID": "1.2.826.0.1.999997.2",
}
"""Elements at the top without which some programs take no file; their tokens count as others do."""
ENCRYPTED: Final = ("EncryptedAttributesSequence", "EncryptedContentTransferSyntaxUID", "EncryptedContent")
"""Elements of an instance that was de-identified before: gdcmanon refuses it."""


REFERRING: Final = ("presentation", "structures", "report")
"""Kinds of which each gets a reference to the CT image."""
CT_UID: Final = "1.2.826.0.1.999996.2"


class PeerUnusable(Exception):
    """A program is not there, or does not start."""


@dataclass(frozen=True, slots=True)
class DeidentifyingPeer:
    """A program that de-identifies a folder of files."""

    name: str
    requirement: str | None
    """Package and version for a throw-away environment; None where it is a program on the path, or ours."""
    run: Callable[[Path, Path, Path], None]
    """Runs it: folder of its programs, folder of input, folder of output."""


def called(program: Path | str, *words: object, accepts: tuple[int, ...] = (0,)) -> None:
    """Run a program.

    Raises:
        PeerUnusable: It is not there, does not end, or ends otherwise than it should.
    """
    try:
        done = subprocess.run(
            [str(program), *map(str, words)], capture_output=True, text=True, check=False, timeout=LONGEST_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerUnusable(type(error).__name__) from error
    if done.returncode not in accepts:
        last = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise PeerUnusable(f"exit code {done.returncode}: {last[:120]}")


def each(program: Path | str, words: Callable[[Path, Path], list[object]], source: Path, output: Path) -> None:
    """Run a program once for each file; files that it refuses leave no output.

    Raises:
        PeerUnusable: It refuses every one.
    """
    problem = None
    for path in sorted(source.iterdir()):
        try:
            called(program, *words(path, output / path.name))
        except PeerUnusable as error:
            problem = error
    if problem is not None and not [*output.iterdir()]:
        raise problem


def _ours(_: Path, source: Path, output: Path) -> None:
    key, config = output.parent / "key", output.parent / "exporter.yml"
    key.write_bytes(b"k" * 32)
    key.chmod(0o600)
    config.write_text(f"privacy: {{profile: basic, key_file: {key}, write_dicom: true}}\n")
    words = ("-m", "exporter", "backfill", source, "--output", output, "--config", config)
    called(sys.executable, *words, accepts=(0, 3))


def _dicom_anonymizer(programs: Path, source: Path, output: Path) -> None:
    each(programs / "dicom-anonymizer", lambda path, out: [path, out], source, output)


def _dicognito(programs: Path, source: Path, output: Path) -> None:
    for path in sorted(source.iterdir()):
        called(
            programs / "python", "-m", "dicognito", path, "--output-directory", output, "--seed", "s", accepts=(0, 1)
        )


def _deid(programs: Path, source: Path, output: Path) -> None:
    called(programs / "python", "-c", DEID, source, output)


def _dentdeid(programs: Path, source: Path, output: Path) -> None:
    words = ("run", source, "-o", output, "-p", "share", "--no-previews", "--ocr", "off")
    called(programs / "dentdeid", *words, accepts=(0, 1, 2, 3))


def _dcm_anonymizer(programs: Path, source: Path, output: Path) -> None:
    called(programs / "dcm-anon", source, output, "--continue-on-error", accepts=(0, 1))


def _dcmanon(programs: Path, source: Path, output: Path) -> None:
    called(programs / "python", "-c", DCMANON, source, output)


def _gdcmanon(_: Path, source: Path, output: Path) -> None:
    """Instances that say that they were de-identified before are refused: these get no such statement."""
    plain = output.parent / "plain"
    plain.mkdir(exist_ok=True)
    for path in source.iterdir():
        data_set = dcmread(path)
        for keyword in ("PatientIdentityRemoved", "DeidentificationMethod"):
            if keyword in data_set:
                del data_set[keyword]
        data_set.save_as(plain / path.name)
    key, certificate = output.parent / "gdcm.key", output.parent / "gdcm.pem"
    words = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-keyout", key, "-out", certificate)
    called("openssl", *words)
    each("gdcmanon", lambda path, out: ["-e", "-c", certificate, "-i", path, "-o", out], plain, output)


def _orthanc(_: Path, source: Path, output: Path) -> None:
    program = which("Orthanc")
    if program is None:
        raise PeerUnusable("not installed")
    with OrthancServer(program, output.parent / "orthanc") as server:
        for path in sorted(source.iterdir()):
            try:
                added = server.add(path.read_bytes())
                anonymized = server.rest(f"/instances/{added}/anonymize", b"{}")
            except OrthancRefused:
                continue
            (output / path.name).write_bytes(anonymized)


PEERS: Final = (
    DeidentifyingPeer("exporter (ours)", None, _ours),
    DeidentifyingPeer("dentdeid 0.1.0, allow-list", "dentdeid==0.1.0", _dentdeid),
    DeidentifyingPeer("dicom-anonymizer 2.1.0", "dicom-anonymizer==2.1.0", _dicom_anonymizer),
    DeidentifyingPeer("dicognito 0.19.0", "dicognito==0.19.0", _dicognito),
    DeidentifyingPeer("deid 0.4.13", "deid==0.4.13", _deid),
    DeidentifyingPeer("dcm-anonymizer 0.5.0", "dcm-anonymizer==0.5.0", _dcm_anonymizer),
    DeidentifyingPeer("dcmanon 0.3.1", "dcmanon==0.3.1", _dcmanon),
    DeidentifyingPeer("gdcmanon (Debian)", None, _gdcmanon),
    DeidentifyingPeer("Orthanc (Debian)", None, _orthanc),
)


def kind_of(tag: int) -> str:
    """Column of a token that was planted in an attribute; 0 stands for what is around the data set, or private."""
    if not tag:
        return "around"
    try:
        return _BY_VR.get(dictionary_VR(tag).split(" or ", maxsplit=1)[0], "bytes")
    except KeyError:
        return "around"


def left_by(output: Path, tokens: dict[str, int]) -> Counter[str]:
    """Tokens in the files of an output, by column."""
    data = b"\n".join(path.read_bytes() for path in sorted(output.rglob("*")) if path.is_file())
    return Counter(kind_of(tag) for token, tag in tokens.items() if token.encode() in data)


def installed(requirement: str, folder: Path) -> Path:
    """Install a package into a new environment.

    Returns:
        Folder of its programs.

    Raises:
        PeerUnusable: It cannot be installed.
    """
    venv.create(folder, with_pip=True)
    called(folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", requirement)
    return folder / "bin"


def plant(path: Path, kind: str, seed: int, number: int) -> dict[str, int]:
    """Write an instance of a kind that every program takes.

    Returns:
        Tags by token.
    """
    tokens = planted_file(path, kind, seed, **OWN, **(KEPT_ELEMENTS if kind == "ct" else {}))
    data_set = dcmread(path)
    if kind in REFERRING:
        image, series = Dataset(), Dataset()
        image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = STORAGE + KINDS["ct"][0], CT_UID
        series.SeriesInstanceUID, series.ReferencedImageSequence = OWN["SeriesInstanceUID"], [image]
        data_set.ReferencedSeriesSequence = [*data_set.ReferencedSeriesSequence, series]
    uid = f"1.2.826.0.1.999996.{number}"
    data_set.SOPInstanceUID = data_set.file_meta.MediaStorageSOPInstanceUID = uid
    waiting = [data_set]
    while waiting:
        place = waiting.pop()
        for element in (*ENCRYPTED, 0xFFFEE0DD):  # and the delimiter behind the pixel data of a video
            if element in place:
                del place[element]
        waiting += (item for element in place if element.VR == "SQ" for item in element.value)
    data_set.save_as(path)
    content = path.read_bytes()
    planted = tokens | {uid: tag_for_keyword("SOPInstanceUID") or 0}
    planted |= {value: tag_for_keyword(keyword) or 0 for keyword, value in OWN.items()}
    return {token: tag for token, tag in planted.items() if token.encode() in content}


def written_by(output: Path) -> dict[str, Dataset]:
    """The DICOM files of an output by kind of instance."""
    kinds = {STORAGE + suffix: kind for kind, (suffix, _) in KINDS.items()}
    found: dict[str, Dataset] = {}
    for path in sorted(output.rglob("*")):
        if path.is_file() and path.read_bytes()[128:132] == b"DICM":
            data_set = dcmread(path, stop_before_pixels=True)
            found[kinds.get(str(data_set.get("SOPClassUID")), path.stem)] = data_set  # some drop even the class
    return found


def lost_by(written: dict[str, Dataset], source: Path) -> str:
    """Elements of the CT image that were lost or changed, of all that research needs."""
    if "ct" not in written:
        return "refused"
    before = dcmread(source / "ct.dcm", stop_before_pixels=True)
    lost = [key for key in KEPT_ELEMENTS if str(written["ct"].get(key)) != str(before.get(key))]
    return f"{len(lost)} of {len(KEPT_ELEMENTS)}"


def broken_by(written: dict[str, Dataset]) -> str:
    """References to the CT image that no longer name it, or are gone, of those in files that were written."""
    if "ct" not in written:
        return "refused"
    there = [written[kind] for kind in REFERRING if kind in written]
    uid = str(written["ct"].get("SOPInstanceUID"))
    held = sum(1 for data_set in there if uid in referenced(data_set))
    return f"{len(there) - held} of {len(there)}"


def referenced(data_set: Dataset) -> set[str]:
    """The instances that the series lists of a data set refer to."""
    series = data_set.get("ReferencedSeriesSequence") or ()
    return {
        str(image.get("ReferencedSOPInstanceUID"))
        for one in series
        for image in one.get("ReferencedImageSequence") or ()
    }


def without_bytes(source: Path, target: Path) -> None:
    """Write the instances of a folder without the tokens in bytes."""
    target.mkdir()
    for path in sorted(source.iterdir()):
        data_set = dcmread(path)
        waiting = [data_set]
        while waiting:
            place = waiting.pop()
            for element in list(place):
                if element.VR == "SQ":
                    waiting += element.value
                elif isinstance(element.value, bytes) and b"TOK" in element.value and element.keyword != "PixelData":
                    del place[element.tag]
        data_set.save_as(target / path.name)


def row_of(peer: DeidentifyingPeer, source: Path, root: Path, tokens: dict[str, int]) -> str:
    """Row of the table for one program."""
    output = root / "out"
    output.mkdir(parents=True)
    note = ""
    try:
        programs = installed(peer.requirement, root / "venv") if peer.requirement else Path()
        with suppress(PeerUnusable):
            peer.run(programs, source, output)
        if not any(path.is_file() for path in output.rglob("*")):
            note = " (without bytes)"
            without_bytes(source, root / "in")
            peer.run(programs, root / "in", output)
    except PeerUnusable as error:
        return f"| {peer.name} | not run: {error} |" + " |" * (len(COLUMNS) + 3)
    left, written = left_by(output, tokens), written_by(output)
    cells = " | ".join(str(left[column]) for column in COLUMNS)
    refused = ", ".join(kind for kind in KINDS if kind not in written) or "none"
    found = f"{refused} | {lost_by(written, source)} | {broken_by(written)}"
    return f"| {peer.name}{note} | {left.total()} | {cells} | {found} |"


def main() -> None:
    """Plant, run every program, print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.privacy_peers", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="programs whose name contains this word")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        source = root / "in"
        source.mkdir()
        tokens: dict[str, int] = {}
        for number, kind in enumerate(KINDS):
            tokens |= plant(source / f"{kind}.dcm", kind, options.seed, number)
        planted = Counter(map(kind_of, tokens.values()))
        print(f"| program | left | {' | '.join(COLUMNS)} | no file for | elements lost | references broken |")
        print("|---|" + "---|" * (len(COLUMNS) + 4))
        print(f"| planted | {planted.total()} | " + " | ".join(str(planted[one]) for one in COLUMNS) + " | | | |")
        for number, peer in enumerate(PEERS):
            if options.only in peer.name:
                print(row_of(peer, source, root / str(number), tokens), flush=True)


if __name__ == "__main__":
    main()
