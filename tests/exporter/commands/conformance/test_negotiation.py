"""Over real associations, the listener accepts exactly what the tables of its conformance statement say.

Proposals and the reading of answers are those of `engine_probe`, the expectation is read from the statement's Markdown:
nothing of the product decides what is right here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest
from pydicom._uid_dict import UID_dictionary

from exporter.commands.conformance.statement import statement
from exporter.settings.settings import Settings
from tests.exporter.commands.conformance import reading
from tests.listener.requestor import VERIFICATION, Receiver
from tests.listener.sources.dimse import engine_probe
from tests.listener.sources.dimse.engine_probe import ROLES, Answer, Proposal

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMITMENT: Final = "1.2.840.10008.1.20.1"
SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "default": {},
    "commitment": {"ae_title": "EXPORTER", "commitment": {"enabled": True}, "mismatch": "accept", "damaged": "accept"},
    "pynetdicom": {"engine": "pynetdicom"},
}
ROLE_NAMES: Final = {None: "none", (1, 0): "SCU", (0, 1): "SCP", (1, 1): "SCU and SCP"}
ROLE_ANSWERS: Final = {"SCU": (1, 0), "SCP": (0, 1), "SCU and SCP": (1, 1), "neither": (0, 0)}
LAST: Final = "1.2.840.10008.1.2.2"
"""In the order of transfer syntaxes: those behind it are private, unknown, and last of all references."""

pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
]


class Stated:
    """What a statement says about presentation contexts."""

    def __init__(self, text: str) -> None:
        rows = reading.table(text, "Table 1-1. ")
        self.classes = {reading.plain(row[1]): row[3] == "Y" for row in rows}
        self.unlisted = [(row[0], row[1] == "Y") for row in reading.table(text, "Table 1-1a. ")]
        self.order = [reading.plain(row[2]) for row in reading.table(text, "Table 1-2. ")]
        contexts = {reading.plain(row[1]): row[2] for row in reading.table(text, "Table 7-1. ")}
        self.commits = COMMITMENT in contexts
        of_verification = contexts[VERIFICATION]
        self.verification = None
        if not of_verification.startswith("ALL"):
            self.verification = [reading.plain(uid) for uid in of_verification.split(", ")]
        self.roles = {row[0]: row[1:] for row in reading.table(text, "Table 7-2. ")}

    def answer(self, proposal: Proposal, role: tuple[int, int] | None) -> Answer:
        """The answer to expect; role None where the statement says none."""
        uid, syntaxes = proposal
        is_verification = uid == VERIFICATION
        if not is_verification and not self.accepts(uid):
            return Answer(3, "", None)
        said = self.roles[ROLE_NAMES[role]][1 if is_verification else 0]
        outcome, _, answered = said.partition("; ")
        if outcome == "refused (1)":
            return Answer(1, "", ROLE_ANSWERS[answered.removeprefix("answer ")])
        taken = self.taken(syntaxes, self.verification if is_verification else None)
        if taken is None:
            return Answer(4, "", None)
        return Answer(0, taken, ROLE_ANSWERS.get(answered.removeprefix("answer ")))

    def accepts(self, uid: str) -> bool:
        """Whether a class other than Verification is accepted."""
        if uid == COMMITMENT:
            return self.commits
        if uid in UID_dictionary:
            return self.classes.get(uid, False)
        private, below_storage, other = (accepted for _, accepted in self.unlisted)
        if not uid.startswith("1.2.840.10008."):
            return private
        return below_storage if uid.startswith("1.2.840.10008.5.1.4.1.1.") else other

    def taken(self, syntaxes: tuple[str, ...], only: list[str] | None) -> str | None:
        """The transfer syntax that is taken of a proposal."""
        if only is not None:
            return next((uid for uid in only if uid in syntaxes), None)
        return min(syntaxes, key=self.rank)

    def rank(self, uid: str) -> int:
        """Place in the order of Table 1-2, where what stands before explicit little endian is of equal rank."""
        first = self.order.index("1.2.840.10008.1.2.1")
        at = self.order.index(uid) if uid in self.order else self.order.index(LAST) + 1
        return max(at, first - 1)


def test_the_tables_of_the_statement_are_read() -> None:
    stated = Stated(reading.DOCUMENT.read_text())
    assert len(stated.classes) > 190
    assert len(stated.order) == len(set(stated.order)) > 50
    assert [accepted for _, accepted in stated.unlisted] == [True, True, False]
    assert not stated.commits


def stated_text(name: str) -> str:
    """The statement of some settings; that of the defaults is committed."""
    if not SETTINGS[name]:
        return reading.DOCUMENT.read_text()
    return statement(Settings.model_validate({"listener": SETTINGS[name]}, strict=False), is_default=False)


@pytest.fixture(scope="module", params=SETTINGS)
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Receiver, Stated]]:
    """A listener with some settings, and its statement."""
    section = SETTINGS[request.param]
    receiver = Receiver(tmp_path_factory.mktemp(request.param), {"listener": section})
    yield receiver, Stated(stated_text(request.param))
    receiver.daemon.stop()


def differences(receiver: Receiver, stated: Stated, asked: list[Proposal]) -> list[tuple[Any, ...]]:
    """Contexts that are answered otherwise than stated, in every role."""
    found = []
    for role in ROLES:
        for start in range(0, len(asked), engine_probe.MOST_CONTEXTS):
            part = asked[start : start + engine_probe.MOST_CONTEXTS]
            for proposal, answer in zip(part, engine_probe.propose(receiver.port, part, role), strict=True):
                expected = stated.answer(proposal, role)
                says_role = expected.result in {0, 1}
                if answer[:2] != expected[:2] or (says_role and answer.role != expected.role):
                    found.append((proposal, role, answer, expected))
    return found


def test_every_class_transfer_syntax_and_role_is_answered_as_stated(served: tuple[Receiver, Stated]) -> None:
    assert differences(*served, engine_probe.proposals(every=False)) == []


@pytest.mark.slow
def test_every_pair_of_class_and_transfer_syntax_is_too(served: tuple[Receiver, Stated]) -> None:
    assert differences(*served, engine_probe.proposals(every=True)) == []


@pytest.mark.slow
def test_a_statement_of_other_settings_is_found_to_be_wrong(served: tuple[Receiver, Stated]) -> None:
    """The probe can fail: each listener is held against the statements that are not its own."""
    receiver, stated = served
    others = [Stated(stated_text(name)) for name in SETTINGS]
    asked = engine_probe.proposals(every=False)
    right = [differences(receiver, other, asked) == [] for other in others]
    assert right.count(True) == 1
    assert vars(others[right.index(True)]) == vars(stated)
