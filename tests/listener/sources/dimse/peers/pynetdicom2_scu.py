"""A storage and verification SCU on pynetdicom2, in a process of its own: it leaves the files that it sends open.

pynetdicom2_scu.py HOST PORT CALLED plain|tls FILE...    an association for each file, in the file's transfer syntax
pynetdicom2_scu.py HOST PORT CALLED plain|tls            C-ECHO

Each line of the output is a file (or `echo`), a tab, and the status in hexadecimal or the kind of failure.
"""

from __future__ import annotations

import ssl
import sys
from typing import Any

from pydicom.filereader import read_file_meta_info
from pynetdicom2 import exceptions, sopclass, uids
from pynetdicom2.applicationentity import ClientAE
from pynetdicom2.asceprovider import RemoteAEConfig
from pynetdicom2.ssl_ae import SSLClientAE

TITLE = "PYNETDICOM2"


def say(*words: object) -> None:
    """A line of the output."""
    sys.stdout.write("\t".join(map(str, words)) + "\n")


def entity(way: str, syntaxes: list[str] | None = None) -> Any:
    """An application entity that proposes these transfer syntaxes, plain or over TLS."""
    if way == "plain":
        return ClientAE(TITLE, syntaxes)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return SSLClientAE(context, TITLE, syntaxes)


def main(host: str, port: str, called: str, way: str, *names: str) -> None:
    """As the module's first lines say."""
    remote = RemoteAEConfig(aet=called, address=host, port=int(port))
    if not names:
        ae = entity(way)
        ae.add_scu(sopclass.verification_scu)
        with ae.request_association(remote) as association:
            say("echo", f"{int(association.get_scu(uids.VERIFICATION_SOP_CLASS)(1)):x}")
    for name in names:
        meta = read_file_meta_info(name)
        ae = entity(way, [meta.TransferSyntaxUID])
        ae.add_scu(sopclass.storage_scu, [meta.MediaStorageSOPClassUID])
        try:
            with ae.request_association(remote) as association:
                status = association.get_scu(meta.MediaStorageSOPClassUID)(name, 1)
                say(name, f"{int(status):x}")
        except exceptions.NetDICOMError as error:
            say(name, type(error).__name__)


if __name__ == "__main__":
    main(*sys.argv[1:])
