"""`nasmesh admin backup` and `restore` on real journals: whole or not at all, and epochs that only grow."""

import json
import re
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from nasmesh.errors import Conflict, Invalid, Stale, Unavailable
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import journal_pb2
from scheduler.admin.checking import check
from scheduler.admin.copying import EPOCH_STEP, backup, restore
from scheduler.journal.base import Batch
from scheduler.journal.sqlite import SqliteJournal
from tests.builders import journals
from tests.builders import scheduling as make
from tests.builders.admin_runs import Run, runner
from tests.builders.journals import Past, recovered


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run the program as `nasmesh admin` does."""
    monkeypatch.setenv("NASMESH_HOME", str(tmp_path / "home"))
    return runner(capsys)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def test_backup_when_a_scheduler_never_rests_then_whole_and_of_one_moment(path: Path, tmp_path: Path) -> None:
    journals.ended(path)
    journal = SqliteJournal(path)
    journal.open()
    first = last = max(journals.events_of(path)) + 1
    stop = threading.Event()

    def write() -> None:
        nonlocal last
        while not stop.is_set():
            drained = journal_pb2.JournalAgentDrained(agent=f"agents/a{last % 7}", draining=bool(last % 2))
            event = journal_pb2.JournalEvent(uptime_s=1e6, agent_drained=drained)
            journal.append(Batch(last, (event.SerializeToString(),)))
            last += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        copies = [backup(path, tmp_path / f"copy-{number}.db") for number in range(5)]
    finally:
        stop.set()
        writer.join()
        journal.close()
    assert last > first
    for copied in copies:
        assert sorted(journals.events_of(Path(copied.path))) == list(range(1, copied.last_event + 1))
        assert check(Path(copied.path)).violations == [], copied
        assert list(tmp_path.glob(f"{Path(copied.path).name}*")) == [Path(copied.path)], "one file"
    with pytest.raises(Conflict):
        backup(path, Path(copies[0].path))


def test_backup_when_the_journal_is_damaged_then_no_file_appears(path: Path, tmp_path: Path) -> None:
    journals.ended(path)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE event SET body = x'00' WHERE sequence = 7")
    with pytest.raises(Invalid, match="event 7"):
        backup(path, tmp_path / "copy.db")
    assert list(tmp_path.glob("copy*")) == []


def test_restore_when_done_then_the_past_goes_on_under_a_higher_epoch(path: Path, tmp_path: Path, run: Run) -> None:
    past = Past(path)
    past.create("s", max_trials=3)
    past.work("s", until=2)
    saved = backup(path, tmp_path / "saved.db")
    held = past.leases()
    assert restore_refused(tmp_path / "saved.db", path) == "JOURNAL_LOCKED"
    past.close()
    for _ in range(5):
        recovered(path).journal.close()
    assert restore_refused(tmp_path / "saved.db", path) == "JOURNAL_EXISTS"
    code, out, _ = run("restore", tmp_path / "saved.db", "--journal", path, "--force")
    assert code == 0
    assert "goes on: searches/s" in out
    assert "may run again" in out
    assert path.with_name("journal.db.before-1").exists()
    assert max(journals.events_of(path)) == saved.last_event
    past = Past(path)
    assert past.engine.state.epoch == 6 + EPOCH_STEP + 1
    late = make.make_outcome(held[0])
    past.session.sent.clear()
    past.report(late)
    assert past.session.sent[-1].outcome_reply.disposition == pb.OUTCOME_DISPOSITION_SUPERSEDED
    hello = make.make_hello("ahead")
    hello.epoch = 6
    assert past.engine.execute([partial(past.desk.hello, make.Recorder(), hello)])[0].name == "agents/ahead"
    hello.epoch = past.engine.state.epoch + 1
    assert isinstance(past.engine.execute([partial(past.desk.hello, make.Recorder(), hello)])[0], Stale)
    past.work("s")
    assert past.engine.state.searches["s"].state.name == "SUCCEEDED"
    past.close()
    assert check(path).violations == []


def restore_refused(source: Path, journal: Path) -> str:
    with pytest.raises((Conflict, Unavailable)) as caught:
        restore(source, journal)
    return caught.value.reason


def test_restore_when_the_backup_is_no_journal_then_refused_and_nothing_moved(path: Path, tmp_path: Path) -> None:
    journals.ended(path)
    before = path.read_bytes()
    (tmp_path / "junk.db").write_bytes(b"junk" * 5000)
    with pytest.raises(Invalid):
        restore(tmp_path / "junk.db", path, force=True)
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["journal.db", "journal.db.lock", "junk.db"]


def test_restore_when_a_log_lies_where_no_journal_is_then_it_is_not_taken_for_its_own(path: Path) -> None:
    past = Past(path)
    past.create("s", max_trials=3)
    saved = backup(path, path.with_name("saved.db"))
    past.work("s")
    log = path.with_name("journal.db-wal").read_bytes()
    past.close()
    path.unlink()
    path.with_name("journal.db-wal").write_bytes(log)
    done = restore(Path(saved.path), path)
    assert done.aside.endswith("journal.db.before-1")
    assert path.with_name("journal.db.before-1-wal").read_bytes() == log
    engine = recovered(path)
    assert engine.state.sequence == saved.last_event + 1
    engine.journal.close()


def test_restore_when_the_log_of_a_killed_scheduler_is_lost_then_what_is_left_goes_on(path: Path) -> None:
    past = Past(path)
    past.create("s", max_trials=3)
    past.work("s", until=2)
    alone = shutil.copy(path, path.with_name("alone.db"))  # as a copy without the -wal file would be
    assert check(path).violations == []
    past.close()
    assert check(path).violations == [], "a scheduler that ended has folded its log in"
    assert [(found.invariant, "alone.db-wal" in found.what) for found in check(Path(alone)).violations][:1] == [
        ("FILE", True)
    ]
    with pytest.raises(Invalid, match=r"alone.db-wal .* put it back") as caught:
        SqliteJournal(Path(alone)).open()
    assert caught.value.reason == "JOURNAL_INCOMPLETE"
    assert "nasmesh admin restore" in caught.value.message
    done = restore(Path(alone), Path(alone), force=True)
    assert done.epoch > EPOCH_STEP
    recovered(Path(alone)).journal.close()


def test_json_when_printed_then_names_are_as_in_protobufs_json(path: Path, tmp_path: Path, run: Run) -> None:
    journals.ended(path)
    copy, other = tmp_path / "copy.db", tmp_path / "other.db"
    names: set[str] = set()
    for arguments in (
        ("check", "--journal", path),
        ("explain", "s-t1-train", "--journal", path),
        ("backup", copy, "--journal", path),
        ("restore", copy, "--journal", other),
        ("compact", "--journal", path),
    ):
        code, out, err = run(*arguments, "--json")
        assert code == 0, err
        names |= set(names_in(json.loads(out)))
    assert {"lastEvent", "timeUs", "sizeBytes", "openSearches", "bytesAfter", "deviceTimeS"} <= names
    assert not [name for name in names if not re.fullmatch(r"[a-z][a-zA-Z0-9]*|[A-Z]+", name)], names


def names_in(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for name, found in value.items():
            yield name
            yield from names_in(found)
    elif isinstance(value, list):
        for found in value:
            yield from names_in(found)
