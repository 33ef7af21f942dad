"""Journals that are no good, given to the real program: refused with what to do, nothing served, nothing harmed."""

import asyncio
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nasmesh.clock import ManualClock, seeded_random
from nasmesh.errors import Conflict, Invalid, NasmeshError
from nasmesh.rpc.channel import errors_from_rpc
from nasmesh.v1 import journal_pb2, search_pb2
from scheduler.engine import Engine
from scheduler.journal.base import Batch
from scheduler.journal.sqlite import SqliteJournal
from tests.builders import journals
from tests.builders import scheduling as make
from tests.builders.scheduler_server import client, create, working

ROOT = Path(__file__).parents[2]
Spoil = Callable[[Path], None]


@contextmanager
def program(journal: Path, *, user: int = 0) -> Iterator[subprocess.Popen[str]]:
    """Run `python -m scheduler` on a journal; `user`: as somebody else, who may not read the interpreter's files."""
    as_user = f"import os, sys, scheduler.__main__ as m; os.seteuid({user}); sys.exit(m.main())"
    command = [sys.executable, *(("-c", as_user) if user else ("-m", "scheduler"))]
    command += ["--listen", "127.0.0.1:0", "--store", "memory:"]
    command += ["--port-file", str(journal.parent / "port"), "--journal", f"sqlite:{journal}"]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("NASMESH_")}
    environment = {**kept, "NASMESH_HOME": str(journal.parent), "GRPC_ENABLE_FORK_SUPPORT": "0"}
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def refused(journal: Path, *, user: int = 0) -> tuple[int, str]:
    """Return exit code and last words of a scheduler that must not start."""
    with program(journal, user=user) as process:
        _, err = process.communicate(timeout=60)
    assert not (journal.parent / "port").exists(), "it never served"
    assert "Traceback" not in err
    return process.returncode, err.strip().splitlines()[-1]


def reason(journal: Path) -> str:
    """Return what scripts read of the same refusal, here where a scheduler has the journal in this process."""
    with pytest.raises(NasmeshError) as caught:
        recovered(journal)
    return caught.value.reason


def serves(process: subprocess.Popen[str]) -> None:
    """Return once a scheduler serves."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("{") and json.loads(line).get("event") == "serving":
            return
    raise AssertionError("".join(lines))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound journal at rest: a search that ended and one at work."""
    path = tmp_path_factory.mktemp("good") / "journal.db"
    journals.one_of_each(path)
    return path


