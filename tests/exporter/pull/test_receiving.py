"""What is here, and who receives: the spool's index, the ledger, a running listener, one of our own."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from exporter.outcome import InstanceIdentity
from exporter.privacy.input_names import InputNames
from exporter.privacy.pseudonyms import Pseudonyms
from exporter.pull.arrivals import Arrivals, media_storage_uid
from exporter.pull.finding import FoundInstance, PullTarget
from exporter.pull.journal import JournalUnusable, PullJournal, Question, QuestionState, TargetState
from exporter.pull.outcome import RowState
from exporter.results.ledger import InstanceStatus, Ledger
from listener.spool.errors import SpoolBusy
from listener.spool.spool import Spool
from tests.exporter.ledger_rows import begin, finish
from tests.exporter.pull.odd_peer import OddPeer
from tests.exporter.pull.running import Puller
from tests.listener.requestor import Receiver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.exporter.pull.conftest import Made


@contextmanager
def opened(root: Path) -> Iterator[tuple[PullJournal, Spool, Arrivals]]:
    with Spool.open(root / "spool") as spool, PullJournal.open(root / "pull" / "journal.db") as journal:
        arrivals = Arrivals(journal, root / "spool", root / "exporter.db")
        try:
            yield journal, spool, arrivals
        finally:
            arrivals.close()


def put(spool: Spool, path: Path) -> str:
    incoming = spool.receive()
    incoming.write([path.read_bytes()])
    return incoming.commit().name


def test_an_instance_is_here_in_the_spool_in_quarantine_or_by_the_ledger(tmp_path: Path, forty: Made) -> None:
    first, second, third = forty.studies[0].instances
    files = forty.studies[0].files
    with opened(tmp_path) as (_, spool, arrivals):
        put(spool, files[0])
        arrivals.start()
        assert arrivals.held([first, second, third]) == {first}
        put(spool, files[1])
        arrivals.take_in_new()
        assert arrivals.held([first, second, third]) == {first, second}
        items = {item.name: item for item in spool.pending()}
        for item in items.values():
            claimed = spool.claim(item)
            assert claimed is not None
            spool.quarantine(claimed, "corrupt_pixels", {})
        arrivals.take_in_new(thorough=True)
        assert arrivals.held([first, second, third]) == {first, second}
        with Ledger.open(tmp_path / "exporter.db") as ledger:
            begin(ledger, "x.dcm", size_bytes=1, mtime_ns=1, source="spool")
            identity = InstanceIdentity("1.2", third, forty.studies[0].uid, forty.studies[0].series[1], "00")
            assert arrivals.held([third]) == set()
            finish(ledger, "x.dcm", state=InstanceStatus.SKIPPED, reason="no_media", identity=identity)
            assert arrivals.held([third]) == {third}
            assert arrivals.counted(PullTarget(forty.studies[0].uid), 1 << 60) == 1


def test_what_has_left_the_spool_and_is_in_no_ledger_is_forgotten_at_the_next_start(
    tmp_path: Path, forty: Made
) -> None:
    uid = forty.studies[0].instances[0]
    with opened(tmp_path) as (_, spool, arrivals):
        name = put(spool, forty.files[0])
        arrivals.start()
        assert arrivals.held([uid]) == {uid}
        (tmp_path / "spool" / "new" / name).unlink()
    with opened(tmp_path) as (_, _, arrivals):
        arrivals.start()
        assert arrivals.held([uid]) == set()


def test_the_uid_of_a_file_is_read_from_its_meta_information(forty: Made) -> None:
    head = forty.files[0].read_bytes()[:1024]
    assert media_storage_uid(head) == forty.studies[0].instances[0]
    assert not media_storage_uid(b"")
    assert not media_storage_uid(head[:150])
    assert not media_storage_uid(bytes(1024))
    for length in range(132, len(head)):
        media_storage_uid(head[:length])


def test_many_files_are_taken_in_once_and_a_look_after_that_is_quick(tmp_path: Path) -> None:
    with opened(tmp_path) as (_, _, arrivals):
        new = tmp_path / "spool" / "new"
        for number in range(20_000):
            (new / f"{number + 10**18:020d}-{number:016x}.dcm").touch()
        arrivals.start()
        started = time.monotonic()
        assert arrivals.take_in_new() == 0
        assert time.monotonic() - started < 2


def test_a_journal_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pull").mkdir()
    path = tmp_path / "pull" / "journal.db"
    path.write_bytes(b"no database" * 100)
    with pytest.raises(JournalUnusable, match="move it away"):
        PullJournal.open(path)


def test_a_new_run_asks_again_what_came_to_nothing_and_one_that_was_cut_off_does_not(tmp_path: Path) -> None:
    path = tmp_path / "pull" / "journal.db"
    lost = FoundInstance("1.2.3", "1.2", "")
    with PullJournal.open(path) as journal:
        assert not journal.begin_run("cohort", ["a", "b", "c"])
        journal.record_answer("a", Question(QuestionState.FOUND, "", 0), "peer", [PullTarget("1"), PullTarget("2")])
        journal.record_answer("b", Question(QuestionState.NOT_FOUND, "nothing matches", 0), "peer", [])
        one, two = journal.tasks("a")
        journal.begun(one, 3)
        journal.ended(one, TargetState.COMPLETE, expected=3)
        journal.begun(two, 3)
        journal.ended(two, TargetState.INCOMPLETE, expected=3, missing=[lost], problem="x")
        assert journal.missing(two) == [FoundInstance("1.2.3", "1.2", "")]
    with PullJournal.open(path) as journal:
        assert journal.begin_run("cohort", ["a", "b", "c"])  # goes on
        assert journal.question("b") is not None
        assert [task.state for task in journal.tasks("a")] == [TargetState.COMPLETE, TargetState.INCOMPLETE]
        journal.end_run("cohort")
        assert not journal.begin_run("cohort", ["a", "b", "c"])
        assert journal.question("b") is None
        states = [(task.state, task.attempts) for task in journal.tasks("a")]
        assert states == [(TargetState.COMPLETE, 1), (TargetState.WAITING, 0)]
        assert not journal.begin_run("cohort", ["a"], again=True)
        assert journal.question("a") is None


def test_a_running_listener_receives(tmp_path: Path, forty: Made) -> None:
    puller = Puller(tmp_path, "ODD", 0, {"times": {"settle_s": 5}})
    puller.write(["StudyInstanceUID", forty.studies[0].uid])
    running = Receiver(puller.data, {"listener": {"port": puller.listener_port}})
    try:
        with OddPeer(forty.studies[0].files, puller.listener_port) as peer:
            puller.port = peer.port
            assert puller.pull().is_all_well
        assert running.count("instances_stored") == 3
    finally:
        running.daemon.stop()


@pytest.mark.slow
def test_beside_a_running_listener_that_starts_again_c_get_loses_nothing(tmp_path: Path, forty: Made) -> None:
    """A listener that starts empties `tmp/`: what is under way there is refused, and asked for again."""
    puller = Puller(tmp_path, "ODD", 0, {"method": "get", "attempts": 20, "parallel": 1})
    puller.write(["StudyInstanceUID", *(study.uid for study in forty.studies[:6])])
    stop = threading.Event()

    def restart() -> None:
        while not stop.is_set():
            running = Receiver(puller.data, {"listener": {"port": 0}})
            stop.wait(0.05)
            running.daemon.stop()

    files = [file for study in forty.studies[:6] for file in study.files]
    with OddPeer(files, 1) as peer:
        puller.port = peer.port
        thread = threading.Thread(target=restart)
        thread.start()
        try:
            summary = puller.pull()
        finally:
            stop.set()
            thread.join()
    assert summary.is_all_well, summary
    assert summary.instances == (18, 0)


def test_a_second_pull_on_the_same_data_folder_is_refused(tmp_path: Path, forty: Made) -> None:
    puller = Puller(tmp_path, "ODD", 1)
    puller.write(["StudyInstanceUID", forty.studies[0].uid])
    with Spool.open(puller.data / "spool") as spool, spool.lock("pull"), pytest.raises(SpoolBusy, match="another pull"):
        puller.pull()


def test_what_is_here_already_is_not_asked_for(tmp_path: Path, forty: Made) -> None:
    puller = Puller(tmp_path, "ODD", 0)
    puller.write(["StudyInstanceUID", forty.studies[0].uid])
    with Spool.open(puller.data / "spool") as spool:
        for file in forty.studies[0].files:
            put(spool, file)
    with OddPeer(forty.studies[0].files, puller.listener_port) as peer:
        puller.port = peer.port
        (outcome,) = puller.pull().outcomes
    assert outcome.state is RowState.COMPLETE
    assert not peer.moved


def test_an_instance_that_was_de_identified_is_here_by_its_pseudonym(tmp_path: Path) -> None:
    names = InputNames(Pseudonyms(b"k" * 32))
    asked = PullTarget(study="1.2.1", series="1.2.2")
    identity = InstanceIdentity("1.2", names.uid("1.2.3"), names.uid("1.2.1"), names.uid("1.2.2"), "c" * 64)
    with Ledger.open(tmp_path / "exporter.db") as ledger:
        begin(ledger, "1")
        finish(ledger, "1", identity=identity)
    with Spool.open(tmp_path / "spool"), PullJournal.open(tmp_path / "pull" / "journal.db") as journal:
        arrivals = Arrivals(journal, tmp_path / "spool", tmp_path / "exporter.db", names)
        try:
            assert arrivals.held(["1.2.3", "1.2.4"]) == {"1.2.3"}
            assert arrivals.counted(asked, since=0) == 1
        finally:
            arrivals.close()
