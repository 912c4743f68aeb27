"""A storage and verification SCU on odil's own upper layer, run by the system's Python: Debian's python3-odil.

odil_scu.py HOST PORT CALLED [--user NAME] FILE...    one association for each transfer syntax: every class it needs
odil_scu.py HOST PORT CALLED [--user NAME]            C-ECHO

Each line of the output is a file, a tab, and `stored` or the kind of failure.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import odil

PresentationContext = odil.AssociationParameters.PresentationContext


def say(*words: object) -> None:
    """A line of the output."""
    sys.stdout.write("\t".join(map(str, words)) + "\n")


def associate(host: str, port: int, called: str, user: str | None, contexts: list[Any]) -> Any:
    """An established association; `user` asks for a positive answer to a user identity."""
    association = odil.Association()
    association.set_peer_host(host)
    association.set_peer_port(port)
    parameters = association.update_parameters()
    parameters.set_calling_ae_title("ODIL").set_called_ae_title(called).set_presentation_contexts(contexts)
    if user is not None:
        parameters.set_user_identity_to_username(user)
    association.associate()
    return association


def read(path: Path) -> tuple[str, str, Any] | None:
    """Transfer syntax, SOP class and data set of a file, if odil reads it."""
    try:
        meta, data_set = odil.Reader.read_file(str(path))
        syntax, sop_class = meta.as_string("TransferSyntaxUID")[0], data_set.as_string("SOPClassUID")[0]
        return str(syntax, "ascii"), str(sop_class, "ascii"), data_set
    except Exception as error:  # noqa: BLE001 - what it cannot read it cannot send
        say(path, type(error).__name__)
        return None


def store(host: str, port: int, called: str, user: str | None, paths: list[Path]) -> None:
    """Send files, each in its own transfer syntax; after a failure the rest of them goes on a new association."""
    waiting: dict[str, list[tuple[Path, str, Any]]] = {}
    for path in paths:
        if (found := read(path)) is not None:
            waiting.setdefault(found[0], []).append((path, *found[1:]))
    for syntax, rest in waiting.items():
        while rest:
            classes = sorted({sop_class for _, sop_class, _ in rest})
            contexts = [
                PresentationContext(2 * k + 1, sop_class, [syntax], PresentationContext.Role.SCU)
                for k, sop_class in enumerate(classes)
            ]
            association = associate(host, port, called, user, contexts)
            scu = odil.StoreSCU(association)
            while rest:
                path, _, data_set = rest.pop(0)
                try:
                    scu.set_affected_sop_class(data_set)
                    scu.store(data_set)
                except Exception as error:  # noqa: BLE001 - told, and the next one goes on
                    say(path, type(error).__name__, error)
                    break
                say(path, "stored")
            with suppress(Exception):  # after a failure it may be gone
                association.release()


def main(host: str, port: str, called: str, *rest: str) -> None:
    """As the module's first lines say."""
    user = rest[1] if rest[:1] == ("--user",) else None
    paths = [Path(name) for name in (rest[2:] if user is not None else rest)]
    if paths:
        store(host, int(port), called, user, paths)
        return
    verification = PresentationContext(
        3, odil.registry.Verification, [odil.registry.ImplicitVRLittleEndian], PresentationContext.Role.SCU
    )
    association = associate(host, int(port), called, user, [verification])
    odil.EchoSCU(association).echo()
    say("echo", "0")
    association.release()


if __name__ == "__main__":
    main(*sys.argv[1:])