def newer(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")


def never_was(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 0")


def no_database(path: Path) -> None:
    path.write_bytes(b"these are my notes, and there are many of them\n" * 500)


def somebody_elses(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE recipes (name TEXT)")


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def gap(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("DELETE FROM event WHERE sequence = 30")


def undecodable(path: Path) -> None:
    journals.edit_event(path, 12, b"\xff\xff\xff")


def contradiction(path: Path) -> None:
    lost = journal_pb2.JournalAttemptLost(task="ended-t1-train", attempt=7)
    journals.edit_event(path, 25, journal_pb2.JournalEvent(uptime_s=1e5, attempt_lost=lost).SerializeToString())


def flipped_event(path: Path) -> None:
    flip(path, journals.events_of(path)[20])


def spoilt_answer(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("UPDATE answer SET body_digest = x'00' WHERE request_id = 'create-open'")


def no_checksum(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("UPDATE event SET crc = NULL WHERE sequence = 15")


def low_epoch(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("UPDATE epoch SET number = 0")


def flip(path: Path, content: bytes) -> None:
    """Flip one bit in the middle of some content of the file."""
    whole = bytearray(path.read_bytes())
    at = whole.index(content[: len(content) // 2]) + len(content) // 4
    whole[at] ^= 0x10
    path.write_bytes(whole)


CASES: list[tuple[Spoil, str, str]] = [
    (newer, "JOURNAL_TOO_NEW", "upgrade nasmesh, or use another --journal"),
    (never_was, "JOURNAL_CORRUPT", "restore it from a backup"),
    (no_database, "JOURNAL_CORRUPT", "restore it from a backup"),
    (somebody_elses, "JOURNAL_CORRUPT", "something else"),
    (truncated, "JOURNAL_CORRUPT", "restore it from a backup"),
    (gap, "JOURNAL_CORRUPT", "event 30 is missing"),
    (undecodable, "JOURNAL_CORRUPT", "event 12 cannot be read; restore the journal from a backup"),
    (contradiction, "JOURNAL_CORRUPT", "event 25 contradicts what is before it"),
    (flipped_event, "JOURNAL_CORRUPT", "event 20 does not have its checksum"),
    (no_checksum, "JOURNAL_CORRUPT", "event 15 does not have its checksum"),
    (spoilt_answer, "JOURNAL_CORRUPT", "the answer to request id 'create-open' does not have its checksum"),
    (low_epoch, "JOURNAL_CORRUPT", "epoch 1, which comes after 1"),
]


@pytest.mark.parametrize(("spoil", "wanted", "words"), CASES, ids=[case[0].__name__ for case in CASES])
def test_journal_when_spoilt_then_refused_with_what_to_do(
    good: Path, tmp_path: Path, spoil: Spoil, wanted: str, words: str
) -> None:
    path = Path(shutil.copy(good, tmp_path / "journal.db"))
    spoil(path)
    whole = shutil.copytree(tmp_path, tmp_path.with_name(f"{tmp_path.name}-whole"))
    assert reason(whole / "journal.db") == wanted
    known = journals.events_of(path) if wanted != "JOURNAL_CORRUPT" else None
    code, told = refused(path)
    assert code == 2
    assert told.startswith("error: ")
    assert words in told
    assert known is None or journals.events_of(path) == known, "nothing was written"


def test_journal_when_large_and_one_bit_is_flipped_then_refused_before_it_serves(tmp_path: Path) -> None:
    """Beyond the size at which every page is checked: whatever the state is made of is read against its checksum."""
    path = tmp_path / "journal.db"
    past = journals.Past(path)
    past.create("s", max_trials=3)
    journal = past.engine.journal
    sequence = past.engine.state.sequence + 1
    task = journal_pb2.JournalAttemptLeased(task="s-g1", agent="agents/x")
    first = journal_pb2.JournalEvent(uptime_s=past.engine.state.uptime_s, attempt_leased=task)
    journal.append(Batch(sequence, (first.SerializeToString(),)))
    rng = seeded_random(3)
    size = 900_000
    blob = b""
    for number in range(80):  # a generator that is tried again and again, and says a lot each time
        blob = rng.randbytes(size)
        failed = journal_pb2.JournalEvent(uptime_s=1e4, agent_drained=journal_pb2.JournalAgentDrained(agent="agents/x"))
        body = failed.SerializeToString() + b"\xa2\xbb\x8c\x01" + _varint(size) + blob  # a field that is not known here
        journal.append(Batch(sequence + 1 + number, (body,)))
    past.close()
    assert path.stat().st_size > 64 * 1024 * 1024
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 0x10
    path.write_bytes(whole)
    code, told = refused(path)
    assert (code, reason(path)) == (2, "JOURNAL_CORRUPT"), told


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def test_journal_when_bits_flip_anywhere_then_refused_or_the_same_state(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a large journal, without the check of every page: damage never becomes another state in silence."""
    monkeypatch.setattr("scheduler.journal.sqlite.QUICK_CHECK_BYTES", 0)
    monkeypatch.setattr("scheduler.engine.SNAPSHOT_EVENTS", 20)
    path = Path(shutil.copy(good, tmp_path / "base.db"))
    for _ in range(2):  # restarts until a snapshot stands in it
        past = journals.Past(path)
        past.work("open", until=12)
        past.close()
    content = path.read_bytes()
    base = recovered(path)
    rng = seeded_random(seed := 20)
    told: dict[str, int] = {}
    for number in range(150):
        copy = tmp_path / f"copy-{number}.db"
        spoilt = bytearray(content)
        for _ in range(rng.randrange(1, 4)):
            spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
        copy.write_bytes(spoilt)
        outcome = "same"
        try:
            state = recovered(copy)
        except NasmeshError as error:
            outcome = error.reason
        else:
            assert state == base, f"seed {seed}, copy {number}"
        told[outcome] = told.get(outcome, 0) + 1
        copy.unlink()
    sys.stdout.write(f"seed {seed}: {told}\n")
    assert told.keys() <= {"same", "JOURNAL_CORRUPT", "JOURNAL_TOO_NEW", "JOURNAL_IO", "JOURNAL_INCOMPLETE"}
    assert told["JOURNAL_CORRUPT"] >= 30
    assert told["same"] >= 10


def recovered(path: Path) -> tuple[object, ...]:
    journal = SqliteJournal(path)
    engine = Engine(journal, ManualClock(), seed=1)
    try:
        engine.recover()
        state = engine.state
        kept = list(journal.answers())
        return dict(state.searches), list(state.tasks.items()), list(state.networks.items()), state.sequence, kept
    finally:
        engine.journal.close()


def test_log_when_a_killed_schedulers_is_damaged_or_gone_then_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    past = journals.Past(path)
    past.create("s", max_trials=20)
    past.work("s", until=20)
    files = {suffix: path.with_name(f"journal.db{suffix}").read_bytes() for suffix in ("", "-wal")}
    past.close()
    killed = tmp_path / "killed" / "journal.db"
    killed.parent.mkdir()

    def left(log: bytes | None) -> Path:
        killed.write_bytes(files[""])
        beside = killed.with_name("journal.db-wal")
        beside.unlink(missing_ok=True)
        if log is not None:
            beside.write_bytes(log)
        return killed

    with program(left(files["-wal"])) as process:
        serves(process)
    (killed.parent / "port").unlink()
    damaged = bytearray(files["-wal"])
    damaged[len(damaged) // 2] ^= 0x10
    code, told = refused(left(bytes(damaged)))
    assert (code, "transactions behind the damage" in told) == (2, True), told
    code, told = refused(left(None))
    assert (code, reason(killed)) == (2, "JOURNAL_INCOMPLETE"), told
    assert "put it back" in told


def test_journal_when_another_scheduler_has_it_then_refused_and_that_one_goes_on(good: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(good, tmp_path / "journal.db"))
    with program(path) as first:
        serves(first)
        (tmp_path / "port").unlink()
        code, told = refused(path)
        assert (code, reason(path)) == (3, "JOURNAL_LOCKED")
        assert "stop that one" in told
        assert first.poll() is None
        first.send_signal(signal.SIGTERM)
        assert first.wait(20) == 0


def test_journal_when_it_may_not_be_written_then_refused(good: Path, tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("1 case: only root can become somebody else")
    path = Path(shutil.copy(good, tmp_path / "journal.db"))
    for parent in [tmp_path, *tmp_path.parents[:3]]:
        parent.chmod(0o777)
    path.chmod(0o444)
    path.with_name("journal.db.lock").touch()
    path.with_name("journal.db.lock").chmod(0o666)
    before = path.read_bytes()
    code, told = refused(path, user=65534)
    assert (code, "permissions" in told) == (3, True), told
    assert path.read_bytes() == before


def test_journal_when_its_directory_is_missing_then_made_or_refused(tmp_path: Path) -> None:
    with program(tmp_path / "new" / "journal.db") as process:
        serves(process)
    assert (tmp_path / "new" / "journal.db").exists()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(NasmeshError) as caught:
        SqliteJournal(tmp_path / "file" / "journal.db").open()
    assert caught.value.reason == "JOURNAL_IO"


def test_refusal_when_repeated_then_the_same_until_the_cause_is_gone(good: Path, tmp_path: Path) -> None:
    """A refused start leaves nothing behind that would make the next one worse."""
    path = Path(shutil.copy(good, tmp_path / "journal.db"))
    body = journals.events_of(path)[12]
    undecodable(path)
    for _ in range(2):
        with pytest.raises(Invalid, match="event 12"):
            recovered(path)
    assert refused(path)[0] == 2
    journals.edit_event(path, 12, body)
    past = journals.Past(path)
    past.work("open", make.make_outcome)
    assert past.engine.state.searches["open"].state.name == "SUCCEEDED"
    past.close()


def test_epoch_when_wound_back_then_every_start_is_refused_in_the_same_words(good: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(good, tmp_path / "journal.db"))
    low_epoch(path)
    for _ in range(3):
        with pytest.raises(Invalid, match="epoch 1, which comes after 1"):
            recovered(path)


def test_request_id_when_replayed_with_another_body_over_kill_9_then_conflict(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"

    async def once(address: str, search_id: str, trials: int) -> search_pb2.Search:
        async with client(address) as stub, working(address):
            with errors_from_rpc():
                return await create(stub, make.make_spec(max_trials=trials), search_id=search_id, request_id="once")

    with program(path) as process:
        serves(process)
        first = asyncio.run(once((tmp_path / "port").read_text().strip(), "s", 4))
        process.kill()
        process.wait()
    (tmp_path / "port").unlink()
    with program(path) as process:
        serves(process)
        address = (tmp_path / "port").read_text().strip()
        again = asyncio.run(once(address, "s", 4))
        assert (again.name, again.create_time) == (first.name, first.create_time)
        for search_id, trials in (("s", 5), ("other", 4)):
            with pytest.raises(Conflict) as caught:
                asyncio.run(once(address, search_id, trials))
            assert caught.value.reason == "REQUEST_ID_REUSED"
